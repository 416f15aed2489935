{{ config(reads_landing=false, unique_key=['scheme', 'class']) }}

-- depends_on: {{ ref('extraction') }}
{% set since = increment() %}

with final as (
    select
        scheme::text as scheme,
        class::text as class,
        class_rank::integer as class_rank,
        min_days::integer as min_days,
        coalesce(max_days::integer, 2147483647) as max_days,
        provision_rate::numeric as provision_rate
    from {{ ref('provision_bands') }}
)

select
    {% if since %}
    false as is_removed,
    {% endif %}
    scheme,
    class,
    class_rank,
    min_days,
    max_days,
    provision_rate
from final
