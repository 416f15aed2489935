-- Every payment and loan that stands at the source is in its fact, once, with its amounts. Reads whole tables, so it
-- looks only when all data is tested (dbt test, the nightly run); in between, the increments carry the promise.
-- The condition stands in each part: Citus computes the parts before it looks at what is asked of them.
with expected as (
    select
        'payments' as fact_name,
        count(*) as row_count,
        sum(payment_amount) as amount
    from {{ ref('stg_payments') }}
    where not is_deleted and {{ tests_look_at_everything() }}
    union all
    select
        'loans' as fact_name,
        count(*) as row_count,
        sum(principal_amount) as amount
    from {{ ref('stg_loans') }}
    where not is_deleted and {{ tests_look_at_everything() }}
),

found as (
    select
        'payments' as fact_name,
        count(*) as row_count,
        sum(payment_amount) as amount
    from {{ ref('fact_payments') }}
    where {{ tests_look_at_everything() }}
    union all
    select
        'loans' as fact_name,
        count(*) as row_count,
        sum(principal_amount) as amount
    from {{ ref('fact_loans') }}
    where {{ tests_look_at_everything() }}
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
    expected.row_count <> found.row_count
    or coalesce(expected.amount, 0) <> coalesce(found.amount, 0)
