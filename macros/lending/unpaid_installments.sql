{#
    A query: what is left of each unpaid instalment of the loans in the portfolio that is due in a range of days, with
    _sign, in cents. In an increment the loans as they were and as they became.

    Columns: branch_sk, first_unpaid_due_date (of the loan), due_date, _sign, unpaid, beyond (with the last instalment: the
    principal owed that no instalment asks for; after it all of the balance is overdue).

    since: what increment() returned. first_day: an SQL expression, or none for all that fell due before; last_day: another.
#}
{% macro unpaid_installments(since, first_day, last_day) -%}
    select
        unpaid.branch_sk,
        unpaid.first_unpaid_due_date,
        unpaid.due_date,
        unpaid._sign,
        unpaid.cum_due - least(unpaid.covered, unpaid.cum_due) as unpaid,
        case
            when unpaid.is_last
                then greatest(unpaid.owed - unpaid.cum_due + least(unpaid.settled, unpaid.cum_due), 0)
            else 0
        end as beyond
    from (
        select
            paid.branch_sk,
            paid.first_unpaid_due_date,
            paid._sign,
            paid.owed,
            paid.due_dates[installments.position] as due_date,
            paid.cum_due[installments.position] as cum_due,
            greatest(coalesce(paid.cum_due[installments.position - 1], 0), paid.money) as covered,
            greatest(coalesce(paid.cum_due[paid.installments_paid], 0), paid.money) as settled,
            installments.position = paid.installment_count as is_last
        from (
            select
                loans.branch_sk,
                loans.first_unpaid_due_date,
                loans.installments_paid,
                loans._sign,
                {{ whole_cents('loans.principal_owed') }} as owed,
                {{ whole_cents('loans.principal_paid + loans.interest_paid') }} as money,
                schedules.installment_count,
                schedules.due_dates,
                schedules.cum_due
            from ({{ signed_rows('fact_loans', since) }}) as loans
            inner join ({{ schedules_then(since) }}) as schedules
                on loans.loan_id = schedules.loan_id and loans.schedule_hash = schedules.schedule_hash
            where loans.is_in_portfolio and loans.schedule_source <> 'none'
        ) as paid
        cross join
            lateral generate_series(
                {% if first_day is none %}
                paid.installments_paid + 1,
                {% else %}
                greatest(paid.installments_paid, width_bucket({{ first_day }} - 1, paid.due_dates)) + 1,
                {% endif %}
                width_bucket({{ last_day }}, paid.due_dates)
            ) as installments (position)
    ) as unpaid
{%- endmacro %}

{#
    A query: the schedules that the loans of fact_loans, or in an increment each state of a changed loan, were computed by:
    the present one, or one that was replaced since. Columns: loan_id, schedule_hash, installment_count, due_dates, cum_due.
#}
{% macro schedules_then(since) -%}
    select
        loan_id,
        schedule_hash,
        installment_count,
        due_dates,
        cum_due
    from {{ ref('int_loan_schedules') }}
    {% if since %}
    where loan_id in (select loan_id from {{ changes_of('fact_loans') }} where _run_id > {{ since.run_id }})
    union all
    select
        former.loan_id,
        former.schedule_hash,
        former.installment_count,
        former.due_dates,
        former.cum_due
    from (
        select distinct on (loan_id, schedule_hash) *
        from {{ changes_of('int_loan_schedules') }}
        where _sign < 0
        order by loan_id, schedule_hash
    ) as former
    left join {{ ref('int_loan_schedules') }} as present
        on former.loan_id = present.loan_id and former.schedule_hash = present.schedule_hash
    where present.loan_id is null
    {% endif %}
{%- endmacro %}
