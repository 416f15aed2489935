-- The greatest number of first loans that together have no more payments than wanted, and one further loan that has as
-- many as are missing then (or nearly): so the number of payments is met, also when it is small.
with counted as (
    select loan.n, coalesce(paid.payments, 0) as payments,
        sum(coalesce(paid.payments, 0)) over (order by loan.n) as reached
    from demo_loan as loan
    left join demo_paid as paid on loan.n = paid.n
),
whole as (
    select coalesce(max(n), 0) as last_n, coalesce(max(reached), 0) as reached
    from counted
    where reached <= %(payments)s
),
further as (
    select counted.n
    from counted, whole
    where counted.n > whole.last_n and counted.payments <= %(payments)s - whole.reached
    order by counted.payments desc, counted.n
    limit 1
)
delete from demo_loan
using whole
where demo_loan.n > whole.last_n and demo_loan.n is distinct from (select further.n from further)
