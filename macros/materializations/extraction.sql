{#
    The root of the project: bring all landing tables to one instant of the OLTP cluster, in one transaction.

    postgres_fdw opens one REPEATABLE READ transaction on the source per local transaction, so every foreign scan in it
    sees the same snapshot. The watermark is that snapshot's xmin: every transaction below it had ended. What it can not
    see yet has a greater or equal id, and is read next time. (The highest id seen, or updated_at, would lose every
    transaction that commits late.)
#}
{% materialization extraction, adapter='postgres' %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {% set wanted = var('extract') if var('extract') is not none else is_production(target.name) %}
    {% if not wanted %}
        {% call statement('main') %}
            select 'target {{ target.name }} reads the landing tables as they are' as note
        {% endcall %}
        {{ return({'relations': []}) }}
    {% endif %}

    {% set tables = extraction_tables() %}
    {% set yaml_hash = local_md5(tojson(tables)) %}
    {% do ensure_source_state_tables() %}
    {% set default_server = choose_source() %}

    {# From here on one transaction, here and on the source. The driver opens none by itself after a commit in SQL. #}
    {% do run_statement('begin') %}
    {% set run_id = assert_run_is_ours() %}
    {% set source = source_verdict() %}
    {% if source['verdict'] == 'behind' %}
        {{ exceptions.raise_compiler_error("The source changed over to a server that is behind. The next run tries again.") }}
    {% endif %}
    {% do sync_foreign_tables(tables, yaml_hash) %}
    {% do check_source_columns(tables) %}

    {% set plan = namespace(reason=none) %}
    {% if source['verdict'] == 'other' %}
        {% set plan.reason = source['reason'] %}
    {% elif source['verdict'] == 'same' and var('reconcile') %}
        {% set plan.reason = 'asked for' %}
    {% endif %}
    {# Of another source's feed nothing is known that could be told from what was seen before. #}
    {% do run_statement("create temporary table feed_events_read on commit drop as
        select table_name, operation, record_id, change_time from operational_fdw.feed_events
        " ~ ("where xact_id >= '" ~ source['watermark'] ~ "'::xid8" if source['verdict'] == 'same' else 'with no data')) %}
    {% do run_statement("analyze feed_events_read") %}
    {% if first_row("select count(*) as reloads from feed_events_read where operation = 'RELOAD'")['reloads'] | int > 0 %}
        {% set plan.reason = 'a table was filled with the trail switched off' %}
    {% endif %}

    {% set total = namespace(inserted=0, updated=0, deleted=0) %}
    {% for table in tables %}
        {% set must_read_all = alter_landing_table(table) %}
        {% set watermark = none if plan.reason or must_read_all or source['verdict'] == 'first' else source['watermark'] %}
        {% set loaded = load_landing_table(table, run_id, watermark, var('allow_mass_delete')) %}
        {% do log(table.name ~ ': +' ~ loaded.inserted ~ ' ~' ~ loaded.updated ~ ' -' ~ loaded.deleted) %}
        {% set total.inserted = total.inserted + loaded.inserted %}
        {% set total.updated = total.updated + loaded.updated %}
        {% set total.deleted = total.deleted + loaded.deleted %}
    {% endfor %}
    {% if source['verdict'] == 'same' and not plan.reason %}
        {% do guard_truncated_tables(tables) %}
    {% endif %}

    {% set mode = 'first load' if source['verdict'] == 'first' else ('reconcile' if plan.reason else 'changes') %}
    {% call statement('main') %}
        insert into audit.extraction_state as known
        (run_id, watermark, snapshot_xmax, system_identifier, timeline, source_position, snapshot_time)
        values (
            {{ run_id }}, '{{ source['snapshot_xmin'] }}', '{{ source['snapshot_xmax'] }}',
            {{ sql_literal(source['system_identifier']) }}, {{ source['timeline'] }},
            '{{ source['position_lsn'] }}', '{{ source['snapshot_time'] }}'
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

        delete from audit.extraction_trail;
        insert into audit.extraction_trail (log_id, xact_id, change_time)
        select log_id, xact_id, change_time from operational_fdw.trail_end;

        update audit.etl_runs
        set
            rows_inserted = {{ total.inserted }},
            rows_updated = {{ total.updated }},
            rows_deleted = {{ total.deleted }},
            extraction_mode = '{{ mode }}',
            extraction_reason = {{ sql_literal(plan.reason) }},
            source_host = {{ sql_literal(('replica' if source['is_standby'] else 'primary') ~ ', port ' ~ source['server_port']) }},
            source_position = '{{ source['position_lsn'] }}',
            snapshot_time = '{{ source['snapshot_time'] }}',
            system_identifier = {{ sql_literal(source['system_identifier']) }},
            timeline = {{ source['timeline'] }}
        where run_id = {{ run_id }};

        {{ record_rows(run_id, total.inserted, total.updated, total.deleted) }};
        {{ save_model_state('operational_fdw', run_id, yaml_hash, landing_run=run_id) }};
    {% endcall %}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}

    {% if default_server is not none %}
        {% do set_server_options(default_server) %}
    {% endif %}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': []}) }}
{% endmaterialization %}

{#
    A table that was truncated with its triggers off leaves no trace in the feed. That it is empty is cheap to see.
#}
{% macro guard_truncated_tables(tables) %}
    {% for table in tables %}
        {% set seen = first_row("
            select
                exists (select 1 from (select 1 from " ~ table.landing ~ " where _deleted_at is null limit 1) as probe)
                    as landing_has_rows,
                exists (select 1 from (select 1 from " ~ table.foreign ~ " limit 1) as probe) as source_has_rows
        ") %}
        {% if seen['landing_has_rows'] and not seen['source_has_rows'] %}
            {{ exceptions.raise_compiler_error(
                "Table " ~ table.name ~ " of the source is empty, and its change feed does not say why (truncated with the "
                ~ "triggers off?). Nothing was extracted, the warehouse keeps its last state. When the rows are meant to "
                ~ "go: make reconcile MASS_DELETE=1."
            ) }}
        {% endif %}
    {% endfor %}
{% endmacro %}
