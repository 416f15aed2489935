{#
    What the payments of a loan behind one position up to and with another one come to.

    sums: the array with what was paid up to and with each. first, last: positions, SQL expressions; nothing was paid
    between them where last is not greater.
#}
{% macro paid_between(sums, first, last) -%}
    coalesce({{ sums }}[greatest({{ first }}, {{ last }})], 0) - coalesce({{ sums }}[{{ first }}], 0)
{%- endmacro %}
