"""The operations of simulated traffic: what the application's users do to the loan book, each in one transaction."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, LiteralString, Protocol

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from eds.book.demo.names import COUNTRIES, METHOD_WEIGHTS, METHODS, SEGMENT_WEIGHTS, SEGMENTS, Branch
from eds.book.demo.statements import IS_WEEKLY
from eds.book.repayment import CENT, WEEKS, Instalment, annuity, weeks_of, what_is_left

LONG_SECONDS = (2.0, 8.0)
# How many rows after a random one are searched for a row of the right kind, and how often.
NEIGHBOURS = 64
PROBES = 6
# How many days before its due date an instalment is paid at the earliest, while others are due.
EARLY_DAYS = 3
# This share of the instalments is missed, and caught up so many days later.
MISSED_SHARE = 0.08
CATCH_UP_DAYS = (10, 60)


class NothingSuitable(Exception):
    """The book has no row for the operation at this moment."""


class DeliberateRollback(Exception):
    """A client that changes its mind before it commits."""


class SharedState(Protocol):
    """What an operation has to know beside its transaction."""

    product_ids: list[int]
    branches: list[Branch]
    timezone: str
    halt: threading.Event


@dataclass(frozen=True)
class Loan:
    """A loan's row, locked until the end of the transaction."""

    loan_id: int
    amount: Decimal
    interest_rate: Decimal
    tenure_months: int
    status: str
    balance: Decimal


@dataclass(frozen=True)
class PayingLoan(Loan):
    """A loan with what was paid on it, and the instalments on record."""

    disbursed_on: date | None
    today: date
    principal_paid: Decimal
    interest_paid: Decimal
    instalments: list[Instalment]

    @functools.cached_property
    def next_instalment(self) -> Instalment:
        """What is left of the first instalment that is not paid; all of the balance where the schedule has ended."""
        schedule = self.instalments or annuity(
            self.amount, self.interest_rate, self.disbursed_on or self.today, self.tenure_months
        )
        left = what_is_left(schedule, self.principal_paid, self.interest_paid)
        if left is None:
            return Instalment(0, self.today, self.balance, Decimal(0))
        return dataclasses.replace(left, principal=min(left.principal, self.balance))

    @property
    def pays_on(self) -> date:
        """The day from which the next instalment is paid: what is missed is always the same, whoever asks."""
        instalment = self.next_instalment
        chance = random.Random(f"{self.loan_id}/{instalment.number}")
        if chance.random() < MISSED_SHARE:
            return instalment.due_date + timedelta(days=chance.randint(*CATCH_UP_DAYS))
        return instalment.due_date - timedelta(days=EARLY_DAYS)


