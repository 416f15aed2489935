-- Identifiers rise with the time of application.
update demo_loan
set loan_id = ranked.loan_id
from (select n, row_number() over (order by applied, n) as loan_id from demo_loan) as ranked
where demo_loan.n = ranked.n
