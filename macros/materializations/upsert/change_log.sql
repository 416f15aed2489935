{#
    An empty change log for a table.
#}
{% macro create_change_log(target_relation) %}
    {% set schema = schema_in_target('changes', target.name, target.schema) | trim %}
    {# Only where it is missing: Citus takes no statement on a schema after one that wrote to several shards. #}
    {% if first_row("select to_regnamespace(" ~ sql_literal(schema) ~ ") is null as missing")['missing'] %}
        {% do run_statement("create schema " ~ schema) %}
    {% endif %}
    {% do run_statement("
        drop table if exists " ~ changes_of(model.name) ~ ";
        create table " ~ changes_of(model.name) ~ " (like " ~ target_relation ~ ");
        alter table " ~ changes_of(model.name) ~ "
            add column _run_id bigint not null, add column _sign smallint not null;
        create index on " ~ changes_of(model.name) ~ " (_run_id)
    ") %}
{% endmacro %}

{#
    Change-log rows that every follower has taken in: those up to the last published run, which depends on all of them.
#}
{% macro prune_change_log() %}
    {% do run_statement("delete from " ~ changes_of(model.name) ~ " where _run_id <= (
        select run_id from " ~ audit_schema() ~ ".model_states where model_name = 'published_state')") %}
{% endmacro %}
