-- Months are reported by branch, so that this is the finest that a report can be compared in.
with reported as (
    {{ last_reports() }}
),

months as (
    select distinct month_end from reported
),

restated as (
    select present.*
    from {{ published('agg_month_ends_by_branch') }} as present
    inner join months on present.month_end = months.month_end
),

compared as (
    select
        coalesce(reported.month_end, restated.month_end) as month_end,
        coalesce(reported.branch_sk, restated.branch_sk) as branch_sk,
        figures.figure,
        coalesce(figures.reported, 0) as reported,
        coalesce(figures.restated, 0) as restated
    from reported
    full outer join restated
        on reported.month_end = restated.month_end and reported.branch_sk = restated.branch_sk
    cross join
        lateral (
            values
            ('gross_loan_portfolio', reported.gross_loan_portfolio, restated.gross_loan_portfolio),
            ('par_1', reported.par_1, restated.par_1),
            ('par_30', reported.par_30, restated.par_30),
            ('par_60', reported.par_60, restated.par_60),
            ('par_90', reported.par_90, restated.par_90),
            ('par_180', reported.par_180, restated.par_180)
        ) as figures (figure, reported, restated)
),

-- A figure whose branches differ and whose sum does not has been restated all the same.
marked as (
    select
        *,
        bool_or(reported <> restated) over (partition by month_end, figure) as is_restated
    from compared
)

select
    date_trunc('month', marked.month_end)::date as month,
    marked.month_end,
    {{ branch_columns('branches') }},
    marked.figure,
    marked.reported,
    marked.restated,
    marked.restated - marked.reported as difference
from marked
inner join {{ published('dim_branch') }} as branches on marked.branch_sk = branches.branch_sk
where marked.is_restated
