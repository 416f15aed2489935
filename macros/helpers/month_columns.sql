{#
    What a dashboard view says of a month beside its first day: months_ago and years_ago (how long before the month and the
    year of the data), year and calendar_month.

    month: an SQL expression of type date. as_of: the instant of the data.
#}
{% macro month_columns(month, as_of) -%}
    (
        12 * (extract(year from {{ business_day(as_of) }}) - extract(year from {{ month }}))
        + extract(month from {{ business_day(as_of) }}) - extract(month from {{ month }})
    )::integer as months_ago,
    (
        extract(year from {{ business_day(as_of) }}) - extract(year from {{ month }})
    )::integer as years_ago,
    extract(year from {{ month }})::integer::text as year,
    extract(month from {{ month }})::integer as calendar_month
{%- endmacro %}
