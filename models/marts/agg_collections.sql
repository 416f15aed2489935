{{
    config(
        unique_key=['payment_month', 'method_sk', 'branch_sk', 'customer_segment'],
        log_changes=true,
        accumulate=[
            'payment_count', 'payment_amount', 'principal_amount', 'interest_amount', 'penalty_amount'
        ],
        delete_when='payment_count = 0'
    )
}}

-- depends_on: {{ ref('fact_loans') }}
{% set since = increment() %}

{#
    A payment belongs to the group that its loan is in today, so that branches and segments add up to what the loans'
    aggregates show. When a loan gets another branch or its borrower another segment, all its payments move: those that
    it has now enter the new group, and those that it had before leave the former one. What it had before is what it has
    now less what changed, so the changes count for the former group, as those of all other loans do for their present one.
#}
{% if since %}
{% set keys %}
with loan_groups as (
    select
        loan_id,
        branch_sk,
        customer_segment,
        sum(_sign) as net
    from {{ changes_of('fact_loans') }}
    where _run_id > {{ since.run_id }}
    group by loan_id, branch_sk, customer_segment
    having sum(_sign) <> 0
)

select
    loan_groups.loan_id,
    steps.step,
    coalesce(
        max(loan_groups.branch_sk) filter (where loan_groups.net = steps.step), {{ unknown_sk() }}
    ) as branch_sk,
    coalesce(
        max(loan_groups.customer_segment) filter (where loan_groups.net = steps.step), 'unknown'
    ) as customer_segment
from loan_groups
cross join (values (-1), (1)) as steps (step)
group by loan_groups.loan_id, steps.step
{% endset %}
{% set moved = materialize_keys(since, 'moved', keys) %}
{% endif %}

with payments as (
    {% if since %}
    select
        changed.payment_month,
        changed.method_sk,
        coalesce(moved.branch_sk, loans.branch_sk, {{ unknown_sk() }}) as branch_sk,
        coalesce(moved.customer_segment, loans.customer_segment, 'unknown') as customer_segment,
        changed.payment_amount,
        changed.principal_amount,
        changed.interest_amount,
        changed.penalty_amount,
        changed._sign
    from {{ changes_of('fact_payments') }} as changed
    left join {{ moved }} as moved on changed.loan_id = moved.loan_id and moved.step = -1
    left join {{ ref('fact_loans') }} as loans on changed.loan_id = loans.loan_id
    where changed._run_id > {{ since.run_id }}
    union all
    select
        fact_payments.payment_month,
        fact_payments.method_sk,
        moved.branch_sk,
        moved.customer_segment,
        fact_payments.payment_amount,
        fact_payments.principal_amount,
        fact_payments.interest_amount,
        fact_payments.penalty_amount,
        moved.step as _sign
    from {{ moved }} as moved
    inner join {{ ref('fact_payments') }} as fact_payments on moved.loan_id = fact_payments.loan_id
    {% else %}
    select
        fact_payments.payment_month,
        fact_payments.method_sk,
        coalesce(loans.branch_sk, {{ unknown_sk() }}) as branch_sk,
        coalesce(loans.customer_segment, 'unknown') as customer_segment,
        fact_payments.payment_amount,
        fact_payments.principal_amount,
        fact_payments.interest_amount,
        fact_payments.penalty_amount,
        1 as _sign
    from {{ ref('fact_payments') }} as fact_payments
    left join {{ ref('fact_loans') }} as loans on fact_payments.loan_id = loans.loan_id
    {% endif %}
),

final as (
    select
        payment_month,
        method_sk,
        branch_sk,
        customer_segment,
        sum(_sign)::bigint as payment_count,
        sum(_sign * payment_amount) as payment_amount,
        sum(_sign * principal_amount) as principal_amount,
        sum(_sign * interest_amount) as interest_amount,
        sum(_sign * penalty_amount) as penalty_amount
    from payments
    group by payment_month, method_sk, branch_sk, customer_segment
)

select
    payment_month,
    method_sk,
    branch_sk,
    customer_segment,
    payment_count,
    payment_amount,
    principal_amount,
    interest_amount,
    penalty_amount
from final
