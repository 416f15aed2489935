"""The invariants of the loan book, as queries that return the rows that break them.

One set: the generator and the simulation keep them, `make verify` and recoveries check them, and so do the tests.
"""

from __future__ import annotations

from eds.cluster.connections import Server
from eds.cluster.queries import fetch_value

# What holds in every book after every commit, to the cent. Each query returns the rows that break the rule.
INVARIANTS = {
    "the portions are not negative and sum to the amount": """
        select payment_id, amount, principal_portion, interest_portion, penalty_portion
        from operational.payments
        where principal_portion + interest_portion + penalty_portion <> amount
            or least(principal_portion, interest_portion, penalty_portion) < 0 or amount <= 0
    """,
    "a disbursed loan owes its amount less the principal paid": """
        select loans.loan_id, loans.amount, loans.outstanding_balance, paid.principal
        from operational.loans
        left join (
            select loan_id, sum(principal_portion) as principal from operational.payments group by loan_id
        ) as paid on loans.loan_id = paid.loan_id
        where loans.disbursed_at is not null
            and (
                loans.outstanding_balance <> loans.amount - coalesce(paid.principal, 0)
                or loans.outstanding_balance < 0
            )
    """,
    "a disbursed loan is repaid when it owes nothing, and only then": """
        select loan_id, status, outstanding_balance
        from operational.loans
        where disbursed_at is not null and (status = 'repaid') <> (outstanding_balance = 0)
    """,
    "no payment comes before the disbursement": """
        select payments.payment_id, payments.payment_date, loans.disbursed_at
        from operational.payments
        inner join operational.loans on payments.loan_id = loans.loan_id
        where loans.disbursed_at is null or payments.payment_date < loans.disbursed_at
    """,
    "a loan is pending when it is not disbursed, and then owes nothing": """
        select loan_id, status, disbursed_at, maturity_date, outstanding_balance
        from operational.loans
        where (status = 'pending') <> (disbursed_at is null)
            or (disbursed_at is null) <> (maturity_date is null)
            or (status = 'pending' and outstanding_balance <> 0)
    """,
}


def violations(server: Server) -> dict[str, int]:
    """Count the rows that break each invariant, for those that are broken."""
    counts = {
        name: int(fetch_value(server, f"select count(*) from ({query}) as broken"))  # noqa: S608 - queries of our own
        for name, query in INVARIANTS.items()
    }
    return {name: count for name, count in counts.items() if count}
