with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

bands as (
    select * from {{ published('dim_provision_band') }}
    where scheme = {{ sql_literal(lending_settings().provision_scheme) }}
),

-- A loan without a schedule stands in every balance, and in no figure of lateness.
loans as (
    select
        loans.*,
        loans.schedule_source <> 'none' as has_schedule,
        case
            when loans.schedule_source <> 'none' then greatest(today.as_of - loans.first_unpaid_due_date, 0)
        end as days_past_due
    from {{ published('fact_loans') }} as loans
    cross join today
    where loans.is_in_portfolio
),

placed as (
    select
        branch_sk,
        loan_officer,
        product_sk,
        customer_segment,
        schedule_source,
        case when has_schedule then {{ arrears_band('coalesce(days_past_due, 0)') }} else 'no schedule' end as band,
        case
            when not has_schedule then 9
            else width_bucket(coalesce(days_past_due, 0), array[1, 31, 61, 91, 181, 361])
        end as band_order,
        coalesce(days_past_due, 0) as days_past_due,
        case
            when not has_schedule then 'no schedule'
            when is_defaulted or days_past_due > 90 then 'stage 3'
            when is_restructured or days_past_due > 30 then 'stage 2'
            else 'stage 1'
        end as stage,
        outstanding_balance
    from loans
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
        count(*) as loan_count,
        sum(placed.outstanding_balance) as outstanding_principal
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
    final.outstanding_principal * final.provision_rate as provision_amount
from final
inner join {{ published('dim_branch') }} as branches on final.branch_sk = branches.branch_sk
left join {{ published('dim_product') }} as products on final.product_sk = products.product_sk
