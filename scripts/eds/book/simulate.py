"""Live traffic: what a lender's application does to the loan book all day, at a chosen rate.

It uses the application's role and nothing but select, insert, update and delete on the book's five tables, in short
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
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row
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
from eds.book.demo import fill
from eds.book.demo.names import Branch, read_branches
from eds.book.operations import OPERATIONS, WEIGHTED, DeliberateRollback, NothingSuitable, Transaction

ATTEMPTS = 6
LOCK_TIMEOUT_MS = 500
# A worker that was kept waiting may catch up this many seconds of its pace, not more: work never piles up.
CATCH_UP_SECONDS = 0.5
# How long the threads may take to end before their queries are cancelled.
GRACE_SECONDS = 1.2
CANCEL_SECONDS = 0.5

# This share of the operations is rolled back on purpose, and another one done instead.
ROLLBACK_SHARE = 0.01

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Return a typed duration (90, 30s, 5m, 1.5h) in seconds. Raises UserError for anything else, and for zero."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smh]?)", text.strip().lower(), re.ASCII)
    seconds = float(match.group(1)) * _UNITS[match.group(2)] if match else 0.0
    if not 0 < seconds < math.inf:
        raise UserError(
            f"Expected a duration above zero such as 90, 30s, 5m or 1h; found {text!r}. "
            "Give a number of seconds, or a number with s, m or h behind it."
        )
    return seconds


class _Stopped(Exception):
    """The simulation ended before the transaction began."""


class _ConnectionFailed(Exception):
    """No connection came about; another attempt may have one."""


# Errors that another transaction, a failover or a restart may cause in any transaction.
_RETRIED = (
    _ConnectionFailed,
    psycopg.OperationalError,  # with it: deadlock, serialization failure, lock timeout, a server that goes
    psycopg.InterfaceError,
    errors.ForeignKeyViolation,
    errors.UniqueViolation,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)


class TrafficCounts(Mapping[str, int]):
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
        """Return the counts, to be printed with rich."""
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


class _Pace:
    """Hands out the times at which operations start, evenly, over all workers."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def next_moment(self) -> float:
        """Return when the next operation is due (time.monotonic()). What was missed long ago stays missed."""
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
        timezone: str,
    ) -> None:
        self.connect = connect
        self.pace = _Pace(rate)
        self.product_ids = product_ids
        self.branches = branches
        self.timezone = timezone
        self.counts = TrafficCounts()
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
        weights = [weight for weight, _ in WEIGHTED.values()]
        while not halt.wait(max(0.0, self.shared.pace.next_moment() - time.monotonic())):
            name = self.chance.choices(OPERATIONS, weights)[0]
            if name == "long_payment" and self.hand_over():
                continue
            if self.chance.random() < ROLLBACK_SHARE:
                self.perform("payment", roll_back=True)
            # An operation for which the book has no row at the moment is replaced; an application is always possible.
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
        operation = WEIGHTED[name][1]
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
        except NothingSuitable:
            return False
        except DeliberateRollback:
            counts.add(rollbacks=1)
        except _Stopped:
            pass
        except _RETRIED:
            # An operation that the end of the simulation cut off does not count as given up.
            if not self.shared.halt.is_set():
                counts.add(failures=1)
        else:
            counts.add(name)
        return True

    def attempt(self, operation: Callable[[Transaction], None], roll_back: bool) -> None:
        """Run one operation in a transaction of its own."""
        connection = self.connected()
        if self.shared.halt.is_set():
            raise _Stopped
        try:
            with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
                # Local to the transaction: a pooled server connection keeps nothing of it.
                cursor.execute("select set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_MS),))
                operation(Transaction(cursor, self.chance, self.shared))
                if roll_back:
                    raise DeliberateRollback
        except (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction) as error:
            # A lost connection, or a server that is no primary any more.
            if connection.closed or isinstance(error, errors.ReadOnlySqlTransaction):
                self.disconnect()
            raise

    def connected(self) -> psycopg.Connection[Any]:
        """Return this worker's connection, reopened when it is gone."""
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
    """Return the products that can be lent. Raises UserError when there are none, or no database answers."""
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
            "`make up` brings the catalogue into a book without products; your own are added, or made active, by "
            "`make import DIR=…` with a loan_products.csv."
        )
    return product_ids


def check_above_zero(label: str, value: float) -> None:
    """Raise UserError for a number that is not above zero, or has no end."""
    if not 0 < value < math.inf:
        raise UserError(f"Expected a {label} above zero, found {value}. Choose a higher one.")


def customers_at_risk(connect: Callable[[], psycopg.Connection[Any]]) -> int:
    """Return the number of customers in a book that nobody has invented: traffic would mix with what is true."""
    with contextlib.closing(connect()) as connection, connection.transaction():
        cursor = connection.cursor(row_factory=tuple_row)
        if fill.filled_on(cursor) is not None:
            return 0
        row = cursor.execute("select count(*) from operational.customers").fetchone()
        return row[0] if row else 0


def simulate(
    connect: Callable[[], psycopg.Connection[Any]],
    *,
    rate: float,
    seconds: float,
    seed: int | None = None,
    workers: int = 2,
    timezone: str = "UTC",
    stop: threading.Event | None = None,
) -> TrafficCounts:
    """Generate traffic until `seconds` have passed or `stop` is set, and return what was committed.

    connect: makes a connection to the loan book as the application's role, with prepare_threshold=None when PgBouncer
    is in between; each worker has one, the long transactions have one more. rate: operations per second over all
    workers; when the database is slower, the achieved rate is lower and nothing piles up. seed: makes the choices
    repeatable, as far as the book's state and the timing allow. timezone: the lender's, in which a day begins.
    Raises UserError for a rate, a duration or a number of workers that makes no sense, when nothing can be lent, and
    when no database answers at the start; later it retries. An unexpected error ends the simulation and is raised.
    """
    for label, value in (("rate", rate), ("number of seconds", seconds), ("number of workers", workers)):
        check_above_zero(label, value)
    stop = stop or threading.Event()
    shared = _Shared(connect, rate, _product_ids(connect), read_branches(), timezone)
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
