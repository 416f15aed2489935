-- The books of each loan, month by month: it begins as it ended the month before; what it owed, less the principal paid
-- and what was written off, is what it owes; the month's money paid dues, arrears, ahead or is a recovery; and of what
-- fell due no more is paid than fell due. Looks at the months that changed since the last published state, from the one
-- before the loan's first of them.
{% set published = none if tests_look_at_everything() else published_before_test() %}
{% set looks_at_changes = published is not none and not published['has_recomputed'] %}

with
{% if looks_at_changes %}
changed as (  -- noqa: ST03
    select
        loan_id,
        date_trunc('month', min(month_end)::timestamp)::date - 1 as month_end_before
    from {{ changes_of('fact_loan_month_end') }}
    where _run_id > {{ published['run_id'] }}
    group by loan_id
),

{% endif %}
months as (
    select
        months.loan_id,
        months.month_end,
        months.state,
        months.state_before,
        months.outstanding_principal,
        months.written_off_amount,
        months.paid_to_date,
        months.paid_of_due + months.paid_of_arrears + months.paid_ahead + months.recovered_amount as paid_in_month,
        least(
            months.due_amount - months.paid_on_time, months.due_amount - months.paid_of_due, months.paid_on_time
        ) as least_part,
        lag(months.month_end) over by_month as month_before,
        lag(months.state) over by_month as state_then,
        lag(months.outstanding_principal) over by_month as opening_principal,
        lag(months.paid_to_date) over by_month as paid_before
    {% if looks_at_changes %}
    {# As a look-up for each loan: as a join, all months of all loans were read when a month had ended. #}
    from changed
    cross join
        lateral (
            select kept.*
            from {{ ref('fact_loan_month_end') }} as kept
            where kept.loan_id = changed.loan_id and kept.month_end >= changed.month_end_before
            offset 0  -- noqa: AM09
        ) as months
    {% else %}
    from {{ ref('fact_loan_month_end') }} as months
    {% endif %}
    window by_month as (partition by months.loan_id order by months.month_end)
),

payments as (
    select
        payments.loan_id,
        {{ business_month('payments.payment_date') }} as month,
        sum(payments.principal_amount) as principal_amount
    from {{ ref('fact_payments') }} as payments
    inner join {{ ref('int_loan_schedules') }} as schedules on payments.loan_id = schedules.loan_id
    {% if looks_at_changes %}
    inner join changed
        on
            payments.loan_id = changed.loan_id
            and payments.payment_date
            > changed.month_end_before::timestamp at time zone {{ sql_literal(lending_settings().timezone) }}
    {% endif %}
    where coalesce({{ business_day('payments.payment_date') }} <= schedules.written_off_on, true)
    group by payments.loan_id, {{ business_month('payments.payment_date') }}
),

compared as (
    select
        months.*,
        coalesce(payments.principal_amount, 0) as principal_amount,
        months.month_before = date_trunc('month', months.month_end::timestamp)::date - 1 as follows
    from months
    left join payments
        on
            months.loan_id = payments.loan_id
            and date_trunc('month', months.month_end::timestamp)::date = payments.month
)

select
    loan_id,
    month_end,
    state_before,
    state_then,
    opening_principal,
    principal_amount,
    written_off_amount,
    outstanding_principal,
    paid_before,
    paid_to_date
from compared
where
    (state_before is null and month_before is not null)
    or (follows and state_before is distinct from state_then)
    or (
        follows
        and opening_principal > 0
        and state <> 'repaid'
        and greatest(opening_principal - principal_amount, 0) - written_off_amount <> outstanding_principal
        -- So many payments of the greatest amount may come to more than whole_cents counts.
        and not exists (
            select from {{ ref('fact_loans') }} as loans
            where loans.loan_id = compared.loan_id and loans.payment_count > 10000
        )
    )
    or (
        follows
        and paid_in_month <> paid_to_date - paid_before
    )
    or least_part < 0
