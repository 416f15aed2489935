select
    loans.loan_id,
    loans.customer_id,
    coalesce(customers.full_name, 'unknown') as full_name,
    {{ branch_columns('branches') }},
    loans.loan_officer,
    {{ product_columns('products') }},
    loans.customer_segment,
    loans.loan_status,
    case
        when loans.disbursement_date_sk <> {{ unknown_sk() }}
            then make_date(
                loans.disbursement_date_sk / 10000, loans.disbursement_date_sk / 100 % 100,
                loans.disbursement_date_sk % 100
            )
    end as disbursed_on,
    loans.principal_amount,
    loans.outstanding_balance,
    loans.total_paid,
    loans.last_payment_date
from {{ published('fact_loans') }} as loans
inner join {{ published('dim_branch') }} as branches on loans.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on loans.product_sk = products.product_sk
left join {{ published('agg_customers') }} as customers on loans.customer_id = customers.customer_id
