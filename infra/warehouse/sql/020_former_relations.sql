-- Indexes that earlier versions made. Nothing looks them up any more, and each run would still write to them.
drop index if exists operational.payments_loan_id_idx;
drop index if exists operational.loans_customer_id_idx;
drop index if exists warehouse.fact_payments_loan_id_idx;
drop index if exists warehouse.fact_loans_branch_sk_first_unpaid_due_date_idx;

-- Marts that earlier versions kept, with what changed in them. Their published copies go with the next run.
drop table if exists
warehouse.agg_portfolio, warehouse.agg_portfolio_by_officer, warehouse.agg_officers,
warehouse.agg_dues, warehouse.agg_dues_by_officer, warehouse.agg_month_ends,
changes.agg_portfolio, changes.agg_portfolio_by_officer, changes.agg_officers,
changes.agg_dues, changes.agg_dues_by_officer, changes.agg_month_ends;
