-- Every payment and loan that stands at the source is in its fact, once, with its amounts. Increments carry the promise
-- between two nightly runs; a row that was changed by hand, or missed once, would stay so. Reads complete tables, so it
-- looks only when all data is tested (dbt test, the nightly run). The joins contain loan_id, by which a cluster
-- distributes both sides.
with expected_payments as (
    select
        payment_id,
        loan_id,
        jsonb_build_array(payment_amount, principal_amount, interest_amount, penalty_amount, payment_date) as measures
    from {{ ref('stg_payments') }}
    where not is_deleted and {{ tests_look_at_everything() }}
),

found_payments as (
    select
        payment_id,
        loan_id,
        jsonb_build_array(payment_amount, principal_amount, interest_amount, penalty_amount, payment_date) as measures
    from {{ ref('fact_payments') }}
    where {{ tests_look_at_everything() }}
),

expected_loans as (
    select
        loan_id,
        jsonb_build_array(
            customer_id, loan_status, principal_amount, interest_rate, tenure_months, outstanding_balance
        ) as measures
    from {{ ref('stg_loans') }}
    where not is_deleted and {{ tests_look_at_everything() }}
),

found_loans as (
    select
        loan_id,
        jsonb_build_array(
            customer_id, loan_status, principal_amount, interest_rate, tenure_months, outstanding_balance
        ) as measures
    from {{ ref('fact_loans') }}
    where {{ tests_look_at_everything() }}
)

select
    'fact_payments' as fact_name,
    coalesce(expected.loan_id, found.loan_id) as loan_id,
    coalesce(expected.payment_id, found.payment_id) as payment_id,
    expected.measures as expected_measures,
    found.measures as found_measures
from expected_payments as expected
full outer join found_payments as found on expected.loan_id = found.loan_id and expected.payment_id = found.payment_id
where expected.measures is distinct from found.measures
union all
select
    'fact_loans' as fact_name,
    coalesce(expected.loan_id, found.loan_id) as loan_id,
    null as payment_id,
    expected.measures as expected_measures,
    found.measures as found_measures
from expected_loans as expected
full outer join found_loans as found on expected.loan_id = found.loan_id
where expected.measures is distinct from found.measures
