{#
    The tables that record the runs, by name: their columns, as a dictionary of definitions, and their constraints. A
    column that is added here is added to the warehouses that exist; it needs a default where it is not null.

    etl_runs        one row per run; at most one is 'running', which the database enforces
    model_runs      one row per node of a run
    refused_starts  one row per start that was refused because another run was running
    model_states    how far each model has got: the last run it has taken in, and the day of its data; the last
                    ones that rebuilt its relation, and that changed its rows by something else than an increment; the
                    newest whose change log was pruned; the last one that found a view, function or seed other than a run
                    had left it; what the database made of a view's or function's definition (see stored_definition)

    test_states     the tests that have passed over all rows, as they were defined then; a test that fails over all rows
                    has none until it passes

    The last three have rows only in a target that extracts (prod, citus):

    extraction_state         the watermark, and which source it belongs to
    extraction_trail         the newest entry of the source's audit trail that was seen
    extraction_transactions  the transactions at or above the watermark that were seen, by their first entry in the trail;
                             all of them when extraction_state.trail_is_complete. Of those below it,
                             extraction_state.proven_* sums up the last ones (see source_verdict)
#}
{% macro audit_tables() %}
    {% set etl_runs = audit_schema() | trim ~ '.etl_runs' %}
    {{ return({
        'etl_runs': {
            'run_id': 'bigint generated always as identity primary key',
            'run_started_at': 'timestamptz not null default clock_timestamp()',
            'run_finished_at': 'timestamptz',
            'status': "text not null default 'running' check (status in ('running', 'success', 'failed'))",
            'rows_inserted': 'bigint not null default 0',
            'rows_updated': 'bigint not null default 0',
            'rows_deleted': 'bigint not null default 0',
            'error_message': 'text',
            'run_trigger': 'text not null',
            'started_by': 'text not null',
            'command': 'text not null',
            'extraction_mode': 'text',
            'extraction_reason': 'text',
            'source_host': 'text',
            'source_name': 'text',
            'source_position': 'pg_lsn',
            'snapshot_time': 'timestamptz',
            'system_identifier': 'text',
            'timeline': 'integer',
            'dbt_invocation_id': 'text not null unique'
        },
        'model_runs': {
            'run_id': 'bigint not null references ' ~ etl_runs,
            'node_id': 'text not null',
            'node_name': 'text not null',
            'resource_type': 'text not null',
            'status': 'text not null',
            'seconds': 'numeric(12, 3) not null',
            'rows_inserted': 'bigint',
            'rows_updated': 'bigint',
            'rows_deleted': 'bigint',
            'failures': 'bigint',
            'message': 'text',
            'primary key': '(run_id, node_id)'
        },
        'refused_starts': {
            'refused_at': 'timestamptz not null default clock_timestamp()',
            'holder_run_id': 'bigint not null references ' ~ etl_runs,
            'run_trigger': 'text not null',
            'started_by': 'text not null',
            'dbt_invocation_id': 'text not null'
        },
        'model_states': {
            'model_name': 'text primary key',
            'run_id': 'bigint not null',
            'landing_run_id': 'bigint not null',
            'created_run_id': 'bigint not null',
            'recomputed_run_id': 'bigint not null default 0',
            'pruned_run_id': 'bigint not null default 0',
            'repaired_run_id': 'bigint not null default 0',
            'definition_hash': 'text not null',
            'stored_definition': 'text',
            'updated_at': 'timestamptz not null default clock_timestamp()',
            'data_day': 'date'
        },
        'test_states': {
            'test_id': 'text primary key',
            'definition_hash': 'text not null',
            'run_id': 'bigint not null'
        },
        'extraction_state': {
            'only_row': 'boolean primary key default true check (only_row)',
            'run_id': 'bigint not null',
            'watermark': 'xid8 not null',
            'snapshot_xmax': 'xid8 not null',
            'system_identifier': 'text not null',
            'timeline': 'integer not null',
            'source_position': 'pg_lsn not null',
            'snapshot_time': 'timestamptz not null',
            'trail_is_complete': 'boolean not null default false',
            'proven_from': 'xid8',
            'proven_until': 'xid8',
            'proven_entries': 'bigint',
            'proven_log_ids': 'numeric',
            'proven_first': 'timestamptz',
            'proven_last': 'timestamptz'
        },
        'extraction_trail': {
            'only_row': 'boolean primary key default true check (only_row)',
            'log_id': 'bigint not null',
            'xact_id': 'xid8 not null',
            'change_time': 'timestamptz not null'
        },
        'extraction_transactions': {
            'xact_id': 'xid8 primary key',
            'log_id': 'bigint not null',
            'change_time': 'timestamptz not null'
        }
    }) }}
{% endmacro %}

{#
    Create what is missing of the tables that record the runs: the tables, and columns that an earlier version did not
    have.
#}
{% macro ensure_audit_tables() %}
    {% set audit = audit_schema() | trim %}
    {% set wanted = [] %}
    {% for table, columns in audit_tables().items() %}
        {% for column in columns if ' ' not in column %}
            {% do wanted.append({'qualified_name': audit ~ '.' ~ table, 'table_name': table, 'column_name': column}) %}
        {% endfor %}
    {% endfor %}
    {% set question %}
        select wanted.table_name, wanted.column_name, to_regclass(wanted.qualified_name) is not null as table_exists
        from json_to_recordset({{ sql_literal(tojson(wanted)) }}) as wanted (qualified_name text, table_name text, column_name text)
        where not exists (
            select from pg_attribute
            where attrelid = to_regclass(wanted.qualified_name) and attname = wanted.column_name and not attisdropped
        )
    {% endset %}
    {% set missing = run_query(question).rows %}
    {% if missing | length == 0 %}
        {{ return('') }}
    {% endif %}
    {% set statements = ['create schema if not exists ' ~ audit] %}
    {% for table, columns in audit_tables().items() %}
        {% set definitions = [] %}
        {% for column, definition in columns.items() %}
            {% do definitions.append(column ~ ' ' ~ definition) %}
        {% endfor %}
        {% do statements.append('create table if not exists ' ~ audit ~ '.' ~ table ~ ' (' ~ definitions | join(', ') ~ ')') %}
    {% endfor %}
    {% do run_statement(statements | join(';\n')) %}
    {% for column in missing if column['table_exists'] %}
        {% set table = audit ~ '.' ~ column['table_name'] %}
        {% do run_ddl(table, 'alter table ' ~ table ~ ' add column ' ~ column['column_name']
            ~ ' ' ~ audit_tables()[column['table_name']][column['column_name']]) %}
    {% endfor %}
    {% set one_running %}
        create unique index if not exists etl_runs_one_running on {{ audit }}.etl_runs (status) where status = 'running'
    {% endset %}
    {% do run_statement(one_running ~ ';\ncommit') %}
{% endmacro %}
