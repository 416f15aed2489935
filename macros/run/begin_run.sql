{#
    on-run-start: record the run as 'running', or refuse to start while another one is running.

    One run at a time is enforced by a unique index on the 'running' row. dbt keeps no session open from a run's start
    to its end that could hold a lock, so a run that is found 'running' is alive when any session of its invocation is
    seen in pg_stat_activity (every query carries the invocation's id), and dead when none is seen for three seconds
    (run_is_alive; the commands in Python look one second longer: RUN_SILENT_SECONDS).
    A run that is wrongly taken for dead does no harm: its next model finds that the run is no longer its own, and stops
    (see assert_run_is_ours).
#}
{% macro begin_run() %}
    {% if execute and flags.WHICH == 'test' %}
        {% do note_run_under_test() %}
    {% endif %}
    {% if not is_recorded_run() %}
        {{ return('') }}
    {% endif %}
    {% do assert_own_relations_are_read() %}
    {% do assert_placement() %}
    {% do assert_failures_stop_publishing() %}
    {% do ensure_audit_tables() %}
    {% do continue_run_ids(ids_of_record()) %}
    {% if not insert_running_row() %}
        {% set running %}
            select run_id, run_started_at::text as since, started_by, dbt_invocation_id
            from {{ audit_schema() }}.etl_runs
            where status = 'running'
        {% endset %}
        {% set holder = first_row(running) %}
        {% if holder is not none %}
            {% if run_is_alive(holder['dbt_invocation_id']) %}
                {% do refuse_start(holder) %}
            {% endif %}
            {% set killed %}
                update {{ audit_schema() }}.etl_runs
                set
                    status = 'failed',
                    run_finished_at = clock_timestamp(),
                    error_message = 'killed: no session of it was found by a later run'
                where run_id = {{ holder['run_id'] }} and status = 'running';
                commit
            {% endset %}
            {% do run_statement(killed) %}
        {% endif %}
        {% if not insert_running_row() %}
            {{ exceptions.raise_compiler_error('Another run started at the same time. Try again when it is done.') }}
        {% endif %}
    {% endif %}
    {% do continue_run_ids(ids_of_changes()) %}
    {{ return('') }}
{% endmacro %}

{#
    Record this run as running. Returns whether no other one is.
#}
{% macro insert_running_row() %}
    {% set insertion %}
        insert into {{ audit_schema() }}.etl_runs (run_trigger, started_by, command, dbt_invocation_id)
        values (
            {{ sql_literal(env_var('ETL_TRIGGER', 'manual')) }}, {{ sql_literal(started_by()) }},
            {{ sql_literal('dbt ' ~ flags.WHICH) }}, {{ sql_literal(invocation_id) }}
        )
        on conflict (status) where status = 'running' do nothing
        returning run_id
    {% endset %}
    {% set row = first_row(insertion) %}
    {% do run_statement('commit') %}
    {{ return(row is not none) }}
{% endmacro %}

{#
    Who starts this run: ETL_STARTED_BY, or the account and the host.
#}
{% macro started_by() -%}
    {{ env_var('ETL_STARTED_BY', env_var('USER', 'unknown') ~ '@' ~ env_var('HOSTNAME', 'localhost')) }}
{%- endmacro %}

{#
    Count the refused start, and raise with who is running.
#}
{% macro refuse_start(holder) %}
    {% set refusal %}
        insert into {{ audit_schema() }}.refused_starts (holder_run_id, run_trigger, started_by, dbt_invocation_id)
        values (
            {{ holder['run_id'] }}, {{ sql_literal(env_var('ETL_TRIGGER', 'manual')) }},
            {{ sql_literal(started_by()) }}, {{ sql_literal(invocation_id) }}
        );
        commit
    {% endset %}
    {% do run_statement(refusal) %}
    {{ exceptions.raise_compiler_error(
        "Refused to start: run " ~ holder['run_id'] ~ " (" ~ holder['started_by'] ~ ") has been running since "
        ~ holder['since'] ~ ". One run at a time: try again when it is done (make etl shows it)."
    ) }}
{% endmacro %}

{#
    Before `dbt test`: note the run whose state it tests, for finish_run. None while a run is changing that state, and
    none under --defer, where tests may look at the relations of another target.
#}
{% macro note_run_under_test() %}
    {% if may_read_other_relations() %}
        {% do log('With --defer, tests may look at relations of another target: their results do not count as tests of '
            ~ 'target ' ~ target.name ~ '. dbt test without --defer tests what is to be published.', info=true) %}
    {% elif relation_exists((audit_schema() | trim) ~ '.etl_runs') %}
        {% set last %}
            select max(run_id) as run_id, bool_or(status = 'running') as is_changing
            from {{ audit_schema() }}.etl_runs
        {% endset %}
        {% set run = first_row(last) %}
        {% do graph.update({'run_under_test': none if run['is_changing'] else run['run_id']}) %}
    {% endif %}
{% endmacro %}
