with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

products as (
    select * from {{ published('dim_product') }}
),

totals as (
    select
        portfolio.branch_sk,
        products.product_type,
        sum(portfolio.loan_count)::bigint as loan_count,
        sum(portfolio.outstanding_principal) as gross_loan_portfolio,
        coalesce(sum(portfolio.outstanding_principal) filter (where portfolio.schedule_source <> 'none'), 0)
            as scheduled_portfolio,
        coalesce(sum(portfolio.outstanding_principal) filter (
            where portfolio.is_restructured and portfolio.schedule_source <> 'none'
        ), 0) as restructured
    from {{ published('agg_portfolio_totals') }} as portfolio
    left join products on portfolio.product_sk = products.product_sk
    group by portfolio.branch_sk, products.product_type
),

-- Few loans are late: they are looked up, the others are only summed up.
late as (
    select
        branch_sk,
        product_sk,
        is_restructured,
        outstanding_balance,
        (select today.as_of from today) - first_unpaid_due_date as days_past_due
    from {{ published('fact_loans') }}
    where is_in_portfolio and first_unpaid_due_date < (select today.as_of from today)
),

ladder as (
    select
        late.branch_sk,
        products.product_type,
        sum(late.outstanding_balance) as par_1,
        coalesce(sum(late.outstanding_balance) filter (where late.days_past_due > 30), 0) as par_30,
        coalesce(sum(late.outstanding_balance) filter (where late.days_past_due > 60), 0) as par_60,
        coalesce(sum(late.outstanding_balance) filter (where late.days_past_due > 90), 0) as par_90,
        coalesce(sum(late.outstanding_balance) filter (where late.days_past_due > 180), 0) as par_180,
        coalesce(sum(late.outstanding_balance) filter (where late.days_past_due > 30 and not late.is_restructured), 0)
            as par_30_not_restructured
    from late
    left join products on late.product_sk = products.product_sk
    group by late.branch_sk, products.product_type
)

select
    branches.branch_code,
    totals.product_type,
    totals.loan_count,
    totals.gross_loan_portfolio,
    coalesce(ladder.par_1, 0) as par_1,
    coalesce(ladder.par_30, 0) as par_30,
    coalesce(ladder.par_60, 0) as par_60,
    coalesce(ladder.par_90, 0) as par_90,
    coalesce(ladder.par_180, 0) as par_180,
    round(100 * coalesce(ladder.par_30, 0) / nullif(totals.scheduled_portfolio, 0), 2) as par_30_ratio,
    totals.scheduled_portfolio,
    totals.restructured + coalesce(ladder.par_30_not_restructured, 0) as par_30_and_restructured
from totals
inner join {{ published('dim_branch') }} as branches on totals.branch_sk = branches.branch_sk
left join ladder
    on totals.branch_sk = ladder.branch_sk and totals.product_type is not distinct from ladder.product_type
order by branches.branch_code, totals.product_type
