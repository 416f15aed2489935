{#
    on-run-start, target citus: stop with a sentence when the warehouse is not a Citus cluster, or when a table that its
    YAML declares as distributed or reference is still an ordinary table of the coordinator.
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
    {% set elsewhere = tables_to_place() | map(attribute='name') | list %}
    {% if elsewhere %}
        {{ exceptions.raise_compiler_error(
            "These tables are ordinary tables of the coordinator and should not be: " ~ elsewhere | join(', ')
            ~ ". `dbt run-operation place_all_tables` moves them to the workers, once (docs/scaling.md)."
        ) }}
    {% endif %}
{% endmacro %}

{#
    The tables that exist, should be distributed or reference tables and are neither: a list of dictionaries with name
    (qualified), placement and columns_of_key (its primary key, or none). A table that is placed in another way than its
    YAML declares is not found.
#}
{% macro tables_to_place() %}
    {% set declared = [] %}
    {% for node in graph.sources.values() | list + graph.nodes.values() | list
            if node.resource_type in ('source', 'model', 'snapshot') and placement_of(node) != 'coordinator' %}
        {% set name = node.schema ~ '.' ~ (node.identifier or node.alias) %}
        {% do declared.append("(" ~ sql_literal(name) ~ ", " ~ sql_literal(placement_of(node)) ~ ")") %}
    {% endfor %}
    {% set unplaced %}
        select declared.name, declared.placement, (
            select string_agg(attname, ',' order by array_position(conkey, attnum))
            from pg_constraint
            inner join pg_attribute on attrelid = conrelid and attnum = any (conkey)
            where conrelid = to_regclass(declared.name) and contype = 'p'
        ) as key
        from (values {{ declared | join(', ') }}) as declared (name, placement)
        where to_regclass(declared.name) is not null
            and not exists (select from pg_dist_partition where logicalrelid = to_regclass(declared.name))
        order by declared.name
    {% endset %}
    {% set found = run_query(unplaced) %}
    {% set tables = [] %}
    {% for row in found.rows %}
        {% do tables.append({'name': row['name'], 'placement': row['placement'],
            'columns_of_key': row['key'].split(',') if row['key'] else none}) %}
    {% endfor %}
    {{ return(tables) }}
{% endmacro %}
