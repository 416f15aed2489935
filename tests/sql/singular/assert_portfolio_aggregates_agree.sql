-- The portfolio by branch, product and due date, the one that the filters act on, and the one of each officer, are the
-- same loans. When all data is tested
-- (dbt test, the nightly run) both are compared with the lender's own balances as well.
with by_product as (
    select
        branch_sk,
        sum(loan_count) as loan_count,
        sum(outstanding_principal) as outstanding_principal
    from {{ ref('agg_portfolio') }}
    group by branch_sk
),

by_all as (
    select
        branch_sk,
        sum(loan_count) as loan_count,
        sum(outstanding_principal) as outstanding_principal
    from {{ ref('agg_portfolio_by_officer') }}
    group by branch_sk
),

by_officer as (
    select
        branch_sk,
        sum(loan_count) as loan_count,
        sum(outstanding_principal) as outstanding_principal
    from {{ ref('agg_officers') }}
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
)

select
    coalesce(by_product.branch_sk, by_all.branch_sk, by_officer.branch_sk, balances.branch_sk) as branch_sk,
    by_product.outstanding_principal as amount_by_product,
    by_all.outstanding_principal as amount_by_all,
    by_officer.outstanding_principal as amount_by_officer,
    balances.outstanding_principal as amount_of_balances
from by_product
full outer join by_all on by_product.branch_sk = by_all.branch_sk
full outer join by_officer on by_product.branch_sk = by_officer.branch_sk
full outer join balances on by_product.branch_sk = balances.branch_sk
where
    coalesce(by_product.loan_count, 0) <> coalesce(by_officer.loan_count, 0)
    or coalesce(by_product.loan_count, 0) <> coalesce(by_all.loan_count, 0)
    or coalesce(by_product.outstanding_principal, 0) <> coalesce(by_all.outstanding_principal, 0)
    or coalesce(by_product.outstanding_principal, 0) <> coalesce(by_officer.outstanding_principal, 0)
    or (
        {{ tests_look_at_everything() }}
        and (
            coalesce(by_product.loan_count, 0) <> coalesce(balances.loan_count, 0)
            or coalesce(by_product.outstanding_principal, 0) <> coalesce(balances.outstanding_principal, 0)
        )
    )
