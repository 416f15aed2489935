{{
    config(
        unique_key=['month_end', 'branch_sk'],
        log_changes=true,
        accumulate=month_measure_names(),
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
        {{ sums_of_month_measures(since) }}
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
