{{
    config(
        unique_key=['disbursement_month', 'branch_sk', 'product_sk', 'customer_segment'],
        log_changes=true,
        accumulate=['loan_count', 'disbursed_amount'],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

with loans as (
    {{ signed_rows('fact_loans', since) }}
),

-- A loan without a known day of disbursement is in no month.
dated as (
    select
        *,
        make_date(disbursement_date_sk / 10000, disbursement_date_sk / 100 % 100, 1) as disbursement_month
    from loans
    where is_disbursed and disbursement_date_sk <> {{ unknown_sk() }}
),

final as (
    select
        disbursement_month,
        branch_sk,
        product_sk,
        customer_segment,
        sum(_sign)::bigint as loan_count,
        sum(_sign * principal_amount) as disbursed_amount
    from dated
    group by disbursement_month, branch_sk, product_sk, customer_segment
)

select
    disbursement_month,
    branch_sk,
    product_sk,
    customer_segment,
    loan_count,
    disbursed_amount
from final
