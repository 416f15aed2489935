"""The demo loan book: a lender of any size, invented, the same each time for the same seed.

Everything is drawn from hashes of (seed, purpose, row number) and computed in whole cents, with no other arithmetic on
floating-point numbers than the operations that IEEE 754 defines to the last bit. So the book depends neither on the
order in which a plan visits rows, nor on the server's version or platform.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row

from eds.base import console
from eds.base.errors import UserError
from eds.book.demo.statements import Statements, parameters, product_parameters
from eds.book.tables import TABLES
from eds.cluster.queries import has_relation

PAYMENTS_PER_LOAN = 17
PAYMENTS_PER_CUSTOMER = 26
MOST_PAYMENTS = 1_000_000_000
NAMED_SCALES = {"empty": 0, "small": 20_000, "medium": 250_000, "large": 2_000_000}


def filled_on(cursor: psycopg.Cursor[Any]) -> str | None:
    """Return the day on which the book was filled with invented data, None when it is a lender's own, or empty."""
    # A database of an earlier version may not have the table yet.
    if not has_relation(cursor.connection, "operational.demo_book"):
        return None
    row = cursor.execute(
        "select max(filled_at)::date::text from operational.demo_book where replaced_at is null"
    ).fetchone()
    return row[0] if row else None


def rows_of_book(cursor: psycopg.Cursor[Any]) -> tuple[int, int, int]:
    """Return how many customers, loans and payments the book has, counted."""
    row = cursor.execute(
        """
        select
            (select count(*) from operational.customers),
            (select count(*) from operational.loans),
            (select count(*) from operational.payments)
        """
    ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


@dataclass(frozen=True)
class Scale:
    """How big a book is wanted: numbers of rows. Payments are met, loans and customers follow from them about."""

    customers: int
    loans: int
    payments: int

    @classmethod
    def of_payments(cls, payments: int) -> Self:
        """Return the scale with this many payments; 0 is the empty book."""
        if payments == 0:
            return cls(0, 0, 0)
        return cls(
            customers=max(1, round(payments / PAYMENTS_PER_CUSTOMER)),
            loans=max(1, round(payments / PAYMENTS_PER_LOAN)),
            payments=payments,
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the scale that a text names: empty, small, medium, large, or a number of payments (250k, 1M).

        Raises UserError for anything else.
        """
        wanted = text.strip().lower()
        if wanted in NAMED_SCALES:
            return cls.of_payments(NAMED_SCALES[wanted])
        match = re.fullmatch(r"([0-9]+(?:_[0-9]+)*)(\.[0-9]+)?([km]?)", wanted, re.ASCII)
        if match and len(wanted) <= 30:
            whole, fraction, unit = match.groups()
            digits = len(fraction or ".") - 1
            units = int(whole.replace("_", "") + (fraction or ".")[1:]) * {"": 1, "k": 1_000, "m": 1_000_000}[unit]
            payments, rest = divmod(units, 10**digits)
            if rest == 0 and 0 < payments <= MOST_PAYMENTS:
                return cls.of_payments(payments)
        raise UserError(
            f"Expected a scale: {', '.join(NAMED_SCALES)}, or a whole number of payments from 1 to "
            f"{MOST_PAYMENTS:,} such as 1000000, 250k or 1M; found {text!r}. Choose one of these, for example: small."
        )


@dataclass(frozen=True)
class Summary:
    """What a book has after filling: rows per table, and how many seconds it took."""

    customers: int
    loan_products: int
    loans: int
    payments: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.customers:,} customers, {self.loans:,} loans, {self.payments:,} payments in {self.seconds:.1f} s"


# A new book has the catalogue of products already.
_FILLED = {table: key for table, key in TABLES.items() if table != "loan_products"}
_ALL_TABLES = sql.SQL(", ").join(sql.Identifier("operational", table) for table in TABLES)
_TRIGGERS = ("stamp_row", "audit", "no_truncate")


class _Filling:
    """One transaction that fills the book: statements over one cursor, with the same parameters for each."""

    def __init__(self, cursor: psycopg.Cursor[TupleRow], scale: Scale, seed: int, today: datetime.date) -> None:
        self._cursor = cursor
        self._scale = scale
        self._seed = seed
        self._statements = Statements(seed)
        self._parameters = parameters(seed, scale.payments, scale.customers, today)

    def run(self, statement: str, **further: Any) -> int:
        """Run a statement by its name. Returns how many rows it affected."""
        self._cursor.execute(self._statements[statement], {**self._parameters, **further})
        return self._cursor.rowcount

    def prepare(self) -> None:
        """Lock the tables, refuse filled ones, and switch their triggers off until the end."""
        self._cursor.execute(
            """
            set local lock_timeout = '15s';
            set local timezone = 'UTC';
            set local search_path = pg_temp, pg_catalog;
            set local work_mem = '128MB';
            set local synchronous_commit = off;
            set local jit = off;
            set local max_parallel_workers_per_gather = 0;
            """
        )
        try:
            self._cursor.execute(sql.SQL("lock table {} in share row exclusive mode").format(_ALL_TABLES))
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise UserError(
                f"Expected the loan book's tables in schema operational, found: {error.diag.message_primary}. "
                "Start the platform with `make up`, which creates them."
            ) from error
        except psycopg.errors.LockNotAvailable as error:
            raise UserError(
                "Expected the loan book to be idle, found open transactions on its tables. "
                "Stop what writes to it (for example the simulation) and fill again."
            ) from error
        for table in _FILLED:
            query = sql.SQL("select from {} limit 1").format(sql.Identifier("operational", table))
            if self._cursor.execute(query).fetchone() is not None:
                raise UserError(
                    f"Expected an empty loan book, found rows in operational.{table}. "
                    "Nothing was changed. Fill a new book, or delete the rows of this one first."
                )

    def switch_triggers(self, action: str) -> None:
        """Switch the triggers of the filled tables. action: `disable`, or `enable always`."""
        for table in _FILLED:
            for trigger in _TRIGGERS:
                self._cursor.execute(
                    sql.SQL("alter table {} {} trigger {}").format(
                        sql.Identifier("operational", table),
                        sql.SQL("disable" if action == "disable" else "enable always"),
                        sql.Identifier(f"{table}_{trigger}"),
                    )
                )

    def draw(self) -> None:
        """Draw customers, loans and payments into work tables: as many loans as the payments need, and some more."""
        self._parameters.update(product_parameters(self._cursor))
        self._cursor.execute(self._statements["work_tables"])
        self.run("draw_customers")
        self._cursor.execute("analyze demo_customer")
        drawn, reached = 0, 0
        # A few hundred at least, so that among them is one with the number of payments that is missing at the end.
        wanted = max(600, round(self._scale.loans * 1.02))
        while reached < self._scale.payments:
            numbers = {"first": drawn + 1, "last": wanted}
            self.run("draw_loans", **numbers)
            reached += self.run("draw_payments", **numbers) + self.run("draw_recoveries", **numbers)
            drawn = wanted
            # Short loans have fewer payments each: draw more loans, by what was seen so far.
            missing = self._scale.payments - reached
            wanted = drawn + max(600, round(missing * 1.05 * drawn / max(reached, 1)))

    def choose(self) -> None:
        """Keep as many loans as have the wanted number of payments, and give them their identifiers."""
        self.run("sum_payments")
        self._cursor.execute("analyze demo_paid")
        self.run("choose_loans")
        self.run("number_loans")
        self.run("number_customers")
        self._cursor.execute("analyze demo_customer; analyze demo_loan; analyze demo_payment")

    def finish(self) -> None:
        """Continue identifiers after the last. The feed knows that the trail was off (etl.note_gap).

        The book is marked as an invented one, so that nobody's real customers are imported into it by mistake.
        """
        self._cursor.execute(
            "insert into operational.demo_book (payment_count, seed) values (%s, %s)",
            (self._scale.payments, self._seed),
        )
        for table, key in _FILLED.items():
            name = sql.Identifier("operational", table)
            sequence, next_key = self._cursor.execute(
                sql.SQL("select pg_get_serial_sequence(%s, %s), (select coalesce(max({}), 0) + 1 from {})").format(
                    sql.Identifier(key), name
                ),
                (f"operational.{table}", key),
            ).fetchone() or ("", 1)
            # Unlike setval(), this belongs to the transaction.
            self._cursor.execute(
                sql.SQL("alter sequence {} restart with {}").format(sql.SQL(sequence), sql.Literal(next_key))
            )


def fill(conn: psycopg.Connection[Any], scale: Scale, seed: int = 42, today: datetime.date | None = None) -> Summary:
    """Fill an empty loan book, in one transaction, and analyze its tables afterwards.

    conn: a connection to the OLTP database as its superuser (or an owner of the tables), with no transaction open.
    scale: how big; the empty scale leaves the product catalogue alone. seed: the same seed, scale, day and catalogue
    give the same rows. today: everything in the book happened before this day began in UTC (default: the current one).
    Returns the numbers of rows. Raises UserError, and changes nothing, when the tables are missing, in use or not
    empty, when there is nothing to lend, or when `today` is in the future.
    """
    started = time.monotonic()
    current_day = datetime.datetime.now(datetime.UTC).date()
    today = today or current_day
    if today > current_day:
        raise UserError(f"Expected a day up to {current_day} as the book's last, found {today}. Choose an earlier one.")
    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        raise ValueError("fill() needs a connection without an open transaction")
    with conn.cursor(row_factory=tuple_row) as cursor:
        with conn.transaction():
            filling = _Filling(cursor, scale, seed, today)
            filling.prepare()
            if scale.payments:
                stages: list[tuple[str, Callable[[], object]]] = [
                    ("Drawing loans and payments", filling.draw),
                    ("Choosing loans", filling.choose),
                    ("Writing customers", partial(filling.run, "insert_customers")),
                    ("Writing loans", partial(filling.run, "insert_loans")),
                    ("Writing instalments", partial(filling.run, "insert_installments")),
                    ("Writing payments", partial(filling.run, "insert_payments")),
                    ("Finishing", filling.finish),
                ]
                filling.switch_triggers("disable")
                with console.bar(f"Filling the loan book: {scale.payments:,} payments", len(stages)) as advance:
                    for label, stage in stages:
                        advance(0, label)
                        stage()
                        advance(1, label)
                filling.switch_triggers("enable always")
        with console.step("Analyzing the loan book"), conn.transaction():
            cursor.execute(sql.SQL("analyze {}").format(_ALL_TABLES))
            counts = cursor.execute(
                """
                select
                    (select count(*) from operational.customers), (select count(*) from operational.loan_products),
                    (select count(*) from operational.loans), (select count(*) from operational.payments)
                """
            ).fetchone() or (0, 0, 0, 0)
    customers, loan_products, loans, payments = counts
    return Summary(customers, loan_products, loans, payments, time.monotonic() - started)
