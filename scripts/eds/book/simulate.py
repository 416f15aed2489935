"""Live traffic: what a bank's application does to the loan book all day, at a chosen rate.

It uses the application's role and nothing but select, insert, update and delete on the four tables, in short
transactions without any state of the session, so that it also works through PgBouncer with transaction pooling.
After each commit the books balance: a loan owes its amount less the principal that was paid.
"""

from __future__ import annotations

import contextlib
import math
import queue
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql
from psycopg.rows import TupleRow, tuple_row
from rich.table import Table
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from eds.base.errors import UserError
from eds.book.demo.names import COUNTRIES, METHOD_WEIGHTS, METHODS, SEGMENT_WEIGHTS, SEGMENTS, Branch, read_branches

ATTEMPTS = 6
LOCK_TIMEOUT_MS = 500
# A worker that was kept waiting may catch up this many seconds of its pace, not more: work never piles up.
CATCH_UP_SECONDS = 0.5
LONG_SECONDS = (2.0, 8.0)
# How many rows after a random one are looked at for a row of the right kind, and how often.
NEIGHBOURS = 64
PROBES = 6
# How long the threads may take to end before their queries are cancelled.
GRACE_SECONDS = 1.2
CANCEL_SECONDS = 0.5

CENT = Decimal("0.01")

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds from what a person types: 90, 30s, 5m, 1.5h. Raises UserError for anything else, and for zero."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smh]?)", text.strip().lower(), re.ASCII)
    seconds = float(match.group(1)) * _UNITS[match.group(2)] if match else 0.0
    if not 0 < seconds < math.inf:
        raise UserError(
            f"Expected a duration above zero such as 90, 30s, 5m or 1h; found {text!r}. "
            "Give a number of seconds, or a number with s, m or h behind it."
        )
    return seconds


class _NothingSuitable(Exception):
    """The book has no row for the operation at this moment."""


class _Stopped(Exception):
    """The simulation ended before the transaction began."""


class _DeliberateRollback(Exception):
    """A client that changes its mind before it commits."""


class _ConnectionFailed(Exception):
    """No connection came about; another attempt may have one."""


# What another transaction, a failover or a restart may do to an honest transaction.
_RETRIED = (
    _ConnectionFailed,
    psycopg.OperationalError,  # with it: deadlock, serialization failure, lock timeout, a server that goes
    psycopg.InterfaceError,
    errors.ForeignKeyViolation,
    errors.UniqueViolation,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)


class Counts(Mapping[str, int]):
    """What a simulation did: committed operations by name, and what came between.

    retries: attempts repeated after a deadlock, a lock timeout, a lost connection and the like. rollbacks: transactions
    rolled back on purpose. failures: operations given up after the last attempt. seconds: how long it ran.
    A commit whose confirmation was lost with its connection is not counted, whether it took place or not.
    """

    def __init__(self) -> None:
        self._committed = dict.fromkeys(OPERATIONS, 0)
        self._lock = threading.Lock()
        self.retries = 0
        self.rollbacks = 0
        self.failures = 0
        self.seconds = 0.0

    def __getitem__(self, operation: str) -> int:
        return self._committed[operation]

    def __iter__(self) -> Iterator[str]:
        return iter(self._committed)

    def __len__(self) -> int:
        return len(self._committed)

    @property
    def total(self) -> int:
        """All committed operations."""
        return sum(self._committed.values())

    @property
    def rate(self) -> float:
        """Committed operations per second, as achieved."""
        return self.total / self.seconds if self.seconds else 0.0

    def add(self, operation: str | None = None, *, retries: int = 0, rollbacks: int = 0, failures: int = 0) -> None:
        """Count one committed operation, or other events. Safe from any thread."""
        with self._lock:
            if operation is not None:
                self._committed[operation] += 1
            self.retries += retries
            self.rollbacks += rollbacks
            self.failures += failures

    def table(self) -> Table:
        """The counts, to be printed with rich."""
        table = Table(title="Simulated traffic", show_footer=True)
        table.add_column("operation", footer=f"{self.rate:.1f} operations/s for {self.seconds:.1f} s")
        table.add_column("committed", justify="right", footer=f"{self.total:,}")
        for operation, count in self._committed.items():
            table.add_row(operation.replace("_", " "), f"{count:,}")
        table.add_section()
        for label, count in (
            ("retried", self.retries),
            ("rolled back on purpose", self.rollbacks),
            ("given up", self.failures),
        ):
            table.add_row(label, f"{count:,}", style="dim")
        return table


