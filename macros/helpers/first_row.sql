{#
    Run a query and return its first row as a dictionary of its columns, or none. A column is read as row['name'], in
    the type that the driver gives it. run_query makes a table of its result and guesses the types of its columns, which
    costs more than a small query does.
#}
{% macro first_row(query) %}
    {% if not execute %}
        {{ return(none) }}
    {% endif %}
    {# add_query puts no comment in front, by which a session shows whose it is: see dbt_project.yml. #}
    {% set origin = '/* invocation ' ~ invocation_id ~ (' ' ~ model.unique_id if model else '') ~ ' */ ' %}
    {% set cursor = adapter.add_query(origin ~ query, auto_begin=false)[1] %}
    {% set values = cursor.fetchone() %}
    {% if values is none %}
        {{ return(none) }}
    {% endif %}
    {% set row = {} %}
    {% for column in cursor.description %}
        {% do row.update({column[0]: values[loop.index0]}) %}
    {% endfor %}
    {{ return(row) }}
{% endmacro %}
