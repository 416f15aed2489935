-- The standard increment, as the application makes it. Settings: bench.payments, bench.seed.
-- New payments with the balances of their loans, back-dated payments, changed customers, reversed payments.

begin;
create temporary table chosen on commit drop as
select
    loan_id,
    row_number() over () as number
from (
    select loan_id from operational.loans
    where status = 'active' and outstanding_balance > 10
    order by md5(loan_id || current_setting('bench.seed'))
    limit current_setting('bench.payments')::integer
) as some_loans;

insert into operational.payments
(loan_id, amount, principal_portion, interest_portion, payment_method, payment_date, recorded_by)
select
    loan_id,
    1.50,
    1.00,
    0.50,
    (array['mpesa', 'bank_transfer', 'cash', 'cheque', 'online'])[1 + number % 5],
    now(),
    'bench'
from chosen;

update operational.loans
set outstanding_balance = loans.outstanding_balance - 1.00
from chosen
where loans.loan_id = chosen.loan_id;
commit;

begin;
insert into operational.payments
(loan_id, amount, principal_portion, interest_portion, payment_method, payment_date, recorded_by)
select
    loans.loan_id,
    1.00,
    0.00,
    1.00,
    'cash',
    greatest(loans.disbursed_at, now() - (row_number() over () % 700) * interval '1 day'),
    'bench'
from (
    select * from operational.loans
    where status = 'active'
    order by md5(loan_id || current_setting('bench.seed') || 'back-dated')
    limit 200
) as loans;

update operational.customers
set
    city = 'Nakuru ' || current_setting('bench.seed'),
    segment = case segment when 'retail' then 'sme' else 'retail' end
where customer_id in (
    select customer_id from operational.customers
    order by md5(customer_id || current_setting('bench.seed'))
    limit 200
);
commit;

begin;
create temporary table reversed on commit drop as
select distinct on (payments.loan_id)
    payments.payment_id,
    payments.loan_id,
    payments.principal_portion
from (
    select loan_id from operational.loans
    where status = 'active' and outstanding_balance < amount
    order by md5(loan_id || current_setting('bench.seed') || 'reversed')
    limit 50
) as loans
inner join operational.payments on loans.loan_id = payments.loan_id
-- the oldest one, which was there before this increment
order by payments.loan_id asc, payments.payment_id asc;

delete from operational.payments where payment_id in (select payment_id from reversed);

update operational.loans
set outstanding_balance = loans.outstanding_balance + reversed.principal_portion
from reversed
where loans.loan_id = reversed.loan_id;
commit;
