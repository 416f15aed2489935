-- The floor: one increment by hand, in one session and one transaction, without dbt and without its tests.
-- It does to a copy of the warehouse what the models do: landing tables, both histories, facts, aggregates. Schedules and
-- what follows from them (days past due, months) are no part of it.
-- Variables: watermark; finish, commit or rollback.

begin;

-- landing
create temporary table customers_read on commit drop as
select distinct on (customer_id)
    customer_id, full_name, email, phone, national_id, date_of_birth, city, country, segment, is_active, created_at,
    updated_at
from operational_fdw.customers_changes
where xact_id >= :'watermark'::xid8;
create temporary table loans_read on commit drop as
select distinct on (loan_id)
    loan_id, customer_id, product_id, amount, interest_rate, tenure_months, status, disbursed_at, maturity_date,
    outstanding_balance, loan_officer, branch_code, created_at, updated_at
from operational_fdw.loans_changes
where xact_id >= :'watermark'::xid8;
create temporary table payments_read on commit drop as
select distinct on (payment_id)
    payment_id, loan_id, amount, principal_portion, interest_portion, penalty_portion, payment_method, reference_number,
    payment_date, recorded_by, notes, created_at, updated_at
from operational_fdw.payments_changes
where xact_id >= :'watermark'::xid8;
create temporary table payments_gone on commit drop as
select distinct record_id as payment_id
from operational_fdw.feed_events
where xact_id >= :'watermark'::xid8 and table_name = 'payments' and operation = 'DELETE';
analyze customers_read, loans_read, payments_read, payments_gone;

insert into operational.customers as landing
select read.*, 0, read.updated_at, null from customers_read as read
on conflict (customer_id) do update
set
    full_name = excluded.full_name, email = excluded.email, phone = excluded.phone, national_id = excluded.national_id,
    date_of_birth = excluded.date_of_birth, city = excluded.city, country = excluded.country,
    segment = excluded.segment, is_active = excluded.is_active, updated_at = excluded.updated_at,
    _changed_at = excluded._changed_at;
insert into operational.loans as landing
(
    loan_id, customer_id, product_id, amount, interest_rate, tenure_months, status, disbursed_at, maturity_date,
    outstanding_balance, loan_officer, branch_code, created_at, updated_at, _run_id, _changed_at, _deleted_at
)
select read.*, 0, read.updated_at, null from loans_read as read
on conflict (loan_id) do update
set
    customer_id = excluded.customer_id, product_id = excluded.product_id, amount = excluded.amount,
    interest_rate = excluded.interest_rate, tenure_months = excluded.tenure_months, status = excluded.status,
    disbursed_at = excluded.disbursed_at, maturity_date = excluded.maturity_date,
    outstanding_balance = excluded.outstanding_balance, loan_officer = excluded.loan_officer,
    branch_code = excluded.branch_code, updated_at = excluded.updated_at, _changed_at = excluded._changed_at;
insert into operational.payments as landing
select read.*, 0, read.updated_at, null from payments_read as read
on conflict (payment_id) do update
set
    loan_id = excluded.loan_id, amount = excluded.amount, principal_portion = excluded.principal_portion,
    interest_portion = excluded.interest_portion, penalty_portion = excluded.penalty_portion,
    payment_method = excluded.payment_method, payment_date = excluded.payment_date, notes = excluded.notes,
    updated_at = excluded.updated_at, _changed_at = excluded._changed_at;
update operational.payments as landing
set _deleted_at = now()
from payments_gone as gone
where landing.payment_id = gone.payment_id;

-- history of customers and of loans: close what changed, add the new version
create temporary table customer_versions on commit drop as
select read.*, present.customer_sk as closed_sk
from customers_read as read
left join warehouse.dim_customer as present
    on read.customer_id = present.customer_id and present.is_current
where (present.full_name, present.city, present.country, present.customer_segment, present.is_active)
    is distinct from (read.full_name, read.city, read.country, read.segment, read.is_active);
update warehouse.dim_customer as present
set valid_to = changed.updated_at, is_current = false
from customer_versions as changed
where present.customer_sk = changed.closed_sk;
insert into warehouse.dim_customer
(customer_sk, customer_id, full_name, city, country, customer_segment, is_active, valid_from, valid_to, is_current)
select
    coalesce(closed_sk, customer_id::bigint * 1000000) + 1, customer_id, full_name, city, country, segment, is_active,
    case when closed_sk is null then timestamptz '1900-01-01 00:00+00' else updated_at end,
    timestamptz '9999-12-31 00:00+00', true
from customer_versions;

