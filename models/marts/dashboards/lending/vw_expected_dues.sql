with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

dues as (
    select
        agg_dues.branch_sk,
        agg_dues.product_sk,
        agg_dues.customer_segment,
        agg_dues.loan_officer,
        sum(agg_dues.unpaid_amount) filter (where agg_dues.due_date <= today.as_of + 30) as within_30,
        sum(agg_dues.unpaid_amount) filter (where agg_dues.due_date <= today.as_of + 60) as within_60,
        sum(agg_dues.unpaid_amount) as within_90
    from {{ published('agg_dues_by_officer') }} as agg_dues
    cross join today
    where agg_dues.due_date > today.as_of and agg_dues.due_date <= today.as_of + 90
    group by agg_dues.branch_sk, agg_dues.product_sk, agg_dues.customer_segment, agg_dues.loan_officer
)

select
    {{ branch_columns('branches') }},
    dues.loan_officer,
    {{ product_columns('products') }},
    dues.customer_segment,
    horizons.due_within_days,
    coalesce(horizons.amount, 0) as amount
from dues
cross join
    lateral (
        values (30, dues.within_30), (60, dues.within_60), (90, dues.within_90)
    ) as horizons (due_within_days, amount)
inner join {{ published('dim_branch') }} as branches on dues.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on dues.product_sk = products.product_sk
