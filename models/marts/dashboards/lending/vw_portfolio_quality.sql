with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

bands as (
    select * from {{ published('dim_provision_band') }}
    where scheme = {{ sql_literal(lending_settings().provision_scheme) }}
),

-- A loan without a schedule stands in every balance, and in no figure of lateness. What is overdue is no part of the
-- rows of loans: a group's loans fall due on many days.
groups as (
    select
        loans.branch_sk,
        loans.loan_officer,
        loans.product_sk,
        loans.customer_segment,
        loans.schedule_source,
        loans.is_defaulted,
        loans.is_restructured,
        loans.schedule_source <> 'none' as has_schedule,
        case
            when loans.schedule_source <> 'none' then greatest(today.as_of - loans.first_unpaid_due_date, 0)
        end as days_past_due,
        loans.loan_count,
        loans.outstanding_principal,
        0 as overdue_amount
    from {{ published('agg_portfolio_by_officer') }} as loans
    cross join today
    union all
    select
        dues.branch_sk,
        dues.loan_officer,
        dues.product_sk,
        dues.customer_segment,
        null as schedule_source,
        false as is_defaulted,
        false as is_restructured,
        true as has_schedule,
        today.as_of - dues.first_unpaid_due_date as days_past_due,
        0 as loan_count,
        0 as outstanding_principal,
        dues.unpaid_amount + dues.balance_beyond_schedule as overdue_amount
    from {{ published('agg_dues_by_officer') }} as dues
    cross join today
    where dues.due_date < today.as_of
),

placed as (
    select
        branch_sk,
        loan_officer,
        product_sk,
        customer_segment,
        schedule_source,
        case when has_schedule then {{ arrears_band('days_past_due') }} else 'no schedule' end as band,
        case
            when not has_schedule then 9
            else width_bucket(days_past_due, array[1, 31, 61, 91, 181, 361])
        end as band_order,
        coalesce(days_past_due, 0) as days_past_due,
        case
            when not has_schedule then 'no schedule'
            when is_defaulted or days_past_due > 90 then 'stage 3'
            when is_restructured or days_past_due > 30 then 'stage 2'
            else 'stage 1'
        end as stage,
        loan_count,
        outstanding_principal,
        overdue_amount
    from groups
),

final as (
    select
        placed.branch_sk,
        placed.loan_officer,
        placed.product_sk,
        placed.customer_segment,
        placed.schedule_source,
        placed.band,
        placed.band_order,
        placed.stage,
        coalesce(bands.class, 'no schedule') as class,
        coalesce(bands.class_rank, 99) as class_rank,
        coalesce(bands.provision_rate, 0) as provision_rate,
        sum(placed.loan_count)::bigint as loan_count,
        sum(placed.outstanding_principal) as outstanding_principal,
        sum(placed.overdue_amount) as overdue_amount
    from placed
    left join bands
        on placed.band <> 'no schedule' and placed.days_past_due between bands.min_days and bands.max_days
    group by
        placed.branch_sk, placed.loan_officer, placed.product_sk, placed.customer_segment, placed.schedule_source,
        placed.band, placed.band_order, placed.stage, bands.class, bands.class_rank, bands.provision_rate
)

select
    {{ branch_columns('branches') }},
    final.loan_officer,
    {{ product_columns('products') }},
    final.customer_segment,
    final.schedule_source,
    final.band,
    final.band_order,
    final.stage,
    final.class,
    final.class_rank,
    final.loan_count,
    final.outstanding_principal,
    case when final.band <> 'no schedule' then final.outstanding_principal else 0 end as scheduled_principal,
    final.overdue_amount,
    final.outstanding_principal * final.provision_rate as provision_amount
from final
inner join {{ published('dim_branch') }} as branches on final.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on final.product_sk = products.product_sk
