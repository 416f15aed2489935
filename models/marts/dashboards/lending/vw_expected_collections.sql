with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

dues as (
    select
        agg_dues.branch_sk,
        agg_dues.unpaid_amount,
        agg_dues.due_date - today.as_of as days
    from {{ published('agg_dues') }} as agg_dues
    cross join today
    where agg_dues.due_date > today.as_of and agg_dues.due_date <= today.as_of + 90
)

select
    branches.branch_code,
    horizons.due_within_days,
    coalesce(sum(dues.unpaid_amount) filter (where dues.days <= horizons.due_within_days), 0) as amount
from dues
cross join (values (30), (60), (90)) as horizons (due_within_days)
inner join {{ published('dim_branch') }} as branches on dues.branch_sk = branches.branch_sk
group by branches.branch_code, horizons.due_within_days
order by branches.branch_code, horizons.due_within_days
