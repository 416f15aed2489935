-- pgbench: one loan changes. Variable: loans.
\set loan random(1, :loans)
\set officer random(1, 1000)
update operational.loans set loan_officer = 'Officer ' || :officer where loan_id = :loan;
