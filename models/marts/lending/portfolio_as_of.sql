{{
    config(
        materialized='stored_function',
        contract={'enforced': false}
    )
}}

-- The portfolio at the end of any past day, counted back from today's balances. It reads all loans and the payments
-- since: seconds for a large book. It reads the facts as they are now, which may be newer than what is published.
create or replace function {{ this.include(database=false) }}(day date)
returns table (
    loan_id bigint,
    branch_code text,
    outstanding_principal numeric,
    days_past_due integer,
    overdue_amount numeric
)
language sql
stable
as $$
    with later as (
        select
            payments.loan_id,
            sum(payments.principal_amount) as principal,
            sum(payments.principal_amount + payments.interest_amount) as money
        from {{ ref('fact_payments') }} as payments
        where payments.payment_date >= {{ start_of_day('day + 1') }}
        group by payments.loan_id
    ),

    balances as (
        select
            loans.loan_id,
            loans.branch_sk,
            {{ whole_cents('loans.principal_amount') }} as amount,
            {{ whole_cents('loans.principal_owed + coalesce(later.principal, 0)') }} as owed,
            {{ whole_cents('loans.principal_paid + loans.interest_paid - coalesce(later.money, 0)') }} as money
        from {{ ref('fact_loans') }} as loans
        inner join {{ ref('int_loan_schedules') }} as schedules on loans.loan_id = schedules.loan_id
        left join later on loans.loan_id = later.loan_id
        where
            loans.is_disbursed
            and schedules.on_book_from <= day
            and coalesce(day < schedules.written_off_on, true)
            and loans.principal_owed + coalesce(later.principal, 0) > 0
    ),

    positions as (
        select
            balances.*,
            schedules.installment_count,
            schedules.due_dates,
            schedules.cum_due,
            {{ installments_paid('balances.money', 'balances.amount - balances.owed', 'balances.owed', 'schedules') }}
                as installments_paid
        from balances
        inner join {{ ref('int_loan_schedules') }} as schedules on balances.loan_id = schedules.loan_id
    )

    select
        positions.loan_id,
        branches.branch_code,
        (0.01 * positions.owed)::numeric(20, 2) as outstanding_principal,
        greatest(coalesce(day - positions.due_dates[positions.installments_paid + 1], 0), 0) as days_past_due,
        (
            0.01 * {{ overdue_by('positions', 'day', 'positions.money', 'positions.owed', 'positions.installments_paid') }}
        )::numeric(20, 2) as overdue_amount
    from positions
    left join {{ ref('dim_loan') }} as versions
        on
            positions.loan_id = versions.loan_id
            and versions.valid_from < {{ start_of_day('day + 1') }}
            and versions.valid_to >= {{ start_of_day('day + 1') }}
    left join {{ ref('dim_branch') }} as branches
        on coalesce(versions.branch_sk, positions.branch_sk) = branches.branch_sk
$$;

grant execute on function {{ this.include(database=false) }}(date) to warehouse_reader
