with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

totals as (
    select
        branch_sk,
        loan_officer,
        sum(loan_count)::bigint as loan_count,
        sum(outstanding_principal) as gross_loan_portfolio,
        sum(outstanding_principal) filter (where schedule_source <> 'none') as scheduled_portfolio,
        sum(collected_amount) as collected_amount
    from {{ published('agg_officer_totals') }}
    group by branch_sk, loan_officer
),

-- Few loans are late: they are looked up, the others are only summed up.
late as (
    select
        branch_sk,
        loan_officer,
        sum(outstanding_balance) as par_30
    from {{ published('fact_loans') }}
    where is_in_portfolio and first_unpaid_due_date < (select today.as_of from today) - 30
    group by branch_sk, loan_officer
)

select
    branches.branch_code,
    totals.loan_officer,
    totals.loan_count,
    totals.gross_loan_portfolio,
    coalesce(late.par_30, 0) as par_30,
    round(100 * coalesce(late.par_30, 0) / nullif(totals.scheduled_portfolio, 0), 2) as par_30_ratio,
    totals.collected_amount
from totals
inner join {{ published('dim_branch') }} as branches on totals.branch_sk = branches.branch_sk
left join late on totals.branch_sk = late.branch_sk and totals.loan_officer = late.loan_officer
order by branches.branch_code, totals.loan_officer
