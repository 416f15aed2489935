{{
    config(
        unique_key=['month_end', 'state_before', 'state'],
        accumulate=['loan_count', 'outstanding_principal', 'written_off_amount'],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

{# Without the loans of which no schedule is known: they have no lateness that could change. #}
with groups as (
    {{ signed_rows('agg_month_ends', since) }}
),

final as (
    select
        month_end,
        state_before,
        state,
        sum(_sign * loan_count)::bigint as loan_count,
        sum(_sign * outstanding_principal) as outstanding_principal,
        sum(_sign * written_off_amount) as written_off_amount
    from groups
    where has_schedule
    group by month_end, state_before, state
)

select
    month_end,
    state_before,
    state,
    loan_count,
    outstanding_principal,
    written_off_amount
from final
