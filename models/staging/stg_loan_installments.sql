-- depends_on: {{ ref('extraction') }}
-- One plain select: PostgreSQL does not look through a view that has a WITH clause, so that nobody who asks such a
-- view for a few keys could use the indexes of the landing table.
select
    -- keys
    installment_id,
    loan_id,

    -- attributes
    installment_no,

    -- measures
    principal_due,
    interest_due,

    -- dates
    due_date,
    created_at,

    -- metadata
    _deleted_at is not null as is_deleted,
    _changed_at as changed_at,
    _run_id
from {{ source('operational', 'loan_installments') }}
