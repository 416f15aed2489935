with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

dues as (
    select
        branch_sk,
        sum(unpaid_amount) filter (where due_date <= (select today.as_of from today) + 30) as within_30,
        sum(unpaid_amount) filter (where due_date <= (select today.as_of from today) + 60) as within_60,
        sum(unpaid_amount) as within_90
    from {{ published('agg_expected_dues') }}
    where due_date > (select today.as_of from today) and due_date <= (select today.as_of from today) + 90
    group by branch_sk
)

select
    branches.branch_code,
    horizons.due_within_days,
    coalesce(horizons.amount, 0) as amount
from dues
cross join
    lateral (
        values (30, dues.within_30), (60, dues.within_60), (90, dues.within_90)
    ) as horizons (due_within_days, amount)
inner join {{ published('dim_branch') }} as branches on dues.branch_sk = branches.branch_sk
order by branches.branch_code, horizons.due_within_days
