-- The portfolio by branch and product, and the one of each officer, are the same loans in each branch, and all of
-- them together those by due date. When all data is tested (dbt test, the nightly run) they are compared with the
-- lender's own balances as well.
with by_product as (
    select
        branch_sk,
        sum(loan_count) as loan_count,
        sum(outstanding_principal) as outstanding_principal
    from {{ ref('agg_portfolio_totals') }}
    group by branch_sk
),

by_officer as (
    select
        branch_sk,
        sum(loan_count) as loan_count,
        sum(outstanding_principal) as outstanding_principal
    from {{ ref('agg_officer_totals') }}
    group by branch_sk
),

balances as (
    select
        {{ branch_sk('branch_code') }} as branch_sk,
        count(*) as loan_count,
        sum(outstanding_balance) as outstanding_principal
    from {{ ref('stg_loans') }}
    where
        {{ tests_look_at_everything() }}
        and not is_deleted
        and is_disbursed
        and loan_status <> 'written_off'
        and outstanding_balance > 0
    group by {{ branch_sk('branch_code') }}
),

everything as (
    select
        (select sum(loan_count) from by_product) as loan_count,
        (select sum(outstanding_principal) from by_product) as outstanding_principal,
        (select sum(loan_count) from {{ ref('agg_portfolio_by_due_date') }}) as loan_count_by_date,
        (select sum(outstanding_principal) from {{ ref('agg_portfolio_by_due_date') }}) as outstanding_by_date
)

select
    coalesce(by_product.branch_sk, by_officer.branch_sk, balances.branch_sk) as branch_sk,
    by_product.outstanding_principal as amount_by_product,
    by_officer.outstanding_principal as amount_compared,
    balances.outstanding_principal as amount_of_balances
from by_product
full outer join by_officer on by_product.branch_sk = by_officer.branch_sk
full outer join balances on by_product.branch_sk = balances.branch_sk
where
    coalesce(by_product.loan_count, 0) <> coalesce(by_officer.loan_count, 0)
    or coalesce(by_product.outstanding_principal, 0) <> coalesce(by_officer.outstanding_principal, 0)
    or (
        {{ tests_look_at_everything() }}
        and (
            coalesce(by_product.loan_count, 0) <> coalesce(balances.loan_count, 0)
            or coalesce(by_product.outstanding_principal, 0) <> coalesce(balances.outstanding_principal, 0)
        )
    )
union all
select
    null as branch_sk,
    outstanding_principal as amount_by_product,
    outstanding_by_date as amount_compared,
    null as amount_of_balances
from everything
where
    loan_count is distinct from loan_count_by_date
    or outstanding_principal is distinct from outstanding_by_date
