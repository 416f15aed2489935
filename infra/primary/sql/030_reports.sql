-- Views for operational reports, and who may read and write what.

set role loans_owner;

create or replace view operational.vw_active_loans as
select
    loans.loan_id,
    customers.customer_id,
    customers.full_name,
    customers.segment,
    loan_products.product_name,
    loans.amount,
    loans.interest_rate,
    loans.outstanding_balance,
    loans.disbursed_at,
    loans.maturity_date,
    loans.branch_code,
    loans.loan_officer
from operational.loans
inner join operational.customers on loans.customer_id = customers.customer_id
inner join operational.loan_products on loans.product_id = loan_products.product_id
where loans.status = 'active';

create or replace view operational.vw_customer_payment_summary as
with loan_totals as (
    select
        loans.customer_id,
        count(*) as loan_count,
        sum(loans.outstanding_balance) as outstanding_balance
    from operational.loans
    group by loans.customer_id
),

payment_totals as (
    select
        loans.customer_id,
        count(*) as payment_count,
        sum(payments.amount) as total_paid,
        max(payments.payment_date) as last_payment_date
    from operational.payments
    inner join operational.loans on payments.loan_id = loans.loan_id
    group by loans.customer_id
)

select
    customers.customer_id,
    customers.full_name,
    customers.segment,
    coalesce(loan_totals.loan_count, 0) as loan_count,
    coalesce(loan_totals.outstanding_balance, 0) as outstanding_balance,
    coalesce(payment_totals.payment_count, 0) as payment_count,
    coalesce(payment_totals.total_paid, 0) as total_paid,
    payment_totals.last_payment_date
from operational.customers
left join loan_totals on customers.customer_id = loan_totals.customer_id
left join payment_totals on customers.customer_id = payment_totals.customer_id;

grant usage on schema operational to app_user, readonly_user;
grant select, insert, update, delete
on operational.customers, operational.loan_products, operational.loans, operational.payments
to app_user;
-- An import that deletes a demo book notes when.
grant select, update (replaced_at) on operational.demo_book to app_user;
-- An import brings keys along; it moves the sequences on behind them, so that the application's next keys are free.
grant select, update
on sequence
operational.customers_customer_id_seq,
operational.loan_products_product_id_seq,
operational.loans_loan_id_seq,
operational.payments_payment_id_seq
to app_user;
grant select on all tables in schema operational to readonly_user;
grant select on operational.vw_active_loans, operational.vw_customer_payment_summary to app_user;

reset role;
