{#
    A value as an SQL literal: text in quotes, none as null. Numbers and booleans as they are.

    sql_literal("it's") -> 'it''s'
#}
{% macro sql_literal(value) -%}
    {%- if value is none -%}
        null
    {%- elif value is number or value is boolean -%}
        {{ value }}
    {%- else -%}
        '{{ value | string | replace("'", "''") }}'
    {%- endif -%}
{%- endmacro %}
