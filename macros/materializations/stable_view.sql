{#
    A view that is created or replaced only when its definition changed. dbt's own view is dropped and made anew in each
    run, which takes dependent views along and makes readers queue.
#}
{% materialization stable_view, adapter='postgres' %}
    {% set target_relation = this.incorporate(type='view') %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% set hash = local_md5(definition_hash() ~ sql) %}
    {% set node = node_state() %}
    {% set exists = node.exists %}

    {% if exists and node.state is not none and node.state['definition_hash'] == hash %}
        {% do store_raw_result('main', message='unchanged', code='unchanged', rows_affected='0') %}
        {{ return({'relations': [target_relation]}) }}
    {% endif %}

    {% set run_id = assert_run_is_ours() %}
    {# A reader with a long query must not make the others queue behind this: give up after two seconds. #}
    {% do run_statement("set local lock_timeout = '2s'") %}
    {% if exists and not replaceable(sql) %}
        {% do run_statement("drop view " ~ this) %}
    {% endif %}
    {% call statement('main') %}
        create or replace view {{ this }} as
        {{ sql }}
    {% endcall %}
    {% do apply_grants(target_relation, config.get('grants'), should_revoke=exists) %}
    {% do persist_docs(target_relation, model) %}
    {% do run_statement(save_model_state(model.name, run_id, hash)) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}

{#
    Whether `create or replace view` accepts the new query: it may only add columns at the end, and change no type.
#}
{% macro replaceable(sql) %}
    {% set probe = model.name ~ '__probe' %}
    {% do run_statement("create temporary view " ~ probe ~ " as " ~ sql) %}
    {% set row = first_row("
        select not exists (
            select attnum, attname, atttypid, atttypmod, attcollation from pg_attribute
            where attrelid = " ~ sql_literal(this.render()) ~ "::regclass and attnum > 0
            except
            select attnum, attname, atttypid, atttypmod, attcollation from pg_attribute
            where attrelid = " ~ sql_literal('pg_temp.' ~ probe) ~ "::regclass and attnum > 0
        ) as accepted
    ") %}
    {% do run_statement("drop view " ~ probe) %}
    {{ return(row['accepted']) }}
{% endmacro %}
