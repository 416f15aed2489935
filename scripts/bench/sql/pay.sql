-- pgbench: one payment of a random active loan, with the loan's balance, in one transaction. Variable: loans.
\set start random(1, :loans)
with loan as (
    update operational.loans
    set outstanding_balance = outstanding_balance - 0.01
    where loan_id = (
        select loan_id from operational.loans
        where loan_id >= :start and status = 'active' and outstanding_balance > 1
        order by loan_id
        limit 1
    )
    returning loan_id
)

insert into operational.payments
(loan_id, amount, principal_portion, interest_portion, payment_method, payment_date, recorded_by)
select
    loan_id,
    0.02,
    0.01,
    0.01,
    'mpesa',
    now(),
    'bench'
from loan;
