{{
    config(
        unique_key=['branch_sk', 'loan_officer', 'product_sk', 'customer_segment', 'loan_status'],
        log_changes=true,
        accumulate=[
            'loan_count', 'disbursed_count', 'disbursed_amount', 'outstanding_balance', 'interest_rate_sum',
            'total_paid', 'interest_paid', 'payment_count'
        ],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

{# The grain of the dashboards' filters. Views without filters read agg_loans, which has some hundred rows. #}
with loans as (
    {{ signed_rows('fact_loans', since) }}
),

final as (
    select
        branch_sk,
        loan_officer,
        product_sk,
        customer_segment,
        loan_status,
        sum(_sign)::bigint as loan_count,
        sum(case when is_disbursed then _sign else 0 end)::bigint as disbursed_count,
        sum(case when is_disbursed then _sign * principal_amount else 0 end) as disbursed_amount,
        sum(_sign * outstanding_balance) as outstanding_balance,
        sum(_sign * interest_rate) as interest_rate_sum,
        sum(_sign * total_paid) as total_paid,
        sum(_sign * interest_paid) as interest_paid,
        sum(_sign * payment_count)::bigint as payment_count
    from loans
    group by branch_sk, loan_officer, product_sk, customer_segment, loan_status
)

select
    branch_sk,
    loan_officer,
    product_sk,
    customer_segment,
    loan_status,
    loan_count,
    disbursed_count,
    disbursed_amount,
    outstanding_balance,
    interest_rate_sum,
    total_paid,
    interest_paid,
    payment_count
from final
