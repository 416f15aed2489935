select
    extract(year from payment_month)::integer as year,
    extract(month from payment_month)::integer as month,
    to_char(payment_month, 'FMMonth') as month_name,
    payment_amount as total_revenue,
    principal_amount as total_principal,
    interest_amount as total_interest,
    penalty_amount as total_penalty,
    payment_count
from {{ published('agg_payments_by_month') }}
order by payment_month
