{#
    Whether any session of a run is connected. A session whose client was killed lives on for a second at most
    (client_connection_check_interval), so what is seen before that proves nothing.
#}
{% macro run_is_alive(invocation) %}
    {% set found = namespace(alive=false) %}
    {% do run_statement('select pg_sleep(1.2)') %}
    {% for probe in range(60) %}
        {% if not found.alive %}
            {% set question %}
                select count(*) as sessions, pg_sleep(0.03)::text as pause
                from pg_stat_activity
                where query like {{ sql_literal('%invocation ' ~ invocation ~ '%') }} and pid <> pg_backend_pid()
            {% endset %}
            {% set seen = first_row(question) %}
            {% do run_statement('commit') %}
            {% if seen['sessions'] > 0 %}
                {% set found.alive = true %}
            {% endif %}
        {% endif %}
    {% endfor %}
    {{ return(found.alive) }}
{% endmacro %}
