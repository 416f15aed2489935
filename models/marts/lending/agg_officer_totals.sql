{{
    config(
        unique_key=['branch_sk', 'loan_officer', 'schedule_source'],
        log_changes=true,
        accumulate=['all_loans', 'loan_count', 'outstanding_principal', 'collected_amount'],
        delete_when='all_loans = 0'
    )
}}

{% set since = increment() %}

with loans as (
    {{ signed_rows('fact_loans', since) }}
),

final as (
    select
        branch_sk,
        loan_officer,
        schedule_source,
        sum(_sign)::bigint as all_loans,
        sum(case when is_in_portfolio then _sign else 0 end)::bigint as loan_count,
        sum(case when is_in_portfolio then _sign * outstanding_balance else 0 end) as outstanding_principal,
        sum(_sign * total_paid) as collected_amount
    from loans
    group by branch_sk, loan_officer, schedule_source
)

select
    branch_sk,
    loan_officer,
    schedule_source,
    all_loans,
    loan_count,
    outstanding_principal,
    collected_amount
from final
