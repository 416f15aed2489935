{#
    Bring the table to the contract's columns, before its rows follow: add, retype and drop columns, drop constraints that
    the contract does not have. A table with another key, or none, is emptied, since rows cannot be matched; readers see
    the old rows until the transaction ends. Returns whether anything changed that the change log does not show.
#}
{% macro alter_upsert_table() %}
    {% set contract = contract_table() %}
    {% set constraints = run_query(differing_constraints(this.render(), contract)).rows %}
    {% set actions = [] %}
    {% set retyped = [] %}
    {% set key = namespace(changed=false) %}
    {% for constraint in constraints %}
        {% do actions.append('drop constraint ' ~ constraint['name']) %}
        {% set key.changed = key.changed or constraint['type'] == 'p' %}
    {% endfor %}
    {% for constraint in run_query(differing_constraints(contract, this.render())).rows if constraint['type'] == 'p' %}
        {% set key.changed = true %}
    {% endfor %}
    {% for column in run_query(differing_columns(this.render(), contract)).rows %}
        {% if column['present'] is none %}
            {% do actions.append('add column ' ~ column['name'] ~ ' ' ~ column['wanted']) %}
        {% elif column['wanted'] is none %}
            {% do actions.append('drop column ' ~ column['name']) %}
        {% elif column['present'] != column['wanted'] %}
            {% do retyped.append(column['name']) %}
            {% do actions.append('alter column ' ~ column['name'] ~ ' type ' ~ column['wanted'] ~ ' using '
                ~ column['name'] ~ '::' ~ column['wanted']) %}
        {% endif %}
        {% if column['present'] is not none and column['wanted'] is not none and not column['is_wanted_not_null'] %}
            {% do actions.append('alter column ' ~ column['name'] ~ ' drop not null') %}
        {% endif %}
    {% endfor %}
    {% if retyped %}
        {% do alter_below_views(this.render(), actions) %}
    {% elif actions %}
        {% do run_ddl(this, 'alter table ' ~ this ~ ' ' ~ actions | join(', ')) %}
    {% endif %}
    {% if key.changed %}
        {% do run_statement("delete from " ~ this) %}
        {% do add_missing_constraints() %}
    {% endif %}
    {{ return(actions | length > 0 or key.changed) }}
{% endmacro %}

{#
    What the contract demands and the rows could not meet before: not null, and constraints that are missing.
#}
{% macro add_missing_constraints() %}
    {% set contract = contract_table() %}
    {% set actions = [] %}
    {% for constraint in run_query(differing_constraints(contract, this.render())).rows %}
        {% do actions.append('add ' ~ constraint['definition']) %}
    {% endfor %}
    {% for column in run_query(differing_columns(this.render(), contract)).rows if column['is_wanted_not_null'] %}
        {% do actions.append('alter column ' ~ column['name'] ~ ' set not null') %}
    {% endfor %}
    {% if actions %}
        {% do run_ddl(this, 'alter table ' ~ this ~ ' ' ~ actions | join(', ')) %}
    {% endif %}
{% endmacro %}

{#
    An empty temporary table that is made as the contract says, for comparison in the catalogue. Returns its name.
#}
{% macro contract_table() %}
    {% set name = model.name ~ '__contract' %}
    {% set parts = adapter.render_raw_columns_constraints(raw_columns=model.columns) + adapter.render_raw_model_constraints(
        raw_constraints=constraints_in_place(model.constraints, placement_of(model))) %}
    {% do run_statement("create temporary table if not exists " ~ name ~ " (" ~ parts | join(', ') ~ ") on commit drop") %}
    {{ return('pg_temp.' ~ name) }}
{% endmacro %}

{#
    A query: the columns of two tables that differ in type or nullability, with the types that are present and wanted.
#}
{% macro differing_columns(present, wanted) %}
    with present_column as (
        select attname as name, format_type(atttypid, atttypmod) as data_type, attnotnull as is_not_null
        from pg_attribute
        where attrelid = {{ sql_literal(present) }}::regclass and attnum > 0 and not attisdropped
    ),

    wanted_column as (
        select attname as name, format_type(atttypid, atttypmod) as data_type, attnotnull as is_not_null
        from pg_attribute
        where attrelid = {{ sql_literal(wanted) }}::regclass and attnum > 0 and not attisdropped
    )

    select
        coalesce(present_column.name, wanted_column.name)::text as name,
        present_column.data_type as present,
        wanted_column.data_type as wanted,
        coalesce(wanted_column.is_not_null, false) as is_wanted_not_null
    from present_column
    full outer join wanted_column on present_column.name = wanted_column.name
    where (present_column.data_type, present_column.is_not_null)
        is distinct from (wanted_column.data_type, wanted_column.is_not_null)
{% endmacro %}

{#
    A query: the constraints (but for not null) that one table has and another one has not.
#}
{% macro differing_constraints(table, other) %}
    select
        quote_ident(conname) as name,
        contype::text as type,
        pg_get_constraintdef(oid) as definition
    from pg_constraint
    where conrelid = {{ sql_literal(table) }}::regclass and contype in ('p', 'u', 'c', 'f', 'x')
        and pg_get_constraintdef(oid) not in (
            select pg_get_constraintdef(oid) from pg_constraint where conrelid = {{ sql_literal(other) }}::regclass
        )
{% endmacro %}