create temporary table loan_versions on commit drop as
select read.*, present.loan_sk as closed_sk
from loans_read as read
left join warehouse.dim_loan as present on read.loan_id = present.loan_id and present.is_current
where (
    present.customer_id, present.product_sk, present.principal_amount, present.interest_rate, present.tenure_months,
    present.loan_status, present.disbursed_at, present.maturity_date, present.loan_officer, present.branch_code
) is distinct from (
    read.customer_id, read.product_id::bigint * 1000000, read.amount, read.interest_rate, read.tenure_months,
    read.status, read.disbursed_at, read.maturity_date, read.loan_officer, read.branch_code
);
update warehouse.dim_loan as present
set valid_to = changed.updated_at, is_current = false
from loan_versions as changed
where present.loan_sk = changed.closed_sk;
insert into warehouse.dim_loan
(
    loan_sk, loan_id, customer_id, product_sk, branch_sk, loan_status, principal_amount, interest_rate, tenure_months,
    disbursed_at, maturity_date, loan_officer, branch_code, valid_from, valid_to, is_current
)
select
    coalesce(closed_sk, loan_id * 1000000) + 1, loan_id, customer_id, product_id::bigint * 1000000,
    coalesce(('x' || substr(md5(branch_code), 1, 15))::bit(60)::bigint, -1), status, amount, interest_rate,
    tenure_months, disbursed_at, maturity_date, loan_officer, branch_code,
    case when closed_sk is null then timestamptz '1900-01-01 00:00+00' else updated_at end,
    timestamptz '9999-12-31 00:00+00', true
from loan_versions;

-- facts: payments that changed themselves, or whose loan or customer has another version
create temporary table payments_touched on commit drop as
select payment_id from payments_read
union
select payment_id from payments_gone
union
select payments.payment_id
from warehouse.fact_payments as payments
where payments.loan_id in (select loan_id from loan_versions)
union
select payments.payment_id
from customer_versions
inner join warehouse.dim_loan as loans on customer_versions.customer_id = loans.customer_id
inner join warehouse.fact_payments as payments
    on loans.loan_id = payments.loan_id and customer_versions.updated_at <= payments.payment_date;
analyze payments_touched;
create temporary table payments_before on commit drop as
select present.* from payments_touched inner join warehouse.fact_payments as present using (payment_id);
create temporary table payments_after on commit drop as
select
    payments.payment_id, payments.loan_id, coalesce(customers.customer_sk, -1) as customer_sk,
    coalesce(versions.loan_sk, -1) as loan_sk,
    case
        when (payments.payment_date at time zone 'UTC')::date between '0001-01-01' and '9999-12-31'
            then to_char(payments.payment_date at time zone 'UTC', 'YYYYMMDD')::integer
        else -1
    end as date_sk,
    coalesce(methods.method_sk, -1) as method_sk,
    coalesce(('x' || substr(md5(nullif(trim(loans.branch_code), '')), 1, 15))::bit(60)::bigint, -1) as branch_sk,
    payments.amount as payment_amount, payments.principal_portion as principal_amount,
    payments.interest_portion as interest_amount, payments.penalty_portion as penalty_amount, payments.payment_date,
    date_trunc('month', payments.payment_date at time zone 'UTC')::date as payment_month
from payments_touched
inner join operational.payments using (payment_id)
left join operational.loans on payments.loan_id = loans.loan_id
left join warehouse.dim_loan as versions
    on payments.loan_id = versions.loan_id
    and payments.payment_date >= versions.valid_from and payments.payment_date < versions.valid_to
left join warehouse.dim_customer as customers
    on coalesce(versions.customer_id, loans.customer_id) = customers.customer_id
    and payments.payment_date >= customers.valid_from and payments.payment_date < customers.valid_to
left join warehouse.dim_payment_method as methods on payments.payment_method = methods.method_code
where payments._deleted_at is null;
analyze payments_before, payments_after;
delete from warehouse.fact_payments
where payment_id in (select payment_id from payments_gone);
insert into warehouse.fact_payments
(
    payment_id, loan_id, customer_sk, loan_sk, date_sk, method_sk, branch_sk, payment_amount, principal_amount,
    interest_amount, penalty_amount, payment_date, payment_month
)
select
    payment_id, loan_id, customer_sk, loan_sk, date_sk, method_sk, branch_sk, payment_amount, principal_amount,
    interest_amount, penalty_amount, payment_date, payment_month
from payments_after
on conflict (payment_id) do update
set
    loan_id = excluded.loan_id, customer_sk = excluded.customer_sk, loan_sk = excluded.loan_sk,
    date_sk = excluded.date_sk, method_sk = excluded.method_sk, branch_sk = excluded.branch_sk,
    payment_amount = excluded.payment_amount, principal_amount = excluded.principal_amount,
    interest_amount = excluded.interest_amount, penalty_amount = excluded.penalty_amount,
    payment_date = excluded.payment_date, payment_month = excluded.payment_month;

