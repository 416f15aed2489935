{{
    config(
        unique_key=['cohort_year', 'months_on_book', 'branch_sk', 'product_sk', 'customer_segment', 'loan_officer'],
        log_changes=true,
        accumulate=[
            'event_count', 'disbursed_amount', 'first_over_30_amount', 'first_over_90_amount', 'written_off_amount'
        ],
        delete_when='event_count = 0'
    )
}}

{% set since = increment() %}

{# Of a loan's months only those that bring something, at the branch, product, segment and officer of the time. #}
with months as (
    {{ signed_rows('fact_loan_month_end', since) }}
),

final as (
    select
        extract(year from cohort_month)::integer as cohort_year,
        {{ months_between('cohort_month', 'month_end') }} as months_on_book,
        branch_sk,
        product_sk,
        customer_segment,
        loan_officer,
        sum(_sign)::bigint as event_count,
        {{ signed_sum('disbursed_amount', since, 'disbursed_amount <> 0') }} as disbursed_amount,
        {{ signed_sum('first_over_30_amount', since, 'first_over_30_amount <> 0') }} as first_over_30_amount,
        {{ signed_sum('first_over_90_amount', since, 'first_over_90_amount <> 0') }} as first_over_90_amount,
        {{ signed_sum('written_off_amount', since, 'written_off_amount <> 0') }} as written_off_amount
    from months
    where
        schedule_source <> 'none'
        and (disbursed_amount <> 0 or first_over_30_amount <> 0 or first_over_90_amount <> 0 or written_off_amount <> 0)
    group by
        extract(year from cohort_month)::integer, {{ months_between('cohort_month', 'month_end') }},
        branch_sk, product_sk, customer_segment, loan_officer
)

select
    cohort_year,
    months_on_book,
    branch_sk,
    product_sk,
    customer_segment,
    loan_officer,
    event_count,
    disbursed_amount,
    first_over_30_amount,
    first_over_90_amount,
    written_off_amount
from final
