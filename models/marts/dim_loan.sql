{{
    config(
        unique_key=['loan_sk'],
        log_changes=true,
        indexes=[{'columns': ['loan_id', 'valid_from']}]
    )
}}

-- depends_on: {{ ref('stg_loans') }}
{% set since = increment() %}

with versions as (
    select
        *,
        row_number() over (partition by loan_id order by dbt_valid_from) as version_number
    from {{ ref('loans_snapshot') }}
    {% if since %}
    where
        loan_id in (
            select changed.loan_id from {{ ref('stg_loans') }} as changed
            where changed._run_id > {{ since.landing_run_id }}
        )
    {% endif %}
),

final as (
    select
        -- keys
        {{ version_sk('loan_id', 'version_number') }} as loan_sk,
        loan_id,
        customer_id,
        {{ version_sk('product_id', 0) }} as product_sk,
        {{ branch_sk('branch_code') }} as branch_sk,

        -- attributes
        loan_status,
        principal_amount,
        interest_rate,
        tenure_months,
        disbursed_at,
        maturity_date,
        loan_officer,
        branch_code,

        -- history; what happened before the first version seen belongs to it
        case when version_number = 1 then timestamptz '1900-01-01 00:00+00' else dbt_valid_from end as valid_from,
        dbt_valid_to as valid_to,
        dbt_valid_to = timestamptz '9999-12-31 00:00+00' as is_current
    from versions
    where not is_deleted
)

select
    loan_sk,
    loan_id,
    customer_id,
    product_sk,
    branch_sk,
    loan_status,
    principal_amount,
    interest_rate,
    tenure_months,
    disbursed_at,
    maturity_date,
    loan_officer,
    branch_code,
    valid_from,
    valid_to,
    is_current
    {%- if since %},
    false as is_removed
    {%- endif %}
from final
{% if not since %}
union all
select
    {{ unknown_sk() }}::bigint,
    null::bigint,
    null::integer,
    {{ unknown_sk() }}::bigint,
    {{ unknown_sk() }}::bigint,
    'unknown',
    null::numeric,
    null::numeric,
    null::integer,
    null::timestamptz,
    null::date,
    null,
    null,
    timestamptz '1900-01-01 00:00+00',
    timestamptz '9999-12-31 00:00+00',
    true
{% endif %}
