{{
    config(
        unique_key=['branch_sk', 'product_sk', 'schedule_source', 'is_restructured', 'is_defaulted'],
        log_changes=true,
        accumulate=['loan_count', 'outstanding_principal'],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

with loans as (
    {{ signed_rows('fact_loans', since) }}
),

final as (
    select
        branch_sk,
        product_sk,
        schedule_source,
        is_restructured,
        is_defaulted,
        sum(_sign)::bigint as loan_count,
        sum(_sign * outstanding_balance) as outstanding_principal
    from loans
    where is_in_portfolio
    group by branch_sk, product_sk, schedule_source, is_restructured, is_defaulted
)

select
    branch_sk,
    product_sk,
    schedule_source,
    is_restructured,
    is_defaulted,
    loan_count,
    outstanding_principal
from final
