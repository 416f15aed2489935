{{ config(unique_key=['product_sk']) }}

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

{% if since %}
select
    *,
    false as is_removed
from final
{% else %}
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
union all
select
    {{ unknown_sk() }}::bigint as product_sk,
    null::integer as product_id,
    'unknown' as product_name,
    'unknown' as product_type,
    null::numeric as min_amount,
    null::numeric as max_amount,
    null::integer as min_tenure_months,
    null::integer as max_tenure_months,
    false as is_active
{% endif %}
