{#
    A seed is loaded when its file or its column types changed, not in every run: a run without a change writes nothing.
    Before anything is written the file is checked, and the table gets the columns that the YAML describes.
#}
{% materialization seed, adapter='postgres' %}
    {% set state = model_state(model.name) %}
    {% set hash = local_md5(model.checksum.checksum ~ config.get('column_types')) %}
    {% set rows = load_agate_table() %}
    {% if load_cached_relation(this) is not none and (not reads_everything() or (
            not should_full_refresh() and state is not none and state['definition_hash'] == hash)) %}
        {# dbt's seed task reads this result. #}
        {% do store_result('agate_table', response='OK', agate_table=rows) %}
        {% call statement('main') %}
            select 'unchanged' as note
        {% endcall %}
        {{ return({'relations': [this.incorporate(type='table')]}) }}
    {% endif %}
    {% set run_id = assert_run_is_ours() %}
    {% do assert_seed_is_sound(rows) %}
    {% do alter_seed_table() %}
    {% set loaded = dbt.materialization_seed_default() %}
    {% if reads_everything() %}
        {# Rebuilt: the models that read it are computed in full. #}
        {% do run_statement(save_model_state(model.name, run_id, hash, rebuilt=true) ~ '; commit') %}
    {% endif %}
    {{ return({'relations': [this.incorporate(type='table')]}) }}
{% endmaterialization %}
