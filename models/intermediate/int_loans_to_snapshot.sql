{#
    What loans_snapshot compares; the snapshot itself narrows it to what changed. The balance is not history of the loan
    (the payments are), so that a payment makes no new version.
#}
select
    loan_id,
    customer_id,
    product_id,
    principal_amount,
    interest_rate,
    tenure_months,
    loan_status,
    disbursed_at,
    maturity_date,
    written_off_on,
    restructured_on,
    loan_officer,
    branch_code,
    created_at,
    is_deleted,
    changed_at,
    -- not compared: with it the dimension finds the versions that are new to it
    _run_id
from {{ ref('stg_loans') }}
