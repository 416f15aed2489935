select
    date_trunc('month', months.month_end)::date as month,
    {{ month_columns('months.month_end', 'state.data_as_of') }},
    {{ branch_columns('branches') }},
    months.loan_officer,
    {{ product_columns('products') }},
    months.customer_segment,
    months.loan_count,
    months.gross_loan_portfolio,
    months.scheduled_portfolio,
    months.par_1,
    months.par_30,
    months.par_60,
    months.par_90,
    months.par_180,
    months.overdue_amount,
    months.due_amount,
    months.paid_on_time,
    months.paid_of_due,
    months.paid_of_arrears,
    months.paid_ahead,
    months.written_off_amount,
    months.recovered_amount
from {{ published('agg_month_ends_by_officer') }} as months
cross join {{ ref('published_state') }} as state
inner join {{ published('dim_branch') }} as branches on months.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on months.product_sk = products.product_sk
