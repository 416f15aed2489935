{{
    config(
        unique_key=[
            'branch_sk', 'product_sk', 'schedule_source', 'is_restructured', 'is_defaulted', 'first_unpaid_due_date'
        ],
        log_changes=true,
        accumulate=['loan_count', 'outstanding_principal'],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

with groups as (
    {{ signed_rows('agg_portfolio', since) }}
),

final as (
    select
        branch_sk,
        product_sk,
        schedule_source,
        is_restructured,
        is_defaulted,
        first_unpaid_due_date,
        sum(_sign * loan_count)::bigint as loan_count,
        sum(_sign * outstanding_principal) as outstanding_principal
    from groups
    group by branch_sk, product_sk, schedule_source, is_restructured, is_defaulted, first_unpaid_due_date
)

select
    branch_sk,
    product_sk,
    schedule_source,
    is_restructured,
    is_defaulted,
    first_unpaid_due_date,
    loan_count,
    outstanding_principal
from final
