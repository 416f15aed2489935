{{
    config(
        unique_key=['loan_sk'],
        log_changes=true,
        unknown_member={
            'loan_id': unknown_loan_id(),
            'product_sk': unknown_sk(),
            'branch_sk': unknown_sk(),
            'loan_status': "'unknown'",
            'valid_from': start_of_history(),
            'valid_to': end_of_history(),
            'is_current': 'true'
        },
        indexes=[{'columns': ['loan_id', 'valid_from']}, {'columns': ['customer_id']}]
    )
}}

{% set since = increment() %}

with versions as (
    {{ numbered_versions(ref('loans_snapshot'), 'loan_id', since) }}
),

numbered as (
    {{ numbered_loan_versions(ref('loans_snapshot'), this, since) }}
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
        versions.written_off_on,
        versions.restructured_on,
        versions.loan_officer,
        versions.branch_code,

        -- history
        {{ validity_of_version('versions') }}
    from versions
    left join numbered
        on versions.loan_id = numbered.loan_id and versions.dbt_valid_from = numbered.dbt_valid_from
    where not versions.is_deleted
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
    written_off_on,
    restructured_on,
    loan_officer,
    branch_code,
    valid_from,
    valid_to,
    is_current
from final
