{#
    dbt's own statements on relations that others may be reading: those of a seed (which is emptied, or dropped by a full
    refresh) and of a snapshot (whose query has another column, or a longer type). dbt waits for their locks without
    limit, and every reader of the relation behind it; run_ddl asks briefly, and repeatedly.
#}

{% macro postgres__truncate_relation(relation) %}
    {% do run_ddl(relation, "truncate table " ~ relation.render()) %}
{% endmacro %}

{% macro postgres__drop_relation(relation) %}
    {% do run_ddl(relation, get_drop_sql(relation)) %}
{% endmacro %}

{% macro postgres__create_columns(relation, columns) %}
    {% for column in columns %}
        {% do run_ddl(relation, "alter table " ~ relation.render() ~ " add column " ~ column.quoted ~ " "
            ~ column.expanded_data_type) %}
    {% endfor %}
{% endmacro %}

{#
    In place, where dbt fills a second column and drops the first one with all that depends on it.
#}
{% macro postgres__alter_column_type(relation, column_name, new_column_type) %}
    {% do alter_below_views(relation.render(), ["alter column " ~ adapter.quote(column_name) ~ " type " ~ new_column_type]) %}
{% endmacro %}
