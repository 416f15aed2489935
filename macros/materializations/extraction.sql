{#
    The root of the project: bring all landing tables to one instant of the OLTP cluster, in one transaction.

    postgres_fdw opens one REPEATABLE READ transaction on the source per local transaction, so every foreign scan in it
    sees the same snapshot. The watermark is that snapshot's xmin: every transaction below it had ended. What it cannot
    see yet has a greater or equal id, and is read next time. (The highest id seen, or updated_at, would lose every
    transaction that commits late.) The transactions at or above it that the snapshot saw are noted down: the next
    snapshot must contain them (source_verdict).
#}
{% materialization extraction, adapter='postgres' %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {% if var('extract') and not is_production(target.name) %}
        {# Its runs are counted in another record than those that read these landing tables. #}
        {{ exceptions.raise_compiler_error(
            "extract is set, and target " ~ target.name ~ " extracts nothing: it reads the landing tables that target prod "
            ~ "has brought up to date. Leave extract out, or run dbt build --target prod."
        ) }}
    {% endif %}
    {% if not is_production(target.name) or (var('extract') is not none and not var('extract')) %}
        {% call statement('main') %}
            select 'target {{ target.name }} reads the landing tables as they are' as note
        {% endcall %}
        {{ return({'relations': []}) }}
    {% endif %}

    {% set tables = extraction_tables() %}
    {% set yaml_hash = local_md5(tojson(tables)) %}
    {% do ensure_source_state_tables(tables, yaml_hash) %}
    {% set server = choose_source() %}
    {% do note_source(server) %}
    {% set usual_options = server_options() %}

    {# From here on one transaction, here and on the source. The driver opens none by itself after a commit in SQL. #}
    {% do run_statement('begin') %}
    {% set run_id = assert_run_is_ours() %}
    {% if server.candidate is not none %}
        {% do set_server_options(server.candidate) %}
    {% endif %}
    {% set source = source_verdict() %}
    {% set verdict = source['verdict'] %}
    {% if verdict in ('unfinished', 'behind') and server.was_put_back and not source['is_standby'] %}
        {% set verdict = 'other' %}
    {% endif %}
    {% if verdict in ('behind', 'unfinished') %}
        {{ exceptions.raise_compiler_error("The source changed over to a server that is behind. The next run tries again.") }}
    {% endif %}
    {% set snapshot_time = time_of_snapshot(source, server, verdict) %}
    {% do sync_foreign_tables(tables, yaml_hash) %}
    {% do check_source_columns(tables) %}

    {% set plan = namespace(reason=none) %}
    {% if verdict == 'other' %}
        {% set plan.reason = source['reason'] %}
    {% elif verdict == 'same' and var('reconcile') %}
        {% set plan.reason = 'asked for' %}
    {% endif %}
    {# What another source's feed names cannot be related to what was seen before. #}
    {% set creation %}
        create temporary table feed_events_read on commit drop as
        select xact_id, table_name, operation, record_id, change_time from operational_fdw.feed_events
        {% if verdict == 'same' %}
        where xact_id >= '{{ source['watermark'] }}'::xid8 and xact_id < '{{ source['snapshot_xmax'] }}'::xid8
        {% else %}
        with no data
        {% endif %}
    {% endset %}
    {% do run_statement(creation) %}
    {% do analyze_small_sample('feed_events_read') %}
    {# One that the last run has seen, and compared, stays above the watermark while an older transaction is open. #}
    {% set reloads %}
        select count(*) as number from feed_events_read
        where operation = 'RELOAD' and xact_id not in (select xact_id from audit.extraction_transactions)
    {% endset %}
    {% if first_row(reloads)['number'] | int > 0 %}
        {% set plan.reason = 'the source says that a table was reloaded' %}
    {% endif %}

    {% set widest = {} %}
    {% if verdict == 'same' and not plan.reason %}
        {% set widest = widest_changes(source['watermark'], source['snapshot_xmax']) %}
    {% endif %}
    {% set total = namespace(inserted=0, updated=0, deleted=0) %}
    {% for table in tables %}
        {% set must_read_all = alter_landing_table(table) %}
        {% set watermark = none if plan.reason or must_read_all or verdict == 'first' else source['watermark'] %}
        {% set loaded = load_landing_table(
            table, run_id, watermark, source['snapshot_xmax'], var('allow_mass_delete'), widest.get(table.name, 0)
        ) %}
        {% do log(table.name ~ ': +' ~ loaded.inserted ~ ' ~' ~ loaded.updated ~ ' -' ~ loaded.deleted) %}
        {% set total.inserted = total.inserted + loaded.inserted %}
        {% set total.updated = total.updated + loaded.updated %}
        {% set total.deleted = total.deleted + loaded.deleted %}
    {% endfor %}
    {% if verdict == 'same' and not plan.reason %}
        {% do guard_truncated_tables(tables) %}
    {% endif %}

    {% set mode = 'first load' if verdict == 'first' else ('reconcile' if plan.reason else 'changes') %}
    {% call statement('main') %}
        insert into audit.extraction_state as known
        (run_id, watermark, snapshot_xmax, system_identifier, timeline, source_position, snapshot_time)
        values (
            {{ run_id }}, '{{ source['snapshot_xmin'] }}', '{{ source['snapshot_xmax'] }}',
            {{ sql_literal(source['system_identifier']) }}, {{ source['timeline'] }},
            '{{ source['position_lsn'] }}', '{{ snapshot_time }}'
        )
        on conflict (only_row) do update
        set
            -- Without a change the landing rows are those of the run before: models then find nothing to do.
            run_id = {{ 'excluded.run_id' if total.inserted + total.updated + total.deleted > 0 else 'known.run_id' }},
            watermark = excluded.watermark,
            snapshot_xmax = excluded.snapshot_xmax,
            system_identifier = excluded.system_identifier,
            timeline = excluded.timeline,
            source_position = excluded.source_position,
            snapshot_time = excluded.snapshot_time;

        {{ save_seen_transactions(source, verdict) }}

        update audit.etl_runs
        set
            rows_inserted = {{ total.inserted }},
            rows_updated = {{ total.updated }},
            rows_deleted = {{ total.deleted }},
            extraction_mode = '{{ mode }}',
            extraction_reason = {{ sql_literal(plan.reason) }},
            source_host = {{ sql_literal(('replica' if source['is_standby'] else 'primary') ~ ', port ' ~ source['server_port']) }},
            source_position = '{{ source['position_lsn'] }}',
            snapshot_time = '{{ snapshot_time }}',
            system_identifier = {{ sql_literal(source['system_identifier']) }},
            timeline = {{ source['timeline'] }}
        where run_id = {{ run_id }};

        {{ record_rows(run_id, total.inserted, total.updated, total.deleted) }};
        {{ save_model_state(
            'operational_fdw', run_id, yaml_hash, landing_run=run_id, stored=foreign_tables_definition(tables)
        ) }};
    {% endcall %}
    {% if server.candidate is not none %}
        {% do restore_server_options(usual_options) %}
    {% endif %}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': []}) }}
{% endmaterialization %}

{#
    The time up to which everything that was committed is in this snapshot. A standby's is the time that was proven
    before the snapshot was taken. What contains the last snapshot is at least as new as that one.
#}
{% macro time_of_snapshot(source, server, verdict) %}
    {% set question %}
        select greatest(
            least(
                {{ sql_literal(source['snapshot_time']) }}::timestamptz,
                {{ sql_literal(server.snapshot_time) if source['is_standby'] else 'null' }}::timestamptz
            ),
            {% if verdict == 'same' %}
            (select known.snapshot_time from audit.extraction_state as known where known.snapshot_time <= now())
            {% else %}
            null
            {% endif %}
        )::text as snapshot_time
    {% endset %}
    {{ return(first_row(question)['snapshot_time']) }}
{% endmacro %}

{#
    A table that was truncated with its triggers off leaves no trace in the feed. That it is empty is cheap to see.
#}
{% macro guard_truncated_tables(tables) %}
    {% for table in tables %}
        {% set probe %}
            select
                exists (select 1 from (select 1 from {{ table.landing }} where _deleted_at is null limit 1) as probe)
                    as landing_has_rows,
                exists (select 1 from (select 1 from {{ table.foreign }} limit 1) as probe) as source_has_rows
        {% endset %}
        {% set seen = first_row(probe) %}
        {% if seen['landing_has_rows'] and not seen['source_has_rows'] %}
            {{ exceptions.raise_compiler_error(
                "Table " ~ table.name ~ " of the source is empty, and its change feed does not say why (truncated with the "
                ~ "triggers off?). Nothing was extracted, the warehouse keeps its last state. When the rows are meant to "
                ~ "go: make reconcile MASS_DELETE=1."
            ) }}
        {% endif %}
    {% endfor %}
{% endmacro %}
