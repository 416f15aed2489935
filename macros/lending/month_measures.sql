{#
    What is summed up of months: the figures of a month in which the state at its end has become the amount of portfolio at
    risk. As columns of a select, each with a comma but the last.

    has_schedule, loan_count: SQL expressions of a row that has state, _sign and the amounts of fact_loan_month_end.
#}
{% macro month_measures(has_schedule, loan_count) -%}
    {%- set late = ['31-60', '61-90', '91-180', '181-360', 'over_360'] -%}
    {%- set rungs = {30: late, 60: late[1:], 90: late[2:], 180: late[3:]} -%}
    sum({{ loan_count }})::bigint as loan_count,
        sum(_sign * outstanding_principal) as gross_loan_portfolio,
        sum(case when {{ has_schedule }} then _sign * outstanding_principal else 0 end) as scheduled_portfolio,
        sum(
            case
                when state not in ('current', 'repaid', 'written_off')
                    then _sign * outstanding_principal
                else 0
            end
        ) as par_1,
        {%- for days, states in rungs.items() %}
        sum(
            case
                when state in ({% for state in states %}{{ sql_literal(state) }}{{ ', ' if not loop.last }}{% endfor %})
                    then _sign * outstanding_principal
                else 0
            end
        ) as par_{{ days }},
        {%- endfor %}
        {%- for measure in month_flows() %}
        sum(_sign * {{ measure }}) as {{ measure }}{{ ',' if not loop.last }}
        {%- endfor %}
{%- endmacro %}

{#
    The amounts of a month that are summed up as they are, as a list.
#}
{% macro month_flows() %}
    {{ return([
        'overdue_amount', 'due_amount', 'paid_on_time', 'paid_of_due', 'paid_of_arrears', 'paid_ahead',
        'written_off_amount', 'recovered_amount'
    ]) }}
{% endmacro %}
