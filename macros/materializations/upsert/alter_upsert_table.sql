{#
    Bring the columns of the table (and of its change log) to those of the contract. The rows follow by difference.
#}
{% macro alter_upsert_table(names) %}
    {% set logged = [this.render()] %}
    {% if config.get('log_changes') and relation_exists(changes_of(model.name) | trim) %}
        {% do logged.append(changes_of(model.name)) %}
    {% endif %}
    {% set present = {} %}
    {% for column in run_query("select attname::text as name, format_type(atttypid, atttypmod) as data_type, attnotnull
            from pg_attribute where attrelid = " ~ sql_literal(this.render()) ~ "::regclass and attnum > 0
            and not attisdropped").rows %}
        {% do present.update({column['name']: column['data_type']}) %}
    {% endfor %}
    {% for table in logged %}
        {% for column in model.columns.values() %}
            {% if column.name not in present %}
                {% do run_statement("alter table " ~ table ~ " add column " ~ column.name ~ " " ~ column.data_type) %}
            {% elif first_row("select format_type(" ~ sql_literal(column.data_type.split('(')[0]) ~ "::regtype, null) <> "
                    ~ sql_literal(present[column.name].split('(')[0]) ~ " as differs")['differs'] %}
                {% do run_statement("alter table " ~ table ~ " alter column " ~ column.name ~ " type " ~ column.data_type
                    ~ " using " ~ column.name ~ "::" ~ column.data_type) %}
            {% endif %}
        {% endfor %}
        {% for name in present if name not in names %}
            {% do run_statement("alter table " ~ table ~ " drop column " ~ name) %}
        {% endfor %}
    {% endfor %}
{% endmacro %}
