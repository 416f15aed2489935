with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

positions as (
    select
        {{ arrears_band('(select today.as_of from today) - first_unpaid_due_date') }} as band,
        loan_count,
        outstanding_principal
    from {{ published('agg_portfolio_by_due_date') }}
    where schedule_source <> 'none'
),

by_band as (
    select
        band,
        sum(loan_count)::bigint as loan_count,
        sum(outstanding_principal) as outstanding_principal
    from positions
    group by band
),

overdue as (
    select
        {{ arrears_band('(select today.as_of from today) - first_unpaid_due_date') }} as band,
        unpaid_amount + balance_beyond_schedule as amount
    from {{ published('agg_overdue') }}
    where due_date < (select today.as_of from today)
),

overdue_by_band as (
    select
        band,
        sum(amount) as overdue_amount
    from overdue
    group by band
)

select
    bands.band,
    coalesce(by_band.loan_count, 0) as loan_count,
    coalesce(by_band.outstanding_principal, 0) as outstanding_principal,
    coalesce(overdue_by_band.overdue_amount, 0) as overdue_amount
from
    unnest(array['current', '1-30', '31-60', '61-90', '91-180', '181-360', 'over_360'])
    with ordinality as bands (band, position)
left join by_band on bands.band = by_band.band
left join overdue_by_band on bands.band = overdue_by_band.band
order by bands.position
