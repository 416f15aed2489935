{{
    config(
        unique_key=['month_end', 'branch_sk', 'product_sk', 'customer_segment', 'loan_officer'],
        log_changes=true,
        accumulate=month_measure_names(),
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

{# What the filters of Portfolio quality act on. Views without filters read agg_month_ends_by_branch. #}
with months as (
    {{ signed_rows('fact_loan_month_end', since) }}
),

final as (
    select
        month_end,
        branch_sk,
        product_sk,
        customer_segment,
        loan_officer,
        {{ month_measures(since) }}
    from months
    group by month_end, branch_sk, product_sk, customer_segment, loan_officer
)

select
    month_end,
    branch_sk,
    product_sk,
    customer_segment,
    loan_officer,
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
