{{
    config(
        unique_key=['branch_sk'],
        unknown_member={'branch_code': "'unknown'", 'branch_name': "'Unknown'"}
    )
}}

{% set since = increment() %}

{#
    The branches of the seed, and every branch that a loan has ever been at (from the history, so that a branch whose
    last loan moved away keeps its row). A branch that the seed does not know is named by its code.
#}
with known as (
    select
        branch_code::text as branch_code,
        branch_name::text as branch_name,
        city::text as city,
        region::text as region,
        country::text as country
    from {{ ref('branches') }}
),

seen as (
    select distinct branch_code
    from {{ ref('loans_snapshot') }}
    where
        branch_code is not null
        {% if since %}
        -- what has come into the history since, also versions that have ended meanwhile
        and _run_id > {{ since.landing_run_id }}
        {% endif %}
),

final as (
    select
        {{ branch_sk('coalesce(known.branch_code, seen.branch_code)') }} as branch_sk,
        coalesce(known.branch_code, seen.branch_code) as branch_code,
        coalesce(known.branch_name, seen.branch_code) as branch_name,
        known.city,
        known.region,
        known.country
    from known
    full join seen on known.branch_code = seen.branch_code
)

select
    branch_sk,
    branch_code,
    branch_name,
    city,
    region,
    country
from final
