{#
    What customers_snapshot compares: the customers, without personal data. The snapshot itself narrows it to what changed.
#}
select
    customer_id,
    full_name,
    city,
    country,
    customer_segment,
    is_active,
    created_at,
    is_deleted,
    changed_at,
    -- not compared: with it the dimension finds the versions that are new to it
    _run_id
from {{ ref('stg_customers') }}
