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

{# An increment adds what became and takes away what was: its cost follows the change, not the size of a month. #}
with payments as (
    {% if since %}
    select changed.* from {{ changes_of('fact_payments') }} as changed
    where changed._run_id > {{ since.run_id }}
    {% else %}
    select
        fact_payments.*,
        1 as _sign
    from {{ ref('fact_payments') }} as fact_payments
    {% endif %}
),

final as (
    select
        payment_month,
        method_sk,
        branch_sk,
        sum(_sign)::bigint as payment_count,
        sum(_sign * payment_amount) as payment_amount,
        sum(_sign * principal_amount) as principal_amount,
        sum(_sign * interest_amount) as interest_amount,
        sum(_sign * penalty_amount) as penalty_amount
    from payments
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
