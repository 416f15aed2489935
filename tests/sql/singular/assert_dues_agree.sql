-- What falls due in the month of the data is the same by branch and by how late its loans are, on each due date. Only
-- aggregates are read, so this runs in every build.
with expected as (
    select
        due_date,
        sum(installment_count) as installment_count,
        sum(unpaid_amount) as unpaid_amount
    from {{ ref('agg_expected_dues') }}
    where due_date < {{ month_of_data() }} + interval '1 month'
    group by due_date
),

overdue as (
    select
        due_date,
        sum(installment_count) as installment_count,
        sum(unpaid_amount) as unpaid_amount
    from {{ ref('agg_overdue') }}
    where due_date >= {{ month_of_data() }}
    group by due_date
)

select
    coalesce(expected.due_date, overdue.due_date) as due_date,
    expected.unpaid_amount as amount_by_branch,
    overdue.unpaid_amount as amount_by_lateness
from expected
full outer join overdue on expected.due_date = overdue.due_date
where
    coalesce(expected.installment_count, 0) <> coalesce(overdue.installment_count, 0)
    or coalesce(expected.unpaid_amount, 0) <> coalesce(overdue.unpaid_amount, 0)
