{{
    config(
        unique_key=['customer_sk'],
        log_changes=true,
        indexes=[{'columns': ['customer_id', 'valid_from']}]
    )
}}

{% set since = increment() %}

with versions as (
    select
        *,
        row_number() over (partition by customer_id order by dbt_valid_from) as version_number
    from {{ ref('customers_snapshot') }}
    {% if since %}
    where
        customer_id in (
            select changed.customer_id from {{ ref('customers_snapshot') }} as changed
            where changed._run_id > {{ since.landing_run_id }}
        )
    {% endif %}
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

        -- history; what happened before the first version seen belongs to it
        case when version_number = 1 then timestamptz '1900-01-01 00:00+00' else dbt_valid_from end as valid_from,
        dbt_valid_to as valid_to,
        dbt_valid_to = timestamptz '9999-12-31 00:00+00' as is_current
    from versions
    where not is_deleted
)

{% if since %}
select
    *,
    false as is_removed
from final
{% else %}
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
union all
select
    {{ unknown_sk() }}::bigint as customer_sk,
    null::integer as customer_id,
    'unknown' as full_name,
    null as city,
    null as country,
    'unknown' as customer_segment,
    false as is_active,
    timestamptz '1900-01-01 00:00+00' as valid_from,
    timestamptz '9999-12-31 00:00+00' as valid_to,
    true as is_current
{% endif %}
