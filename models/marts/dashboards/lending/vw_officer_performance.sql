with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

officers as (
    select
        agg_officers.*,
        today.as_of - agg_officers.first_unpaid_due_date as days_past_due
    from {{ published('agg_officers') }} as agg_officers
    cross join today
),

totals as (
    select
        branch_sk,
        loan_officer,
        sum(loan_count)::bigint as loan_count,
        sum(outstanding_principal) as gross_loan_portfolio,
        sum(outstanding_principal) filter (where schedule_source <> 'none') as scheduled_portfolio,
        coalesce(sum(outstanding_principal) filter (where days_past_due > 30), 0) as par_30,
        sum(collected_amount) as collected_amount
    from officers
    group by branch_sk, loan_officer
)

select
    branches.branch_code,
    totals.loan_officer,
    totals.loan_count,
    totals.gross_loan_portfolio,
    totals.par_30,
    round(100 * totals.par_30 / nullif(totals.scheduled_portfolio, 0), 2) as par_30_ratio,
    totals.collected_amount
from totals
inner join {{ published('dim_branch') }} as branches on totals.branch_sk = branches.branch_sk
order by branches.branch_code, totals.loan_officer
