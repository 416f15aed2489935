-- The usual ETL by full reload: empty the staging tables, fetch everything, upsert dimensions, insert the facts that
-- are not there, recompute every loan. Deleted and changed payments stay as they were.
begin;
truncate staging.customers, staging.loan_products, staging.loans, staging.payments;
insert into staging.customers
select * from dblink(
    'source', 'select customer_id, full_name, city, country, segment, is_active from operational.customers'
) as read (customer_id integer, full_name text, city text, country text, segment text, is_active boolean);
insert into staging.loan_products
select * from dblink('source', 'select product_id, product_name, product_type from operational.loan_products')
    as read (product_id integer, product_name text, product_type text);
insert into staging.loans
select * from dblink(
    'source',
    'select loan_id, customer_id, product_id, amount, interest_rate, tenure_months, status, disbursed_at, maturity_date,
    outstanding_balance, branch_code from operational.loans'
) as read (
    loan_id bigint, customer_id integer, product_id integer, amount numeric, interest_rate numeric,
    tenure_months integer, status text, disbursed_at timestamptz, maturity_date date, outstanding_balance numeric,
    branch_code text
);
insert into staging.payments
select * from dblink(
    'source',
    'select payment_id, loan_id, amount, principal_portion, interest_portion, penalty_portion, payment_method,
    payment_date from operational.payments'
) as read (
    payment_id bigint, loan_id bigint, amount numeric, principal_portion numeric, interest_portion numeric,
    penalty_portion numeric, payment_method text, payment_date timestamptz
);
analyze staging.customers, staging.loan_products, staging.loans, staging.payments;

insert into mart.dim_customer
select * from staging.customers
on conflict (customer_id) do update
set
    full_name = excluded.full_name, city = excluded.city, country = excluded.country, segment = excluded.segment,
    is_active = excluded.is_active;
insert into mart.dim_product
select * from staging.loan_products
on conflict (product_id) do update
set product_name = excluded.product_name, product_type = excluded.product_type;
insert into mart.dim_loan
select * from staging.loans
on conflict (loan_id) do update
set
    customer_id = excluded.customer_id, product_id = excluded.product_id, amount = excluded.amount,
    interest_rate = excluded.interest_rate, tenure_months = excluded.tenure_months, status = excluded.status,
    disbursed_at = excluded.disbursed_at, maturity_date = excluded.maturity_date,
    outstanding_balance = excluded.outstanding_balance, branch_code = excluded.branch_code;
insert into mart.fact_payments
select
    payments.payment_id, payments.loan_id, loans.customer_id, to_char(payments.payment_date, 'YYYYMMDD')::integer,
    payments.payment_method, payments.amount, payments.principal_portion, payments.interest_portion,
    payments.penalty_portion, payments.payment_date
from staging.payments
inner join mart.dim_loan as loans on payments.loan_id = loans.loan_id
where not exists (select from mart.fact_payments as present where present.payment_id = payments.payment_id);
insert into mart.fact_loans
select
    loans.loan_id, loans.customer_id, loans.status, loans.amount, loans.outstanding_balance, coalesce(paid.total, 0),
    coalesce(paid.payments, 0)
from staging.loans
left join (
    select loan_id, sum(amount) as total, count(*) as payments from staging.payments group by loan_id
) as paid on loans.loan_id = paid.loan_id
on conflict (loan_id) do update
set
    customer_id = excluded.customer_id, status = excluded.status, amount = excluded.amount,
    outstanding_balance = excluded.outstanding_balance, total_paid = excluded.total_paid,
    payment_count = excluded.payment_count;
commit;
