select
    {{ branch_columns('branches') }},
    book.loan_officer,
    {{ product_columns('products') }},
    book.customer_segment,
    book.loan_status,
    book.loan_count,
    book.disbursed_count,
    book.disbursed_amount,
    book.outstanding_balance,
    book.interest_rate_sum,
    book.total_paid,
    book.interest_paid,
    book.payment_count
from {{ published('agg_loan_book') }} as book
inner join {{ published('dim_branch') }} as branches on book.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on book.product_sk = products.product_sk
