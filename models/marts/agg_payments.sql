{{
    config(
        unique_key=['payment_month', 'method_sk', 'branch_sk'],
        log_changes=true,
        accumulate=[
            'payment_count', 'payment_amount', 'principal_amount', 'interest_amount', 'penalty_amount'
        ],
        delete_when='payment_count = 0'
    )
}}

{% set since = increment() %}

{#
    The grain of vw_payment_by_method, without the segments of agg_collections. An increment adds what became and takes
    away what was: its cost follows the change, not the size of a month.
#}
with groups as (
    {{ signed_rows('agg_collections', since) }}
),

final as (
    select
        payment_month,
        method_sk,
        branch_sk,
        sum(_sign * payment_count)::bigint as payment_count,
        sum(_sign * payment_amount) as payment_amount,
        sum(_sign * principal_amount) as principal_amount,
        sum(_sign * interest_amount) as interest_amount,
        sum(_sign * penalty_amount) as penalty_amount
    from groups
    group by payment_month, method_sk, branch_sk
)

select
    payment_month,
    method_sk,
    branch_sk,
    payment_count,
    payment_amount,
    principal_amount,
    interest_amount,
    penalty_amount
from final
