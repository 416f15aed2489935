{#
    How many calendar months after a day's month another day's month is, as an SQL expression.

    first, last: SQL expressions of type date.
#}
{% macro months_between(first, last) -%}
    (
        12 * (extract(year from {{ last }}) - extract(year from {{ first }}))
        + extract(month from {{ last }}) - extract(month from {{ first }})
    )::integer
{%- endmacro %}
