with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

portfolio as (
    select
        agg_portfolio.*,
        today.as_of - agg_portfolio.first_unpaid_due_date as days_past_due
    from {{ published('agg_portfolio') }} as agg_portfolio
    cross join today
),

branches as (
    select * from {{ published('dim_branch') }}
),

products as (
    select * from {{ published('dim_product') }}
),

ladder as (
    select
        portfolio.branch_sk,
        products.product_type,
        sum(portfolio.loan_count)::bigint as loan_count,
        sum(portfolio.outstanding_principal) as gross_loan_portfolio,
        coalesce(sum(portfolio.outstanding_principal) filter (where portfolio.schedule_source <> 'none'), 0)
            as scheduled_portfolio,
        coalesce(sum(portfolio.outstanding_principal) filter (where portfolio.days_past_due >= 1), 0) as par_1,
        coalesce(sum(portfolio.outstanding_principal) filter (where portfolio.days_past_due > 30), 0) as par_30,
        coalesce(sum(portfolio.outstanding_principal) filter (where portfolio.days_past_due > 60), 0) as par_60,
        coalesce(sum(portfolio.outstanding_principal) filter (where portfolio.days_past_due > 90), 0) as par_90,
        coalesce(sum(portfolio.outstanding_principal) filter (where portfolio.days_past_due > 180), 0) as par_180,
        coalesce(sum(portfolio.outstanding_principal) filter (
            where portfolio.days_past_due > 30 or (portfolio.is_restructured and portfolio.schedule_source <> 'none')
        ), 0) as par_30_and_restructured
    from portfolio
    left join products on portfolio.product_sk = products.product_sk
    group by portfolio.branch_sk, products.product_type
)

select
    branches.branch_code,
    ladder.product_type,
    ladder.loan_count,
    ladder.gross_loan_portfolio,
    ladder.par_1,
    ladder.par_30,
    ladder.par_60,
    ladder.par_90,
    ladder.par_180,
    round(100 * ladder.par_30 / nullif(ladder.scheduled_portfolio, 0), 2) as par_30_ratio,
    ladder.scheduled_portfolio,
    ladder.par_30_and_restructured
from ladder
inner join branches on ladder.branch_sk = branches.branch_sk
order by branches.branch_code, ladder.product_type
