{#
    dbt's snapshot time is a timestamp without zone on PostgreSQL; ours are all timestamptz, as the sources' are.
#}
{% macro postgres__snapshot_get_time() -%}
    clock_timestamp()
{%- endmacro %}