@dataclass(frozen=True)
class _Loan:
    """A loan's row, locked until the end of the transaction."""

    loan_id: int
    amount: Decimal
    interest_rate: Decimal
    tenure_months: int
    status: str
    balance: Decimal

    @property
    def interest(self) -> Decimal:
        """One month's interest on the balance."""
        return (self.balance * self.interest_rate / 1200).quantize(CENT, ROUND_HALF_UP)

    @property
    def instalment(self) -> Decimal:
        """The monthly payment of the annuity, at least a cent."""
        monthly = self.interest_rate / 1200
        if monthly == 0:
            exact = self.amount / self.tenure_months
        else:
            exact = self.amount * monthly / (1 - (1 + monthly) ** -self.tenure_months)
        return max(exact.quantize(CENT, ROUND_HALF_UP), CENT)


class _Transaction:
    """What an operation works with: one open transaction, a source of chance, and the shared surroundings."""

    def __init__(self, cursor: psycopg.Cursor[TupleRow], chance: random.Random, shared: _Shared) -> None:
        self.cursor = cursor
        self.chance = chance
        self.shared = shared

    def row(self, statement: LiteralString | sql.Composed, *parameters: Any) -> TupleRow | None:
        """Execute a statement and return its first row, if it has one."""
        self.cursor.execute(statement, parameters)
        return self.cursor.fetchone() if self.cursor.description else None

    def random_key(
        self, table: LiteralString, key: LiteralString, condition: LiteralString = "true", *, recent: bool = False
    ) -> int:
        """The key of some row of a table that fulfils an SQL condition.

        It starts at a random key and looks at the next few rows by the primary key, so the cost does not grow with the
        table. recent: prefer rows with high keys. Raises _NothingSuitable when a few such looks find none.
        """
        name = sql.Identifier("operational", table)
        column = sql.Identifier(key)
        bounds = self.cursor.execute(sql.SQL("select min({0}), max({0}) from {1}").format(column, name)).fetchone()
        if bounds is None or bounds[0] is None:
            raise _NothingSuitable
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
        raise _NothingSuitable

    def lock_loan(self, condition: LiteralString, *, recent: bool = False) -> _Loan:
        """Lock some loan that fulfils a condition, which is checked again under the lock."""
        return self.lock_loan_of(self.random_key("loans", "loan_id", condition, recent=recent), condition)

    def lock_loan_of(self, loan_id: int, condition: LiteralString = "true") -> _Loan:
        """Lock one loan. Raises _NothingSuitable when it has gone or does not fulfil the condition any more."""
        row = self.row(
            sql.SQL(
                "select loan_id, amount, interest_rate, tenure_months, status, outstanding_balance "
                "from operational.loans where loan_id = %s and ({}) for update"
            ).format(sql.SQL(condition)),
            loan_id,
        )
        if row is None:
            raise _NothingSuitable
        return _Loan(*row)

    def pay(self, loan: _Loan, principal: Decimal, interest: Decimal, penalty: Decimal, note: str | None) -> None:
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


def _application(transaction: _Transaction) -> None:
    """A customer, mostly a new one, asks for a loan."""
    chance = transaction.chance
    branch = chance.choice(transaction.shared.branches)
    customer_id = None
    if chance.random() < 0.3:
        with contextlib.suppress(_NothingSuitable):
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
        raise _NothingSuitable
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


def _disbursement(transaction: _Transaction) -> None:
    """A pending loan is paid out."""
    loan = transaction.lock_loan("status = 'pending'", recent=transaction.chance.random() < 0.7)
    transaction.row(
        """
        update operational.loans
        set
            status = 'active',
            disbursed_at = moment.now,
            maturity_date = ((moment.now at time zone 'UTC')::date + tenure_months * interval '1 month')::date,
            outstanding_balance = amount
        from (
            select greatest(clock_timestamp(), created_at) as now from operational.loans where loan_id = %s
        ) as moment
        where loan_id = %s
        """,
        loan.loan_id,
        loan.loan_id,
    )


def _payment(transaction: _Transaction) -> None:
    """The month's instalment; now and then the whole balance."""
    loan = transaction.lock_loan(_ACTIVE)
    interest = loan.interest
    if transaction.chance.random() < 0.04:
        transaction.pay(loan, loan.balance, interest, Decimal(0), "Early settlement")
        return
    principal = min(loan.balance, max(loan.instalment - interest, CENT))
    transaction.pay(loan, principal, interest, Decimal(0), None)


