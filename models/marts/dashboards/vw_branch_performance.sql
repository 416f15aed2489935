with branches as (
    select * from {{ published('dim_branch') }}
),

loans as (
    select * from {{ published('agg_loans') }}
)

select
    branches.branch_code,
    sum(loans.loan_count)::bigint as loan_count,
    coalesce(sum(loans.loan_count) filter (where loans.loan_status = 'active'), 0)::bigint as active_loans,
    sum(loans.disbursed_amount) as total_disbursed,
    sum(loans.total_paid) as total_collected,
    sum(loans.interest_paid) as total_interest_earned,
    sum(loans.outstanding_balance) as total_outstanding,
    -- percent of the loans that were paid out
    coalesce(round(
        100 * sum(loans.loan_count) filter (where loans.loan_status in ('defaulted', 'written_off'))
        / nullif(sum(loans.disbursed_count), 0), 2
    ), 0) as default_rate,
    round(sum(loans.interest_rate_sum) / nullif(sum(loans.loan_count), 0), 4) as avg_rate
from loans
inner join branches on loans.branch_sk = branches.branch_sk
group by branches.branch_code
order by branches.branch_code
