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
    {% if since %}
    select changed.* from {{ changes_of('agg_month_ends') }} as changed
    where changed._run_id > {{ since.run_id }} and changed.has_schedule
    {% else %}
    select
        agg_month_ends.*,
        1 as _sign
    from {{ ref('agg_month_ends') }} as agg_month_ends
    where agg_month_ends.has_schedule
    {% endif %}
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
