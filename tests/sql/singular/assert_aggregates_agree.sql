-- The payments by month, method and branch, and the payments of the loans by branch, are the same money: the dashboard
-- views are read side by side, and a difference would show. Only aggregates are read, so this runs in every build.
with by_payment as (
    select
        branch_sk,
        sum(payment_count) as payment_count,
        sum(payment_amount) as payment_amount,
        sum(interest_amount) as interest_amount
    from {{ ref('agg_payments') }}
    group by branch_sk
),

by_loan as (
    select
        branch_sk,
        sum(payment_count) as payment_count,
        sum(total_paid) as payment_amount,
        sum(interest_paid) as interest_amount
    from {{ ref('agg_loans') }}
    group by branch_sk
)

select
    coalesce(by_payment.branch_sk, by_loan.branch_sk) as branch_sk,
    by_payment.payment_amount as amount_by_payment,
    by_loan.payment_amount as amount_by_loan,
    by_payment.payment_count as count_by_payment,
    by_loan.payment_count as count_by_loan
from by_payment
full outer join by_loan on by_payment.branch_sk = by_loan.branch_sk
where
    coalesce(by_payment.payment_count, 0) <> coalesce(by_loan.payment_count, 0)
    or coalesce(by_payment.payment_amount, 0) <> coalesce(by_loan.payment_amount, 0)
    or coalesce(by_payment.interest_amount, 0) <> coalesce(by_loan.interest_amount, 0)
