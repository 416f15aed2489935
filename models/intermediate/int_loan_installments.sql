{{
    config(
        materialized='upsert',
        schema='staging',
        unique_key=['installment_id'],
        log_changes=true,
        indexes=[{'columns': ['loan_id']}]
    )
}}

{% set since = increment() %}

with installments as (
    select * from {{ ref('stg_loan_installments') }}
    {% if since %}
    where _run_id > {{ since.landing_run_id }}
    {% else %}
    where not is_deleted
    {% endif %}
)

select
    {% if since %}
    is_deleted as is_removed,
    {% endif %}
    installment_id,
    loan_id,
    installment_no,
    due_date,
    principal_due,
    interest_due
from installments
