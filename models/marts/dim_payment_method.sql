{{ config(reads_landing=false, unique_key=['method_sk']) }}

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

{% if since %}
select
    *,
    false as is_removed
from final
{% else %}
select
    method_sk,
    method_code,
    method_name,
    is_digital
from final
union all
select
    {{ unknown_sk() }}::bigint as method_sk,
    'unknown' as method_code,
    'Unknown' as method_name,
    false as is_digital
{% endif %}