class Transaction:
    """What an operation works with: one open transaction, a source of chance, and the shared surroundings."""

    def __init__(self, cursor: psycopg.Cursor[TupleRow], chance: random.Random, shared: SharedState) -> None:
        self.cursor = cursor
        self.chance = chance
        self.shared = shared

    def row(self, statement: LiteralString | sql.Composed, *parameters: Any) -> TupleRow | None:
        """Execute a statement and return its first row, if it has one. parameters: or one mapping by name."""
        self.cursor.execute(statement, parameters[0] if parameters and isinstance(parameters[0], dict) else parameters)
        return self.cursor.fetchone() if self.cursor.description else None

    def random_key(
        self, table: LiteralString, key: LiteralString, condition: LiteralString = "true", *, recent: bool = False
    ) -> int:
        """Return the key of some row of a table that fulfils an SQL condition.

        It starts at a random key and looks at the next few rows by the primary key, so the cost does not grow with the
        table. recent: prefer rows with high keys. Raises NothingSuitable when a few such looks find none.
        """
        name = sql.Identifier("operational", table)
        column = sql.Identifier(key)
        bounds = self.cursor.execute(sql.SQL("select min({0}), max({0}) from {1}").format(column, name)).fetchone()
        if bounds is None or bounds[0] is None:
            raise NothingSuitable
        lowest, highest = bounds
        if recent:
            lowest = max(lowest, highest - 2000)
        query = sql.SQL(
            "select near.key from (select {0} as key, * from {1} where {0} >= %s order by {0} limit {2}) as near "
            "where {3}"
        ).format(column, name, sql.Literal(1 if condition == "true" else NEIGHBOURS), sql.SQL(condition))
        for probe in range(PROBES):
            # The last look begins at the front: so it sees every row of a small table.
            start = self.chance.randint(lowest, highest) if probe < PROBES - 1 else lowest
            found = self.cursor.execute(query, (start,)).fetchall()
            if found:
                return int(self.chance.choice(found)[0])
        raise NothingSuitable

    def lock_loan(self, condition: LiteralString, *, recent: bool = False) -> Loan:
        """Lock some loan that fulfils a condition, which is checked again under the lock."""
        return self.lock_loan_of(self.random_key("loans", "loan_id", condition, recent=recent), condition)

    def lock_loan_of(self, loan_id: int, condition: LiteralString = "true") -> Loan:
        """Lock one loan. Raises NothingSuitable when it has gone or does not fulfil the condition any more."""
        row = self.row(
            sql.SQL(
                "select loan_id, amount, interest_rate, tenure_months, status, outstanding_balance "
                "from operational.loans where loan_id = %s and ({}) for update"
            ).format(sql.SQL(condition)),
            loan_id,
        )
        if row is None:
            raise NothingSuitable
        return Loan(*row)

    def read_paying_loan(self, loan_id: int) -> PayingLoan:
        """Return one loan as it is now, with its payments and its schedule. Raises NothingSuitable when it has gone."""
        row = self.row(
            """
            select
                loan_id, amount, interest_rate, tenure_months, status, outstanding_balance,
                (disbursed_at at time zone %(timezone)s)::date, (clock_timestamp() at time zone %(timezone)s)::date,
                paid.principal, paid.interest, due.numbers, due.due_dates, due.principal, due.interest
            from operational.loans
            cross join lateral (
                select
                    coalesce(sum(principal_portion), 0) as principal, coalesce(sum(interest_portion), 0) as interest
                from operational.payments
                where payments.loan_id = loans.loan_id
            ) as paid
            cross join lateral (
                select
                    array_agg(installment_no order by installment_no) as numbers,
                    array_agg(due_date order by installment_no) as due_dates,
                    array_agg(principal_due order by installment_no) as principal,
                    array_agg(interest_due order by installment_no) as interest
                from operational.loan_installments
                where loan_installments.loan_id = loans.loan_id
            ) as due
            where loan_id = %(loan_id)s
            """,
            {"loan_id": loan_id, "timezone": self.shared.timezone},
        )
        if row is None:
            raise NothingSuitable
        columns, due = row[:-4], row[-4:]
        # No instalments on record: null instead of arrays.
        instalments = [Instalment(*each) for each in zip(*due, strict=True)] if due[0] else []
        return PayingLoan(*(*columns, instalments))

    def lock_paying_loan(
        self, suits: Callable[[PayingLoan], bool], otherwise: Callable[[PayingLoan], bool]
    ) -> PayingLoan:
        """Lock an active loan that suits, found among a few; else one of them that suits otherwise, if there is one.

        What is looked at is not locked, so that two who look never wait for each other.
        """
        seen: list[PayingLoan] = []
        for _ in range(PROBES):
            seen.append(self.read_paying_loan(self.random_key("loans", "loan_id", _PAYING)))
            if suits(seen[-1]):
                break
        for suitable in (suits, otherwise):
            for candidate in filter(suitable, seen):
                self.lock_loan_of(candidate.loan_id, _PAYING)
                loan = self.read_paying_loan(candidate.loan_id)
                if suitable(loan):
                    return loan
        raise NothingSuitable

    def pay(self, loan: Loan, principal: Decimal, interest: Decimal, penalty: Decimal, note: str | None) -> None:
        """Record a payment and bring the balance up to date; a loan that owes nothing any more is repaid."""
        method = self.chance.choices(METHODS, METHOD_WEIGHTS["retail"])[0]
        # The clock, not the transaction's start: the loan may have been disbursed since.
        self.row(
            """
            insert into operational.payments (
                loan_id, amount, principal_portion, interest_portion, penalty_portion, payment_method, reference_number,
                payment_date, recorded_by, notes, created_at
            )
            select loan_id, %s, %s, %s, %s, %s, %s, moment.now, %s, %s, moment.now
            from (
                select loan_id, greatest(clock_timestamp(), disbursed_at) as now
                from operational.loans
                where loan_id = %s
                offset 0
            ) as moment
            """,
            principal + interest + penalty,
            principal,
            interest,
            penalty,
            method,
            f"{method[:2].upper()}{secrets.token_hex(5).upper()}",
            "teller" if method in ("cash", "cheque") else f"{method}-gateway",
            note,
            loan.loan_id,
        )
        left = loan.balance - principal
        self.row(
            "update operational.loans set outstanding_balance = %s, status = %s where loan_id = %s",
            left,
            "repaid" if left == 0 else loan.status,
            loan.loan_id,
        )


