-- Loans with the balance and the status that their payments lead to. A default is noticed 90 days after the first
-- instalment that stayed away, a write-off follows nine months later at the earliest, and by the 540th day past due.
insert into operational.loans (
    loan_id, customer_id, product_id, amount, interest_rate, tenure_months, status, disbursed_at, maturity_date,
    outstanding_balance, loan_officer, branch_code, written_off_on, restructured_on, created_at, updated_at
)
select
    loan_id, customer_id, product_id, amount * 0.01, rate * 0.0001, tenure,
    case
        when disbursed is null then 'pending'
        when balance = 0 then 'repaid'
        when written_off < %(today)s::bigint then 'written_off'
        when defaulted < %(today)s::bigint then 'defaulted'
        else 'active'
    end,
    to_timestamp(disbursed),
    (date '1970-01-01' + (disbursed / 86400)::integer + tenure * interval '1 month')::date,
    case when disbursed is null then 0 else balance end * 0.01,
    (%(officers)s::text[])[officer_no],
    (%(branch_codes)s::text[])[branch_no],
    case when balance > 0 and written_off < %(today)s::bigint then date '1970-01-01' + written_off::integer end,
    case when restructured < %(today)s::bigint then date '1970-01-01' + restructured::integer end,
    to_timestamp(applied),
    to_timestamp(greatest(
        applied, disbursed, last_recorded,
        case when balance > 0 and defaulted < %(today)s::bigint then defaulted * 86400 + 7200 end,
        case when balance > 0 and written_off < %(today)s::bigint then written_off * 86400 + 7200 end,
        case when restructured < %(today)s::bigint then restructured * 86400 + 7200 end
    ))
from (
    select
        *,
        case when stops then defaulted + 275 + {{ below("n", "written off", "175") }} end as written_off,
        case
            when
                careless and not stops and balance > 0
                and {{ unit("n", "is restructured") }} < {{ restructured_share }}
                then disbursed / 86400 + 120 + {{ below("n", "restructured", "500") }}
        end as restructured
    from (
        select
            loan.*, customer.customer_id, paid.last_recorded, loan.amount - coalesce(paid.principal, 0) as balance,
            case
                when loan.stops
                    then {{ due_day("loan.disbursed / 86400", "(loan.last_step + 1)", "loan.weekly") }} + 90
            end as defaulted
        from demo_loan as loan
        inner join demo_customer as customer on loan.customer_n = customer.n
        left join demo_paid as paid on loan.n = paid.n
        offset 0
    ) as stopping
    offset 0
) as ending
order by loan_id
