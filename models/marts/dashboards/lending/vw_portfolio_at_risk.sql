with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

totals as (
    select
        branch_sk,
        product_sk,
        sum(loan_count) as loan_count,
        sum(outstanding_principal) as gross_loan_portfolio,
        coalesce(sum(outstanding_principal) filter (where schedule_source <> 'none'), 0) as scheduled_portfolio,
        coalesce(sum(outstanding_principal) filter (where is_restructured and schedule_source <> 'none'), 0)
            as restructured
    from {{ published('agg_portfolio_totals') }}
    group by branch_sk, product_sk
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
        branch_sk,
        product_sk,
        sum(outstanding_balance) as par_1,
        sum(outstanding_balance) filter (where days_past_due > 30) as par_30,
        sum(outstanding_balance) filter (where days_past_due > 60) as par_60,
        sum(outstanding_balance) filter (where days_past_due > 90) as par_90,
        sum(outstanding_balance) filter (where days_past_due > 180) as par_180,
        sum(outstanding_balance) filter (where days_past_due > 30 and not is_restructured) as par_30_not_restructured
    from late
    group by branch_sk, product_sk
)

select
    branches.branch_code,
    products.product_type,
    sum(totals.loan_count)::bigint as loan_count,
    sum(totals.gross_loan_portfolio) as gross_loan_portfolio,
    coalesce(sum(ladder.par_1), 0) as par_1,
    coalesce(sum(ladder.par_30), 0) as par_30,
    coalesce(sum(ladder.par_60), 0) as par_60,
    coalesce(sum(ladder.par_90), 0) as par_90,
    coalesce(sum(ladder.par_180), 0) as par_180,
    round(100 * coalesce(sum(ladder.par_30), 0) / nullif(sum(totals.scheduled_portfolio), 0), 2) as par_30_ratio,
    sum(totals.scheduled_portfolio) as scheduled_portfolio,
    sum(totals.restructured) + coalesce(sum(ladder.par_30_not_restructured), 0) as par_30_and_restructured
from totals
inner join {{ published('dim_branch') }} as branches on totals.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on totals.product_sk = products.product_sk
left join ladder on totals.branch_sk = ladder.branch_sk and totals.product_sk = ladder.product_sk
group by branches.branch_code, products.product_type
order by branches.branch_code, products.product_type
