-- The usual ETL by full reload, in a database of its own: its tables.
create schema staging;
create schema mart;
create table staging.customers (
    customer_id integer, full_name text, city text, country text, segment text, is_active boolean
);
create table staging.loan_products (product_id integer, product_name text, product_type text);
create table staging.loans (
    loan_id bigint, customer_id integer, product_id integer, amount numeric(14, 2), interest_rate numeric(7, 4),
    tenure_months integer, status text, disbursed_at timestamptz, maturity_date date,
    outstanding_balance numeric(14, 2), branch_code text
);
create table staging.payments (
    payment_id bigint, loan_id bigint, amount numeric(14, 2), principal_portion numeric(14, 2),
    interest_portion numeric(14, 2), penalty_portion numeric(14, 2), payment_method text, payment_date timestamptz
);
create table mart.dim_customer (like staging.customers, primary key (customer_id));
create table mart.dim_product (like staging.loan_products, primary key (product_id));
create table mart.dim_loan (like staging.loans, primary key (loan_id));
create table mart.fact_payments (
    payment_id bigint primary key, loan_id bigint, customer_id integer, date_key integer, payment_method text,
    amount numeric(14, 2), principal_portion numeric(14, 2), interest_portion numeric(14, 2),
    penalty_portion numeric(14, 2), payment_date timestamptz
);
create table mart.fact_loans (
    loan_id bigint primary key, customer_id integer, status text, amount numeric(14, 2),
    outstanding_balance numeric(14, 2), total_paid numeric(18, 2), payment_count bigint
);
