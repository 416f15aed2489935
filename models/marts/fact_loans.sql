{{
    config(
        unique_key=['loan_id'],
        log_changes=true,
        indexes=[{'columns': ['customer_id']}],
        indexes_of_copy=[
            {'columns': ['branch_sk', 'first_unpaid_due_date']},
            {
                'columns': ['first_unpaid_due_date'],
                'include': ['branch_sk', 'product_sk', 'loan_officer', 'is_restructured', 'outstanding_balance'],
                'where': 'is_in_portfolio'
            }
        ]
    )
}}

-- depends_on: {{ ref('dim_date') }}
{% set since = increment() %}

{#
    A loan is recomputed when its row, one of its payments (also one that left it for another loan, or was deleted), its
    schedule or its customer's present version changed. New payments are added to its totals; where one was removed or
    changed, the loan's payments are summed up again, since the date of the latest one cannot be subtracted.
#}
{% if since %}
{% set keys %}
select loan_id from {{ ref('stg_loans') }}
where _run_id > {{ since.landing_run_id }}
union
select loan_id from {{ changes_of('fact_payments') }}
where _run_id > {{ since.run_id }}
union
select loan_id from {{ changes_of('int_loan_schedules') }}
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

-- A written-off loan whose balance was set to nothing still owes what was not paid. For the schedule, principal
-- paid is what was lent less what is owed, so that it holds for a book that was taken over without earlier payments.
owed as (
    select
        loans.*,
        coalesce(payment_totals.total_paid, 0) as total_paid,
        coalesce(payment_totals.principal_paid, 0) as principal_paid,
        coalesce(payment_totals.interest_paid, 0) as interest_paid,
        coalesce(payment_totals.penalty_paid, 0) as penalty_paid,
        coalesce(payment_totals.payment_count, 0) as payment_count,
        payment_totals.last_payment_date,
        case
            when loans.loan_status = 'written_off' and loans.outstanding_balance = 0
                then loans.principal_amount - coalesce(payment_totals.principal_paid, 0)
            else loans.outstanding_balance
        end as principal_owed
    from loans
    left join payment_totals on loans.loan_id = payment_totals.loan_id
),

positions as (
    select
        owed.*,
        schedules.schedule_source,
        schedules.installment_count,
        schedules.schedule_hash,
        schedules.due_dates,
        schedules.written_off_on as left_portfolio_on,
        schedules.has_other_terms or schedules.is_rescheduled as is_restructured,
        {{ installments_paid(
            whole_cents('owed.principal_paid + owed.interest_paid'),
            whole_cents('owed.principal_amount - owed.principal_owed'), 'owed.principal_owed', 'schedules'
        ) }} as installments_paid
    from owed
    left join {{ ref('int_loan_schedules') }} as schedules on owed.loan_id = schedules.loan_id
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
        {{ date_sk(business_day('loans.disbursed_at')) }} as disbursement_date_sk,
        {{ date_sk('loans.maturity_date') }} as maturity_date_sk,
        {{ date_sk('loans.left_portfolio_on') }} as written_off_date_sk,

        -- attributes
        loans.loan_status,
        coalesce(dim_customer.customer_segment, 'unknown') as customer_segment,
        {{ officer_of('loans') }} as loan_officer,
        coalesce(loans.schedule_source, 'none') as schedule_source,

        -- measures
        loans.principal_amount,
        loans.interest_rate,
        loans.tenure_months,
        loans.outstanding_balance,
        loans.principal_owed,
        loans.total_paid,
        loans.principal_paid,
        loans.interest_paid,
        loans.penalty_paid,
        loans.payment_count,
        coalesce(loans.installment_count, 0) as installment_count,
        coalesce(loans.installments_paid, 0) as installments_paid,
        coalesce(loans.schedule_hash, 0) as schedule_hash,

        -- booleans
        loans.is_disbursed,
        loans.loan_status = 'active' as is_active,
        loans.loan_status = 'defaulted' as is_defaulted,
        loans.loan_status = 'repaid' as is_repaid,
        loans.loan_status = 'written_off' as is_written_off,
        coalesce(loans.is_restructured, false) as is_restructured,
        loans.is_disbursed and loans.loan_status <> 'written_off' and loans.outstanding_balance > 0 as is_in_portfolio,

        -- dates
        loans.last_payment_date,
        case
            when loans.is_disbursed and loans.principal_owed > 0 then loans.due_dates[loans.installments_paid + 1]
        end as first_unpaid_due_date,

        loans.is_deleted
    from positions as loans
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
    written_off_date_sk,
    loan_status,
    customer_segment,
    loan_officer,
    schedule_source,
    principal_amount,
    interest_rate,
    tenure_months,
    outstanding_balance,
    principal_owed,
    total_paid,
    principal_paid,
    interest_paid,
    penalty_paid,
    payment_count,
    installment_count,
    installments_paid,
    schedule_hash,
    is_disbursed,
    is_active,
    is_defaulted,
    is_repaid,
    is_written_off,
    is_restructured,
    is_in_portfolio,
    last_payment_date,
    first_unpaid_due_date
from final
