-- depends_on: {{ ref('extraction') }}
with source as (
    select * from {{ source('operational', 'customers') }}
),

renamed as (
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
    from source
)

select * from renamed
