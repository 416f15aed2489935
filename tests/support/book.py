"""Small changes to the loan book, as the application makes them."""

from __future__ import annotations

from typing import Any

import psycopg


def add_customer(connection: psycopg.Connection, name: str = "Amina Otieno", **columns: Any) -> int:
    """Insert a customer and return its key."""
    return _insert(connection, "customers", "customer_id", {"full_name": name, "city": "Nairobi"} | columns)


def add_loan(connection: psycopg.Connection, customer_id: int, amount: str = "1000.00", **columns: Any) -> int:
    """Insert an active loan, disbursed on 2026-01-05, and return its key."""
    values = {
        "customer_id": customer_id,
        "product_id": 1,
        "amount": amount,
        "interest_rate": "18.0000",
        "tenure_months": 12,
        "status": "active",
        "disbursed_at": "2026-01-05T09:00:00+00",
        "maturity_date": "2027-01-05",
        "outstanding_balance": amount,
        "branch_code": "NRB01",
    }
    return _insert(connection, "loans", "loan_id", values | columns)


def pay(
    connection: psycopg.Connection,
    loan_id: int,
    principal: str = "100.00",
    interest: str = "15.00",
    penalty: str = "0.00",
    **columns: Any,
) -> int:
    """Insert a payment and bring the loan's balance along, as the application does. Returns the payment's key."""
    row = connection.execute(
        "select %s::numeric + %s::numeric + %s::numeric", (principal, interest, penalty)
    ).fetchone()
    values = {
        "loan_id": loan_id,
        "amount": row[0] if row else None,
        "principal_portion": principal,
        "interest_portion": interest,
        "penalty_portion": penalty,
        "payment_method": "mpesa",
    }
    connection.execute(
        "update operational.loans set outstanding_balance = outstanding_balance - %s where loan_id = %s",
        (principal, loan_id),
    )
    return _insert(connection, "payments", "payment_id", values | columns)


def _insert(connection: psycopg.Connection, table: str, key: str, values: dict[str, Any]) -> int:
    names = ", ".join(values)
    places = ", ".join(["%s"] * len(values))
    row = connection.execute(
        f"insert into operational.{table} ({names}) values ({places}) returning {key}", list(values.values())
    ).fetchone()
    assert row is not None
    return int(row[0])
