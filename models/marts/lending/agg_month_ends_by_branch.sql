{{
    config(
        unique_key=['month_end', 'branch_sk'],
        log_changes=true,
        accumulate=[
            'loan_count', 'gross_loan_portfolio', 'scheduled_portfolio', 'par_1', 'par_30',
            'par_60', 'par_90', 'par_180', 'overdue_amount', 'due_amount',
            'paid_on_time', 'paid_of_due', 'paid_of_arrears', 'paid_ahead', 'written_off_amount', 'recovered_amount'
        ],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

{# What the views by month read: some thousand rows instead of the hundred thousand of agg_month_ends_by_officer. #}
with groups as (
    {{ signed_rows('agg_month_ends_by_officer', since) }}
),

final as (
    select
        month_end,
        branch_sk,
        {{ signed_sum('loan_count', since) }}::bigint as loan_count,
        {{ signed_sum('gross_loan_portfolio', since) }} as gross_loan_portfolio,
        {{ signed_sum('scheduled_portfolio', since) }} as scheduled_portfolio,
        {{ signed_sum('par_1', since) }} as par_1,
        {{ signed_sum('par_30', since) }} as par_30,
        {{ signed_sum('par_60', since) }} as par_60,
        {{ signed_sum('par_90', since) }} as par_90,
        {{ signed_sum('par_180', since) }} as par_180,
        {{ signed_sum('overdue_amount', since) }} as overdue_amount,
        {{ signed_sum('due_amount', since) }} as due_amount,
        {{ signed_sum('paid_on_time', since) }} as paid_on_time,
        {{ signed_sum('paid_of_due', since) }} as paid_of_due,
        {{ signed_sum('paid_of_arrears', since) }} as paid_of_arrears,
        {{ signed_sum('paid_ahead', since) }} as paid_ahead,
        {{ signed_sum('written_off_amount', since) }} as written_off_amount,
        {{ signed_sum('recovered_amount', since) }} as recovered_amount
    from groups
    group by month_end, branch_sk
)

select
    month_end,
    branch_sk,
    loan_count,
    gross_loan_portfolio,
    scheduled_portfolio,
    par_1,
    par_30,
    par_60,
    par_90,
    par_180,
    overdue_amount,
    due_amount,
    paid_on_time,
    paid_of_due,
    paid_of_arrears,
    paid_ahead,
    written_off_amount,
    recovered_amount
from final
