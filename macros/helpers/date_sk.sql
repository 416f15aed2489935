{#
    The key of a day in dim_date: YYYYMMDD, or the unknown member for null and for days outside of the calendar.

    day: an SQL expression of type date.
#}
{% macro date_sk(day) -%}
    case
        when {{ day }} between date '{{ calendar_start() }}' and date '{{ calendar_end() }}'
            then to_char({{ day }}, 'YYYYMMDD')::integer
        else {{ unknown_sk() }}
    end
{%- endmacro %}

{% macro calendar_start() -%}
    2018-01-01
{%- endmacro %}

{% macro calendar_end() -%}
    2050-12-31
{%- endmacro %}
