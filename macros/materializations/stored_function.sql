{#
    A function of the database, whose model is its complete `create or replace function {{ this }} …` statement. It is
    created or replaced only when its definition changed, or somebody replaced it or added another one of its name, which
    might take its calls.
#}
{% materialization stored_function, adapter='postgres' %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% set sql = aliased_once(sql) %}
    {% set hash = definition_hash(sql, none) %}
    {% set state = model_state(model.name) %}
    {% set present = first_row("select " ~ stored_definition() ~ " as definition")['definition'] %}
    {% set exists = present is not none %}
    {% set known = state['stored_definition'] if state is not none else none %}
    {% if exists and (not reads_everything() or (known == present and state['definition_hash'] == hash)) %}
        {% do store_raw_result('main', message='unchanged', code='unchanged', rows_affected='0') %}
        {{ return({'relations': []}) }}
    {% endif %}

    {% set run_id = assert_run_is_ours() %}
    {% call statement('main') %}
        {{ sql }}
    {% endcall %}
    {% do drop_other_functions() %}
    {# Who reads a view calls the functions in it as themselves. #}
    {% if exists and present.endswith('.false') %}
        {% do run_statement("grant execute on function " ~ signature_made() ~ " to public") %}
    {% endif %}
    {% set repaired = exists and known is not none and content_of(known) != content_of(present) %}
    {% if repaired %}
        {% do log(this ~ ' was not as a run had made it: it is made again, and what reads it is computed in full.', info=true) %}
    {% endif %}
    {% do run_statement(save_model_state(model.name, run_id, hash, rebuilt=not exists, recomputed=repaired, repaired=repaired)) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': []}) }}
{% endmaterialization %}

{#
    The function that this transaction has made, with the types of its arguments.
#}
{% macro signature_made() %}
    {% set made %}
        select oid::regprocedure::text as signature
        from pg_proc
        where proname = {{ sql_literal(this.identifier) }}
            and pronamespace = to_regnamespace({{ sql_literal(this.schema) }})
            and xmin = pg_current_xact_id()::xid
    {% endset %}
    {{ return(first_row(made)['signature']) }}
{% endmacro %}

{#
    Drop the functions of this name that this transaction has not made: those of other arguments. PostgreSQL refuses, and
    names what depends on them, where something still does.
#}
{% macro drop_other_functions() %}
    {% set others %}
        select other.oid::regprocedure::text as signature
        from pg_proc as other
        inner join pg_proc as made on other.proname = made.proname and other.pronamespace = made.pronamespace
        where made.proname = {{ sql_literal(this.identifier) }}
            and made.pronamespace = to_regnamespace({{ sql_literal(this.schema) }})
            and made.xmin = pg_current_xact_id()::xid and other.oid <> made.oid
    {% endset %}
    {% for other in run_query(others).rows %}
        {% do run_statement("drop function " ~ other['signature']) %}
    {% endfor %}
{% endmacro %}
