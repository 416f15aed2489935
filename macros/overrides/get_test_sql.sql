{#
    dbt's query around a data test, for --empty and --sample too (see aliased_once).
#}
{% macro postgres__get_test_sql(main_sql, fail_calc, warn_if, error_if, limit) %}
    {{ return(dbt.default__get_test_sql(aliased_once(main_sql), fail_calc, warn_if, error_if, limit)) }}
{% endmacro %}
