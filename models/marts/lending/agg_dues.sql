{{
    config(
        unique_key=['branch_sk', 'first_unpaid_due_date', 'due_date'],
        log_changes=true,
        accumulate=['installment_count', 'unpaid_amount', 'balance_beyond_schedule'],
        delete_when='installment_count = 0',
        indexes=[{'columns': ['due_date']}]
    )
}}

{% set since = increment() %}

with dues as (
    {{ signed_rows('agg_dues_by_officer', since) }}
),

final as (
    select
        branch_sk,
        first_unpaid_due_date,
        due_date,
        sum(_sign * installment_count)::bigint as installment_count,
        sum(_sign * unpaid_amount) as unpaid_amount,
        sum(_sign * balance_beyond_schedule) as balance_beyond_schedule
    from dues
    group by branch_sk, first_unpaid_due_date, due_date
)

select
    branch_sk,
    first_unpaid_due_date,
    due_date,
    installment_count,
    unpaid_amount,
    balance_beyond_schedule
from final
