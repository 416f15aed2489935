{#
    Bring one landing table up to date. Returns a dictionary: inserted, updated, deleted.

    table: see extraction_tables. run_id: stamped on every row that changes. watermark: changes of transactions from
    this one on are read, up to snapshot_xmax (a trail that came with a dump of another cluster has entries of ids that
    this one has yet to reach); none compares the whole table. allow_mass_delete: switch off the guard. widest_change: the
    bytes of the widest row among those changes.

    Both ways fill the same temporary table <table>_read (delta: changed rows that still exist; otherwise all rows), so
    that one piece of SQL finds and applies the difference. Reading a change twice is harmless: a row that does not
    differ is not written. Rows are compared by their stored form, which every type has (json and point have no equality).
#}
{% macro load_landing_table(table, run_id, watermark, snapshot_xmax, allow_mass_delete, widest_change) %}
    {% set key = table.key %}
    {% set names = table.column_names %}
    {% set landing_rows = rows_to_compare(table.landing, table.compared, table.placement) %}
    {% if not relation_exists(table.landing) %}
        {{ return(first_load(table, run_id)) }}
    {% endif %}

    {% if watermark is none %}
        {% set read_from %}
            select {{ comma_list(names) }} from {{ table.foreign }}
        {% endset %}
        {% set gone %}
            select
                landing.{{ key }} as key,
                coalesce(
                    (
                        select max(event.change_time) from feed_events_read as event
                        where event.table_name = {{ sql_literal(table.name) }}
                            and event.operation = 'DELETE'
                            and event.record_id = landing.{{ key }}
                    ),
                    statement_timestamp()
                ) as deleted_at,
                landing._changed_at as changed_before
            from {{ landing_rows }} as landing
            where landing._deleted_at is null
                and not exists (select from {{ table.read }} as present where present.{{ key }} = landing.{{ key }})
        {% endset %}
    {% else %}
        {% set read_from %}
            select distinct on ({{ key }}) {{ comma_list(names) }}
            from {{ table.changes }}
            where xact_id >= '{{ watermark }}'::xid8 and xact_id < '{{ snapshot_xmax }}'::xid8
        {% endset %}
        {% set gone %}
            select
                event.record_id as key,
                max(event.change_time) as deleted_at,
                max(landing._changed_at) as changed_before
            from feed_events_read as event
            inner join {{ landing_rows }} as landing on landing.{{ key }} = event.record_id
            where event.table_name = {{ sql_literal(table.name) }}
                and event.operation = 'DELETE'
                and landing._deleted_at is null
                and not exists (select from {{ table.read }} as present where present.{{ key }} = event.record_id)
            group by event.record_id
        {% endset %}
    {% endif %}

    {% do run_bounded_fetch(
        "create temporary table " ~ table.read ~ " on commit drop as " ~ read_from,
        table.foreign if watermark is none else table.changes,
        widest_row(table) if watermark is none else widest_change
    ) %}
    {% do assert_table_was_not_replaced(table) %}
    {% do analyze_small_sample(table.read) %}
    {% set keys_read %}
        select {{ key }} from {{ table.read }}
        union
        select record_id from feed_events_read
        where operation = 'DELETE' and table_name = {{ sql_literal(table.name) }}
    {% endset %}
    {% do fetch_rows(table.landing, landing_rows, table.placement, [key], keys_read if watermark is not none) %}
    {% set comparison %}
        create temporary table {{ table.changed }} on commit drop as
        select
            incoming.*,
            greatest(incoming.updated_at, landing._changed_at + interval '1 microsecond') as _changed_at,
            landing.{{ key }} is null or landing._deleted_at is not null as _is_new
        from {{ table.read }} as incoming
        left join {{ landing_rows }} as landing on incoming.{{ key }} = landing.{{ key }}
        where landing.{{ key }} is null
            or landing._deleted_at is not null
            or row({{ comma_list(names, 'landing') }})::record *<> row({{ comma_list(names, 'incoming') }})::record
    {% endset %}
    {% do run_statement(comparison) %}
    {% do run_statement("create temporary table " ~ table.gone ~ " on commit drop as " ~ gone) %}
    {% set rows_counted %}
        select
            (select count(*) from {{ table.changed }} where _is_new) as inserted,
            (select count(*) from {{ table.changed }} where not _is_new) as updated,
            (select count(*) from {{ table.gone }}) as deleted
    {% endset %}
    {% set counts = first_row(rows_counted) %}
    {% set result = {'inserted': counts['inserted'] | int, 'updated': counts['updated'] | int,
                     'deleted': counts['deleted'] | int} %}

    {% if result.deleted > 0 %}
        {# Rows that the feed says were deleted, and replaced by others, are no loss; without the feed they may be. #}
        {% set lost = result.deleted - (result.inserted if watermark is not none else 0) %}
        {% do guard_mass_delete(table, lost, allow_mass_delete) %}
        {% set deletion %}
            update {{ table.landing }} as landing
            set
                _deleted_at = gone.deleted_at,
                _changed_at = gone.changed_at,
                _run_id = {{ run_id }}
            from (
                select key, deleted_at, greatest(deleted_at, changed_before + interval '1 microsecond') as changed_at
                from {{ table.gone }}
            ) as gone
            where landing.{{ key }} = gone.key
        {% endset %}
        {% do run_statement(deletion) %}
    {% endif %}
    {% if result.inserted + result.updated > 0 %}
        {% set assignments = [] %}
        {% set unique_key = key_in_place([key], table.placement) %}
        {% do delete_moved(table.landing, table.changed, [key], table.placement) %}
        {% for name in names if name not in unique_key %}
            {% do assignments.append(name ~ ' = excluded.' ~ name) %}
        {% endfor %}
        {% set insertion %}
            insert into {{ table.landing }} as landing ({{ comma_list(names) }}, _run_id, _changed_at)
            select {{ comma_list(names) }}, {{ run_id }}, _changed_at from {{ table.changed }}
            on conflict ({{ unique_key | join(', ') }}) do update
            set {{ assignments | join(', ') }},
                _run_id = excluded._run_id,
                _deleted_at = null,
                _changed_at = excluded._changed_at
        {% endset %}
        {% do run_statement(insertion) %}
    {% endif %}
    {# Models ask for _run_id > the last one. Without fresh statistics the planner expects a single row, and loops. #}
    {% set written = result.inserted + result.updated + result.deleted %}
    {% if written > 200 and not analyze_rewritten(table.landing, written) %}
        {% do run_statement("analyze " ~ table.landing ~ " (_run_id)") %}
    {% endif %}
    {{ return(result) }}
{% endmacro %}

{#
    The first load of a table: into a table without indexes, which are built afterwards. In a warehouse that has extracted
    before, the table is new, or was dropped by hand: the rows that were deleted come with it from the trail, since
    histories and marts may still have them.
#}
{% macro first_load(table, run_id) %}
    {% set columns = [] %}
    {% for column in table.columns %}
        {% do columns.append(column.quoted ~ ' ' ~ column.data_type) %}
    {% endfor %}
    {% set creation %}
        create table {{ table.landing }} (
            {{ columns | join(', ') }},
            _run_id bigint not null,
            _changed_at timestamptz not null,
            _deleted_at timestamptz
        )
    {% endset %}
    {% do run_statement(creation) %}
    {# Analyzed in each run: a third of the usual sample, which reads as many pages from all over the table. #}
    {% do run_statement("alter table " ~ table.landing ~ " alter column _run_id set statistics 30") %}
    {% do place_empty_table(table.landing, table.placement) %}
    {% set insertion %}
        insert into {{ table.landing }} ({{ comma_list(table.column_names) }}, _run_id, _changed_at)
        select {{ comma_list(table.column_names) }}, {{ run_id }}, updated_at from {{ table.foreign }}
    {% endset %}
    {% do run_bounded_fetch(insertion, table.foreign, widest_row(table)) %}
    {% do assert_table_was_not_replaced(table) %}
    {% set primary_key %}
        alter table {{ table.landing }} add primary key ({{ key_in_place([table.key], table.placement) | join(', ') }})
    {% endset %}
    {% do run_statement(primary_key) %}
    {% if first_row("select exists (select from audit.extraction_state) as has_extracted")['has_extracted'] %}
        {% do load_deleted_rows(table, run_id) %}
    {% endif %}
    {% do run_statement("create index on " ~ table.landing ~ " (_run_id)") %}
    {% do run_statement("analyze " ~ table.landing) %}
    {% set counts = first_row("select count(*) as inserted from " ~ table.landing) %}
    {{ return({'inserted': counts['inserted'] | int, 'updated': 0, 'deleted': 0}) }}
{% endmacro %}

{#
    Flagged rows for what the trail says was deleted, as it was last.
#}
{% macro load_deleted_rows(table, run_id) %}
    {% set values = [] %}
    {% for name in table.column_names %}
        {% do values.append('former_key' if name == table.key else '(former).' ~ name) %}
    {% endfor %}
    {# A column's type may since have become a narrower one: a value that does not fit there is left out. #}
    {% set reader %}
        create function pg_temp.former_row(old_values jsonb) returns {{ table.landing }}
        language plpgsql
        as $$
        declare
            former {{ table.landing }};
            pair record;
        begin
            begin
                return jsonb_populate_record(null::{{ table.landing }}, old_values);
            exception when data_exception then
                null;
            end;
            for pair in select * from jsonb_each(old_values) loop
                begin
                    former := jsonb_populate_record(former, jsonb_build_object(pair.key, pair.value));
                exception when data_exception then
                    null;
                end;
            end loop;
            return former;
        end
        $$
    {% endset %}
    {% do run_statement(reader) %}
    {# By the column that is the key now: another one may have been when the row was deleted. #}
    {% set key_column = table.columns | selectattr('quoted', 'equalto', table.key) | first %}
    {% set insertion %}
        insert into {{ table.landing }} ({{ comma_list(table.column_names) }}, _run_id, _changed_at, _deleted_at)
        select {{ values | join(', ') }}, {{ run_id }}, greatest((former).updated_at, change_time), change_time
        from (
            select distinct on (coalesce((former).{{ table.key }}, record_id))
                coalesce((former).{{ table.key }}, record_id) as former_key,
                change_time,
                former
            from (
                select record_id, change_time, pg_temp.former_row(old_values) as former
                from operational_fdw.feed_events
                where operation = 'DELETE' and table_name = {{ sql_literal(table.name) }}
            ) as events
            order by coalesce((former).{{ table.key }}, record_id), change_time desc
        ) as deleted
        where not exists (
            select from {{ table.landing }} as present where present.{{ table.key }} = deleted.former_key
        )
        {% if key_column.data_type == 'integer' %}
            and deleted.former_key <= 2147483647
        {% endif %}
    {% endset %}
    {% do run_bounded_fetch(insertion, 'operational_fdw.feed_events', widest_deleted_row(table)) %}
    {% do run_statement("drop function pg_temp.former_row") %}
{% endmacro %}

{#
    An emptied or wrong source must never empty the warehouse: stop when a table would lose more than its share.
    lost: rows that are deleted without others in their place.
#}
{% macro guard_mass_delete(table, lost, allow_mass_delete) %}
    {% if allow_mass_delete or lost <= 0 %}
        {{ return('') }}
    {% endif %}
    {% set max_share = env_var('ETL_MAX_DELETE_SHARE', '0.5') | float %}
    {# To see that the loss is small it is enough to count as many rows as make it small. #}
    {% set enough = (lost / max_share) | int + 1 if max_share > 0 else none %}
    {% set rows_counted %}
        select count(*) as live
        from (
            select 1 from {{ table.landing }}
            where _deleted_at is null
            {% if enough %}
            limit {{ enough }}
            {% endif %}
        ) as counted
    {% endset %}
    {% set live = first_row(rows_counted)['live'] | int %}
    {% if lost > live * max_share and (lost >= 10 or lost == live) %}
        {{ exceptions.raise_compiler_error(
            "The source has lost " ~ lost ~ " of the " ~ live ~ " rows of table " ~ table.name
            ~ ", more than ETL_MAX_DELETE_SHARE (" ~ max_share ~ ") allows. Nothing was extracted, the warehouse keeps "
            ~ "its last state. When the rows are meant to go: make etl NOW=1 MASS_DELETE=1."
        ) }}
    {% endif %}
{% endmacro %}

{#
    Bring the columns of an existing landing table to those of the YAML. Returns whether a column was added or changed,
    so that the whole table must be read once to fill it. With another key, or without a column that the landing tables
    use themselves, it is dropped: the first load makes it.
#}
{% macro alter_landing_table(table) %}
    {% if not relation_exists(table.landing) %}
        {{ return(false) }}
    {% endif %}
    {% set keys %}
        select
            string_agg(
                quote_ident(att.attname), ', ' order by array_position(idx.indkey::smallint[], att.attnum)
            ) as names,
            (
                select count(*) = 3
                from pg_attribute as own
                where own.attrelid = {{ sql_literal(table.landing) }}::regclass and not own.attisdropped
                    and (own.attname, own.atttypid) in (
                        ('_run_id', 'bigint'::regtype),
                        ('_changed_at', 'timestamptz'::regtype),
                        ('_deleted_at', 'timestamptz'::regtype)
                    )
            ) as has_own_columns
        from pg_index as idx
        inner join pg_attribute as att on idx.indrelid = att.attrelid and att.attnum = any(idx.indkey)
        where idx.indrelid = {{ sql_literal(table.landing) }}::regclass and idx.indisprimary
    {% endset %}
    {% set present = first_row(keys) %}
    {% set key = key_in_place([table.key], table.placement) | join(', ') %}
    {% if present['names'] != key or not present['has_own_columns'] %}
        {% if not present['has_own_columns'] %}
            {% do log(table.landing ~ ' lacks a column that every landing table has: it is loaded again.', info=true) %}
        {% endif %}
        {% do drop_staging_view(table) %}
        {% do run_ddl(table.landing, "drop table " ~ table.landing) %}
        {{ return(true) }}
    {% endif %}
    {% set differences %}
        with wanted as (
            select att.attname::text as name, format_type(att.atttypid, att.atttypmod) as data_type
            from pg_attribute as att
            where att.attrelid = {{ sql_literal(table.foreign) }}::regclass and att.attnum > 0 and not att.attisdropped
        ),

        present as (
            select att.attname::text as name, format_type(att.atttypid, att.atttypmod) as data_type
            from pg_attribute as att
            where att.attrelid = {{ sql_literal(table.landing) }}::regclass and att.attnum > 0 and not att.attisdropped
                and att.attname::text not in ('_run_id', '_changed_at', '_deleted_at')
        )

        select
            case
                when present.name is null
                    then format('alter table %s add column %I %s', {{ sql_literal(table.landing) }}, wanted.name, wanted.data_type)
                when wanted.name is null
                    then format('alter table %s drop column %I', {{ sql_literal(table.landing) }}, present.name)
                -- A value that the new type cannot hold, of a row that is deleted or about to be read again, stops no run.
                else format(
                    'do $retype$ begin alter table %1$s alter column %2$I type %3$s; '
                    'exception when data_exception or datatype_mismatch or cannot_coerce then %4$s; end $retype$',
                    {{ sql_literal(table.landing) }}, wanted.name, wanted.data_type,
                    case
                        when wanted.name = {{ sql_literal(table.key_name) }} then 'drop table ' || {{ sql_literal(table.landing) }}
                        else format(
                            'alter table %1$s drop column %2$I, add column %2$I %3$s',
                            {{ sql_literal(table.landing) }}, wanted.name, wanted.data_type
                        )
                    end
                )
            end as change,
            wanted.name is not null as must_read,
            present.name is not null as is_in_use
        from wanted
        full join present on wanted.name = present.name
        where wanted.data_type is distinct from present.data_type
    {% endset %}
    {% set changes = run_query(differences) %}
    {% set must_read = namespace(value=false) %}
    {% for change in changes.rows %}
        {# Staging views over a dropped or retyped column are in the way; dbt makes them again in this same run. #}
        {% if change['is_in_use'] %}
            {% do drop_staging_view(table) %}
        {% endif %}
        {% do run_ddl(table.landing, change['change']) %}
        {% if change['must_read'] %}
            {% set must_read.value = true %}
        {% endif %}
    {% endfor %}
    {{ return(must_read.value) }}
{% endmacro %}

{#
    Drop the staging view of a landing table, which is in the way of a change of its columns. dbt makes it again in this
    same run.
#}
{% macro drop_staging_view(table) %}
    {% set view %}
        {{- schema_in_target('staging', target.name, target.schema) }}.{{ adapter.quote('stg_' ~ table.name) -}}
    {% endset %}
    {% do run_ddl(view, "drop view if exists " ~ view ~ " cascade") %}
{% endmacro %}
