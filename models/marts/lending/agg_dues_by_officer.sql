{{
    config(
        unique_key=[
            'branch_sk', 'product_sk', 'customer_segment', 'loan_officer', 'first_unpaid_due_date', 'due_date'
        ],
        log_changes=true,
        recomputed_monthly=true,
        accumulate=['installment_count', 'unpaid_amount', 'balance_beyond_schedule'],
        delete_when='installment_count = 0'
    )
}}

{% set since = increment() %}
{# What the filters act on. Views without filters read agg_dues. #}
{# Up to 90 days after the end of the month of the data: until the next month, when everything is computed again. #}
{% set horizon %}((date_trunc('month', {{ data_day() }}::timestamp) + interval '1 month')::date + 89){% endset %}

with signed_loans as (
    {{ signed_rows('fact_loans', since) }}
),

loans as (
    select * from signed_loans
    where is_in_portfolio and schedule_source <> 'none'
),

-- The schedule that each state of a loan was computed by: the present one, or one that was replaced since.
schedules as (
    select
        loan_id,
        schedule_hash,
        installment_count,
        due_dates,
        cum_due
    from {{ ref('int_loan_schedules') }}
    {% if since %}
    where loan_id in (select loan_id from loans)
    union all
    select distinct on (former.loan_id, former.schedule_hash)
        former.loan_id,
        former.schedule_hash,
        former.installment_count,
        former.due_dates,
        former.cum_due
    from {{ changes_of('int_loan_schedules') }} as former
    left join {{ ref('int_loan_schedules') }} as present
        on former.loan_id = present.loan_id and former.schedule_hash = present.schedule_hash
    where former._sign < 0 and present.loan_id is null
    {% endif %}
),

paid as (
    select
        loans.branch_sk,
        loans.product_sk,
        loans.customer_segment,
        loans.loan_officer,
        loans.first_unpaid_due_date,
        loans.installments_paid,
        loans._sign,
        (100 * loans.principal_owed)::bigint as owed,
        (100 * (loans.principal_paid + loans.interest_paid))::bigint as money,
        schedules.installment_count,
        schedules.due_dates,
        schedules.cum_due
    from loans
    inner join schedules on loans.loan_id = schedules.loan_id and loans.schedule_hash = schedules.schedule_hash
),

-- What is left of each unpaid instalment. After the last one all of the balance is overdue, also what none asks for.
unpaid as (
    select
        paid.branch_sk,
        paid.product_sk,
        paid.customer_segment,
        paid.loan_officer,
        paid.first_unpaid_due_date,
        paid._sign,
        paid.owed,
        paid.due_dates[installments.position] as due_date,
        paid.cum_due[installments.position] as cum_due,
        greatest(coalesce(paid.cum_due[installments.position - 1], 0), paid.money) as covered,
        greatest(coalesce(paid.cum_due[paid.installments_paid], 0), paid.money) as settled,
        installments.position = paid.installment_count as is_last
    from paid
    cross join
        lateral generate_series(
            paid.installments_paid + 1, width_bucket({{ horizon }}, paid.due_dates)
        ) as installments (position)
),

dues as (
    select
        branch_sk,
        product_sk,
        customer_segment,
        loan_officer,
        first_unpaid_due_date,
        due_date,
        _sign,
        cum_due - least(covered, cum_due) as unpaid,
        case when is_last then greatest(owed - cum_due + least(settled, cum_due), 0) else 0 end as beyond
    from unpaid
),

final as (
    select
        branch_sk,
        product_sk,
        customer_segment,
        loan_officer,
        first_unpaid_due_date,
        due_date,
        sum(_sign)::bigint as installment_count,
        0.01 * sum(_sign * unpaid) as unpaid_amount,
        0.01 * sum(_sign * beyond) as balance_beyond_schedule
    from dues
    group by branch_sk, product_sk, customer_segment, loan_officer, first_unpaid_due_date, due_date
)

select
    branch_sk,
    product_sk,
    customer_segment,
    loan_officer,
    first_unpaid_due_date,
    due_date,
    installment_count,
    unpaid_amount,
    balance_beyond_schedule
from final
