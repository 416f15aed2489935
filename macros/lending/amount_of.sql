{#
    Whole cents as an amount. Most amounts of a month are 0, and a comparison costs less than a product of decimal numbers.

    cents: an SQL expression of type bigint or integer.

    amount_of('overdue') -> case when overdue = 0 then 0.00 else 0.01 * (overdue) end
#}
{% macro amount_of(cents) -%}
    case when {{ cents }} = 0 then 0.00 else 0.01 * ({{ cents }}) end
{%- endmacro %}