def _late_payment(transaction: _Transaction) -> None:
    """Late, with a penalty, and in half of the cases only a part of the instalment."""
    loan = transaction.lock_loan(_ACTIVE)
    chance = transaction.chance
    penalty = max(CENT, (loan.instalment * Decimal(chance.randint(10, 80)) / 1000).quantize(CENT, ROUND_HALF_UP))
    interest = loan.interest
    principal = min(loan.balance, max(loan.instalment - interest, CENT))
    if chance.random() < 0.5:
        part = ((interest + principal) * Decimal(chance.randint(20, 80)) / 100).quantize(CENT, ROUND_HALF_UP)
        interest = min(interest, part)
        transaction.pay(loan, part - interest, interest, penalty, "Part payment")
    else:
        transaction.pay(loan, principal, interest, penalty, None)


def _reversal(transaction: _Transaction) -> None:
    """A recent payment turns out to be a mistake: it goes, and the loan owes its principal again."""
    payment_id = transaction.random_key("payments", "payment_id", recent=True)
    owner = transaction.row("select loan_id from operational.payments where payment_id = %s", payment_id)
    if owner is None:
        raise _NothingSuitable
    # First the loan, then the payment, as everywhere else: no deadlock.
    loan = transaction.lock_loan_of(owner[0])
    gone = transaction.row(
        "delete from operational.payments where payment_id = %s returning principal_portion", payment_id
    )
    if gone is None:
        raise _NothingSuitable
    balance = loan.balance + gone[0]
    transaction.row(
        "update operational.loans set outstanding_balance = %s, status = %s where loan_id = %s",
        balance,
        "active" if loan.status == "repaid" and balance > 0 else loan.status,
        loan.loan_id,
    )


def _customer_move(transaction: _Transaction) -> None:
    """A customer has another address, telephone or segment."""
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
        raise _NothingSuitable


def _status_change(transaction: _Transaction) -> None:
    """An active loan defaults; a defaulted one is written off, or is active again."""
    chance = transaction.chance
    try:
        # Whichever is rarer first, so that loans go on from default.
        loan = transaction.lock_loan("status = 'defaulted'" if chance.random() < 0.6 else _ACTIVE)
    except _NothingSuitable:
        loan = transaction.lock_loan(_ACTIVE)
    status = chance.choice(("written_off", "active")) if loan.status == "defaulted" else "defaulted"
    transaction.row("update operational.loans set status = %s where loan_id = %s", status, loan.loan_id)


def _transfer(transaction: _Transaction) -> None:
    """A loan goes to another branch, and to another officer."""
    loan = transaction.lock_loan("status in ('pending', 'active', 'defaulted')")
    branch = transaction.chance.choice(transaction.shared.branches)
    transaction.row(
        "update operational.loans set branch_code = %s, loan_officer = %s where loan_id = %s",
        branch.branch_code,
        _officer(transaction.chance, branch),
        loan.loan_id,
    )


def _pending_loan_deletion(transaction: _Transaction) -> None:
    """An application is withdrawn."""
    loan = transaction.lock_loan("status = 'pending'", recent=transaction.chance.random() < 0.7)
    transaction.row("delete from operational.loans where loan_id = %s", loan.loan_id)


def _loan_deletion(transaction: _Transaction) -> None:
    """A loan that should never have been goes, with all its payments."""
    loan = transaction.lock_loan("true")
    transaction.row("delete from operational.payments where loan_id = %s", loan.loan_id)
    transaction.row("delete from operational.loans where loan_id = %s", loan.loan_id)


def _customer_deletion(transaction: _Transaction) -> None:
    """A customer without loans asks to be forgotten."""
    customer_id = transaction.random_key(
        "customers",
        "customer_id",
        "not exists (select from operational.loans where loans.customer_id = near.customer_id)",
    )
    # A loan may come in between: then the foreign key refuses, and another attempt finds somebody else.
    transaction.row("delete from operational.customers where customer_id = %s", customer_id)
    if transaction.cursor.rowcount == 0:
        raise _NothingSuitable


def _product_change(transaction: _Transaction) -> None:
    """A product's highest amount changes by a few percent."""
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
        raise _NothingSuitable


