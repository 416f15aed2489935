{{ config(unique_key=['method_sk']) }}

-- depends_on: {{ ref('extraction') }}
{% set since = increment() %}

select
    method_sk::bigint as method_sk,
    method_code::text as method_code,
    method_name::text as method_name,
    is_digital
    {%- if since %},
    false as is_removed
    {%- endif %}
from {{ ref('payment_methods') }}
{% if not since %}
union all
select {{ unknown_sk() }}::bigint, 'unknown', 'Unknown', false
{% endif %}