create temporary table loans_touched on commit drop as
select loan_id from loans_read
union
select loan_id from payments_before
union
select loan_id from payments_after
union
select loans.loan_id from warehouse.fact_loans as loans
where loans.customer_id in (select customer_id from customer_versions);
analyze loans_touched;
create temporary table loans_before on commit drop as
select
    loan_id, customer_id, customer_sk, loan_sk, product_sk, branch_sk, disbursement_date_sk, maturity_date_sk,
    loan_status, customer_segment, principal_amount, interest_rate, tenure_months, outstanding_balance, total_paid,
    principal_paid, interest_paid, penalty_paid, payment_count, is_disbursed, is_active, is_defaulted, is_repaid,
    is_written_off, last_payment_date
from loans_touched
inner join warehouse.fact_loans using (loan_id);
create temporary table payments_changed on commit drop as
select
    loan_id, sum(sign) as payment_count, sum(sign * payment_amount) as total_paid,
    sum(sign * principal_amount) as principal_paid, sum(sign * interest_amount) as interest_paid,
    sum(sign * penalty_amount) as penalty_paid, max(payment_date) as last_payment_date, bool_and(sign > 0) as only_added
from (
    select *, -1 as sign from (table payments_before except table payments_after) as taken
    union all
    select *, 1 from (table payments_after except table payments_before) as given
) as changed
group by loan_id;
create temporary table totals_after on commit drop as
select
    present.loan_id, present.total_paid + coalesce(changed.total_paid, 0) as total_paid,
    present.principal_paid + coalesce(changed.principal_paid, 0) as principal_paid,
    present.interest_paid + coalesce(changed.interest_paid, 0) as interest_paid,
    present.penalty_paid + coalesce(changed.penalty_paid, 0) as penalty_paid,
    present.payment_count + coalesce(changed.payment_count, 0) as payment_count,
    greatest(present.last_payment_date, changed.last_payment_date) as last_payment_date
from loans_before as present
left join payments_changed as changed on present.loan_id = changed.loan_id
where coalesce(changed.only_added, true);
insert into totals_after
select
    loan_id, sum(payment_amount), sum(principal_amount), sum(interest_amount), sum(penalty_amount), count(*),
    max(payment_date)
from warehouse.fact_payments
where loan_id in (select loan_id from loans_touched except select loan_id from totals_after)
group by loan_id;
create temporary table loans_after on commit drop as
select
    loans.loan_id, loans.customer_id, coalesce(customers.customer_sk, -1) as customer_sk,
    coalesce(versions.loan_sk, -1) as loan_sk, versions.product_sk, versions.branch_sk,
    coalesce(to_char(loans.disbursed_at at time zone 'UTC', 'YYYYMMDD')::integer, -1) as disbursement_date_sk,
    coalesce(to_char(loans.maturity_date, 'YYYYMMDD')::integer, -1) as maturity_date_sk,
    loans.status as loan_status, coalesce(customers.customer_segment, 'unknown') as customer_segment,
    loans.amount as principal_amount, loans.interest_rate, loans.tenure_months, loans.outstanding_balance,
    coalesce(totals.total_paid, 0) as total_paid, coalesce(totals.principal_paid, 0) as principal_paid,
    coalesce(totals.interest_paid, 0) as interest_paid, coalesce(totals.penalty_paid, 0) as penalty_paid,
    coalesce(totals.payment_count, 0) as payment_count, loans.status <> 'pending' as is_disbursed,
    loans.status = 'active' as is_active, loans.status = 'defaulted' as is_defaulted,
    loans.status = 'repaid' as is_repaid, loans.status = 'written_off' as is_written_off, totals.last_payment_date
from loans_touched
inner join operational.loans using (loan_id)
left join totals_after as totals on loans.loan_id = totals.loan_id
left join warehouse.dim_loan as versions on loans.loan_id = versions.loan_id and versions.is_current
left join warehouse.dim_customer as customers
    on loans.customer_id = customers.customer_id and customers.is_current
