with today as (
    select {{ business_day('data_as_of') }} as as_of from {{ ref('published_state') }}
),

bands as (
    select * from {{ published('dim_provision_band') }}
    where scheme = {{ sql_literal(lending_settings().provision_scheme) }}
),

-- A loan without a schedule counts in every balance, and in no figure of arrears.
loans as (
    select
        loan_id,
        branch_sk,
        loan_officer,
        product_sk,
        customer_segment,
        schedule_source,
        is_defaulted,
        is_restructured,
        outstanding_balance,
        case
            when schedule_source <> 'none' then greatest((select today.as_of from today) - first_unpaid_due_date, 0)
        end as days_past_due
    from {{ published('fact_loans') }}
    where is_in_portfolio
),

late as (
    select
        late_loans.loan_id,
        0.01 * {{ overdue_by(
            'schedules', '(select today.as_of from today)',
            whole_cents('late_loans.principal_paid + late_loans.interest_paid'),
            whole_cents('late_loans.principal_owed'), 'late_loans.installments_paid'
        ) }} as overdue_amount
    from {{ published('fact_loans') }} as late_loans
    inner join {{ published('dim_open_schedule') }} as schedules on late_loans.loan_id = schedules.loan_id
    where late_loans.is_in_portfolio and late_loans.first_unpaid_due_date < (select today.as_of from today)
),

placed as (
    select
        loans.branch_sk,
        loans.loan_officer,
        loans.product_sk,
        loans.customer_segment,
        loans.schedule_source,
        case
            when loans.days_past_due is null then 'no schedule'
            else {{ arrears_band('loans.days_past_due') }}
        end as band,
        coalesce(width_bucket(loans.days_past_due, array[1, 31, 61, 91, 181, 361]), 9) as band_order,
        coalesce(loans.days_past_due, 0) as days_past_due,
        case
            when loans.days_past_due is null then 'no schedule'
            else 'stage ' || ({{ ifrs9_stage('loans.days_past_due', 'loans.is_defaulted', 'loans.is_restructured') }})
        end as stage,
        loans.outstanding_balance,
        late.overdue_amount
    from loans
    left join late on loans.loan_id = late.loan_id
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
        sum(placed.outstanding_balance) as outstanding_principal,
        coalesce(sum(placed.overdue_amount), 0) as overdue_amount
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
