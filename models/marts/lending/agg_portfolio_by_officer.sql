{{
    config(
        unique_key=[
            'branch_sk', 'product_sk', 'customer_segment', 'loan_officer', 'schedule_source', 'is_restructured',
            'is_defaulted', 'first_unpaid_due_date'
        ],
        log_changes=true,
        accumulate=['loan_count', 'outstanding_principal'],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

{# Days past due on a day follow from the due date by subtraction, so that no row changes when only the day does. It is
   what the filters act on; views without filters read agg_portfolio. #}
with loans as (
    {{ signed_rows('fact_loans', since) }}
),

final as (
    select
        branch_sk,
        product_sk,
        customer_segment,
        loan_officer,
        schedule_source,
        is_restructured,
        is_defaulted,
        coalesce(first_unpaid_due_date, date '9999-12-31') as first_unpaid_due_date,
        sum(_sign)::bigint as loan_count,
        sum(_sign * outstanding_balance) as outstanding_principal
    from loans
    where is_in_portfolio
    group by
        branch_sk, product_sk, customer_segment, loan_officer, schedule_source, is_restructured, is_defaulted,
        coalesce(first_unpaid_due_date, date '9999-12-31')
)

select
    branch_sk,
    product_sk,
    customer_segment,
    loan_officer,
    schedule_source,
    is_restructured,
    is_defaulted,
    first_unpaid_due_date,
    loan_count,
    outstanding_principal
from final
