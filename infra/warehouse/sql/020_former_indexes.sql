-- Indexes that earlier versions made. Nothing looks them up any more, and each run would still write to them.
drop index if exists operational.payments_loan_id_idx;
drop index if exists operational.loans_customer_id_idx;
drop index if exists warehouse.fact_payments_loan_id_idx;
drop index if exists warehouse.fact_loans_branch_sk_first_unpaid_due_date_idx;
