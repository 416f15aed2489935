select
    month_end,
    nullif(state_before, 'new') as state_before,
    state,
    loan_count,
    outstanding_principal,
    written_off_amount
from {{ published('agg_loan_migration') }}
order by month_end, state_before, state
