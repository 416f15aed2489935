{#
    Where a table's rows lie when the warehouse is a Citus cluster (target citus). Each table says it in its YAML, as
    meta.placement:

      distributed  spread over the workers by loan_id, so that what belongs to one loan lies on one worker, and joins by
                   loan_id, and sums by loan, are done there
      reference    a copy on every node: dimensions, which every worker joins with
      coordinator  an ordinary table of the coordinator: small, or read by the run alone (also where nothing is said)

    On any other target everything is an ordinary table, and these macros change no statement.
#}
{% macro is_citus() %}
    {{ return(target.name == 'citus') }}
{% endmacro %}

{#
    The column that rows are distributed by. One for all, so that all distributed tables are colocated.
#}
{% macro distribution_column() %}
    {{ return('loan_id') }}
{% endmacro %}

{#
    What a node of dbt's graph (a model, snapshot or source table) says of its place.

    placement_of(model) -> 'distributed'
#}
{% macro placement_of(node) %}
    {% set meta = node.config.meta or node.meta %}
    {% set placement = meta.get('placement', 'coordinator') %}
    {% if placement not in ('distributed', 'reference', 'coordinator') %}
        {{ exceptions.raise_compiler_error(
            "meta.placement of " ~ node.name ~ " is " ~ placement ~ ": expected distributed, reference or coordinator "
            ~ "(macros/placement/placement.sql)."
        ) }}
    {% endif %}
    {{ return(placement) }}
{% endmacro %}

{#
    Whether a table of this placement is spread over the workers on this target.
#}
{% macro is_spread(placement) %}
    {{ return(is_citus() and placement == 'distributed') }}
{% endmacro %}

{#
    The columns of a unique key where the table lies. A key of a distributed table contains the distribution column,
    because each shard checks its own rows only.

    key_in_place(['payment_id'], 'distributed') -> ['payment_id'], and ['payment_id', 'loan_id'] on Citus
#}
{% macro key_in_place(keys, placement) %}
    {% set extra = [distribution_column()] if is_spread(placement) and distribution_column() not in keys else [] %}
    {{ return(keys + extra) }}
{% endmacro %}

{#
    A model's constraints where its table lies: see key_in_place.
#}
{% macro constraints_in_place(constraints, placement) %}
    {% set result = [] %}
    {% for constraint in constraints %}
        {% if constraint.type | string in ('primary_key', 'unique') %}
            {% set columns = key_in_place(constraint.columns | list, placement) %}
            {% do result.append(dict(constraint, columns=columns)) %}
        {% else %}
            {% do result.append(constraint) %}
        {% endif %}
    {% endfor %}
    {{ return(result) }}
{% endmacro %}

{#
    Before a table is filled for the first time: spread it, when that is its place, so that its rows go straight to the
    workers. A reference table is placed by place_table when it is complete: Citus takes no DDL on it after its rows
    were written in the same transaction.
#}
{% macro place_empty_table(table, placement) %}
    {% if placement == 'distributed' %}
        {% do place_table(table, placement) %}
    {% endif %}
{% endmacro %}

{#
    Put a table where it belongs, unless it is there; its rows move along.
#}
{% macro place_table(table, placement) %}
    {% if not is_citus() or placement == 'coordinator' or is_placed(table) %}
        {{ return('') }}
    {% endif %}
    {% set name = sql_literal(table | string) %}
    {% set filled = first_row("select exists (select 1 from " ~ table ~ ") as filled")['filled'] %}
    {% if placement == 'distributed' %}
        {% do run_statement("select create_distributed_table(" ~ name ~ ", " ~ sql_literal(distribution_column()) ~ ")") %}
    {% else %}
        {% do run_statement("select create_reference_table(" ~ name ~ ")") %}
    {% endif %}
    {% if filled %}
        {# Its old rows stay on the coordinator's disk, unseen. #}
        {% do run_statement("select truncate_local_data_after_distributing_table(" ~ name ~ ")") %}
    {% endif %}
{% endmacro %}

{% macro is_placed(table) %}
    {{ return(first_row("select exists (
        select from pg_dist_partition where logicalrelid = " ~ sql_literal(table | string) ~ "::regclass
    ) as placed")['placed']) }}
{% endmacro %}

{#
    Before the columns of a table change: make a reference table an ordinary one again; place_table puts it back.
#}
{% macro take_home(table, placement) %}
    {% if is_citus() and placement == 'reference' and is_placed(table) %}
        {% do run_statement("select undistribute_table(" ~ sql_literal(table | string) ~ ")") %}
    {% endif %}
{% endmacro %}

{#
    The relation that holds the rows of a table which a comparison on the coordinator needs: the table itself, or, where
    it is spread over the workers, a temporary table that fetch_rows fills.

    Citus would fetch the whole table for an outer join with a table of the coordinator. Fetched by key, what travels is
    what is compared.
#}
{% macro rows_to_compare(table, name, placement) %}
    {{ return(name if is_spread(placement) else table) }}
{% endmacro %}

{#
    Fill the temporary table that rows_to_compare named, with the rows whose key is in `probe` (a query), or with all.
#}
{% macro fetch_rows(table, name, placement, keys, probe=none) %}
    {% if name != table %}
        {% set of_probe = "inner join (" ~ probe ~ ") as probe on " ~ keys_equal(keys, 'present', 'probe') if probe %}
        {% do run_statement("create temporary table " ~ name ~ " on commit drop as
            select present.* from " ~ table ~ " as present " ~ of_probe) %}
        {% do run_statement("analyze " ~ name) %}
    {% endif %}
{% endmacro %}

{#
    Before changed rows are written: delete the present ones that belong to another shard, because their loan is another
    one now. Citus changes no row's shard. Nothing to do where the row's key says its loan.

    changed: a table with the keys and the distribution column as they will be.
#}
{% macro delete_moved(table, changed, keys, placement) %}
    {% if key_in_place(keys, placement) != keys %}
        {% do run_statement("
            delete from " ~ table ~ " as present
            using (select * from " ~ changed ~ ") as changed
            where " ~ keys_equal(keys, 'present', 'changed') ~ "
                and present." ~ distribution_column() ~ " <> changed." ~ distribution_column()
        ) %}
    {% endif %}
{% endmacro %}

{#
    The loan_id of the unknown loan: null, and the smallest number on Citus, whose distribution column is never null.
#}
{% macro unknown_loan_id() -%}
    {{ '(-9223372036854775808)' if is_citus() else 'null' }}::bigint
{%- endmacro %}

{#
    on-run-start, target citus: stop with a sentence when the warehouse is no Citus cluster, or when a table that it has
    lies elsewhere than its YAML says.
#}
{% macro assert_placement() %}
    {% if not is_citus() %}
        {{ return('') }}
    {% endif %}
    {% if not first_row("select exists (select from pg_extension where extname = 'citus') as there")['there'] %}
        {{ exceptions.raise_compiler_error(
            "Target citus expects the coordinator of a Citus cluster, and database " ~ target.dbname ~ " at " ~ target.host
            ~ ":" ~ target.port ~ " has no extension citus. Set DBT_TARGET=prod for a warehouse of one server, or make the "
            ~ "cluster first (docs/scaling.md)."
        ) }}
    {% endif %}
    {% set elsewhere = [] %}
    {% for table in tables_to_place() %}
        {% do elsewhere.append(table.name) %}
    {% endfor %}
    {% if elsewhere %}
        {{ exceptions.raise_compiler_error(
            "These tables are ordinary tables of the coordinator and should not be: " ~ elsewhere | join(', ')
            ~ ". `dbt run-operation place_all_tables` moves them to the workers, once (docs/scaling.md)."
        ) }}
    {% endif %}
{% endmacro %}

{#
    The tables that exist and are not where they belong: a list of dictionaries with name (qualified), placement and
    columns_of_key (its primary key, or none).
#}
{% macro tables_to_place() %}
    {% set declared = [] %}
    {% for node in graph.sources.values() | list + graph.nodes.values() | list
            if node.resource_type in ('source', 'model', 'snapshot') and placement_of(node) != 'coordinator' %}
        {% do declared.append("(" ~ sql_literal(node.schema ~ '.' ~ (node.identifier or node.alias)) ~ ", "
            ~ sql_literal(placement_of(node)) ~ ")") %}
    {% endfor %}
    {% set found = run_query("
        select declared.name, declared.placement, (
            select string_agg(attname, ',' order by array_position(conkey, attnum))
            from pg_constraint
            inner join pg_attribute on attrelid = conrelid and attnum = any (conkey)
            where conrelid = to_regclass(declared.name) and contype = 'p'
        ) as key
        from (values " ~ declared | join(', ') ~ ") as declared (name, placement)
        where to_regclass(declared.name) is not null
            and not exists (select from pg_dist_partition where logicalrelid = to_regclass(declared.name))
        order by declared.name
    ") %}
    {% set tables = [] %}
    {% for row in found.rows %}
        {% do tables.append({'name': row['name'], 'placement': row['placement'],
            'columns_of_key': row['key'].split(',') if row['key'] else none}) %}
    {% endfor %}
    {{ return(tables) }}
{% endmacro %}

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
                {% set constraint = first_row("select quote_ident(conname) as name from pg_constraint
                    where conrelid = " ~ sql_literal(table.name) ~ "::regclass and contype = 'p'")['name'] %}
                {% do run_statement("alter table " ~ table.name ~ " drop constraint " ~ constraint) %}
            {% endif %}
            {% do run_statement("update " ~ table.name ~ " set " ~ column ~ " = " ~ unknown_loan_id() ~ " where " ~ column ~ " is null") %}
            {% if table.columns_of_key and column not in table.columns_of_key %}
                {% do run_statement("alter table " ~ table.name ~ " add primary key ("
                    ~ key_in_place(table.columns_of_key, table.placement) | join(', ') ~ ")") %}
            {% endif %}
        {% endif %}
        {% do place_table(table.name, table.placement) %}
        {% do log(table.name ~ ': ' ~ table.placement, info=true) %}
    {% endfor %}
    {% do run_statement('commit') %}
{% endmacro %}
