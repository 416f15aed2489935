-- What is not paid by branch is the sum of what is not paid by product, segment and officer, on each due date. Only
-- aggregates are read, so this runs in every build.
with fine as (
    select
        branch_sk,
        due_date,
        sum(installment_count) as installment_count,
        sum(unpaid_amount + balance_beyond_schedule) as unpaid_amount
    from {{ ref('agg_dues_by_officer') }}
    group by branch_sk, due_date
),

by_branch as (
    select
        branch_sk,
        due_date,
        sum(installment_count) as installment_count,
        sum(unpaid_amount + balance_beyond_schedule) as unpaid_amount
    from {{ ref('agg_dues') }}
    group by branch_sk, due_date
)

select
    coalesce(fine.branch_sk, by_branch.branch_sk) as branch_sk,
    coalesce(fine.due_date, by_branch.due_date) as due_date,
    fine.unpaid_amount as amount_of_all,
    by_branch.unpaid_amount as amount_by_branch
from fine
full outer join by_branch on fine.branch_sk = by_branch.branch_sk and fine.due_date = by_branch.due_date
where
    coalesce(fine.installment_count, 0) <> coalesce(by_branch.installment_count, 0)
    or coalesce(fine.unpaid_amount, 0) <> coalesce(by_branch.unpaid_amount, 0)
