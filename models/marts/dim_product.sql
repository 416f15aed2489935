{{
    config(
        unique_key=['product_sk'],
        unknown_member={'product_name': "'unknown'", 'product_type': "'unknown'", 'is_active': 'false'}
    )
}}

{% set since = increment() %}

{# A product that was deleted keeps its row, so that its loans' history still names it. #}
with products as (
    select * from {{ ref('stg_loan_products') }}
    {% if since %}
    where _run_id > {{ since.landing_run_id }}
    {% endif %}
),

final as (
    select
        -- keys
        {{ version_sk('product_id', 0) }} as product_sk,
        product_id,

        -- attributes
        product_name,
        product_type,
        min_amount,
        max_amount,
        min_tenure_months,
        max_tenure_months,

        -- booleans
        is_active and not is_deleted as is_active
    from products
)

select
    product_sk,
    product_id,
    product_name,
    product_type,
    min_amount,
    max_amount,
    min_tenure_months,
    max_tenure_months,
    is_active
from final
