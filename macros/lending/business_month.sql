{#
    The first day of an instant's calendar month, in the lender's time zone: see business_day.
#}
{% macro business_month(moment) -%}
    date_trunc('month', {{ moment }} at time zone {{ sql_literal(lending_settings().timezone) }})::date
{%- endmacro %}
