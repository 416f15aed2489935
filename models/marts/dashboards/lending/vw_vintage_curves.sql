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
)

select
    vintages.cohort_year::text as cohort,
    vintages.months_on_book,
    {{ branch_columns('branches') }},
    vintages.loan_officer,
    {{ product_columns('products') }},
    vintages.customer_segment,
    vintages.disbursed_amount,
    vintages.first_over_30_amount,
    vintages.first_over_90_amount,
    vintages.written_off_amount
from {{ published('agg_vintages_by_officer') }} as vintages
inner join reached
    on vintages.cohort_year = reached.cohort_year and vintages.months_on_book <= reached.months_on_book
inner join {{ published('dim_branch') }} as branches on vintages.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on vintages.product_sk = products.product_sk
