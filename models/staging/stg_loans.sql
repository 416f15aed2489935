-- depends_on: {{ ref('extraction') }}
-- One plain select: PostgreSQL does not look through a view that has a WITH clause, so that nobody who asks such a
-- view for a few keys could use the indexes of the landing table.
select
    -- keys
    loan_id,
    customer_id,
    product_id,

    -- attributes
    status as loan_status,
    loan_officer,
    nullif(trim(branch_code), '') as branch_code,

    -- measures
    amount as principal_amount,
    interest_rate,
    tenure_months,
    outstanding_balance,

    -- booleans
    status <> 'pending' as is_disbursed,

    -- dates
    disbursed_at,
    maturity_date,
    written_off_on,
    restructured_on,
    created_at,

    -- metadata
    _deleted_at is not null as is_deleted,
    _changed_at as changed_at,
    _run_id
from {{ source('operational', 'loans') }}
