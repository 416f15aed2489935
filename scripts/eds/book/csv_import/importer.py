"""Import a lender's own loan book from CSV files in one transaction: all of it or nothing.

A file goes through three steps: its text is split into records and its values are checked in Python, one by one,
because only there the line of the file is known; the records travel by COPY into temporary tables; rules, keys and
references are then checked there, as sets, and the operational tables are brought up to date.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row
from rich.table import Table as RichTable

from eds.base.console import err, step
from eds.base.disk import system_sentence
from eds.base.errors import UserError
from eds.book.csv_import import checking, planning, reading, writing
from eds.book.csv_import.dialect import Dialect
from eds.book.csv_import.files import find_files, find_mapping
from eds.book.csv_import.job import Counts, Job
from eds.book.csv_import.mapping import BookMapping
from eds.book.csv_import.schema import TABLES
from eds.book.csv_import.statements import statement
from eds.book.demo import fill

LOCK_PATIENCE_SECONDS = 30.0
"""How long to wait for a time without other writers."""


@dataclass(frozen=True)
class Summary:
    """What an import did. tables: by the name of the table, those that had a file. seconds: from start to commit.

    remarks: what somebody who knows only the files would not expect. is_dry_run: whether nothing was written.
    """

    tables: dict[str, Counts]
    seconds: float
    remarks: list[str] = field(default_factory=list)
    is_dry_run: bool = False

    def table(self) -> RichTable:
        """Return the counts, to be printed by rich."""
        title = f"The book was imported in {self.seconds:.1f} s"
        if self.is_dry_run:
            title = "Dry run: nothing was written. An import would make these changes"
        rich_table = RichTable(title=title)
        rich_table.add_column("table")
        for heading in ("inserted", "updated", "deleted", "unchanged"):
            rich_table.add_column(heading, justify="right")
        for name, counts in self.tables.items():
            numbers = (counts.inserted, counts.updated, counts.deleted, counts.unchanged)
            rich_table.add_row(name, *(f"{number:,}" for number in numbers))
        return rich_table


@dataclass(frozen=True)
class Inputs:
    """What an import reads, and how: found without a database."""

    mapping: BookMapping
    dialect: Dialect
    paths: dict[str, Path]


def find_inputs(
    directory: Path,
    *,
    sync: bool = False,
    options: Mapping[str, str] | None = None,
    mapping_file: Path | None = None,
) -> Inputs:
    """Find the files and check the options of an import. Raises UserError; for the arguments see import_book()."""
    mapping = find_mapping(directory, mapping_file)
    dialect = Dialect().with_options(mapping.format).with_options(options or {})
    return Inputs(mapping, dialect, find_files(directory, sync=sync, mapping=mapping))


def import_book(
    conn: psycopg.Connection,
    directory: Path,
    *,
    sync: bool = False,
    allow_mass_delete: bool = False,
    replace_demo: bool = False,
    dry_run: bool = False,
    options: Mapping[str, str] | None = None,
    mapping_file: Path | None = None,
    inputs: Inputs | None = None,
    shown_currency: str | None = None,
    business_timezone: str = "UTC",
) -> Summary:
    """Bring the book in `directory` into the operational tables, in one transaction.

    conn: to the primary itself (not through a pool), as the application's role, with no transaction open. directory:
    holds customers.csv, loan_products.csv, loans.csv, payments.csv, loan_installments.csv, at least one of them; the
    first four when `sync` is set. Rows are inserted or updated by their key, and only rows that differ are written.
    sync: the tables then hold what the files hold, and nothing else. allow_mass_delete: let the import delete more than
    half of a table. replace_demo: delete the rows of a demo book first; without it an import into one is refused.
    dry_run: check and count, and write nothing. options: see Dialect.with_options(). mapping_file: default mapping.yml
    in the directory, if it is there. inputs: the result of find_inputs(), when that was called before. shown_currency:
    the one that the dashboards name. business_timezone: the zone by whose days the figures are computed.

    Readers are never blocked. Other writers wait while the files' rows are checked and written, not while the files
    are read.

    Raises UserError, with nothing changed, when the files cannot be found or read, when anything in them is not as it
    should be (by file, column and cause), when a sync would delete too much, or when the database refuses. Raises
    ValueError when a transaction is open.
    """
    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        raise ValueError("import_book needs a connection without an open transaction")
    started = time.monotonic()
    inputs = inputs or find_inputs(directory, sync=sync, options=options, mapping_file=mapping_file)
    counts: dict[str, Counts] | None = None
    try:
        with conn.transaction() as transaction, conn.cursor(row_factory=tuple_row) as cursor:
            job = Job(
                conn,
                cursor,
                inputs.paths,
                inputs.mapping,
                inputs.dialect,
                sync,
                allow_mass_delete,
                replace_demo,
                dry_run,
            )
            job.shown_currency, job.business_timezone = shown_currency, business_timezone
            counts = _run(job)
            if dry_run:
                raise psycopg.Rollback(transaction)
    except KeyboardInterrupt:
        if counts is None:
            err.print("The import was interrupted. Nothing was changed.", markup=False)
        raise
    except psycopg.OperationalError as problem:
        raise UserError(
            f"The import failed: {_first_line(problem)}\n"
            "It is all or nothing. Remove the cause and run it again: rows that are there already are left as they are."
        ) from problem
    except psycopg.Error as problem:
        detail = problem.diag.message_detail
        raise UserError(
            f"The import was refused by the database: {_first_line(problem)}"
            + (f"\n{detail}" if detail else "")
            + "\nNothing was changed."
        ) from problem
    except OSError as problem:
        raise UserError(f"The import failed: {system_sentence(problem)} Nothing was changed.") from problem
    return Summary(counts, time.monotonic() - started, job.remarks, dry_run)


def _first_line(problem: psycopg.Error) -> str:
    return problem.diag.message_primary or (str(problem).splitlines() or [type(problem).__name__])[0]


def _run(job: Job) -> dict[str, Counts]:
    """Read, check, write. Raises UserError."""
    # Each statement after the locks sees what was committed before them, which an older snapshot would not.
    job.cursor.execute("set transaction isolation level read committed, read write")
    job.cursor.execute("set local timezone to 'UTC'")
    job.cursor.execute("set local datestyle to 'ISO, YMD'")
    job.cursor.execute("set local client_encoding to 'UTF8'")
    job.cursor.execute("set local statement_timeout to 0")
    job.cursor.execute("set local idle_in_transaction_session_timeout to 0")
    _look_for_tables(job)
    _look_for_demo(job)
    for table in job.tables:
        reading.load(job, table)
    for source in job.sources:
        source.check_unchanged()
    # With problems already found, nothing will be written: there is no reason to block other writers.
    if not job.problems.total and not job.dry_run:
        with step("Waiting for other writers"):
            _lock(job)
        if not job.replaced:
            # One of the writers that were waited for may have been the demo generator.
            _look_for_demo(job)
    with step("Checking rules and references"):
        for table in job.tables:
            if table.name in job.loaded:
                checking.complete(job, table)
        for table in job.tables:
            if table.name in job.loaded:
                checking.check(job, table)
        for name, loaded in job.loaded.items():
            reading.show_as_written(job, job.files[name], loaded)
        job.problems.raise_if_any(job.files.values())
    deletions = planning.count_deletions(job)
    for table in job.tables:
        planning.remark(job, table)
        planning.remark_on_values(job, table)
    _remark_on_settings(job)
    if job.dry_run:
        counts = {table.name: planning.count(job, table, deletions) for table in job.tables}
    else:
        with step("Writing the changes"):
            counts = writing.write(job, deletions)
    # Tables without a file lose rows too, when a demo book is replaced.
    return counts | {name: Counts(0, 0, gone, 0) for name, gone in deletions.items() if gone and name not in counts}


def _remark_on_settings(job: Job) -> None:
    """Remark on what the files say and the dashboards show otherwise."""
    if job.currency is not None and job.shown_currency not in (None, job.currency[0]):
        job.remarks.append(
            f"amounts are in {job.currency[1]}, and the dashboards show {job.shown_currency}; "
            f"where that is another currency: CURRENCY={job.currency[0]} in .env"
        )
    for table in job.tables:
        if table.name in job.assumed_utc:
            planning.remark_on_zone(job, table)
        if table.name == "loans" and job.loaded[table.name].has("branch_code"):
            planning.remark_on_branches(job, table)


def _look_for_tables(job: Job) -> None:
    """Leave out the tables and columns that a database of an earlier version does not have.

    Raises UserError when it does not have the table of a file.
    """
    job.cursor.execute(
        """
        select cls.relname::text, array_agg(att.attname::text)
        from pg_class as cls
        join pg_attribute as att on att.attrelid = cls.oid and att.attnum > 0 and not att.attisdropped
        where cls.oid = any(select to_regclass('operational.' || name) from unnest(%s::text[]) as name)
        group by cls.relname
        """,
        [[str(table.name) for table in TABLES]],
    )
    present: dict[str, list[str]] = dict(job.cursor.fetchall())
    for table in job.tables:
        if table.name not in present:
            raise UserError(
                f"The database has no table operational.{table.name} for {job.files[table.name]}. "
                "Nothing was changed. `make up` brings it to this version."
            )
    job.known = [
        replace(table, columns=tuple(column for column in table.columns if column.name in present[table.name]))
        for table in TABLES
        if table.name in present
    ]
    job.tables = [table for table in job.known if table.name in job.paths]


def _look_for_demo(job: Job) -> None:
    """Find out whether the book is an invented one. Raises UserError when it is and is not to be replaced."""
    filled_on = fill.filled_on(job.cursor)
    numbers = fill.rows_of_book(job.cursor)
    if filled_on is None or not any(numbers):
        unneeded = "REPLACE_DEMO=1 had no effect: the database holds no demo book"
        if job.replace_demo and unneeded not in job.remarks:
            job.remarks.append(unneeded)
        return
    customers, loans, payments = numbers
    what = f"{customers:,} customers, {loans:,} loans and {payments:,} payments"
    if not job.replace_demo and not job.dry_run:
        raise UserError(
            f"The import was refused: the database holds the demo book that was filled in on {filled_on} "
            f"({what}), and it would be mixed with yours. Nothing was changed.\n"
            "REPLACE_DEMO=1 deletes all of these first. Or start with an empty book: make nuke, then "
            "SCALE=empty make up."
        )
    # Products are not demo data: every new book starts with the catalogue.
    job.replaced = tuple(table.name for table in job.known if job.sync or table.name != "loan_products")
    would = "" if job.replace_demo else "; an import needs REPLACE_DEMO=1"
    stays = "" if job.sync else "; the products stay, unless SYNC=1 is given"
    job.remarks.append(f"the demo book is replaced: {what} are deleted{stays}{would}")


def _lock(job: Job) -> None:
    """Keep all other writers out until the end of the transaction. Raises UserError when they do not leave.

    Exclusive mode lets readers pass, but not SELECT … FOR UPDATE, so that no row lock can stand in the way later.
    The application must never be the victim of a deadlock with an import: while it waits for the first table the
    import holds no other, and it waits for the others shorter than deadlock_timeout (1 s) in all. The first wait
    is longer than that, which is what makes an autovacuum give way.
    """
    order = list(job.known)
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        table = order[0]
        try:
            with job.conn.transaction():
                job.cursor.execute("set local lock_timeout to '1500ms'")
                for table in order:
                    job.cursor.execute(statement(table, "lock table {target} in exclusive mode"))
                    job.cursor.execute("set local lock_timeout to '300ms'")
            job.cursor.execute("set local lock_timeout to 0")
            return
        except errors.LockNotAvailable as problem:
            if time.monotonic() > deadline:
                raise UserError(
                    f"The import gave up: for {LOCK_PATIENCE_SECONDS:.0f} s there was always another open"
                    f" transaction that writes, lastly to {table.name}.\n"
                    "Nothing was changed. Run it again when they are done (pg_stat_activity shows them)."
                ) from problem
            # On the next attempt wait for the busy table first, while no lock is held.
            order.remove(table)
            order.insert(0, table)
            time.sleep(0.5)
