with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

-- What is left of each loan's instalments of the next 90 days.
dues as (
    select
        loans.branch_sk,
        loans.product_sk,
        loans.customer_segment,
        loans.loan_officer,
        schedules.due_dates[installments.position] - (select today.as_of from today) as days,
        schedules.cum_due[installments.position] - least(
            greatest(
                coalesce(schedules.cum_due[installments.position - 1], 0),
                {{ whole_cents('loans.principal_paid + loans.interest_paid') }}
            ),
            schedules.cum_due[installments.position]
        ) as unpaid
    from {{ published('fact_loans') }} as loans
    inner join {{ published('dim_open_schedule') }} as schedules on loans.loan_id = schedules.loan_id
    cross join
        lateral generate_series(
            greatest(loans.installments_paid, width_bucket((select today.as_of from today), schedules.due_dates)) + 1,
            width_bucket((select today.as_of from today) + 90, schedules.due_dates)
        ) as installments (position)
    where loans.is_in_portfolio and loans.schedule_source <> 'none'
),

totals as (
    select
        branch_sk,
        product_sk,
        customer_segment,
        loan_officer,
        0.01 * sum(unpaid) filter (where days <= 30) as within_30,
        0.01 * sum(unpaid) filter (where days <= 60) as within_60,
        0.01 * sum(unpaid) as within_90
    from dues
    group by branch_sk, product_sk, customer_segment, loan_officer
)

select
    {{ branch_columns('branches') }},
    totals.loan_officer,
    {{ product_columns('products') }},
    totals.customer_segment,
    horizons.due_within_days,
    coalesce(horizons.amount, 0) as amount
from totals
cross join
    lateral (
        values (30, totals.within_30), (60, totals.within_60), (90, totals.within_90)
    ) as horizons (due_within_days, amount)
inner join {{ published('dim_branch') }} as branches on totals.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on totals.product_sk = products.product_sk
