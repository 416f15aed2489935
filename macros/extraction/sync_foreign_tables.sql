{#
    Rebuild the foreign tables when the sources' YAML has changed since they were made.
    Runs inside the extraction's transaction.
#}
{% macro sync_foreign_tables(tables, yaml_hash) %}
    {% set known = first_row("select definition_hash from audit.model_states where model_name = 'operational_fdw'") %}
    {% if known is not none and known['definition_hash'] == yaml_hash
            and foreign_tables_are_complete() %}
        {{ return('') }}
    {% endif %}
    {% do assert_types_exist(tables) %}
    {% do drop_foreign_tables([
        'operational_fdw.source_columns', 'operational_fdw.feed_events', 'operational_fdw.feed_widths',
        'operational_fdw.table_widths', 'operational_fdw.replaced_tables'
    ]) %}
    {% do drop_foreign_tables(tables | map(attribute='foreign') | list + tables | map(attribute='changes') | list) %}
    {% set statements %}
        create foreign table operational_fdw.feed_events (
            xact_id xid8, table_name text, operation text, record_id bigint, change_time timestamptz,
            old_values jsonb
        ) server oltp options (schema_name 'etl');
        create foreign table operational_fdw.source_columns (
            table_name text, column_name text, data_type text, feed_problem text, is_key boolean
        ) server oltp options (schema_name 'etl');
        create foreign table operational_fdw.feed_widths (
            xact_id xid8, table_name text, operation text, width bigint
        ) server oltp options (schema_name 'etl');
        create foreign table operational_fdw.table_widths (
            table_name text, width bigint
        ) server oltp options (schema_name 'etl');
        create foreign table operational_fdw.replaced_tables (
            table_name text
        ) server oltp options (schema_name 'etl');
        {% for table in tables %}
        {% set columns = [] %}
        {% for column in table.columns %}
            {% do columns.append(column.quoted ~ ' ' ~ column.data_type) %}
        {% endfor %}
        create foreign table {{ table.foreign }} (
            {{ columns | join(', ') }}
        ) server oltp options (schema_name 'operational');
        create foreign table {{ table.changes }} (
            xact_id xid8, {{ columns | join(', ') }}
        ) server oltp options (schema_name 'etl');
        {% endfor %}
    {% endset %}
    {% do run_statement(statements) %}
{% endmacro %}

{#
    Whether the foreign tables that are the same for every YAML have the columns that an earlier version did not know.
#}
{% macro foreign_tables_are_complete() %}
    {% set question %}
        select count(*) = 5 as are_complete
        from pg_attribute
        where not attisdropped and (
            (attrelid = to_regclass('operational_fdw.feed_events') and attname = 'old_values')
            or (attrelid = to_regclass('operational_fdw.source_columns') and attname = 'is_key')
            or (attrelid = to_regclass('operational_fdw.feed_widths') and attname = 'width')
            or (attrelid = to_regclass('operational_fdw.table_widths') and attname = 'width')
            or (attrelid = to_regclass('operational_fdw.replaced_tables') and attname = 'table_name')
        )
    {% endset %}
    {{ return(first_row(question)['are_complete']) }}
{% endmacro %}

{#
    An SQL expression: what the foreign tables of the extraction are, as a hash. It is kept with the state of
    operational_fdw, so that one that somebody altered or replaced is found.
#}
{% macro foreign_tables_definition(tables) %}
    {% set names = [
        'source_state', 'trail', 'trail_end', 'trail_transactions', 'source_settings', 'source_columns', 'feed_events',
        'feed_widths', 'table_widths', 'replaced_tables'
    ] %}
    {% for table in tables %}
        {% do names.extend([table.name, table.name ~ '_changes']) %}
    {% endfor %}
    (
        select
            md5(string_agg(concat_ws(' ', cls.relname, srv.srvname, fgn.ftoptions, columns.definitions), ' ' order by cls.relname))
        from pg_foreign_table as fgn
        inner join pg_class as cls on fgn.ftrelid = cls.oid
        inner join pg_foreign_server as srv on fgn.ftserver = srv.oid
        cross join lateral (
            select
                string_agg(
                    concat_ws(' ', att.attname, format_type(att.atttypid, att.atttypmod), att.attfdwoptions), ', '
                    order by att.attnum
                ) as definitions
            from pg_attribute as att
            where att.attrelid = cls.oid and att.attnum > 0 and not att.attisdropped
        ) as columns
        where
            cls.relnamespace = to_regnamespace('operational_fdw')
            and cls.relname = any(array[{% for name in names %}{{ sql_literal(name) }}{{ ', ' if not loop.last }}{% endfor %}])
    )
{% endmacro %}

{#
    The foreign views of the source's state are needed before anything else, also by the choice of the source. When the
    foreign tables are not as the last extraction left them, all are made again: here, and in sync_foreign_tables.
#}
{% macro ensure_source_state_tables(tables, yaml_hash) %}
    {# source_settings is known by its column: a table of the source that has this name was once published. #}
    {% set question %}
        select
            to_regnamespace('operational_fdw') is not null as has_schema,
            exists (
                select from pg_attribute
                where attrelid = to_regclass('operational_fdw.source_settings') and attname = 'setting' and not attisdropped
            ) as are_there,
            coalesce(
                (
                    select stored_definition <> {{ foreign_tables_definition(tables) }}
                    from audit.model_states
                    where model_name = 'operational_fdw' and definition_hash = '{{ yaml_hash }}'
                ),
                false
            ) as differ
    {% endset %}
    {% set found = first_row(question) %}
    {% if found['differ'] %}
        {% do log('The foreign tables of operational_fdw are not as the last extraction left them: they are made again.', info=true) %}
    {% endif %}
    {% if found['differ'] or not found['are_there'] %}
        {# Says so when there is no server that foreign tables could be of. #}
        {% do server_options() %}
        {% if not found['has_schema'] %}
            {% do create_foreign_schema() %}
        {% endif %}
        {# Without source_columns, sync_foreign_tables makes the others again. #}
        {% do drop_foreign_tables([
            'operational_fdw.source_state', 'operational_fdw.trail', 'operational_fdw.trail_end',
            'operational_fdw.trail_transactions', 'operational_fdw.source_settings', 'operational_fdw.source_columns'
        ]) %}
        {% set creation %}
            create foreign table operational_fdw.source_state (
                snapshot_xmin xid8, snapshot_xmax xid8, snapshot_time timestamptz, system_identifier text,
                timeline integer, position_lsn text, is_standby boolean, server_port integer,
                is_current boolean, waits_for_standby boolean
            ) server oltp options (schema_name 'etl');
            create foreign table operational_fdw.trail (
                log_id bigint, xact_id xid8, change_time timestamptz
            ) server oltp options (schema_name 'etl');
            create foreign table operational_fdw.trail_end (
                log_id bigint, xact_id xid8, change_time timestamptz
            ) server oltp options (schema_name 'etl');
            create foreign table operational_fdw.trail_transactions (
                xact_id xid8, log_id bigint, change_time timestamptz
            ) server oltp options (schema_name 'etl');
            create foreign table operational_fdw.source_settings (
                name text, setting text
            ) server oltp options (schema_name 'pg_catalog', table_name 'pg_settings')
        {% endset %}
        {% do run_statement(creation) %}
    {% endif %}
    {% do run_statement('commit') %}
{% endmacro %}

{#
    The schema of the foreign tables, which somebody dropped. `make up` makes it, as any other of the layers; where this
    role may make schemas too, the run need not wait for that.
#}
{% macro create_foreign_schema() %}
    {% set question %}
        select has_database_privilege(current_database(), 'create') as is_allowed
    {% endset %}
    {% if not first_row(question)['is_allowed'] %}
        {{ exceptions.raise_compiler_error(
            "There is no schema operational_fdw in the warehouse, which holds the foreign tables: `make up` creates it."
        ) }}
    {% endif %}
    {% do log('There was no schema operational_fdw: it is made again, with its foreign tables.', info=true) %}
    {% do run_statement("create schema operational_fdw") %}
{% endmacro %}

{#
    Drop foreign tables, where they exist. Each by itself, so that the message names the one that is in use.

    names: qualified names, a list.
#}
{% macro drop_foreign_tables(names) %}
    {% for name in names %}
        {% do run_ddl(name, "drop foreign table if exists " ~ name) %}
    {% endfor %}
{% endmacro %}

{#
    Raise with the columns of the sources' YAML whose type the warehouse does not have.
#}
{% macro assert_types_exist(tables) %}
    {% set columns = [] %}
    {% for table in tables %}
        {% for column in table.columns %}
            {% do columns.append("(" ~ sql_literal(table.name ~ '.' ~ column.name) ~ ", " ~ sql_literal(column.data_type) ~ ")") %}
        {% endfor %}
    {% endfor %}
    {% set question %}
        select name || ' (' || data_type || ')' as problem
        from (values {{ columns | join(', ') }}) as wanted (name, data_type)
        where to_regtype(data_type) is null
        order by name
    {% endset %}
    {% set unknown = run_query(question) %}
    {% if unknown.rows | length > 0 %}
        {{ exceptions.raise_compiler_error(
            "The warehouse does not have the type of " ~ unknown.columns[0].values() | join(', ') ~ ", as"
            ~ " models/staging/__sources.yml has it. Nothing was extracted. Write text for an enum or a text type of an"
            ~ " extension, and the base type for a domain."
        ) }}
    {% endif %}
{% endmacro %}
