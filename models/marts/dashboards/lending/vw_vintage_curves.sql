-- Of each year as far as all its months have come: without its young months, the older ones alone would bend the curve.
with last_month as (
    select max(cohort_month + months_on_book * interval '1 month') as month from {{ published('agg_vintages') }}
),

reached as (
    select
        extract(year from vintages.cohort_month)::integer as cohort_year,
        {{ months_between('max(vintages.cohort_month)', 'last_month.month') }} as months_on_book
    from {{ published('agg_vintages') }} as vintages
    cross join last_month
    group by extract(year from vintages.cohort_month)::integer, last_month.month
),

vintages as (
    select * from {{ published('agg_vintages_by_officer') }}
),

months as (
    select
        cohort_year,
        months_on_book,
        branch_sk,
        product_sk,
        customer_segment,
        loan_officer,
        disbursed_amount,
        first_over_30_amount,
        first_over_90_amount,
        written_off_amount
    from vintages
    union all
    -- the curve ends here, also where nothing was added in its last months
    select
        vintages.cohort_year,
        reached.months_on_book,
        vintages.branch_sk,
        vintages.product_sk,
        vintages.customer_segment,
        vintages.loan_officer,
        0 as disbursed_amount,
        0 as first_over_30_amount,
        0 as first_over_90_amount,
        0 as written_off_amount
    from vintages
    inner join reached on vintages.cohort_year = reached.cohort_year
    where vintages.months_on_book = 0
),

summed as (
    select
        months.cohort_year,
        months.months_on_book,
        months.branch_sk,
        months.product_sk,
        months.customer_segment,
        months.loan_officer,
        sum(months.disbursed_amount) as disbursed_amount,
        sum(months.first_over_30_amount) as first_over_30_amount,
        sum(months.first_over_90_amount) as first_over_90_amount,
        sum(months.written_off_amount) as written_off_amount
    from months
    inner join reached on months.cohort_year = reached.cohort_year and months.months_on_book <= reached.months_on_book
    group by
        months.cohort_year, months.months_on_book, months.branch_sk, months.product_sk, months.customer_segment,
        months.loan_officer
)

select
    summed.cohort_year::text as cohort,
    summed.months_on_book,
    {{ branch_columns('branches') }},
    summed.loan_officer,
    {{ product_columns('products') }},
    summed.customer_segment,
    summed.disbursed_amount,
    summed.first_over_30_amount,
    summed.first_over_90_amount,
    summed.written_off_amount
from summed
inner join {{ published('dim_branch') }} as branches on summed.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on summed.product_sk = products.product_sk
