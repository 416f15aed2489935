{#
    Whether a table or view exists now, by its qualified name. Asks the database, not dbt's cache.

    relation_exists('audit.etl_runs') -> true
#}
{% macro relation_exists(name) %}
    {{ return(first_row("select to_regclass(" ~ sql_literal(name) ~ ") is not null as present")['present']) }}
{% endmacro %}
