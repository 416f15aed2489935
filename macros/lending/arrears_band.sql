{#
    The band of days past due that a loan is in: current, 1-30, 31-60, 61-90, 91-180, 181-360 or over_360.

    days: an SQL expression.
#}
{% macro arrears_band(days) -%}
    case
        when {{ days }} <= 0 then 'current'
        when {{ days }} <= 30 then '1-30'
        when {{ days }} <= 60 then '31-60'
        when {{ days }} <= 90 then '61-90'
        when {{ days }} <= 180 then '91-180'
        when {{ days }} <= 360 then '181-360'
        else 'over_360'
    end
{%- endmacro %}
