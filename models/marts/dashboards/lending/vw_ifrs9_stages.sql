with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

portfolio as (
    select
        case
            when agg_portfolio.is_defaulted or today.as_of - agg_portfolio.first_unpaid_due_date > 90 then 3
            when agg_portfolio.is_restructured or today.as_of - agg_portfolio.first_unpaid_due_date > 30 then 2
            else 1
        end as stage,
        agg_portfolio.loan_count,
        agg_portfolio.outstanding_principal
    from {{ published('agg_portfolio') }} as agg_portfolio
    cross join today
    where agg_portfolio.schedule_source <> 'none'
)

select
    stages.stage,
    coalesce(sum(portfolio.loan_count), 0)::bigint as loan_count,
    coalesce(sum(portfolio.outstanding_principal), 0) as outstanding_principal
from generate_series(1, 3) as stages (stage)
left join portfolio on stages.stage = portfolio.stage
group by stages.stage
order by stages.stage
