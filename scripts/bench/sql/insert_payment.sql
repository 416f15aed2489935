-- pgbench: one payment comes. Variable: loans.
\set loan random(1, :loans)
insert into operational.payments
(loan_id, amount, principal_portion, interest_portion, payment_method, payment_date, recorded_by)
values (:loan, 1.00, 0.00, 1.00, 'mpesa', now(), 'bench');
