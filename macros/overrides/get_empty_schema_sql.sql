{#
    dbt's query of no rows with a contract's columns, for their comparison with the model's SQL. dbt warns of numeric
    without precision, which other databases round; PostgreSQL keeps every digit of it.
#}
{% macro postgres__get_empty_schema_sql(columns) %}
    select
    {% for column in columns.values() %}
        cast(null as {{ column.data_type }}) as {{ adapter.quote(column.name) if column.quote else column.name }}{{ ',' if not loop.last }}
    {% endfor %}
    where false
{% endmacro %}
