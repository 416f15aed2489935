{#
    Run SQL of which no rows are wanted. run_query makes a table of its result also when there is none, which costs more
    than a small statement does.
#}
{% macro run_statement(sql) %}
    {% if execute %}
        {% do adapter.execute(sql, auto_begin=false, fetch=false) %}
    {% endif %}
{% endmacro %}
