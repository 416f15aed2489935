{#
    The first instant of a calendar day in the lender's time zone: see business_day. Where clocks go back at midnight
    (America/Havana, on a 1 November that is a Sunday), 00:00 comes twice, and PostgreSQL takes the second for it; the
    first is twelve hours after the noon before.

    day: an SQL expression of type date.
#}
{% macro start_of_day(day) -%}
    {% set timezone = sql_literal(lending_settings().timezone) -%}
    {% set midnight = '(' ~ day ~ ')::timestamp' -%}
    {% set after_noon -%}
        ({{ midnight }} - interval '12 hours') at time zone {{ timezone }} + interval '12 hours'
    {%- endset -%}
    least(
        {{ midnight }} at time zone {{ timezone }},
        case when ({{ after_noon }}) at time zone {{ timezone }} >= {{ midnight }} then {{ after_noon }} end
    )
{%- endmacro %}
