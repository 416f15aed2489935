{{
    config(
        unique_key=['first_unpaid_due_date', 'schedule_source', 'is_restructured', 'is_defaulted'],
        log_changes=true,
        accumulate=['loan_count', 'outstanding_principal'],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

{# Days past due on a day follow from the due date by subtraction, so that no row changes when only the day does. #}
with loans as (
    {{ signed_rows('fact_loans', since) }}
),

final as (
    select
        coalesce(first_unpaid_due_date, date '9999-12-31') as first_unpaid_due_date,
        schedule_source,
        is_restructured,
        is_defaulted,
        sum(_sign)::bigint as loan_count,
        sum(_sign * outstanding_balance) as outstanding_principal
    from loans
    where is_in_portfolio
    group by coalesce(first_unpaid_due_date, date '9999-12-31'), schedule_source, is_restructured, is_defaulted
)

select
    first_unpaid_due_date,
    schedule_source,
    is_restructured,
    is_defaulted,
    loan_count,
    outstanding_principal
from final
