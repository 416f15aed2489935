"""Random changes to a loan book, each a transaction of the application, driven by Hypothesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from hypothesis import strategies as st

from eds.cluster.connections import connect
from support.book import add_customer, add_loan, pay

KINDS = (
    "add_customer",
    "add_loan",
    "pay",
    "pay",
    "pay_back_dated",
    "pay_ahead",
    "edit_payment",
    "move_payment",
    "delete_payment",
    "delete_loan",
    "delete_customer",
    "reinsert_customer",
    "change_segment",
    "change_city_and_back",
    "change_name",
    "change_status",
    "change_branch",
    "change_rate",
    "change_borrower",
    "change_product",
)
SEGMENTS = ("retail", "sme", "corporate")
STATUSES = ("pending", "active", "repaid", "defaulted", "written_off")
BRANCHES = ("NRB01", "MSA01", "KSM01", "NEW99", None)
METHODS = ("mpesa", "bank_transfer", "cash", "cheque", "online")


@dataclass(frozen=True)
class Change:
    """One change: its kind, and two numbers that choose the row and the value."""

    kind: str
    row: int
    value: int


changes = st.builds(Change, st.sampled_from(KINDS), st.integers(0, 999), st.integers(0, 999))


def _pick(connection: psycopg.Connection, table: str, key: str, number: int) -> Any:
    keys = [row[0] for row in connection.execute(f"select {key} from operational.{table} order by {key}").fetchall()]
    return keys[number % len(keys)] if keys else None


def apply(conninfo: str, change: Change) -> None:
    """Make one change, in a transaction of its own."""
    with connect(conninfo) as connection:
        change_book(connection, change)


def change_book(connection: psycopg.Connection, change: Change) -> None:
    """Make one change in the connection's transaction. A change that finds no row to work on does nothing."""
    kind, number = change.kind, change.value
    customer = _pick(connection, "customers", "customer_id", change.row)
    loan = _pick(connection, "loans", "loan_id", change.row)
    payment = _pick(connection, "payments", "payment_id", change.row)
    if kind == "add_customer" or customer is None:
        add_customer(
            connection, f"Customer {number} 'é' 😀", segment=SEGMENTS[number % 3], city=[None, "Nakuru"][number % 2]
        )
    elif kind == "add_loan" or (loan is None and kind.startswith("pay")):
        status = STATUSES[number % 5]
        add_loan(
            connection,
            customer,
            f"{1000 + number}.37",
            status=status,
            branch_code=BRANCHES[number % 5],
            disbursed_at=None if status == "pending" else "2026-01-05T09:00:00+00",
            product_id=1 + number % 6,
        )
    elif kind.startswith("pay"):
        when = {
            "pay": "now()",
            "pay_back_dated": f"now() - interval '{number} days'",
            "pay_ahead": f"now() + interval '{number} seconds'",
        }[kind]
        moment = connection.execute(f"select {when}").fetchone()
        pay(
            connection,
            loan,
            f"{number}.11",
            f"{number % 7}.50",
            f"{number % 3}.00",
            payment_date=moment and moment[0],
            payment_method=METHODS[number % 5],
        )
    elif kind in ("edit_payment", "move_payment", "delete_payment"):
        if payment is None:
            return
        if kind == "edit_payment":
            connection.execute(
                "update operational.payments set amount = amount + 1, interest_portion = interest_portion + 1, "
                "payment_method = %s, payment_date = payment_date - %s * interval '1 day' where payment_id = %s",
                (METHODS[number % 5], number % 90, payment),
            )
        elif kind == "move_payment":
            connection.execute(
                "update operational.payments set loan_id = %s where payment_id = %s",
                (_pick(connection, "loans", "loan_id", number), payment),
            )
        else:
            connection.execute("delete from operational.payments where payment_id = %s", (payment,))
    elif kind == "delete_loan" and loan is not None:
        _delete_loans(connection, "loan_id", loan)
    elif kind in ("delete_customer", "reinsert_customer"):
        _delete_customer(connection, customer)
        if kind == "reinsert_customer":
            add_customer(connection, f"Back again {number}", customer_id=customer, segment=SEGMENTS[number % 3])
    elif kind == "change_segment":
        connection.execute(
            "update operational.customers set segment = %s where customer_id = %s", (SEGMENTS[number % 3], customer)
        )
    elif kind == "change_city_and_back":
        connection.execute("update operational.customers set city = 'Elsewhere' where customer_id = %s", (customer,))
        if number % 2:
            connection.execute("update operational.customers set city = 'Nairobi' where customer_id = %s", (customer,))
    elif kind == "change_name":
        connection.execute(
            "update operational.customers set full_name = %s, phone = %s, is_active = %s where customer_id = %s",
            (f"مريم {number}", str(number), bool(number % 2), customer),
        )
    elif loan is not None:
        column, value = (
            {
                "change_status": ("status", STATUSES[number % 5]),
                "change_branch": ("branch_code", BRANCHES[number % 5]),
                "change_rate": ("interest_rate", number),
                "change_borrower": ("customer_id", _pick(connection, "customers", "customer_id", number)),
                "change_product": ("product_id", 1 + number % 6),
            }[kind]
            if kind.startswith("change")
            else ("loan_officer", "Achieng")
        )
        connection.execute(f"update operational.loans set {column} = %s where loan_id = %s", (value, loan))


def _delete_customer(connection: psycopg.Connection, customer: int) -> None:
    _delete_loans(connection, "customer_id", customer)
    connection.execute("delete from operational.customers where customer_id = %s", (customer,))


def _delete_loans(connection: psycopg.Connection, column: str, value: int) -> None:
    """Delete the loans with this value, and what refers to them."""
    for table in ("payments", "loan_installments"):
        connection.execute(
            f"delete from operational.{table} as theirs using operational.loans "
            f"where theirs.loan_id = loans.loan_id and loans.{column} = %s",
            (value,),
        )
    connection.execute(f"delete from operational.loans where {column} = %s", (value,))
