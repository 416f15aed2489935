-- A loan that is more than 60 days past due is more than 30 days past due: each rung of the ladder is a part of the one
-- before it, and all are parts of the portfolio. Only aggregates are read, so this runs in every build.
with ladders as (
    select
        month_end,
        branch_sk,
        array[gross_loan_portfolio, scheduled_portfolio, par_1, par_30, par_60, par_90, par_180, 0] as rungs
    from {{ ref('agg_month_ends_by_branch') }}
)

select
    ladders.month_end,
    ladders.branch_sk,
    rungs.position,
    ladders.rungs[rungs.position] as amount,
    ladders.rungs[rungs.position + 1] as part_of_it
from ladders
cross join generate_series(1, 7) as rungs (position)
where ladders.rungs[rungs.position] < ladders.rungs[rungs.position + 1]