def _long_payment(transaction: _Transaction) -> None:
    """An ordinary payment by a client that takes its time before it commits, or before it changes its mind."""
    _payment(transaction)
    transaction.shared.halt.wait(transaction.chance.uniform(*LONG_SECONDS))
    if transaction.chance.random() < 0.2:
        raise _DeliberateRollback


_WEIGHTED: dict[str, tuple[float, Callable[[_Transaction], None]]] = {
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
OPERATIONS = tuple(_WEIGHTED)
ROLLBACK_SHARE = 0.01  # this share of the operations is rolled back on purpose, and another one done instead


class _Pace:
    """Hands out the moments at which operations start, evenly, over all workers."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def next_moment(self) -> float:
        """When the next operation is due (time.monotonic()). What was missed long ago stays missed."""
        with self._lock:
            due = max(self._next, time.monotonic() - CATCH_UP_SECONDS)
            self._next = due + self._interval
            return due


class _Shared:
    """What the threads of one simulation share."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        rate: float,
        product_ids: list[int],
        branches: list[Branch],
    ) -> None:
        self.connect = connect
        self.pace = _Pace(rate)
        self.product_ids = product_ids
        self.branches = branches
        self.counts = Counts()
        self.halt = threading.Event()
        # One long transaction at a time, and none waiting: who gets the lane may put one into the queue.
        self.long_lane = threading.BoundedSemaphore(1)
        self.long_payments: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.crash: BaseException | None = None


class _Worker(threading.Thread):
    """A client of the database: one connection, one transaction at a time."""

    def __init__(self, shared: _Shared, name: str, seed: str) -> None:
        super().__init__(name=name, daemon=True)
        self.shared = shared
        self.chance = random.Random(seed)
        self.connection: psycopg.Connection[Any] | None = None

    def run(self) -> None:
        try:
            self.work()
        except BaseException as crash:  # handed to the thread that waits for this one
            self.shared.crash = self.shared.crash or crash
            self.shared.halt.set()
        finally:
            self.disconnect()

    def work(self) -> None:
        """Operation after operation, at the pace of all workers."""
        halt = self.shared.halt
        weights = [weight for weight, _ in _WEIGHTED.values()]
        while not halt.wait(max(0.0, self.shared.pace.next_moment() - time.monotonic())):
            name = self.chance.choices(OPERATIONS, weights)[0]
            if name == "long_payment" and self.hand_over():
                continue
            if self.chance.random() < ROLLBACK_SHARE:
                self.perform("payment", roll_back=True)
            # What the book has nothing for at the moment is replaced; an application is always possible.
            for candidate in dict.fromkeys((name if name != "long_payment" else "payment", "payment", "application")):
                if halt.is_set() or self.perform(candidate):
                    break

    def hand_over(self) -> bool:
        """Give a long payment to the thread that has time for it. False when that one is busy."""
        if not self.shared.long_lane.acquire(blocking=False):
            return False
        self.shared.long_payments.put(None)
        return True

    def perform(self, name: str, *, roll_back: bool = False) -> bool:
        """Carry out one operation, with retries, and count it. False when the book had nothing for it."""
        operation = _WEIGHTED[name][1]
        counts = self.shared.counts

        def note_retry(state: RetryCallState) -> None:
            counts.add(retries=1)

        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS) | stop_when_event_set(self.shared.halt),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            sleep=sleep_using_event(self.shared.halt),
            retry=retry_if_exception_type(_RETRIED),
            before_sleep=note_retry,
            reraise=True,
        )
        try:
            retrying(self.attempt, operation, roll_back)
        except _NothingSuitable:
            return False
        except _DeliberateRollback:
            counts.add(rollbacks=1)
        except _Stopped:
            pass
        except _RETRIED:
            # Cut off by the end is not given up.
            if not self.shared.halt.is_set():
                counts.add(failures=1)
        else:
            counts.add(name)
        return True

    def attempt(self, operation: Callable[[_Transaction], None], roll_back: bool) -> None:
        """One transaction with one operation."""
        connection = self.connected()
        if self.shared.halt.is_set():
            raise _Stopped
        try:
            with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
                # Local to the transaction: a pooled server connection keeps nothing of it.
                cursor.execute("select set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_MS),))
                operation(_Transaction(cursor, self.chance, self.shared))
                if roll_back:
                    raise _DeliberateRollback
        except (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction) as error:
            # A lost connection, or a server that is no primary any more.
            if connection.closed or isinstance(error, errors.ReadOnlySqlTransaction):
                self.disconnect()
            raise

    def connected(self) -> psycopg.Connection[Any]:
        """This worker's connection, made anew when it is gone."""
        if self.connection is None or self.connection.closed:
            try:
                self.connection = self.shared.connect()
            except (psycopg.OperationalError, UserError) as error:
                raise _ConnectionFailed from error
        return self.connection

    def disconnect(self) -> None:
        """Close the connection, whatever state it is in."""
        connection, self.connection = self.connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def cancel(self) -> None:
        """Ask the server to end what this worker waits for. Called from another thread."""
        connection = self.connection
        if connection is not None and not connection.closed:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=CANCEL_SECONDS)


