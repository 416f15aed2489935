with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

portfolio as (
    select
        greatest((select today.as_of from today) - positions.first_unpaid_due_date, 0) as days_past_due,
        positions.loan_count,
        positions.outstanding_principal
    from {{ published('agg_portfolio_by_due_date') }} as positions
    where positions.schedule_source <> 'none'
)

select
    bands.scheme,
    bands.class,
    coalesce(sum(portfolio.loan_count), 0)::bigint as loan_count,
    coalesce(sum(portfolio.outstanding_principal), 0) as outstanding_principal,
    bands.provision_rate,
    round(coalesce(sum(portfolio.outstanding_principal), 0) * bands.provision_rate, 2) as provision_amount
from {{ published('dim_provision_band') }} as bands
left join portfolio on portfolio.days_past_due between bands.min_days and bands.max_days
where bands.scheme = {{ sql_literal(lending_settings().provision_scheme) }}
group by bands.scheme, bands.class, bands.class_rank, bands.provision_rate
order by bands.class_rank
