{#
    What is extracted, read from the sources' YAML: a list of dictionaries with
    name, key, columns (name and data_type), column_names, placement (see placement.sql),
    landing and foreign (qualified names).

    A table needs `meta.key`, a primary key of one integer column, `meta.placement`, and data types on its columns. A new
    table is a new entry there, and etl.publish_table() on the OLTP side.
#}
{% macro extraction_tables() %}
    {% set tables = [] %}
    {% for source_node in graph.sources.values() | sort(attribute='name') if source_node.source_name == 'operational' %}
        {% set meta = source_node.config.meta or source_node.meta %}
        {% if not meta.get('key') %}
            {{ exceptions.raise_compiler_error("Source table " ~ source_node.name ~ " has no meta.key in its YAML.") }}
        {% endif %}
        {% set columns = [] %}
        {% for column in source_node.columns.values() %}
            {% if not column.data_type %}
                {{ exceptions.raise_compiler_error(
                    "Column " ~ source_node.name ~ "." ~ column.name ~ " has no data_type in the sources' YAML."
                ) }}
            {% endif %}
            {% do columns.append({'name': column.name, 'data_type': column.data_type}) %}
        {% endfor %}
        {% do tables.append({
            'name': source_node.name,
            'key': meta['key'],
            'columns': columns,
            'column_names': columns | map(attribute='name') | list,
            'placement': placement_of(source_node),
            'landing': 'operational.' ~ source_node.name,
            'foreign': 'operational_fdw.' ~ source_node.name
        }) %}
    {% endfor %}
    {{ return(tables) }}
{% endmacro %}

{#
    Column names, optionally behind an alias: comma_list(['a', 'b'], 'new') -> new.a, new.b
#}
{% macro comma_list(names, relation_alias=none) -%}
    {%- for name in names -%}
        {{ (relation_alias ~ '.') if relation_alias }}{{ name }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
