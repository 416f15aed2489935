{#
    An empty change log for a table.
#}
{% macro create_change_log(target_relation) %}
    {% set schema = schema_in_target('changes', target.name, target.schema) | trim %}
    {# Only where it is missing: Citus takes no statement on a schema after one that wrote to several shards. #}
    {% if first_row("select to_regnamespace(" ~ sql_literal(schema) ~ ") is null as missing")['missing'] %}
        {% do run_statement("create schema " ~ schema) %}
    {% endif %}
    {# Without the table's constraints: a row as it was may break those that came later. #}
    {% do run_ddl(changes_of(model.name) | trim, "drop table if exists " ~ changes_of(model.name)) %}
    {% set log %}
        create table {{ changes_of(model.name) }} as
        select *, null::bigint as _run_id, null::smallint as _sign from {{ target_relation }} with no data;
        create index on {{ changes_of(model.name) }} (_run_id)
    {% endset %}
    {% do run_statement(log) %}
{% endmacro %}

{#
    Remove the change-log rows that every follower has taken in: those up to the last published run, which depends on all
    of them. A follower that this project does not have (an earlier version had it, and a later one may again) finds by
    pruned_run_id that rows are missing to it, and is computed in full.
#}
{% macro prune_change_log() %}
    {% set old %}
        select max(_run_id) as run_id from {{ changes_of(model.name) }} where _run_id <= (
            select run_id from {{ audit_schema() }}.model_states where model_name = 'published_state'
        )
    {% endset %}
    {% set newest = first_row(old)['run_id'] %}
    {% if newest is not none %}
        {% do run_statement("delete from " ~ changes_of(model.name) ~ " where _run_id <= " ~ newest) %}
        {% do run_statement("update " ~ audit_schema() ~ ".model_states set pruned_run_id = " ~ newest
            ~ " where model_name = " ~ sql_literal(model.name)) %}
    {% endif %}
{% endmacro %}
