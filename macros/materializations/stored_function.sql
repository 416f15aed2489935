{#
    A function of the database, whose model is its complete `create or replace function {{ this }} …` statement. It is
    created or replaced only when its definition changed.
#}
{% materialization stored_function, adapter='postgres' %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% set sql = aliased_once(sql) %}
    {% set hash = definition_hash(sql, none) %}
    {% set state = model_state(model.name) %}
    {% set exists = first_row("select exists (select from pg_proc where proname = " ~ sql_literal(this.identifier)
        ~ " and pronamespace = to_regnamespace(" ~ sql_literal(this.schema) ~ ")) as present")['present'] %}
    {% if exists and (not reads_everything() or (state is not none and state['definition_hash'] == hash)) %}
        {% do store_raw_result('main', message='unchanged', code='unchanged', rows_affected='0') %}
        {{ return({'relations': []}) }}
    {% endif %}

    {% set run_id = assert_run_is_ours() %}
    {% call statement('main') %}
        {{ sql }}
    {% endcall %}
    {% do run_statement(save_model_state(model.name, run_id, hash, rebuilt=not exists)) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': []}) }}
{% endmaterialization %}
