{{
    config(
        unique_key=['month_end', 'state_before', 'state'],
        accumulate=['loan_count', 'outstanding_principal', 'written_off_amount'],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

{# Without the loans of which no schedule is known: they have no lateness that could change. #}
with months as (
    {{ signed_rows('fact_loan_month_end', since) }}
),

final as (
    select
        month_end,
        coalesce(state_before, 'new') as state_before,
        state,
        sum(_sign)::bigint as loan_count,
        {{ signed_sum('outstanding_principal', since) }} as outstanding_principal,
        {{ signed_sum('written_off_amount', since, 'written_off_amount <> 0') }} as written_off_amount
    from months
    where schedule_source <> 'none'
    group by month_end, coalesce(state_before, 'new'), state
)

select
    month_end,
    state_before,
    state,
    loan_count,
    outstanding_principal,
    written_off_amount
from final