_ACTIVE = "status = 'active' and outstanding_balance > 0"
# Loans whose schedule is quickly computed, with sums that a payment can hold: the table accepts much more.
_PAYING = _ACTIVE + (
    " and greatest(amount, outstanding_balance) <= 100000000000 and tenure_months <= 1200"
    " and coalesce(disbursed_at, now()) between '1900-01-01' and '2100-01-01'"
)


def _application(transaction: Transaction) -> None:
    """Let a customer, mostly a new one, ask for a loan."""
    chance = transaction.chance
    branch = chance.choice(transaction.shared.branches)
    customer_id = None
    if chance.random() < 0.3:
        with contextlib.suppress(NothingSuitable):
            key = transaction.random_key("customers", "customer_id")
            # Locked as by the foreign key, so that nobody deletes the customer before the loan is there.
            row = transaction.row(
                "select customer_id from operational.customers where customer_id = %s for key share", key
            )
            customer_id = row[0] if row else None
    if customer_id is None:
        country = next(country for country in COUNTRIES if country.name == branch.country)
        first, family = chance.choice(country.first_names), chance.choice(country.family_names)
        # Unique whatever the seed: the same seed may run twice against one book.
        token = secrets.token_hex(6)
        row = transaction.row(
            """
            insert into operational.customers (
                full_name, email, phone, national_id, date_of_birth, city, country, segment
            )
            values (%s, %s, %s, %s, current_date - %s::integer, %s, %s, %s)
            returning customer_id
            """,
            f"{first} {family}",
            f"{first}.{family}.{token}@example.com".lower().replace("'", ""),
            f"+{country.dial_code}7{chance.randrange(10**8):08d}",
            f"S{token.upper()}",
            chance.randint(19 * 366, 65 * 365),
            branch.city,
            country.name,
            chance.choices(SEGMENTS, SEGMENT_WEIGHTS)[0],
        )
        assert row is not None
        customer_id = row[0]
    product_ids = transaction.shared.product_ids
    product = transaction.row(
        "select product_id, greatest(min_amount, 1), greatest(max_amount, 1), min_tenure_months, max_tenure_months "
        "from operational.loan_products where product_id = %s",
        chance.choice(product_ids),
    )
    if product is None:
        raise NothingSuitable
    product_id, lowest, highest, shortest, longest = product
    wish = lowest + (highest - lowest) * Decimal(chance.random() ** 3)
    transaction.row(
        """
        insert into operational.loans (
            customer_id, product_id, amount, interest_rate, tenure_months, status, loan_officer, branch_code
        )
        values (%s, %s, %s, %s, %s, 'pending', %s, %s)
        """,
        customer_id,
        product_id,
        min(highest, max(lowest, (wish / 500).quantize(Decimal(1)) * 500)),
        Decimal(chance.randint(40, 96)) / 4,
        chance.randint(shortest, longest),
        _officer(chance, branch),
        branch.branch_code,
    )


def _officer(chance: random.Random, branch: Branch) -> str:
    country = next(country for country in COUNTRIES if country.name == branch.country)
    return f"{chance.choice(country.first_names)} {chance.choice(country.family_names)}"


