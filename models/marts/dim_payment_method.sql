{{
    config(
        reads_landing=false,
        unique_key=['method_sk'],
        unknown_member={'method_code': "'unknown'", 'method_name': "'Unknown'", 'is_digital': 'false'}
    )
}}

-- depends_on: {{ ref('extraction') }}
{% set since = increment() %}

with final as (
    select
        method_sk::bigint as method_sk,
        method_code::text as method_code,
        method_name::text as method_name,
        is_digital
    from {{ ref('payment_methods') }}
)

select
    method_sk,
    method_code,
    method_name,
    is_digital
from final
