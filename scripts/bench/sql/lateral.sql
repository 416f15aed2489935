-- The usual form of "recompute all loans": a sum per loan over staging tables that have no index. Quadratic.
select count(*)
from staging.loans
cross join lateral (
    select
        coalesce(sum(payments.amount), 0) as total,
        count(*) as payments
    from staging.payments
    where payments.loan_id = loans.loan_id
) as paid
where paid.total >= 0;
