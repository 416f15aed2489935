-- Indexes that earlier versions made. Nothing looks them up any more, and each run would still write to them.
drop index if exists operational.payments_loan_id_idx;
drop index if exists operational.loans_customer_id_idx;
drop index if exists warehouse.fact_payments_loan_id_idx;
drop index if exists warehouse.fact_loans_branch_sk_first_unpaid_due_date_idx;

-- Marts that earlier versions kept, with what changed in them: one that a view of somebody reads stays. Their
-- published copies go with the next run.
do $$
declare
    mart text;
begin
    foreach mart in array array[
        'agg_portfolio', 'agg_portfolio_by_officer', 'agg_officers', 'agg_dues', 'agg_dues_by_officer', 'agg_month_ends'
    ] loop
        begin
            execute format('drop table if exists changes.%1$I, warehouse.%1$I', mart);
        exception when dependent_objects_still_exist then
            raise notice 'warehouse.% is kept no more, and stays as it is: %', mart, sqlerrm;
        end;
    end loop;
end $$;
