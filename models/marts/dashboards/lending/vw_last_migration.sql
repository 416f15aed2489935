select
    date_trunc('month', months.month_end)::date as month,
    {{ branch_columns('branches') }},
    months.loan_officer,
    {{ product_columns('products') }},
    months.customer_segment,
    months.state_before,
    array_position(
        array['new', 'current', '1-30', '31-60', '61-90', '91-180', '181-360', 'over_360', 'repaid', 'written_off'],
        months.state_before
    ) as state_order,
    months.state,
    months.loan_count,
    months.outstanding_principal
from {{ published('agg_last_migration') }} as months
inner join {{ published('dim_branch') }} as branches on months.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on months.product_sk = products.product_sk
