{{
    config(
        unique_key=['month_end', 'branch_sk', 'product_sk', 'has_schedule', 'state', 'state_before'],
        log_changes=true,
        accumulate=[
            'loan_count', 'outstanding_principal', 'overdue_amount', 'due_amount', 'paid_on_time', 'paid_of_due',
            'paid_of_arrears', 'paid_ahead', 'written_off_amount', 'recovered_amount'
        ],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

with months as (
    {{ signed_rows('fact_loan_month_end', since) }}
),

final as (
    select
        month_end,
        branch_sk,
        product_sk,
        schedule_source <> 'none' as has_schedule,
        state,
        coalesce(state_before, 'new') as state_before,
        sum(_sign)::bigint as loan_count,
        sum(_sign * outstanding_principal) as outstanding_principal,
        sum(_sign * overdue_amount) as overdue_amount,
        sum(_sign * due_amount) as due_amount,
        sum(_sign * paid_on_time) as paid_on_time,
        sum(_sign * paid_of_due) as paid_of_due,
        sum(_sign * paid_of_arrears) as paid_of_arrears,
        sum(_sign * paid_ahead) as paid_ahead,
        sum(_sign * written_off_amount) as written_off_amount,
        sum(_sign * recovered_amount) as recovered_amount
    from months
    group by month_end, branch_sk, product_sk, schedule_source <> 'none', state, coalesce(state_before, 'new')
)

select
    month_end,
    branch_sk,
    product_sk,
    has_schedule,
    state,
    state_before,
    loan_count,
    outstanding_principal,
    overdue_amount,
    due_amount,
    paid_on_time,
    paid_of_due,
    paid_of_arrears,
    paid_ahead,
    written_off_amount,
    recovered_amount
from final
