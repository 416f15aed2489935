{#
    The IFRS 9 stage of a loan with a schedule: 3 when it is more than 90 days past due or defaulted, 2 when it is more
    than 30 days past due or restructured, else 1.

    days, defaulted, restructured: SQL expressions; days past due, and whether the loan is so.
#}
{% macro ifrs9_stage(days, defaulted, restructured) -%}
    case
        when {{ defaulted }} or {{ days }} > 90 then 3
        when {{ restructured }} or {{ days }} > 30 then 2
        else 1
    end
{%- endmacro %}
