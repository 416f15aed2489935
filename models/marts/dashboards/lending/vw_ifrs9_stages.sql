with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

positions as (
    select
        *,
        (select today.as_of from today) - first_unpaid_due_date as days_past_due
    from {{ published('agg_portfolio_by_due_date') }}
    where schedule_source <> 'none'
),

portfolio as (
    select
        {{ ifrs9_stage('days_past_due', 'is_defaulted', 'is_restructured') }} as stage,
        loan_count,
        outstanding_principal
    from positions
)

select
    stages.stage,
    coalesce(sum(portfolio.loan_count), 0)::bigint as loan_count,
    coalesce(sum(portfolio.outstanding_principal), 0) as outstanding_principal
from generate_series(1, 3) as stages (stage)
left join portfolio on stages.stage = portfolio.stage
group by stages.stage
order by stages.stage
