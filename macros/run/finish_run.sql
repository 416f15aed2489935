{#
    on-run-end: one row per node, and the run's outcome with the messages of what failed. Runs also after a failure; a
    start that was refused has no row and changes nothing. `dbt test` is no run: what it found is recorded with the run
    whose state it tested, so that this state can be published. Messages are recorded without the values of rows, which
    dashboards, alerts and logs would show.

    results: dbt's list of results.
#}
{% macro finish_run(results) %}
    {% if execute and flags.WHICH == 'test' and graph.get('run_under_test') %}
        {{ return(record_results(graph['run_under_test'], results)) }}
    {% endif %}
    {% if not is_recorded_run() %}
        {{ return('') }}
    {% endif %}
    {% set running %}
        select run_id
        from {{ audit_schema() }}.etl_runs
        where dbt_invocation_id = {{ sql_literal(invocation_id) }} and status = 'running'
    {% endset %}
    {% set run = first_row(running) %}
    {% if run is none %}
        {{ return('') }}
    {% endif %}
    {% set problems = [] %}
    {% for result in results if result.status | string in ('error', 'fail', 'runtime error') %}
        {% do problems.append(result.node.name ~ ': ' ~ without_row_values(result.message or result.status | string)) %}
    {% endfor %}
    {{ record_results(run['run_id'] | int, results) }}
    update {{ audit_schema() }}.etl_runs
    set
        run_finished_at = clock_timestamp(),
        status = {{ sql_literal('failed' if problems else 'success') }},
        error_message = {{ sql_literal(problems | join('\n')) if problems else 'null' }}
    where run_id = {{ run['run_id'] }} and status = 'running';
{% endmacro %}

{#
    The statement that records a command's results as those of a run: one row per node; and which tests have passed over
    all rows, or failed there (is_proven). A test that read nothing (--empty) has shown nothing, and is left out. The
    message of what succeeded quotes no row. A test that is not in the project any more has to show everything again when
    it comes back.
#}
{% macro record_results(run_id, results) %}
    {% set nodes = [] %}
    {% set left_out = ['operation'] if reads_everything() else ['operation', 'test'] %}
    {% set summaries = node_summaries() %}
    {% set tests = ["''"] %}
    {% for node_id, node in summaries.items() if node.definition is not none %}
        {% do tests.append(sql_literal(node_id)) %}
    {% endfor %}
    {% for result in results if result.node.resource_type | string not in left_out %}
        {% set is_test = result.node.resource_type | string == 'test' %}
        {% do nodes.append({
            'definition_hash': summaries[result.node.unique_id].definition if is_test else none,
            'looked_at_everything':
                is_test and (flags.WHICH != 'build' or var('full_tests') or not is_proven(result.node.unique_id)),
            'node_id': result.node.unique_id, 'node_name': result.node.name,
            'resource_type': result.node.resource_type | string, 'status': result.status | string,
            'seconds': result.execution_time or 0, 'failures': result.failures,
            'message': result.message if result.status | string in ('success', 'pass') else without_row_values(result.message)
        }) %}
    {% endfor %}
    {% if nodes %}
        with node as (
            select *
            from json_to_recordset({{ sql_literal(tojson(nodes)) }}) as node (
                node_id text, node_name text, resource_type text, status text, seconds double precision, failures bigint,
                message text, definition_hash text, looked_at_everything boolean
            )
        ),

        proven as (
            insert into {{ audit_schema() }}.test_states (test_id, definition_hash, run_id)
            select node_id, definition_hash, {{ run_id }}
            from node
            where looked_at_everything and status in ('pass', 'warn')
            on conflict (test_id) do update
            set definition_hash = excluded.definition_hash, run_id = excluded.run_id
        ),

        refuted as (
            delete from {{ audit_schema() }}.test_states
            where test_id <> all(array[{{ tests | join(', ') }}])
                or test_id in (
                    select node_id from node
                    where looked_at_everything and status in ('fail', 'error', 'runtime error')
                )
        )

        insert into {{ audit_schema() }}.model_runs
        (run_id, node_id, node_name, resource_type, status, seconds, failures, message)
        select {{ run_id }}, node_id, node_name, resource_type, status, seconds, failures, message
        from node
        on conflict (run_id, node_id) do update
        set status = excluded.status, seconds = excluded.seconds, failures = excluded.failures,
            message = excluded.message;
    {% endif %}
{% endmacro %}
