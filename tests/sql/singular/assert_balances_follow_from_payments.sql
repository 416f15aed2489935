{{ config(severity='warn') }}

-- The books' own rule: what is owed is what was lent less the principal paid back. It is a rule of the source, which an
-- imported book may break, so it warns and does not hold back the dashboards.
select
    loans.loan_id,
    loans.principal_amount,
    loans.principal_paid,
    loans.outstanding_balance,
    loans.principal_amount - loans.principal_paid - loans.outstanding_balance as difference
from {{ ref('fact_loans') }} as loans
where
    loans.is_disbursed
    and loans.outstanding_balance <> loans.principal_amount - loans.principal_paid
    and {{ changed_since_published('loan_id', 'operational.loans') }}
