{#
    The first day of the month of the data (data_day()), as an SQL expression.
#}
{% macro month_of_data() -%}
    (date_trunc('month', {{ data_day() }}::timestamp)::date)
{%- endmacro %}
