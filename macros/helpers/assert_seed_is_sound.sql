{#
    Raise with everything that is wrong with a seed's file: columns that its YAML does not describe (column_types) or
    that the file lacks, values over several lines, and values of its unique columns (meta.unique) that are missing, padded or
    there twice.

    rows: the agate table of the file. Its first row is line 2 of the file.
#}
{% macro assert_seed_is_sound(rows) %}
    {% set described = config.get('column_types').keys() | list %}
    {% set problems = [] %}
    {% for name in rows.column_names if name not in described %}
        {% do problems.append("column " ~ name ~ " is not described") %}
    {% endfor %}
    {% for name in described if name not in rows.column_names %}
        {% do problems.append("column " ~ name ~ " is missing") %}
    {% endfor %}
    {% for row in rows.rows %}
        {% set row_number = loop.index %}
        {% for value in row.values() if value is string and '\n' in value %}
            {% do problems.append("the value '" ~ value.split('\n')[0] ~ "' of row " ~ row_number
                ~ " goes on in the next line: is a quote opened there and not closed?") %}
        {% endfor %}
    {% endfor %}
    {% for column in config.get('meta').get('unique', []) if column in rows.column_names %}
        {% set lines_of = {} %}
        {% for row in rows.rows %}
            {% set value = row[column] %}
            {% set line = loop.index + 1 %}
            {% if value is none or not (value | string | trim) %}
                {% do problems.append("line " ~ line ~ " has no " ~ column) %}
            {% elif value | string != value | string | trim %}
                {% do problems.append("line " ~ line ~ " has blanks around its " ~ column ~ " '" ~ value ~ "'") %}
            {% else %}
                {% do lines_of.setdefault(value, []).append(line | string) %}
            {% endif %}
        {% endfor %}
        {% for value, lines in lines_of.items() if lines | length > 1 %}
            {% do problems.append(column ~ " " ~ value ~ " is in lines " ~ lines | join(', ')) %}
        {% endfor %}
    {% endfor %}
    {% if problems %}
        {{ exceptions.raise_compiler_error(
            model.original_file_path ~ ": " ~ problems | join('; ') ~ ". Nothing was loaded. Expected the columns "
            ~ described | join(', ') ~ ", each code once. A further column is described in "
            ~ model.original_file_path | replace('.csv', '.yml') ~ ", under column_types."
        ) }}
    {% endif %}
{% endmacro %}

{#
    Bring the columns of a seed's table, where it exists, to those that the YAML describes. Its rows are replaced anyway.
#}
{% macro alter_seed_table() %}
    {% set wanted = config.get('column_types') %}
    {% if not relation_exists(this.render()) %}
        {{ return('') }}
    {% endif %}
    {% set present = {} %}
    {% set columns %}
        select attname::text as name, format_type(atttypid, atttypmod) as data_type
        from pg_attribute
        where attrelid = {{ sql_literal(this.render()) }}::regclass and attnum > 0 and not attisdropped
    {% endset %}
    {% for column in run_query(columns).rows %}
        {% do present.update({column['name']: column['data_type']}) %}
    {% endfor %}
    {% set actions = [] %}
    {% for name, data_type in wanted.items() %}
        {% if name not in present %}
            {% do actions.append("add column " ~ adapter.quote(name) ~ " " ~ data_type) %}
        {% elif present[name] != data_type %}
            {% do actions.append("alter column " ~ adapter.quote(name) ~ " type " ~ data_type
                ~ " using " ~ adapter.quote(name) ~ "::text::" ~ data_type) %}
        {% endif %}
    {% endfor %}
    {% for name in present if name not in wanted %}
        {% do actions.append("drop column " ~ adapter.quote(name)) %}
    {% endfor %}
    {% if actions %}
        {% do run_ddl(this, "truncate table " ~ this ~ "; alter table " ~ this ~ " " ~ actions | join(', ')) %}
    {% endif %}
{% endmacro %}
