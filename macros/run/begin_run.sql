{#
    on-run-start: record the run as 'running', or refuse to start while another one is running.

    One run at a time is enforced by a unique index on the 'running' row. dbt keeps no session open from a run's start
    to its end that could hold a lock, so a run that is found 'running' is alive when any session of its invocation is
    seen in pg_stat_activity (every query carries the invocation's id), and dead when none is seen for three seconds.
    A run that is wrongly taken for dead does no harm: its next model finds that the run is no longer its own, and stops
    (see assert_run_is_ours).
#}
{% macro begin_run() %}
    {% if not is_recorded_run() %}
        {{ return('') }}
    {% endif %}
    {% do assert_placement() %}
    {% do assert_failures_stop_publishing() %}
    {% do ensure_audit_tables() %}
    {% if not insert_running_row() %}
        {% set holder = first_row("select run_id, run_started_at::text as since, started_by, run_trigger, dbt_invocation_id
            from " ~ audit_schema() ~ ".etl_runs where status = 'running'") %}
        {% if holder is not none %}
            {% if run_is_alive(holder['dbt_invocation_id']) %}
                {% do refuse_start(holder) %}
            {% endif %}
            {% do run_statement("update " ~ audit_schema() ~ ".etl_runs
                set status = 'failed', run_finished_at = clock_timestamp(),
                    error_message = 'killed: it ended without a word, as a later run found'
                where run_id = " ~ holder['run_id'] ~ " and status = 'running'; commit") %}
        {% endif %}
        {% if not insert_running_row() %}
            {{ exceptions.raise_compiler_error('Another run started at the same moment. Try again when it is done.') }}
        {% endif %}
    {% endif %}
    {{ return('') }}
{% endmacro %}

{% macro insert_running_row() %}
    {% set row = first_row("insert into " ~ audit_schema() ~ ".etl_runs
        (run_trigger, started_by, command, dbt_invocation_id)
        values (" ~ sql_literal(env_var('ETL_TRIGGER', 'manual')) ~ ", " ~ sql_literal(started_by()) ~ ", "
        ~ sql_literal('dbt ' ~ flags.WHICH) ~ ", " ~ sql_literal(invocation_id) ~ ")
        on conflict (status) where status = 'running' do nothing returning run_id") %}
    {% do run_statement('commit') %}
    {{ return(row is not none) }}
{% endmacro %}

{% macro started_by() -%}
    {{ env_var('ETL_STARTED_BY', env_var('USER', 'unknown') ~ '@' ~ env_var('HOSTNAME', 'localhost')) }}
{%- endmacro %}

{% macro refuse_start(holder) %}
    {% do run_statement("insert into " ~ audit_schema() ~ ".refused_starts
        (holder_run_id, run_trigger, started_by, dbt_invocation_id)
        values (" ~ holder['run_id'] ~ ", " ~ sql_literal(env_var('ETL_TRIGGER', 'manual')) ~ ", "
        ~ sql_literal(started_by()) ~ ", " ~ sql_literal(invocation_id) ~ "); commit") %}
    {{ exceptions.raise_compiler_error(
        "Refused to start: run " ~ holder['run_id'] ~ " (" ~ holder['run_trigger'] ~ ") by " ~ holder['started_by']
        ~ " is running since " ~ holder['since'] ~ ". One run at a time: try again when it is done (make etl shows it)."
    ) }}
{% endmacro %}
