select
    schedule_source,
    sum(loan_count)::bigint as loan_count,
    sum(outstanding_principal) as gross_loan_portfolio
from {{ published('agg_portfolio_totals') }}
group by schedule_source
order by schedule_source
