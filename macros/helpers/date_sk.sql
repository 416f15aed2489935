{#
    The key of a day in dim_date: YYYYMMDD, or the unknown member for null. Every day that the loan book takes has a key,
    and dim_date the days of every year that has one; any other date of an older landing row is unknown.

    day: an SQL expression of type date.
#}
{% macro date_sk(day) -%}
    case
        when {{ day }} between date '0001-01-01' and date '9999-12-31' then to_char({{ day }}, 'YYYYMMDD')::integer
        else {{ unknown_sk() }}
    end
{%- endmacro %}
