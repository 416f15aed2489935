-- Identifiers rise with the time of joining, and nobody has a loan before it.
update demo_customer
set joined = ranked.joined, customer_id = ranked.customer_id
from (
    select n, joined, row_number() over (order by joined, n) as customer_id
    from (
        select customer.n,
            least(customer.joined, first_loan.applied - 86400 * (1 + {{ below("customer.n", "before", "9") }}))
                as joined
        from demo_customer as customer
        left join (select customer_n, min(applied) as applied from demo_loan group by customer_n) as first_loan
            on customer.n = first_loan.customer_n
        offset 0
    ) as moved
) as ranked
where demo_customer.n = ranked.n
