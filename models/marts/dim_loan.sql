{{
    config(
        unique_key=['loan_sk'],
        log_changes=true,
        indexes=[{'columns': ['loan_id', 'valid_from']}, {'columns': ['customer_id']}]
    )
}}

{% set since = increment() %}
{% if since %}
{% set changed %}
select loan_id from {{ ref('loans_snapshot') }}
where _run_id > {{ since.landing_run_id }}
{% endset %}
{% endif %}

with versions as (
    select
        *,
        row_number() over (partition by loan_id order by dbt_valid_from) as version_number
    from {{ ref('loans_snapshot') }}
    {% if since %}
    where loan_id in ({{ changed }})
    {% endif %}
),

numbered as (
    {{ numbered_loan_versions(ref('loans_snapshot'), this, changed if since) }}
),

final as (
    select
        -- keys
        case
            when {{ has_readable_loan_sk('versions.loan_id', 'versions.version_number') }}
                then {{ version_sk('versions.loan_id', 'versions.version_number') }}
            else numbered.loan_sk
        end as loan_sk,
        versions.loan_id,
        versions.customer_id,
        {{ version_sk('versions.product_id', 0) }} as product_sk,
        {{ branch_sk('versions.branch_code') }} as branch_sk,

        -- attributes
        versions.loan_status,
        versions.principal_amount,
        versions.interest_rate,
        versions.tenure_months,
        versions.disbursed_at,
        versions.maturity_date,
        versions.loan_officer,
        versions.branch_code,

        -- history; what happened before the first version seen belongs to it
        case
            when versions.version_number = 1 then timestamptz '1900-01-01 00:00+00'
            else versions.dbt_valid_from
        end as valid_from,
        versions.dbt_valid_to as valid_to,
        versions.dbt_valid_to = timestamptz '9999-12-31 00:00+00' as is_current
    from versions
    left join numbered
        on versions.loan_id = numbered.loan_id and versions.dbt_valid_from = numbered.dbt_valid_from
    where not versions.is_deleted
)

{% if since %}
select
    *,
    false as is_removed
from final
{% else %}
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
from final
union all
select
    {{ unknown_sk() }}::bigint as loan_sk,
    {{ unknown_loan_id() }} as loan_id,
    null::integer as customer_id,
    {{ unknown_sk() }}::bigint as product_sk,
    {{ unknown_sk() }}::bigint as branch_sk,
    'unknown' as loan_status,
    null::numeric as principal_amount,
    null::numeric as interest_rate,
    null::integer as tenure_months,
    null::timestamptz as disbursed_at,
    null::date as maturity_date,
    null as loan_officer,
    null as branch_code,
    timestamptz '1900-01-01 00:00+00' as valid_from,
    timestamptz '9999-12-31 00:00+00' as valid_to,
    true as is_current
{% endif %}
