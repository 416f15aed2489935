{{
    config(
        unique_key=['branch_sk', 'loan_status', 'customer_segment'],
        accumulate=[
            'loan_count', 'disbursed_count', 'principal_amount', 'disbursed_amount', 'outstanding_balance',
            'interest_rate_sum', 'total_paid', 'interest_paid', 'payment_count'
        ],
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
        loan_status,
        customer_segment,
        sum(_sign)::bigint as loan_count,
        sum(case when is_disbursed then _sign else 0 end)::bigint as disbursed_count,
        sum(_sign * principal_amount) as principal_amount,
        sum(case when is_disbursed then _sign * principal_amount else 0 end) as disbursed_amount,
        sum(_sign * outstanding_balance) as outstanding_balance,
        sum(_sign * interest_rate) as interest_rate_sum,
        sum(_sign * total_paid) as total_paid,
        sum(_sign * interest_paid) as interest_paid,
        sum(_sign * payment_count)::bigint as payment_count
    from loans
    group by branch_sk, loan_status, customer_segment
)

select
    branch_sk,
    loan_status,
    customer_segment,
    loan_count,
    disbursed_count,
    principal_amount,
    disbursed_amount,
    outstanding_balance,
    interest_rate_sum,
    total_paid,
    interest_paid,
    payment_count
from final
