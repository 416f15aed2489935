-- Every payment and loan that stands at the source is in its fact, once, with its amounts. Reads whole tables, so it
-- looks only when all data is tested (dbt test, the nightly run); in between, the increments carry the promise.
with expected as (
    select
        'payments' as fact_name,
        count(*) as row_count,
        sum(payment_amount) as amount
    from {{ ref('stg_payments') }}
    where not is_deleted
    union all
    select
        'loans' as fact_name,
        count(*) as row_count,
        sum(principal_amount) as amount
    from {{ ref('stg_loans') }}
    where not is_deleted
),

found as (
    select
        'payments' as fact_name,
        count(*) as row_count,
        sum(payment_amount) as amount
    from {{ ref('fact_payments') }}
    union all
    select
        'loans' as fact_name,
        count(*) as row_count,
        sum(principal_amount) as amount
    from {{ ref('fact_loans') }}
)

select
    expected.fact_name,
    expected.row_count as expected_rows,
    found.row_count as found_rows,
    expected.amount as expected_amount,
    found.amount as found_amount
from expected
inner join found on expected.fact_name = found.fact_name
where
    {{ tests_look_at_everything() }}
    and (
        expected.row_count <> found.row_count
        or coalesce(expected.amount, 0) <> coalesce(found.amount, 0)
    )
