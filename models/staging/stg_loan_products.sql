-- depends_on: {{ ref('extraction') }}
-- One plain select: PostgreSQL does not look through a view that has a WITH clause, so that nobody who asks such a
-- view for a few keys could use the indexes of the landing table.
select
    -- keys
    product_id,

    -- attributes
    trim(product_name) as product_name,
    product_type,

    -- measures
    min_amount,
    max_amount,
    min_tenure_months,
    max_tenure_months,

    -- booleans
    is_active,

    -- dates
    created_at,

    -- metadata
    _deleted_at is not null as is_deleted,
    _changed_at as changed_at,
    _run_id
from {{ source('operational', 'loan_products') }}
