{{
    config(
        unique_key=['cohort_month', 'months_on_book'],
        accumulate=[
            'month_count', 'disbursed_amount', 'first_over_30_amount', 'first_over_90_amount', 'written_off_amount'
        ],
        delete_when='month_count = 0'
    )
}}

{% set since = increment() %}

{# What is new in each month on book; vw_vintages adds it up. #}
with months as (
    {{ signed_rows('fact_loan_month_end', since) }}
),

final as (
    select
        cohort_month,
        {{ months_between('cohort_month', 'month_end') }} as months_on_book,
        sum(_sign)::bigint as month_count,
        {{ signed_sum('disbursed_amount', since, 'disbursed_amount <> 0') }} as disbursed_amount,
        {{ signed_sum('first_over_30_amount', since, 'first_over_30_amount <> 0') }} as first_over_30_amount,
        {{ signed_sum('first_over_90_amount', since, 'first_over_90_amount <> 0') }} as first_over_90_amount,
        {{ signed_sum('written_off_amount', since, 'written_off_amount <> 0') }} as written_off_amount
    from months
    where schedule_source <> 'none'
    group by cohort_month, month_end
)

select
    cohort_month,
    months_on_book,
    month_count,
    disbursed_amount,
    first_over_30_amount,
    first_over_90_amount,
    written_off_amount
from final
