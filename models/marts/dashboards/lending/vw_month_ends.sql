select
    date_trunc('month', months.month_end)::date as month,
    {{ month_columns('months.month_end', 'state.data_as_of') }},
    {{ branch_columns('branches') }},
    {{ product_columns('products') }},
    months.state,
    case when months.has_schedule then 'scheduled' else 'no schedule' end as coverage,
    sum(months.loan_count)::bigint as loan_count,
    sum(months.outstanding_principal) as outstanding_principal,
    sum(months.overdue_amount) as overdue_amount,
    sum(months.due_amount) as due_amount,
    sum(months.paid_on_time) as paid_on_time,
    sum(months.paid_of_due) as paid_of_due,
    sum(months.paid_of_arrears) as paid_of_arrears,
    sum(months.paid_ahead) as paid_ahead,
    sum(months.written_off_amount) as written_off_amount,
    sum(months.recovered_amount) as recovered_amount
from {{ published('agg_month_ends') }} as months
cross join {{ ref('published_state') }} as state
inner join {{ published('dim_branch') }} as branches on months.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on months.product_sk = products.product_sk
group by
    months.month_end, state.data_as_of, branches.branch_name, branches.branch_code, branches.region,
    products.product_name, products.product_type, months.state, months.has_schedule
