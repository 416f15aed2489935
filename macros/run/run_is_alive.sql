{#
    Whether any session of a run is connected. A session whose client was killed lives on for a second at most
    (client_connection_check_interval), so what is seen before that proves nothing. Nor does one whose transaction has
    ended and that hangs while it closes its connection to a frozen source (before PostgreSQL 17, without a time limit):
    it writes nothing any more.

    A session of a run begins each query with dbt's comment (dbt_project.yml) and has the name of dbt's profile: one
    that asked about the run, and has been idle since, only mentions it. The commands look for the same sessions:
    scripts/eds/warehouse/run_sessions.py.
#}
{% macro run_is_alive(invocation) %}
    {% set found = namespace(alive=false) %}
    {% do run_statement('select pg_sleep(1.2)') %}
    {% for probe in range(60) %}
        {% if not found.alive %}
            {% set question %}
                select count(*) as sessions, pg_sleep(0.03)::text as pause
                from pg_stat_activity
                where starts_with(query, {{ sql_literal('/* invocation ' ~ invocation ~ ' ') }})
                    and application_name = 'dbt'
                    and pid <> pg_backend_pid()
                    and not (
                        state = 'active' and wait_event is null and backend_xid is null and backend_xmin is null
                        and state_change < clock_timestamp() - interval '30 seconds'
                    )
            {% endset %}
            {% set seen = first_row(question) %}
            {# Within a transaction, the list of sessions stays as it was when it was first read. #}
            {% do run_statement('select pg_stat_clear_snapshot()') %}
            {% if seen['sessions'] > 0 %}
                {% set found.alive = true %}
            {% endif %}
        {% endif %}
    {% endfor %}
    {{ return(found.alive) }}
{% endmacro %}