class _LongWorker(_Worker):
    """Carries the long transactions, so that they do not keep the others from their pace."""

    def work(self) -> None:
        while not self.shared.halt.is_set():
            try:
                self.shared.long_payments.get(timeout=0.1)
            except queue.Empty:
                continue
            if not self.perform("long_payment"):
                self.perform("application")
            self.shared.long_lane.release()


def _product_ids(connect: Callable[[], psycopg.Connection[Any]]) -> list[int]:
    """The products that can be lent. Raises UserError when there are none, or no database answers."""
    try:
        with contextlib.closing(connect()) as connection, connection.transaction():
            rows = connection.cursor(row_factory=tuple_row).execute(
                "select product_id from operational.loan_products where is_active and max_amount >= 1 "
                "and min_amount <= 100000000000 order by product_id"
            )
            product_ids = [row[0] for row in rows]
    except psycopg.OperationalError as error:
        raise UserError(
            f"Expected the loan book's database to answer, found: {str(error).strip()}\n"
            "Start the platform with `make up`, or look with `make ps` what is wrong."
        ) from error
    except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
        raise UserError(
            f"Expected the loan book's tables in schema operational, found: {error.diag.message_primary}. "
            "Start the platform with `make up`, which creates them."
        ) from error
    if not product_ids:
        raise UserError(
            "Expected active products in operational.loan_products, found none, so nobody can apply for a loan. "
            "Apply infra/primary/sql/050_products.sql, which brings the catalogue."
        )
    return product_ids


def simulate(
    connect: Callable[[], psycopg.Connection[Any]],
    *,
    rate: float,
    seconds: float,
    seed: int | None = None,
    workers: int = 2,
    stop: threading.Event | None = None,
) -> Counts:
    """Play traffic until `seconds` have passed or `stop` is set, and return what was committed.

    connect: makes a connection to the loan book as the application's role, with prepare_threshold=None when PgBouncer
    is in between; each worker has one, the long transactions have one more. rate: operations per second over all
    workers; when the database is slower, the achieved rate is lower and nothing piles up. seed: makes the choices
    repeatable, as far as the book's state and the timing allow.
    Raises UserError for a rate, a duration or a number of workers that makes no sense, when nothing can be lent, and
    when no database answers at the start; later it retries. An unexpected error ends the simulation and is raised.
    """
    for label, value in (("rate", rate), ("number of seconds", seconds), ("number of workers", workers)):
        if not 0 < value < math.inf:
            raise UserError(f"Expected a {label} above zero, found {value}. Choose a higher one.")
    stop = stop or threading.Event()
    shared = _Shared(connect, rate, _product_ids(connect), read_branches())
    base = secrets.token_hex(8) if seed is None else str(seed)
    threads: list[_Worker] = [_Worker(shared, f"simulate-{number}", f"{base}/{number}") for number in range(workers)]
    threads.append(_LongWorker(shared, "simulate-long", f"{base}/long"))
    started = time.monotonic()
    try:
        for thread in threads:
            thread.start()
        while not shared.halt.is_set():
            left = started + seconds - time.monotonic()
            if left <= 0 or stop.wait(min(left, 0.1)):
                break
    finally:
        shared.halt.set()
        _join(threads)
        shared.counts.seconds = time.monotonic() - started
    if shared.crash is not None:
        raise shared.crash
    return shared.counts


def _join(threads: list[_Worker]) -> None:
    """Wait for the threads; cancel the queries of those that are still waiting for the server."""
    deadline = time.monotonic() + GRACE_SECONDS
    for thread in threads:
        if thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
    stuck = [thread for thread in threads if thread.is_alive()]
    for thread in stuck:
        thread.cancel()
    deadline = time.monotonic() + CANCEL_SECONDS
    for thread in stuck:
        thread.join(max(0.0, deadline - time.monotonic()))
