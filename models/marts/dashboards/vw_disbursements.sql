select
    loans.disbursement_month as month,
    {{ month_columns('loans.disbursement_month', 'state.data_as_of') }},
    {{ branch_columns('branches') }},
    {{ product_columns('products') }},
    loans.customer_segment,
    loans.loan_count,
    loans.disbursed_amount
from {{ published('agg_disbursements') }} as loans
cross join {{ ref('published_state') }} as state
inner join {{ published('dim_branch') }} as branches on loans.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on loans.product_sk = products.product_sk
