{{ config(materialized='stable_view', contract={'enforced': false}) }}

-- The schedules as rows. It reads the facts as they are now, which may be newer than what is published.
select
    loans.loan_id,
    coalesce(schedules.installment_numbers[installments.position], installments.position)::integer as installment_no,
    installments.due_date,
    0.01 * (installments.cum_principal - coalesce(schedules.cum_principal[installments.position - 1], 0))
        as principal_due,
    0.01 * (
        installments.cum_due - coalesce(schedules.cum_due[installments.position - 1], 0)
        - installments.cum_principal + coalesce(schedules.cum_principal[installments.position - 1], 0)
    ) as interest_due,
    installments.position <= loans.installments_paid as is_paid
from {{ ref('fact_loans') }} as loans
inner join {{ ref('int_loan_schedules') }} as schedules on loans.loan_id = schedules.loan_id
cross join
    lateral unnest(schedules.due_dates, schedules.cum_principal, schedules.cum_due)
    with ordinality as installments (due_date, cum_principal, cum_due, position)
