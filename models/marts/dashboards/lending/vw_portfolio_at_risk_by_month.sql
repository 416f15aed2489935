select
    months.month_end,
    branches.branch_code,
    months.gross_loan_portfolio,
    months.par_1,
    months.par_30,
    months.par_60,
    months.par_90,
    months.par_180,
    months.scheduled_portfolio,
    months.overdue_amount
from {{ published('agg_month_ends_by_branch') }} as months
inner join {{ published('dim_branch') }} as branches on months.branch_sk = branches.branch_sk
order by months.month_end, branches.branch_code
