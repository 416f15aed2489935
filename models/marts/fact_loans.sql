{{
    config(
        unique_key=['loan_id'],
        log_changes=true,
        indexes=[{'columns': ['customer_id']}]
    )
}}

-- depends_on: {{ ref('dim_date') }}
{% set since = increment() %}

{#
    A loan is recomputed when its row, one of its payments (also one that left it for another loan, or was deleted)
    or its customer's present version changed. Payments that were only added are added to its totals; where one was taken
    away or changed, the loan's payments are summed up again, since a latest payment can not be subtracted.
#}
{% if since %}
{% set keys %}
select loan_id from {{ ref('stg_loans') }}
where _run_id > {{ since.landing_run_id }}
union
select loan_id from {{ changes_of('fact_payments') }}
where _run_id > {{ since.run_id }}
union
select present.loan_id from {{ this }} as present
where
    present.customer_id in (
        select customer_id from {{ changes_of('dim_customer') }}
        where _run_id > {{ since.run_id }}
    )
{% endset %}
{% set affected = materialize_keys(since, 'affected', keys) %}
{% endif %}

with
{% if since %}
changed_payments as (
    select
        loan_id,
        sum(_sign)::bigint as payment_count,
        sum(_sign * payment_amount) as total_paid,
        sum(_sign * principal_amount) as principal_paid,
        sum(_sign * interest_amount) as interest_paid,
        sum(_sign * penalty_amount) as penalty_paid,
        max(payment_date) as last_payment_date,
        bool_and(_sign > 0) as only_added
    from {{ changes_of('fact_payments') }}
    where _run_id > {{ since.run_id }}
    group by loan_id
),

added as (
    select
        present.loan_id,
        present.payment_count + coalesce(changed.payment_count, 0) as payment_count,
        present.total_paid + coalesce(changed.total_paid, 0) as total_paid,
        present.principal_paid + coalesce(changed.principal_paid, 0) as principal_paid,
        present.interest_paid + coalesce(changed.interest_paid, 0) as interest_paid,
        present.penalty_paid + coalesce(changed.penalty_paid, 0) as penalty_paid,
        greatest(present.last_payment_date, changed.last_payment_date) as last_payment_date
    from {{ affected }} as affected
    inner join {{ this }} as present on affected.loan_id = present.loan_id
    left join changed_payments as changed on present.loan_id = changed.loan_id
    where coalesce(changed.only_added, true)
),
{% endif %}

loans as (
    {% if since %}
    select stg_loans.*
    from {{ affected }} as affected
    inner join {{ ref('stg_loans') }} as stg_loans on affected.loan_id = stg_loans.loan_id
    {% else %}
    select * from {{ ref('stg_loans') }}
    where not is_deleted
    {% endif %}
),

payment_totals as (
    select
        payments.loan_id,
        count(*) as payment_count,
        sum(payments.payment_amount) as total_paid,
        sum(payments.principal_amount) as principal_paid,
        sum(payments.interest_amount) as interest_paid,
        sum(payments.penalty_amount) as penalty_paid,
        max(payments.payment_date) as last_payment_date
    from {{ ref('fact_payments') }} as payments
    {% if since %}
    where
        payments.loan_id in (
            select loan_id from {{ affected }}
            except
            select loan_id from added
        )
    {% endif %}
    group by payments.loan_id
    {% if since %}
    union all
    select
        loan_id,
        payment_count,
        total_paid,
        principal_paid,
        interest_paid,
        penalty_paid,
        last_payment_date
    from added
    {% endif %}
),

final as (
    select
        -- keys
        loans.loan_id,
        loans.customer_id,
        coalesce(dim_customer.customer_sk, {{ unknown_sk() }}) as customer_sk,
        coalesce(dim_loan.loan_sk, {{ unknown_sk() }}) as loan_sk,
        {{ version_sk('loans.product_id', 0) }} as product_sk,
        {{ branch_sk('loans.branch_code') }} as branch_sk,
        {{ date_sk("(loans.disbursed_at at time zone 'UTC')::date") }} as disbursement_date_sk,
        {{ date_sk('loans.maturity_date') }} as maturity_date_sk,

        -- attributes
        loans.loan_status,
        coalesce(dim_customer.customer_segment, 'unknown') as customer_segment,
        coalesce(nullif(trim(loans.loan_officer), ''), 'unassigned') as loan_officer,

        -- measures
        loans.principal_amount,
        loans.interest_rate,
        loans.tenure_months,
        loans.outstanding_balance,
        coalesce(payment_totals.total_paid, 0) as total_paid,
        coalesce(payment_totals.principal_paid, 0) as principal_paid,
        coalesce(payment_totals.interest_paid, 0) as interest_paid,
        coalesce(payment_totals.penalty_paid, 0) as penalty_paid,
        coalesce(payment_totals.payment_count, 0) as payment_count,

        -- booleans
        loans.is_disbursed,
        loans.loan_status = 'active' as is_active,
        loans.loan_status = 'defaulted' as is_defaulted,
        loans.loan_status = 'repaid' as is_repaid,
        loans.loan_status = 'written_off' as is_written_off,

        -- dates
        payment_totals.last_payment_date,

        loans.is_deleted
    from loans
    left join payment_totals on loans.loan_id = payment_totals.loan_id
    left join {{ ref('dim_loan') }} as dim_loan
        on loans.loan_id = dim_loan.loan_id and dim_loan.is_current
    left join {{ ref('dim_customer') }} as dim_customer
        on loans.customer_id = dim_customer.customer_id and dim_customer.is_current
)

select
    {% if since %}
    is_deleted as is_removed,
    {% endif %}
    loan_id,
    customer_id,
    customer_sk,
    loan_sk,
    product_sk,
    branch_sk,
    disbursement_date_sk,
    maturity_date_sk,
    loan_status,
    customer_segment,
    loan_officer,
    principal_amount,
    interest_rate,
    tenure_months,
    outstanding_balance,
    total_paid,
    principal_paid,
    interest_paid,
    penalty_paid,
    payment_count,
    is_disbursed,
    is_active,
    is_defaulted,
    is_repaid,
    is_written_off,
    last_payment_date
from final
