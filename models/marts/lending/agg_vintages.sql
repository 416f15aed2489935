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
        sum(_sign * disbursed_amount) as disbursed_amount,
        sum(_sign * first_over_30_amount) as first_over_30_amount,
        sum(_sign * first_over_90_amount) as first_over_90_amount,
        sum(_sign * written_off_amount) as written_off_amount
    from months
    where schedule_source <> 'none'
    group by cohort_month, {{ months_between('cohort_month', 'month_end') }}
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
