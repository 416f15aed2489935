{{
    config(
        unique_key=['branch_sk', 'due_date'],
        log_changes=true,
        recomputed_monthly=true,
        accumulate=['installment_count', 'unpaid_amount'],
        delete_when='installment_count = 0'
    )
}}

{% set since = increment() %}
{# From the first day of the data's month up to 90 days after its end: until the next month, when everything is computed
   again. #}
{% set first_day = month_of_data() %}

with unpaid as (
    {{ unpaid_installments(since, first_day, '((' ~ first_day ~ ' + interval \'1 month\')::date + 89)') }}
),

final as (
    select
        branch_sk,
        due_date,
        sum(_sign)::bigint as installment_count,
        0.01 * sum(_sign * unpaid) as unpaid_amount
    from unpaid
    group by branch_sk, due_date
)

select
    branch_sk,
    due_date,
    installment_count,
    unpaid_amount
from final
