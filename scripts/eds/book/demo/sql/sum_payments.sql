-- What each loan has paid, and when that was last recorded.
insert into demo_paid (n, payments, principal, last_recorded)
select n, count(*), sum(principal), max({{ recorded }})
from demo_payment as payment
group by n
