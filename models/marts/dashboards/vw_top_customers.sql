-- The order is that of an index, so that the first rows come without sorting all customers.
select
    customer_id,
    full_name,
    customer_segment as segment,
    city,
    total_loans,
    total_paid,
    payment_count,
    last_payment_date
from {{ published('agg_customers') }}
order by total_paid desc, customer_id asc
