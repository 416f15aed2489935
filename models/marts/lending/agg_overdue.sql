{{
    config(
        unique_key=['first_unpaid_due_date', 'due_date'],
        log_changes=true,
        recomputed_monthly=true,
        accumulate=['installment_count', 'unpaid_amount', 'balance_beyond_schedule'],
        delete_when='installment_count = 0'
    )
}}

{% set since = increment() %}
{# What may be overdue on a day of the data's month. Whatever fell due before the month is so on each of its days, and
   stands under the day before it. #}
{% set first_day = month_of_data() %}

with unpaid as (
    {{ unpaid_installments(since, none, '((' ~ first_day ~ ' + interval \'1 month\')::date - 1)') }}
),

final as (
    select
        first_unpaid_due_date,
        greatest(due_date, {{ first_day }} - 1) as due_date,
        sum(_sign)::bigint as installment_count,
        0.01 * sum(_sign * unpaid) as unpaid_amount,
        0.01 * sum(_sign * beyond) as balance_beyond_schedule
    from unpaid
    group by first_unpaid_due_date, greatest(due_date, {{ first_day }} - 1)
)

select
    first_unpaid_due_date,
    due_date,
    installment_count,
    unpaid_amount,
    balance_beyond_schedule
from final
