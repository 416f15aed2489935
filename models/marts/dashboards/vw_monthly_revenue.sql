-- depends_on: {{ ref('published_state') }}
select
    extract(year from payment_month)::integer as year,
    extract(month from payment_month)::integer as month,
    to_char(payment_month, 'FMMonth') as month_name,
    sum(payment_amount) as total_revenue,
    sum(principal_amount) as total_principal,
    sum(interest_amount) as total_interest,
    sum(penalty_amount) as total_penalty,
    sum(payment_count)::bigint as payment_count
from {{ published('agg_payments') }}
group by payment_month
order by payment_month
