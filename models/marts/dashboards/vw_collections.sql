select
    payments.payment_month as month,
    {{ month_columns('payments.payment_month', 'state.data_as_of') }},
    {{ branch_columns('branches') }},
    methods.method_name as method,
    payments.customer_segment,
    payments.payment_count,
    payments.payment_amount,
    payments.principal_amount,
    payments.interest_amount,
    payments.penalty_amount
from {{ published('agg_collections') }} as payments
cross join {{ ref('published_state') }} as state
inner join {{ published('dim_branch') }} as branches on payments.branch_sk = branches.branch_sk
inner join {{ published('dim_payment_method') }} as methods on payments.method_sk = methods.method_sk
