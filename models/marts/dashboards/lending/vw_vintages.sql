with vintages as (
    select * from {{ published('agg_vintages') }}
),

last_month as (
    select max(cohort_month + months_on_book * interval '1 month') as month from vintages
),

cohorts as (
    select
        vintages.cohort_month,
        {{ months_between('vintages.cohort_month', 'last_month.month') }} as age
    from vintages
    cross join last_month
    group by vintages.cohort_month, last_month.month
)

select
    cohorts.cohort_month,
    ages.months_on_book,
    sum(vintages.disbursed_amount) over so_far as disbursed_amount,
    sum(coalesce(vintages.first_over_30_amount, 0)) over so_far as ever_30_amount,
    sum(coalesce(vintages.first_over_90_amount, 0)) over so_far as ever_90_amount,
    sum(coalesce(vintages.written_off_amount, 0)) over so_far as written_off_amount
from cohorts
cross join lateral generate_series(0, cohorts.age) as ages (months_on_book)
left join vintages
    on cohorts.cohort_month = vintages.cohort_month and ages.months_on_book = vintages.months_on_book
window so_far as (partition by cohorts.cohort_month order by ages.months_on_book rows unbounded preceding)
order by cohorts.cohort_month, ages.months_on_book
