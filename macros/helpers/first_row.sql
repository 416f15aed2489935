{#
    Run a query and return its first row, or none. A column is read as row['name'].
#}
{% macro first_row(query) %}
    {% set table = run_query(query) %}
    {{ return(table.rows[0] if table and table.rows | length > 0 else none) }}
{% endmacro %}