def _disbursement(transaction: Transaction) -> None:
    """Pay out a pending loan."""
    loan = transaction.lock_loan("status = 'pending'", recent=transaction.chance.random() < 0.7)
    row = transaction.row(
        sql.SQL("""
        update operational.loans
        set
            status = 'active',
            disbursed_at = moment.now,
            maturity_date = ((moment.now at time zone %(timezone)s)::date + tenure_months * interval '1 month')::date,
            outstanding_balance = amount
        from (
            select greatest(clock_timestamp(), created_at) as now from operational.loans where loan_id = %(loan_id)s
        ) as moment
        where loan_id = %(loan_id)s
        returning (
            select product_name from operational.loan_products
            where loan_products.product_id = loans.product_id and {is_weekly}
                and loans.tenure_months <= max_tenure_months and loans.disbursed_at < '2100-01-01'
        ), (disbursed_at at time zone %(timezone)s)::date
        """).format(is_weekly=sql.SQL(IS_WEEKLY)),
        {"loan_id": loan.loan_id, "timezone": transaction.shared.timezone},
    )
    assert row is not None
    weekly, disbursed_on = row
    if weekly is None:
        return
    # What is repaid by the week has its instalments on record.
    schedule = annuity(loan.amount, loan.interest_rate, disbursed_on, weeks_of(loan.tenure_months), WEEKS)
    transaction.cursor.executemany(
        "insert into operational.loan_installments (loan_id, installment_no, due_date, principal_due, interest_due) "
        "values (%s, %s, %s, %s, %s)",
        [(loan.loan_id, due.number, due.due_date, due.principal, due.interest) for due in schedule],
    )


def _payment(transaction: Transaction) -> None:
    """Pay the instalment that is due, or ahead where nothing is; now and then the complete balance."""
    loan = transaction.lock_paying_loan(
        lambda loan: loan.pays_on <= loan.today, lambda loan: loan.next_instalment.due_date > loan.today
    )
    due = loan.next_instalment
    if transaction.chance.random() < 0.04:
        transaction.pay(loan, loan.balance, due.interest, Decimal(0), "Early settlement")
    else:
        transaction.pay(loan, due.principal, due.interest, Decimal(0), None)


def _late_payment(transaction: Transaction) -> None:
    """Pay what is overdue, missed or not, with a penalty, and in half of the cases only a part of it."""
    loan = transaction.lock_paying_loan(lambda loan: loan.next_instalment.due_date < loan.today, lambda _: False)
    chance, due = transaction.chance, loan.next_instalment
    owed = due.principal + due.interest
    penalty = max(CENT, (owed * Decimal(chance.randint(10, 80)) / 1000).quantize(CENT, ROUND_HALF_UP))
    if chance.random() < 0.5:
        part = (owed * Decimal(chance.randint(20, 80)) / 100).quantize(CENT, ROUND_HALF_UP)
        interest = min(due.interest, part)
        transaction.pay(loan, part - interest, interest, penalty, "Part payment")
    else:
        transaction.pay(loan, due.principal, due.interest, penalty, None)


def _reversal(transaction: Transaction) -> None:
    """Delete a recent payment that was a mistake: the loan owes its principal again."""
    payment_id = transaction.random_key("payments", "payment_id", recent=True)
    owner = transaction.row("select loan_id from operational.payments where payment_id = %s", payment_id)
    if owner is None:
        raise NothingSuitable
    # First the loan, then the payment, as everywhere else: no deadlock.
    loan = transaction.lock_loan_of(owner[0])
    gone = transaction.row(
        "delete from operational.payments where payment_id = %s returning principal_portion", payment_id
    )
    if gone is None:
        raise NothingSuitable
    balance = loan.balance + gone[0]
    transaction.row(
        "update operational.loans set outstanding_balance = %s, status = %s where loan_id = %s",
        balance,
        "active" if loan.status == "repaid" and balance > 0 else loan.status,
        loan.loan_id,
    )


def _customer_move(transaction: Transaction) -> None:
    """Give a customer another address, telephone or segment."""
    chance = transaction.chance
    customer_id = transaction.random_key("customers", "customer_id")
    branch = chance.choice(transaction.shared.branches)
    country = next(country for country in COUNTRIES if country.name == branch.country)
    phone = f"+{country.dial_code}7{chance.randrange(10**8):08d}"
    changes: dict[str, str] = chance.choices(
        (
            {"city": branch.city, "country": branch.country, "phone": phone},
            {"phone": phone},
            {"segment": chance.choice(SEGMENTS)},
        ),
        (0.6, 0.2, 0.2),
    )[0]
    assignments = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(column)) for column in changes)
    transaction.row(
        sql.SQL("update operational.customers set {} where customer_id = %s").format(assignments),
        *changes.values(),
        customer_id,
    )
    if transaction.cursor.rowcount == 0:
        raise NothingSuitable


