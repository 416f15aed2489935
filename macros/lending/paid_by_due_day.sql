{#
    What was paid of an instalment by the end of its due day, in cents: payments of the day count.

    book: the alias of what has the loan's schedule (due_dates, cum_due), its payments in the order of their days
    (paid_on, money_so_far) and what was paid before them (money_before). position: of the instalment, an SQL expression.
#}
{% macro paid_by_due_day(book, position) -%}
    least(
            greatest(
                {{ book }}.money_before
                + coalesce({{ book }}.money_so_far[width_bucket({{ book }}.due_dates[{{ position }}], {{ book }}.paid_on)], 0),
                coalesce({{ book }}.cum_due[{{ position }} - 1], 0)
            ),
            {{ book }}.cum_due[{{ position }}]
        ) - coalesce({{ book }}.cum_due[{{ position }} - 1], 0)
{%- endmacro %}
