{#
    The calendar day of an instant in the lender's time zone (BUSINESS_TIMEZONE, default UTC). Months and days past due
    are counted in these days, in all of the warehouse.

    instant: an SQL expression of type timestamptz.

    business_day('payment_date') -> (payment_date at time zone 'UTC')::date
#}
{% macro business_day(instant) -%}
    ({{ instant }} at time zone {{ sql_literal(lending_settings().timezone) }})::date
{%- endmacro %}
