select
    months.month_end,
    branches.branch_code,
    months.written_off_amount,
    months.recovered_amount
from {{ published('agg_month_ends_by_branch') }} as months
inner join {{ published('dim_branch') }} as branches on months.branch_sk = branches.branch_sk
where months.written_off_amount <> 0 or months.recovered_amount <> 0
order by months.month_end, branches.branch_code
