-- The totals of each loan are those of its payments. Increments add to the totals, so when all data is tested (dbt
-- test, the nightly run) every loan is summed up again. In every build assert_aggregates_agree compares by branch.
with by_payment as (
    select
        loan_id,
        count(*) as payment_count,
        sum(payment_amount) as total_paid,
        max(payment_date) as last_payment_date
    from {{ ref('fact_payments') }}
    where {{ tests_look_at_everything() }}
    group by loan_id
)

select
    loans.loan_id,
    by_payment.payment_count as expected_count,
    loans.payment_count as found_count,
    by_payment.total_paid as expected_total,
    loans.total_paid as found_total,
    by_payment.last_payment_date as expected_last_date,
    loans.last_payment_date as found_last_date
from {{ ref('fact_loans') }} as loans
left join by_payment on loans.loan_id = by_payment.loan_id
where
    {{ tests_look_at_everything() }}
    and (
        loans.payment_count <> coalesce(by_payment.payment_count, 0)
        or loans.total_paid <> coalesce(by_payment.total_paid, 0)
        or loans.last_payment_date is distinct from by_payment.last_payment_date
    )
