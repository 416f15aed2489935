{{
    config(
        unique_key=['customer_sk'],
        log_changes=true,
        unknown_member={
            'full_name': "'unknown'",
            'customer_segment': "'unknown'",
            'is_active': 'false',
            'valid_from': start_of_history(),
            'valid_to': end_of_history(),
            'is_current': 'true'
        },
        indexes=[{'columns': ['customer_id', 'valid_from']}]
    )
}}

{% set since = increment() %}

with versions as (
    {{ numbered_versions(ref('customers_snapshot'), 'customer_id', since) }}
),

final as (
    select
        -- keys
        {{ version_sk('customer_id', 'version_number') }} as customer_sk,
        customer_id,

        -- attributes
        full_name,
        city,
        country,
        customer_segment,

        -- booleans
        is_active,

        -- history
        {{ validity_of_version() }}
    from versions
    where not is_deleted
)

select
    customer_sk,
    customer_id,
    full_name,
    city,
    country,
    customer_segment,
    is_active,
    valid_from,
    valid_to,
    is_current
from final
