{#
    What is summed up of months: the figures of a month in which the state at its end has become the amount of portfolio at
    risk. As columns of a select over rows of fact_loan_month_end with _sign, each with a comma but the last.

    since: what increment() returned.
#}
{% macro month_measures(since) -%}
    {%- set late = ['31-60', '61-90', '91-180', '181-360', 'over_360'] -%}
    {%- set rungs = {30: late, 60: late[1:], 90: late[2:], 180: late[3:]} -%}
    sum(_sign)::bigint as loan_count,
        {{ signed_sum('outstanding_principal', since) }} as gross_loan_portfolio,
        {{ signed_sum('outstanding_principal', since, "schedule_source <> 'none'") }} as scheduled_portfolio,
        {{ signed_sum('outstanding_principal', since, "state not in ('current', 'repaid', 'written_off')") }} as par_1,
        {%- for days, states in rungs.items() %}
        {{ signed_sum('outstanding_principal', since, "state in ('" ~ states | join("', '") ~ "')") }} as par_{{ days }},
        {%- endfor %}
        {%- for measure in month_flows() %}
        {{ signed_sum(measure, since, measure ~ ' <> 0') }} as {{ measure }}{{ ',' if not loop.last }}
        {%- endfor %}
{%- endmacro %}

{#
    The measures of the aggregates of month ends, summed up over rows of another of these aggregates with _sign. Columns of
    a select, each with a comma but the last.

    since: what increment() returned.
#}
{% macro sums_of_month_measures(since) -%}
    {%- for measure in month_measure_names() %}
        {%- set type = '::bigint' if measure == 'loan_count' else '' %}
        {{ signed_sum(measure, since) }}{{ type }} as {{ measure }}{{ ',' if not loop.last }}
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

{#
    The measures of the aggregates of month ends (agg_month_ends_by_…), in the order of their columns, as a list.
#}
{% macro month_measure_names() %}
    {{ return([
        'loan_count', 'gross_loan_portfolio', 'scheduled_portfolio', 'par_1', 'par_30', 'par_60', 'par_90', 'par_180'
    ] + month_flows()) }}
{% endmacro %}