def _status_change(transaction: Transaction) -> None:
    """Let an active loan default, or a defaulted one be written off or active again."""
    chance = transaction.chance
    try:
        # The rarer status first, so that loans leave default again.
        loan = transaction.lock_loan("status = 'defaulted'" if chance.random() < 0.6 else _ACTIVE)
    except NothingSuitable:
        loan = transaction.lock_loan(_ACTIVE)
    status = chance.choice(("written_off", "active")) if loan.status == "defaulted" else "defaulted"
    transaction.row("update operational.loans set status = %s where loan_id = %s", status, loan.loan_id)


def _transfer(transaction: Transaction) -> None:
    """Move a loan to another branch, and to another officer."""
    loan = transaction.lock_loan("status in ('pending', 'active', 'defaulted')")
    branch = transaction.chance.choice(transaction.shared.branches)
    transaction.row(
        "update operational.loans set branch_code = %s, loan_officer = %s where loan_id = %s",
        branch.branch_code,
        _officer(transaction.chance, branch),
        loan.loan_id,
    )


def _pending_loan_deletion(transaction: Transaction) -> None:
    """Withdraw an application."""
    loan = transaction.lock_loan("status = 'pending'", recent=transaction.chance.random() < 0.7)
    transaction.row("delete from operational.loans where loan_id = %s", loan.loan_id)


def _loan_deletion(transaction: Transaction) -> None:
    """Delete a loan that should never have been, with all its payments and instalments."""
    loan = transaction.lock_loan("true")
    transaction.row("delete from operational.payments where loan_id = %s", loan.loan_id)
    transaction.row("delete from operational.loan_installments where loan_id = %s", loan.loan_id)
    transaction.row("delete from operational.loans where loan_id = %s", loan.loan_id)


def _customer_deletion(transaction: Transaction) -> None:
    """Delete a customer without loans."""
    customer_id = transaction.random_key(
        "customers",
        "customer_id",
        "not exists (select from operational.loans where loans.customer_id = near.customer_id)",
    )
    # A loan may be inserted in between: the foreign key then refuses, and another attempt finds another customer.
    transaction.row("delete from operational.customers where customer_id = %s", customer_id)
    if transaction.cursor.rowcount == 0:
        raise NothingSuitable


def _product_change(transaction: Transaction) -> None:
    """Change a product's highest amount by a few percent."""
    transaction.row(
        """
        update operational.loan_products
        set max_amount = least(greatest(round(max_amount * %s, 2), min_amount, 1), 100000000000)
        where product_id = %s and min_amount <= 100000000000
        """,
        Decimal(transaction.chance.choice((95, 98, 102, 105))) / 100,
        transaction.chance.choice(transaction.shared.product_ids),
    )
    if transaction.cursor.rowcount == 0:
        raise NothingSuitable


def _long_payment(transaction: Transaction) -> None:
    """Pay as a client that takes its time before it commits, or before it changes its mind."""
    _payment(transaction)
    transaction.shared.halt.wait(transaction.chance.uniform(*LONG_SECONDS))
    if transaction.chance.random() < 0.2:
        raise DeliberateRollback


WEIGHTED: dict[str, tuple[float, Callable[[Transaction], None]]] = {
    "application": (14.0, _application),
    "disbursement": (10.0, _disbursement),
    "payment": (44.0, _payment),
    "late_payment": (10.0, _late_payment),
    "reversal": (4.0, _reversal),
    "customer_move": (6.0, _customer_move),
    "status_change": (4.0, _status_change),
    "transfer": (4.0, _transfer),
    "pending_loan_deletion": (1.0, _pending_loan_deletion),
    "loan_deletion": (0.3, _loan_deletion),
    "customer_deletion": (0.5, _customer_deletion),
    "product_change": (0.2, _product_change),
    "long_payment": (1.0, _long_payment),
}
OPERATIONS = tuple(WEIGHTED)
