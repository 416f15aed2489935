{#
    Stop before any harm when the source no longer has a table, column, type or key that the YAML expects, or when changes
    of a table are not written to its trail.
    Reads the source's catalogue in the extraction's own snapshot.
#}
{% macro check_source_columns(tables) %}
    {% set names, keys = [], [] %}
    {% for table in tables %}
        {% do names.append(sql_literal(table.name)) %}
        {% do keys.append('(' ~ sql_literal(table.name) ~ ', ' ~ sql_literal(table.key_name) ~ ')') %}
    {% endfor %}
    {% set comparison %}
        with present as (
            select table_name, column_name, data_type, feed_problem, is_key from operational_fdw.source_columns
        ),

        expected as (
            select
                cls.relname::text as table_name,
                att.attname::text as column_name,
                format_type(att.atttypid, att.atttypmod) as data_type,
                att.attname = keys.column_name as is_key
            from pg_class as cls
            inner join pg_attribute as att on cls.oid = att.attrelid
            inner join (values {{ keys | join(', ') }}) as keys (table_name, column_name) on cls.relname = keys.table_name
            where cls.relnamespace = 'operational_fdw'::regnamespace
                and cls.relname in ({{ names | join(', ') }})
                and att.attnum > 0 and not att.attisdropped
        )

        select
            case
                when not exists (select from present where present.table_name = expected.table_name)
                    then 'table ' || expected.table_name || ' is gone'
                when present.column_name is null
                    then 'column ' || expected.table_name || '.' || expected.column_name || ' is gone'
                when present.data_type <> expected.data_type
                    then 'column ' || expected.table_name || '.' || expected.column_name || ' is ' || present.data_type
                        || ', expected ' || expected.data_type
                when present.feed_problem is null
                    then 'column ' || expected.table_name || '.' || expected.column_name
                        || case when present.is_key then ' is the primary key, and not' else ' is not the primary key, but' end
                        || ' the key of that table in the YAML'
                else 'table ' || expected.table_name || ' is not in the change feed (' || present.feed_problem || ')'
            end as problem
        from expected
        left join present
            on expected.table_name = present.table_name and expected.column_name = present.column_name
        where present.column_name is null or present.data_type <> expected.data_type
            or present.feed_problem is not null or present.is_key <> expected.is_key
        group by 1
        order by 1
    {% endset %}
    {% set problems = run_query(comparison) %}
    {% if problems.rows | length > 0 %}
        {{ exceptions.raise_compiler_error(
            "The source has changed: " ~ problems.columns[0].values() | join('; ')
            ~ ". Nothing was extracted. Change it back, or describe the new shape in models/staging/__sources.yml"
            ~ " (and run etl.publish_table() on the OLTP side), then run again."
        ) }}
    {% endif %}
{% endmacro %}

{#
    Stop when a table that was just read is no longer the one of this snapshot: once `alter table` has rewritten it,
    its rows are invisible to the snapshot, and it would seem empty. A table that was read stays locked against that.
#}
{% macro assert_table_was_not_replaced(table) %}
    {% set question %}
        select count(*) as number from operational_fdw.replaced_tables where table_name = {{ sql_literal(table.name) }}
    {% endset %}
    {% if first_row(question)['number'] | int > 0 %}
        {{ exceptions.raise_compiler_error(
            "Table " ~ table.name ~ " of the source was replaced or rewritten (alter table) while this run was about to"
            ~ " read it. Nothing was extracted; the next run reads it as it is then."
        ) }}
    {% endif %}
{% endmacro %}
