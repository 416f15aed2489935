"""A few loans, each of which tells one rule of the lender's figures from what is commonly taken for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import psycopg

from support.book import add_customer, add_loan, pay
from support.lender_book import add_installments, last_month_end
from support.lender_oracle import ZERO, Installment, annuity, cents, months_after


@dataclass(frozen=True)
class TellingBook:
    """What change_telling_loans() changes.

    payment: of a month that has ended. loan: with months behind it. coming: a loan with an instalment in the future.
    """

    payment: int
    loan: int
    coming: int


def _moment(day: date) -> str:
    return f"{day} 09:00+00"


def _planned(connection: psycopg.Connection, amount: str, start: date, *rows: tuple[date, str, str]) -> int:
    """Add a loan with a schedule of the lender's own. rows: due date, principal and interest of each instalment."""
    loan = add_loan(connection, 1, amount, disbursed_at=_moment(start), maturity_date=None)
    plan = [Installment(number, day, cents(p), cents(i)) for number, (day, p, i) in enumerate(rows, start=1)]
    add_installments(connection, loan, plan)
    return loan


def a_31st(before: date) -> date:
    """Return the last 31st of a month before a day."""
    month = before.replace(day=1)
    while (day := month - timedelta(days=1)).day != 31:
        month = day.replace(day=1)
    return day


def add_telling_loans(connection: psycopg.Connection, today: date) -> TellingBook:
    """Fill an empty book with them, for runs of that day."""
    end = last_month_end(today)
    add_customer(connection)
    # Exactly 30 days past due at a month's end, and due at the very end of it.
    _planned(connection, "1000", end - timedelta(days=70), (end - timedelta(days=30), "1000", "10"))
    _planned(connection, "1000", end - timedelta(days=70), (end, "1000", "10"))
    # All interest and no principal, matured; an instalment of interest alone that nobody has paid.
    owing = _planned(connection, "1000", end - timedelta(days=90), (end - timedelta(days=40), "1000", "50"))
    pay(connection, owing, "0", "1050", payment_date=_moment(end - timedelta(days=45)))
    coming = _planned(
        connection, "1000", end - timedelta(days=90),
        (end - timedelta(days=50), "0", "20"), (end + timedelta(days=60), "1000", "20"),
    )  # fmt: skip
    # Annuities from a 31st on: paid on the due day, then half of it prepaid, which covers more instalments by principal
    # than by money, then nothing; and one that was never paid.
    start = a_31st(months_after(today, -11))
    plan = annuity(cents("100000"), cents("12"), 12, start)
    terms = {
        "interest_rate": 12, "tenure_months": 12, "disbursed_at": _moment(start),
        "maturity_date": months_after(start, 12),
    }  # fmt: skip
    prepaid = add_loan(connection, 1, "100000", **terms)
    first = plan[0]
    pay(connection, prepaid, str(first.principal), str(first.interest), payment_date=_moment(first.due_date))
    pay(connection, prepaid, "50000", "0", payment_date=_moment(first.due_date + timedelta(days=15)))
    add_loan(connection, 1, "100000", **terms)
    # Matured and never paid: its level instalments leave a cent for the last one.
    past = a_31st(months_after(today, -6))
    add_loan(
        connection, 1, "100", interest_rate=12, tenure_months=3, disbursed_at=_moment(past),
        maturity_date=months_after(past, 3),
    )  # fmt: skip
    # Taken over without what was paid before.
    add_loan(connection, 1, "100000", **(terms | {"outstanding_balance": 60000}))
    # Written off with a balance, and paid on afterwards.
    lost = add_loan(connection, 1, "100000", **terms)
    pay(connection, lost, "500", "5", payment_date=_moment(end - timedelta(days=40)))
    connection.execute(
        "update operational.loans set status = 'written_off', written_off_on = %s where loan_id = %s",
        (end - timedelta(days=33), lost),
    )
    pay(connection, lost, "7", "0", payment_date=_moment(end - timedelta(days=3)))
    # Corrections booked as payments: one opens a repaid loan again, without money; one takes back what settled a due.
    repaid = _planned(connection, "1000", end - timedelta(days=90), (end - timedelta(days=60), "1000", "10"))
    pay(connection, repaid, "1000", "10", payment_date=_moment(end - timedelta(days=60)))
    pay(connection, repaid, "-50", "50", "0.01", payment_date=_moment(end - timedelta(days=10)))
    taken_back = _planned(
        connection, "1000", end - timedelta(days=90),
        (end - timedelta(days=50), "400", "10"), (end + timedelta(days=60), "600", "10"),
    )  # fmt: skip
    pay(connection, taken_back, "400", "10", payment_date=_moment(end - timedelta(days=50)))
    pay(connection, taken_back, "-200", "-5", "206", payment_date=_moment(end - timedelta(days=10)))
    # For the changes.
    moving = add_loan(connection, 1, "100000", **terms)
    payment = pay(connection, moving, "300", str(ZERO), payment_date=_moment(end - timedelta(days=20)))
    return TellingBook(payment, add_loan(connection, 1, "100000", **terms), coming)


def change_telling_loans(connection: psycopg.Connection, book: TellingBook, today: date) -> None:
    """Move a payment out of a month that has ended; move a loan to other hands, and pay on it in such a month.

    Its borrower moves to another segment.
    """
    connection.execute(
        "update operational.payments set payment_date = %s where payment_id = %s", (_moment(today), book.payment)
    )
    connection.execute(
        "update operational.loans set branch_code = 'MSA01', loan_officer = 'Zawadi' where loan_id = %s", (book.loan,)
    )
    connection.execute("update operational.loans set loan_officer = 'Zawadi' where loan_id = %s", (book.coming,))
    connection.execute("update operational.customers set segment = 'corporate'")
    pay(connection, book.loan, "400", "4", payment_date=_moment(last_month_end(today) - timedelta(days=10)))
