{{
    config(
        unique_key=['payment_month'],
        accumulate=[
            'payment_count', 'payment_amount', 'principal_amount', 'interest_amount', 'penalty_amount'
        ],
        delete_when='payment_count = 0'
    )
}}

{% set since = increment() %}

{# The grain of vw_monthly_revenue: a hundred rows to read instead of the thousands of agg_payments. #}
with groups as (
    {{ signed_rows('agg_payments', since) }}
),

final as (
    select
        payment_month,
        sum(_sign * payment_count)::bigint as payment_count,
        sum(_sign * payment_amount) as payment_amount,
        sum(_sign * principal_amount) as principal_amount,
        sum(_sign * interest_amount) as interest_amount,
        sum(_sign * penalty_amount) as penalty_amount
    from groups
    group by payment_month
)

select
    payment_month,
    payment_count,
    payment_amount,
    principal_amount,
    interest_amount,
    penalty_amount
from final
