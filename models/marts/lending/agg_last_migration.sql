{{
    config(
        unique_key=[
            'month_end', 'branch_sk', 'product_sk', 'customer_segment', 'loan_officer', 'state_before', 'state'
        ],
        log_changes=true,
        recomputed_monthly=true,
        accumulate=['loan_count', 'outstanding_principal'],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

{# The last month that has ended, by what the filters act on; agg_loan_migration has all months. #}
with months as (
    {{ signed_rows('fact_loan_month_end', since) }}
),

final as (
    select
        month_end,
        branch_sk,
        product_sk,
        customer_segment,
        loan_officer,
        coalesce(state_before, 'new') as state_before,
        state,
        sum(_sign)::bigint as loan_count,
        {{ signed_sum('outstanding_principal', since) }} as outstanding_principal
    from months
    where schedule_source <> 'none' and month_end = (date_trunc('month', {{ data_day() }}::timestamp)::date - 1)
    group by
        month_end, branch_sk, product_sk, customer_segment, loan_officer, coalesce(state_before, 'new'), state
)

select
    month_end,
    branch_sk,
    product_sk,
    customer_segment,
    loan_officer,
    state_before,
    state,
    loan_count,
    outstanding_principal
from final
