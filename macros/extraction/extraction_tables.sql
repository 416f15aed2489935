{#
    What is extracted, read from the sources' YAML: a list of dictionaries with
      name, key_name                                as the source and the YAML have them, capitals and blanks included
      columns (name, quoted and data_type)          the same
      key, column_names                             as SQL has them, in quotes where they need them
      landing, foreign, changes                     qualified names, as SQL has them
      read, changed, gone, compared                 temporary tables of the extraction, as SQL has them
      placement                                     see placement.sql

    A table needs `meta.key`, a primary key of one integer column, `meta.placement`, and data types on its columns. A new
    table is a new entry there, and etl.publish_table() on the OLTP side.
#}
{% macro extraction_tables() %}
    {% set nodes = graph.sources.values() | selectattr('source_name', 'equalto', 'operational') | sort(attribute='name') %}
    {% set quoted = quoted_names(nodes) %}
    {% set tables = [] %}
    {% for source_node in nodes %}
        {% set meta = source_node.config.meta or source_node.meta %}
        {% set names = source_node.columns.values() | map(attribute='name') | list %}
        {% for problem in problems_of_source_table(source_node.name, names, meta.get('key')) %}
            {{ exceptions.raise_compiler_error(problem) }}
        {% endfor %}
        {% set columns = [] %}
        {% for column in source_node.columns.values() %}
            {% if not column.data_type %}
                {{ exceptions.raise_compiler_error(
                    "Column " ~ source_node.name ~ "." ~ column.name ~ " has no data_type in the sources' YAML."
                ) }}
            {% endif %}
            {% do columns.append({'name': column.name, 'quoted': quoted[column.name], 'data_type': column.data_type}) %}
        {% endfor %}
        {% do tables.append({
            'name': source_node.name,
            'key': quoted[meta['key']],
            'key_name': meta['key'],
            'columns': columns,
            'column_names': columns | map(attribute='quoted') | list,
            'placement': placement_of(source_node),
            'landing': 'operational.' ~ quoted[source_node.name],
            'foreign': 'operational_fdw.' ~ quoted[source_node.name],
            'changes': 'operational_fdw.' ~ quoted[source_node.name ~ '_changes'],
            'read': quoted[source_node.name ~ '_read'],
            'changed': quoted[source_node.name ~ '_changed'],
            'gone': quoted[source_node.name ~ '_gone'],
            'compared': quoted[source_node.name ~ '_landing']
        }) %}
    {% endfor %}
    {{ return(tables) }}
{% endmacro %}

{#
    The names of source tables, of what is made of them, and of their columns, as SQL has them: a dictionary.

    quoted_names([the node of customers]) -> {'customers': 'customers', 'group': '"group"', 'creditScore': '"creditScore"', …}
#}
{% macro quoted_names(nodes) %}
    {% set names = [] %}
    {% for node in nodes %}
        {% for suffix in ['', '_changes', '_read', '_changed', '_gone', '_landing'] %}
            {% do names.append(sql_literal(node.name ~ suffix)) %}
        {% endfor %}
        {% for column in node.columns.values() %}
            {% do names.append(sql_literal(column.name)) %}
        {% endfor %}
    {% endfor %}
    {% set quoted = {} %}
    {% set question %}
        select distinct name, quote_ident(name) as quoted
        from unnest(array[{{ names | join(', ') }}]::text[]) as name
    {% endset %}
    {% for row in run_query(question).rows %}
        {% do quoted.update({row['name']: row['quoted']}) %}
    {% endfor %}
    {{ return(quoted) }}
{% endmacro %}

{#
    What is wrong with the YAML of a source table, as sentences: a list.
#}
{% macro problems_of_source_table(table_name, names, key) %}
    {% set problems = [] %}
    {% if not key %}
        {% do problems.append("Source table " ~ table_name ~ " has no meta.key in its YAML.") %}
    {% endif %}
    {% for wanted in [key, 'updated_at'] if wanted and wanted not in names %}
        {% do problems.append("Source table " ~ table_name ~ " needs a column " ~ wanted ~ " in its YAML, and has "
            ~ names | join(', ') ~ ".") %}
    {% endfor %}
    {% for name in names if name in ['_run_id', '_changed_at', '_deleted_at', '_is_new', 'xact_id'] %}
        {% do problems.append("Column " ~ table_name ~ "." ~ name ~ " has a name that the landing tables use themselves."
            ~ " Rename it in the source.") %}
    {% endfor %}
    {{ return(problems) }}
{% endmacro %}

{#
    Column names, optionally behind an alias: comma_list(['a', 'b'], 'new') -> new.a, new.b
#}
{% macro comma_list(names, relation_alias=none) -%}
    {%- for name in names -%}
        {{ (relation_alias ~ '.') if relation_alias }}{{ name }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
