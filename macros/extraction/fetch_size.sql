{#
    postgres_fdw holds what one fetch brings twice, as the protocol's text and as rows, and counts it in rows alone: twenty
    thousand rows with a note of 1 MB each would not fit into any machine. So the widest row that is to be read says how
    many rows a fetch may bring, and var('max_fetch_bytes') how many bytes. A single row may be wider than that.
#}

{#
    Run a statement that reads a foreign table, with fetches of so many rows. The number is an option of the table while
    the statement runs, in its transaction. widest: the bytes of the widest row that is to be read.
#}
{% macro run_bounded_fetch(sql, foreign_table, widest) %}
    {% set rows = [var('max_fetch_bytes') | int // [widest, 1] | max, 1] | max %}
    {% set is_bounded = rows < server_options()['fetch_size'] %}
    {% if is_bounded %}
        {% do run_ddl(foreign_table, "alter foreign table " ~ foreign_table
            ~ " options (add fetch_size '" ~ rows ~ "')") %}
    {% endif %}
    {% do run_statement(sql) %}
    {% if is_bounded %}
        {% do run_ddl(foreign_table, "alter foreign table " ~ foreign_table ~ " options (drop fetch_size)") %}
    {% endif %}
{% endmacro %}

{#
    The bytes of the widest row that changed in the transactions from the watermark on, by table: a dictionary.
#}
{% macro widest_changes(watermark, snapshot_xmax) %}
    {% set question %}
        select table_name, max(width) as width
        from operational_fdw.feed_widths
        where xact_id >= '{{ watermark }}'::xid8 and xact_id < '{{ snapshot_xmax }}'::xid8
        group by table_name
    {% endset %}
    {% set widest = {} %}
    {% for row in run_query(question).rows %}
        {% do widest.update({row['table_name']: row['width'] | int}) %}
    {% endfor %}
    {{ return(widest) }}
{% endmacro %}

{#
    The bytes of the widest row of a table of the source.
#}
{% macro widest_row(table) %}
    {% set question %}
        select coalesce(max(width), 0) as width
        from operational_fdw.table_widths
        where table_name = {{ sql_literal(table.name) }}
    {% endset %}
    {{ return(first_row(question)['width'] | int) }}
{% endmacro %}

{#
    The bytes of the widest row that was deleted from a table, as the whole trail has it.
#}
{% macro widest_deleted_row(table) %}
    {% set question %}
        select coalesce(max(width), 0) as width
        from operational_fdw.feed_widths
        where operation = 'DELETE' and table_name = {{ sql_literal(table.name) }}
    {% endset %}
    {{ return(first_row(question)['width'] | int) }}
{% endmacro %}
