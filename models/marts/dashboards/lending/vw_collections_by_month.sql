select
    months.month_end,
    branches.branch_code,
    months.due_amount,
    months.paid_on_time,
    months.paid_of_due,
    months.paid_of_arrears,
    months.paid_ahead,
    round(100 * months.paid_on_time / nullif(months.due_amount, 0), 2) as on_time_rate,
    round(100 * (months.paid_of_due + months.paid_of_arrears) / nullif(months.due_amount, 0), 2)
        as current_collection_rate
from {{ published('agg_month_ends_by_branch') }} as months
inner join {{ published('dim_branch') }} as branches on months.branch_sk = branches.branch_sk
order by months.month_end, branches.branch_code
