-- depends_on: {{ ref('extraction') }}
-- One plain select: PostgreSQL does not look through a view that has a WITH clause, so that nobody who asks such a
-- view for a few keys could use the indexes of the landing table.
select
    -- keys
    customer_id,

    -- attributes
    trim(full_name) as full_name,
    nullif(trim(city), '') as city,
    country,
    segment as customer_segment,

    -- booleans
    is_active,

    -- dates
    created_at,

    -- metadata
    _deleted_at is not null as is_deleted,
    _changed_at as changed_at,
    _run_id
from {{ source('operational', 'customers') }}
