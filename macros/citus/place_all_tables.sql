{#
    dbt run-operation place_all_tables --target citus: put the tables of a warehouse of one server, whose dump was
    restored on a coordinator, where they belong. Once, in one transaction; a second time it finds nothing to do.
#}
{% macro place_all_tables() %}
    {% if not is_citus() %}
        {{ exceptions.raise_compiler_error("place_all_tables is for target citus: set DBT_TARGET=citus.") }}
    {% endif %}
    {% do run_statement('begin') %}
    {% for table in tables_to_place() %}
        {% set column = distribution_column() %}
        {% if table.placement == 'distributed' %}
            {% if table.columns_of_key and column not in table.columns_of_key %}
                {% set primary_key %}
                    select quote_ident(conname) as name
                    from pg_constraint
                    where conrelid = {{ sql_literal(table.name) }}::regclass and contype = 'p'
                {% endset %}
                {% set constraint = first_row(primary_key)['name'] %}
                {% do run_ddl(table.name, "alter table " ~ table.name ~ " drop constraint " ~ constraint) %}
            {% endif %}
            {# Each shard knows its own rows only. The next run makes the index of a history's versions with the column. #}
            {% set unique_indexes %}
                select string_agg('drop index ' || indexrelid::regclass, '; ') as drops
                from pg_index
                where indrelid = {{ sql_literal(table.name) }}::regclass and indisunique and not indisprimary
                    and not exists (select from pg_constraint where conindid = indexrelid)
                    and not exists (
                        select from pg_attribute
                        where attrelid = indrelid and attnum = any(indkey) and attname = {{ sql_literal(column) }}
                    )
            {% endset %}
            {% set drops = first_row(unique_indexes)['drops'] %}
            {% if drops %}
                {% do run_ddl(table.name, drops) %}
            {% endif %}
            {% do run_statement("update " ~ table.name ~ " set " ~ column ~ " = " ~ unknown_loan_id() ~ " where " ~ column ~ " is null") %}
            {% if table.columns_of_key and column not in table.columns_of_key %}
                {% set new_key %}
                    alter table {{ table.name }}
                    add primary key ({{ key_in_place(table.columns_of_key, table.placement) | join(', ') }})
                {% endset %}
                {% do run_ddl(table.name, new_key) %}
            {% endif %}
        {% endif %}
        {% do place_table(table.name, table.placement) %}
        {% do log(table.name ~ ': ' ~ table.placement, info=true) %}
    {% endfor %}
    {% do run_statement('commit') %}
{% endmacro %}
