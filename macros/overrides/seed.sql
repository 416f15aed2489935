{#
    A seed is loaded when its file changed, not in every run: a run without a change writes nothing.
#}
{% materialization seed, adapter='postgres' %}
    {% set state = model_state(model.name) %}
    {% set hash = model.checksum.checksum %}
    {% if not should_full_refresh() and state is not none and state['definition_hash'] == hash
            and load_cached_relation(this) is not none %}
        {# dbt's seed task reads this result. #}
        {% do store_result('agate_table', response='OK', agate_table=load_agate_table()) %}
        {% call statement('main') %}
            select 'unchanged' as note
        {% endcall %}
        {{ return({'relations': [this.incorporate(type='table')]}) }}
    {% endif %}
    {% set run_id = assert_run_is_ours() %}
    {% set loaded = dbt.materialization_seed_default() %}
    {# Made anew: the models that read it are computed in full. #}
    {% do run_statement(save_model_state(model.name, run_id, hash, made_anew=true) ~ '; commit') %}
    {{ return({'relations': [this.incorporate(type='table')]}) }}
{% endmaterialization %}
