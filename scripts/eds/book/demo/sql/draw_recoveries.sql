-- What those who stopped pay after all: one to three payments on the principal, months later, of some after the
-- write-off.
insert into demo_payment (n, part, paid, method_no, principal, interest, penalty, remark)
select
    n, part, day * 86400 + 10800 + {{ below("n * 4 + round", "recovered second", "57600") }}, {{ mpesa }},
    least(instalment, balance / 4, {{ mpesa_limit }}), 0, 0, 4
from (
    select
        loan.n, loan.instalment, rounds.round, 2 * loan.instalments + 2 + rounds.round as part,
        loan.amount - coalesce(paid.principal, 0) as balance,
        {{ due_day("loan.disbursed / 86400", "(loan.last_step + 1)", "loan.weekly") }}
        + 60 + {{ below("loan.n", "resumes", "500") }} + 31 * (rounds.round - 1) as day
    from demo_loan as loan
    left join (
        select n, sum(principal) as principal
        from demo_payment
        where n between %(first)s::bigint and %(last)s::bigint
        group by n
    ) as paid on loan.n = paid.n
    cross join generate_series(1, 3) as rounds (round)
    where
        loan.n between %(first)s::bigint and %(last)s::bigint
        and loan.stops
        and loan.disbursed is not null
        and {{ unit("loan.n", "resumes at all") }} < {{ resuming_share }}
        and rounds.round <= 1 + {{ below("loan.n", "resumes for", "3") }}
    offset 0
) as resumed
where day < %(today)s::bigint and least(instalment, balance / 4, {{ mpesa_limit }}) > 0