where loans._deleted_at is null;
insert into warehouse.fact_loans
(
    loan_id, customer_id, customer_sk, loan_sk, product_sk, branch_sk, disbursement_date_sk, maturity_date_sk,
    loan_status, customer_segment, principal_amount, interest_rate, tenure_months, outstanding_balance, total_paid,
    principal_paid, interest_paid, penalty_paid, payment_count, is_disbursed, is_active, is_defaulted, is_repaid,
    is_written_off, last_payment_date,
    written_off_date_sk, loan_officer, schedule_source, principal_owed, installment_count, installments_paid,
    schedule_hash, is_restructured, is_in_portfolio
)
select *, -1, 'unassigned', 'none', outstanding_balance, 0, 0, 0, false, true from loans_after
on conflict (loan_id) do update
set
    customer_id = excluded.customer_id, customer_sk = excluded.customer_sk, loan_sk = excluded.loan_sk,
    product_sk = excluded.product_sk, branch_sk = excluded.branch_sk,
    disbursement_date_sk = excluded.disbursement_date_sk, maturity_date_sk = excluded.maturity_date_sk,
    loan_status = excluded.loan_status, customer_segment = excluded.customer_segment,
    principal_amount = excluded.principal_amount, interest_rate = excluded.interest_rate,
    tenure_months = excluded.tenure_months, outstanding_balance = excluded.outstanding_balance,
    total_paid = excluded.total_paid, principal_paid = excluded.principal_paid,
    interest_paid = excluded.interest_paid, penalty_paid = excluded.penalty_paid,
    payment_count = excluded.payment_count, is_disbursed = excluded.is_disbursed, is_active = excluded.is_active,
    is_defaulted = excluded.is_defaulted, is_repaid = excluded.is_repaid, is_written_off = excluded.is_written_off,
    last_payment_date = excluded.last_payment_date;

-- aggregates, by their difference
insert into warehouse.agg_payments as present
(payment_month, method_sk, branch_sk, payment_count, payment_amount, principal_amount, interest_amount, penalty_amount)
select
    payment_month, method_sk, branch_sk, sum(sign), sum(sign * payment_amount), sum(sign * principal_amount),
    sum(sign * interest_amount), sum(sign * penalty_amount)
from (
    select payment_month, method_sk, branch_sk, payment_amount, principal_amount, interest_amount, penalty_amount, -1
    from payments_before
    union all
    select payment_month, method_sk, branch_sk, payment_amount, principal_amount, interest_amount, penalty_amount, 1
    from payments_after
) as changed (
    payment_month, method_sk, branch_sk, payment_amount, principal_amount, interest_amount, penalty_amount, sign
)
group by payment_month, method_sk, branch_sk
on conflict (payment_month, method_sk, branch_sk) do update
set
    payment_count = present.payment_count + excluded.payment_count,
    payment_amount = present.payment_amount + excluded.payment_amount,
    principal_amount = present.principal_amount + excluded.principal_amount,
    interest_amount = present.interest_amount + excluded.interest_amount,
    penalty_amount = present.penalty_amount + excluded.penalty_amount;

insert into warehouse.agg_loans as present
(
    branch_sk, loan_status, customer_segment, loan_count, disbursed_count, principal_amount, disbursed_amount,
    outstanding_balance, interest_rate_sum, total_paid, interest_paid, payment_count
)
select
    branch_sk, loan_status, customer_segment, sum(sign), sum(sign * is_disbursed::integer),
    sum(sign * principal_amount), sum(sign * is_disbursed::integer * principal_amount), sum(sign * outstanding_balance),
    sum(sign * interest_rate), sum(sign * total_paid), sum(sign * interest_paid), sum(sign * payment_count)
from (
    select *, -1 as sign from loans_before
    union all
    select *, 1 from loans_after
) as changed
group by branch_sk, loan_status, customer_segment
on conflict (branch_sk, loan_status, customer_segment) do update
set
    loan_count = present.loan_count + excluded.loan_count,
    disbursed_count = present.disbursed_count + excluded.disbursed_count,
    principal_amount = present.principal_amount + excluded.principal_amount,
    disbursed_amount = present.disbursed_amount + excluded.disbursed_amount,
    outstanding_balance = present.outstanding_balance + excluded.outstanding_balance,
    interest_rate_sum = present.interest_rate_sum + excluded.interest_rate_sum,
    total_paid = present.total_paid + excluded.total_paid,
    interest_paid = present.interest_paid + excluded.interest_paid,
    payment_count = present.payment_count + excluded.payment_count;

create temporary table customers_touched on commit drop as
select customer_id from customer_versions
union
select customer_id from loans_before
union
select customer_id from loans_after;
insert into warehouse.agg_customers
(customer_id, full_name, customer_segment, city, total_loans, total_paid, payment_count, last_payment_date)
select
    customers.customer_id, customers.full_name, customers.customer_segment, customers.city, count(loans.loan_id),
    coalesce(sum(loans.total_paid), 0), coalesce(sum(loans.payment_count), 0), max(loans.last_payment_date)
from customers_touched
inner join warehouse.dim_customer as customers
    on customers_touched.customer_id = customers.customer_id and customers.is_current
left join warehouse.fact_loans as loans on customers.customer_id = loans.customer_id
group by customers.customer_sk
on conflict (customer_id) do update
set
    full_name = excluded.full_name, customer_segment = excluded.customer_segment, city = excluded.city,
    total_loans = excluded.total_loans, total_paid = excluded.total_paid, payment_count = excluded.payment_count,
    last_payment_date = excluded.last_payment_date;

:finish;
