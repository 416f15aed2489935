{#
    An amount in whole cents: what a schedule is compared with is of type bigint. The sum of a loan's payments may be more than
    a bigint holds, and then counts as 10^18 cents: ten thousand times the greatest amount, and more than anything that it is
    compared with but a schedule of that size. The limit leaves room to add what a month's figures are made of.

    amount: an SQL expression of type numeric, never null: null would count as the limit.
#}
{% macro whole_cents(amount) -%}
    {{ cents_in_range('100 * (' ~ amount ~ ')') }}
{%- endmacro %}

{#
    Cents that were summed up as numeric, as a bigint within the same limits.
#}
{% macro cents_in_range(cents) -%}
    greatest(least({{ cents }}, 1000000000000000000), -1000000000000000000)::bigint
{%- endmacro %}
