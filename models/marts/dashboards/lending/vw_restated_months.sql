with reported as (
    {{ last_reports() }}
),

reported_totals as (
    select
        month_end,
        sum(gross_loan_portfolio) as gross_loan_portfolio,
        sum(par_1) as par_1,
        sum(par_30) as par_30,
        sum(par_60) as par_60,
        sum(par_90) as par_90,
        sum(par_180) as par_180
    from reported
    group by month_end
),

restated_totals as (
    select
        month_end,
        sum(gross_loan_portfolio) as gross_loan_portfolio,
        sum(par_1) as par_1,
        sum(par_30) as par_30,
        sum(par_60) as par_60,
        sum(par_90) as par_90,
        sum(par_180) as par_180
    from {{ published('agg_month_ends_by_branch') }}
    group by month_end
)

select
    reported_totals.month_end,
    figures.figure,
    figures.reported,
    coalesce(figures.restated, 0) as restated,
    coalesce(figures.restated, 0) - figures.reported as difference
from reported_totals
left join restated_totals on reported_totals.month_end = restated_totals.month_end
cross join
    lateral (
        values
        ('gross_loan_portfolio', reported_totals.gross_loan_portfolio, restated_totals.gross_loan_portfolio),
        ('par_1', reported_totals.par_1, restated_totals.par_1),
        ('par_30', reported_totals.par_30, restated_totals.par_30),
        ('par_60', reported_totals.par_60, restated_totals.par_60),
        ('par_90', reported_totals.par_90, restated_totals.par_90),
        ('par_180', reported_totals.par_180, restated_totals.par_180)
    ) as figures (figure, reported, restated)
order by reported_totals.month_end, figures.figure
