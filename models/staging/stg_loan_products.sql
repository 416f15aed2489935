-- depends_on: {{ ref('extraction') }}
with source as (
    select * from {{ source('operational', 'loan_products') }}
),

renamed as (
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
    from source
)

select * from renamed
