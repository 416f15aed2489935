"""The invariants of the loan book, as queries that give what breaks them."""

from __future__ import annotations

from eds.cluster.connections import Server
from eds.cluster.queries import fetch_value

INVARIANTS = {
    "the portions of a payment sum to its amount": """
        select count(*) from operational.payments
        where amount <> principal_portion + interest_portion + penalty_portion
    """,
    "a disbursed loan owes what was lent less the principal paid back": """
        select count(*)
        from operational.loans
        left join (
            select loan_id, sum(principal_portion) as paid from operational.payments group by loan_id
        ) as paid_back on paid_back.loan_id = loans.loan_id
        where loans.disbursed_at is not null and outstanding_balance <> amount - coalesce(paid, 0)
    """,
    "a repaid loan owes nothing": """
        select count(*) from operational.loans where status = 'repaid' and outstanding_balance <> 0
    """,
    "no payment comes before its loan is disbursed, and a pending loan has none": """
        select count(*) from operational.payments inner join operational.loans on loans.loan_id = payments.loan_id
        where loans.disbursed_at is null or payments.payment_date < loans.disbursed_at or loans.status = 'pending'
    """,
}


def violations(server: Server) -> dict[str, int]:
    """How many rows break each invariant, for those that are broken."""
    counts = {name: int(fetch_value(server, query)) for name, query in INVARIANTS.items()}
    return {name: count for name, count in counts.items() if count}
