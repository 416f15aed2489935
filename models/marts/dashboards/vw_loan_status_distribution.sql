select
    loan_status,
    customer_segment,
    sum(loan_count)::bigint as loan_count,
    sum(principal_amount) as total_loan_amount,
    sum(outstanding_balance) as total_outstanding,
    round(sum(interest_rate_sum) / nullif(sum(loan_count), 0), 4) as avg_interest_rate
from {{ published('agg_loans') }}
group by loan_status, customer_segment
order by loan_status, customer_segment
