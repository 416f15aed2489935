-- The day is asked for as a value, not joined: the index by branch and due date is then read from the oldest on.
with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

positions as (
    select
        loans.*,
        (select today.as_of from today) as as_of,
        (select today.as_of from today) - loans.first_unpaid_due_date as days_past_due,
        {{ whole_cents('loans.principal_paid + loans.interest_paid') }} as money,
        {{ whole_cents('loans.principal_owed') }} as owed
    from {{ published('fact_loans') }} as loans
    where loans.is_in_portfolio and loans.first_unpaid_due_date < (select today.as_of from today)
)

select
    positions.loan_id,
    {{ branch_columns('branches') }},
    positions.loan_officer,
    customers.full_name,
    positions.customer_segment,
    {{ product_columns('products') }},
    products.product_name,
    positions.days_past_due,
    {{ arrears_band('positions.days_past_due') }} as band,
    positions.outstanding_balance as outstanding_principal,
    0.01 * {{ overdue_by(
        'schedules', 'positions.as_of', 'positions.money', 'positions.owed', 'positions.installments_paid'
    ) }} as overdue_amount,
    positions.first_unpaid_due_date,
    schedules.due_dates[width_bucket(positions.as_of, schedules.due_dates) + 1] as next_due_date,
    positions.last_payment_date
from positions
inner join {{ published('dim_open_schedule') }} as schedules on positions.loan_id = schedules.loan_id
left join {{ published('dim_branch') }} as branches on positions.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on positions.product_sk = products.product_sk
left join {{ published('agg_customers') }} as customers on positions.customer_id = customers.customer_id
order by positions.days_past_due desc, positions.loan_id asc
