{#
    What a measure of signed_rows comes to, as an SQL expression. Where no row has a sign but +1, nothing is multiplied by
    it; and a sum over the rows in which there is something to add costs less than one over zeros.

    measure: an SQL expression. since: what increment() returned. condition: of the rows that count; all without it.

    signed_sum('overdue_amount', since, 'overdue_amount <> 0')
        -> coalesce(sum(_sign * overdue_amount) filter (where overdue_amount <> 0), 0)
#}
{% macro signed_sum(measure, since, condition=none) -%}
    {%- set total -%}
    sum({{ '_sign * ' if since }}{{ measure }})
    {%- endset -%}
    {{ total if condition is none else 'coalesce(' ~ total ~ ' filter (where ' ~ condition ~ '), 0)' }}
{%- endmacro %}
