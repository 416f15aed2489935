-- depends_on: {{ ref('extraction') }}
-- One plain select: PostgreSQL does not look through a view that has a WITH clause, so that nobody who asks such a
-- view for a few keys could use the indexes of the landing table.
select
    -- keys
    payment_id,
    loan_id,

    -- attributes
    payment_method as method_code,
    reference_number,

    -- measures
    amount as payment_amount,
    principal_portion as principal_amount,
    interest_portion as interest_amount,
    penalty_portion as penalty_amount,

    -- dates
    payment_date,
    created_at,

    -- metadata
    _deleted_at is not null as is_deleted,
    _changed_at as changed_at,
    _run_id
from {{ source('operational', 'payments') }}
