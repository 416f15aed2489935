-- The schedules of loans that are repaid by the week, as they were agreed: the walk of draw_payments.sql, with every
-- instalment paid.
insert into operational.loan_installments (
    installment_id, loan_id, installment_no, due_date, principal_due, interest_due, created_at, updated_at
)
with recursive walk as (
    select
        loan_id, disbursed, amount as balance, instalment, rate, instalments, 0 as step,
        0::bigint as principal, 0::bigint as interest
    from demo_loan
    where weekly and disbursed is not null
    union all
    select
        loan_id, disbursed, balance - principal, instalment, rate, instalments, step, principal, interest
    from (
        select
            loan_id, disbursed, balance, instalment, rate, instalments, step, interest,
            case
                when step = instalments then balance else least(balance, greatest(instalment - interest, 0))
            end as principal
        from (
            select
                loan_id, disbursed, balance, instalment, rate, instalments, step + 1 as step,
                (balance * rate + {{ weekly // 2 }}) / {{ weekly }} as interest
            from walk
            where step < instalments
            offset 0
        ) as due
        offset 0
    ) as priced
)
select
    row_number() over (order by loan_id, step), loan_id, step,
    date '1970-01-01' + (disbursed / 86400)::integer + 7 * step,
    principal * 0.01, interest * 0.01, to_timestamp(disbursed), to_timestamp(disbursed)
from walk
where step > 0
order by loan_id, step
