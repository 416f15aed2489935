{#
    The first day of an instant's calendar month, in the lender's time zone: see business_day.
#}
{% macro business_month(instant) -%}
    date_trunc('month', {{ instant }} at time zone {{ sql_literal(lending_settings().timezone) }})::date
{%- endmacro %}
