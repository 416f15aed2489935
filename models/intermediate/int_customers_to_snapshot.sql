{#
    What customers_snapshot compares: customers that changed since it last finished, without personal data.
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
    changed_at
from {{ ref('stg_customers') }}
where {{ changed_since('customers_snapshot') }}
