"""Import a lender's own loan book from CSV files in one transaction: all of it or nothing.

A file goes through three steps: its text is split into records and its values are checked in Python, one by one,
because only there the line of the file is known; the records travel by COPY into temporary tables; rules, keys and
references are then checked there, as sets, and the operational tables are brought up to date.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import errors, sql
from psycopg.rows import tuple_row
from rich.table import Table as RichTable

from eds.base.console import bar, err, step
from eds.base.errors import UserError
from eds.book.csv_import.dialect import DELIMITERS, Dialect, Source, examine, sniff_delimiter, squeeze
from eds.book.csv_import.mapping import MAPPING_FILE, BookMapping, TableMapping, load_mapping
from eds.book.csv_import.problems import Problem, Problems
from eds.book.csv_import.records import Malformed, Record, read_records
from eds.book.csv_import.rows import OTHER_NAMES, Layout, NotPlainError, RowReader, lay_out
from eds.book.csv_import.schema import TABLES, Column, Rule, Table
from eds.book.csv_import.values import Reading

MASS_DELETE_ROWS = 10
"""A sync that deletes fewer rows of a table than this needs no confirmation."""

LOCK_PATIENCE_SECONDS = 30.0
"""How long to wait for a time without other writers."""

# A check returns so many of the rows that do not pass it, for the different values among them.
_CHECKED_ROWS = 20
_ROWS_PER_ADVANCE = 2000
_EXTENSIONS = (".csv", ".tsv", ".txt")
# In a demo book these were invented; the products are the catalogue that every new book starts with.
_INVENTED = ("loan_installments", "payments", "loans", "customers")


@dataclass(frozen=True)
class Counts:
    """Rows of one table. unchanged: rows of the file that the table has already, as they are."""

    inserted: int
    updated: int
    deleted: int
    unchanged: int


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
        """The counts, to be printed by rich."""
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
) -> Summary:
    """Bring the book in `directory` into the operational tables, in one transaction.

    conn: to the primary itself (not through a pool), as the application's role, with no transaction open. directory:
    holds customers.csv, loan_products.csv, loans.csv, payments.csv, at least one of them; all four when `sync` is
    set. Rows are inserted or updated by their key, and only rows that differ are written. sync: the tables then hold
    what the files hold, and nothing else. allow_mass_delete: let a sync delete more than half of a table.
    replace_demo: delete the rows of a demo book first; without it an import into one is refused. dry_run: check and
    count, and write nothing. options: see Dialect.with_options(). mapping_file: default mapping.yml in the directory,
    if it is there.

    Readers are never blocked. Other writers wait while the files' rows are checked and written, not while the files
    are read.

    Raises UserError, with nothing changed, when the files cannot be found or read, when anything in them is not as it
    should be (by file, column and cause), when a sync would delete too much, or when the database refuses. Raises
    ValueError when a transaction is open.
    """
    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        raise ValueError("import_book needs a connection without an open transaction")
    started = time.monotonic()
    mapping = find_mapping(directory, mapping_file)
    dialect = Dialect().with_options(mapping.format).with_options(options or {})
    paths = find_files(directory, sync=sync, mapping=mapping)
    try:
        with conn.transaction() as transaction, conn.cursor(row_factory=tuple_row) as cursor:
            work = _Import(conn, cursor, paths, mapping, dialect, sync, allow_mass_delete, replace_demo, dry_run)
            counts = work.run()
            if dry_run:
                raise psycopg.Rollback(transaction)
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
        raise UserError(f"The import failed: {problem}. Nothing was changed.") from problem
    return Summary(counts, time.monotonic() - started, work.remarks, dry_run)


def _first_line(problem: psycopg.Error) -> str:
    return problem.diag.message_primary or (str(problem).splitlines() or [type(problem).__name__])[0]


def find_mapping(directory: Path, mapping_file: Path | None) -> BookMapping:
    """The mapping file that was named, or the one in the directory; an empty mapping when there is none."""
    path = mapping_file or directory / MAPPING_FILE
    if mapping_file is None and not path.is_file():
        return BookMapping()
    try:
        mapping = load_mapping(path)
    except OSError as problem:
        raise UserError(f"The mapping file {path} cannot be read: {problem.strerror}.") from problem
    err.print(f"mapping: {path}", markup=False)
    return mapping


def find_files(directory: Path, *, sync: bool, mapping: BookMapping | None = None) -> dict[str, Path]:
    """The files to import, by the name of their table. Raises UserError when they are not there."""
    mapping = mapping or BookMapping()
    files = [table.file for table in TABLES if not table.is_optional]
    wanted = f"{', '.join(files[:-1])} and {files[-1]}"
    if not directory.exists():
        raise UserError(f"There is no directory {directory}.\nGive the one that holds {wanted}: make import DIR=path")
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory.\nGive the one that holds {wanted}: make import DIR=path")
    try:
        present = sorted(directory.iterdir())
    except OSError as problem:
        raise UserError(f"The directory {directory} cannot be read: {problem.strerror}.") from problem

    paths: dict[str, Path] = {}
    missing: list[str] = []
    for table in TABLES:
        named = mapping.table(table.name).file
        path = directory / named if named else _file_of(table, present)
        if path is None and table.name in mapping.tables:
            raise UserError(f"The mapping file describes {table.name}; {table.file} is not in {directory}.")
        if path is None and table.is_optional:
            continue
        if path is None:
            missing.append(table.file)
        elif not path.exists():
            raise UserError(f"The mapping file names {named} for {table.name}; it is not in {directory}.")
        elif not path.is_file():
            raise UserError(f"{path} is not a file.")
        else:
            paths[table.name] = path
    others = [path.name for path in present if path.suffix.lower() in _EXTENSIONS and path not in paths.values()]
    aside = f"\nOther CSV files there: {', '.join(others[:10])}" if others else ""
    workbooks = [path.name for path in present if path.suffix.lower() in (".xlsx", ".xls", ".ods", ".xlsm")]
    if workbooks and not paths:
        aside += f"\nOf a workbook ({', '.join(workbooks[:10])}), save each sheet as “CSV UTF-8”."
    if not paths:
        raise UserError(f"{directory} holds none of the files {wanted}.{aside}")
    if sync and missing:
        raise UserError(
            f"SYNC=1 needs all four files; not in {directory}: {', '.join(missing)}.{aside}\n"
            "A sync deletes the rows that the files do not hold, so without its file a table would be emptied.\n"
            "For a table that is to be empty, give a file with the header line alone."
        )
    if others:
        err.print(f"not read: {', '.join(others[:10])} (the import reads {wanted})", markup=False)
    return paths


def _file_of(table: Table, present: list[Path]) -> Path | None:
    """The file of a table, whatever the case of its name; None when there is none."""
    found = [
        path for path in present if path.suffix.lower() in _EXTENSIONS and squeeze(path.stem) == squeeze(table.name)
    ]
    exact = [path for path in found if path.name == table.file]
    if len(found) > 1 and not exact:
        raise UserError(f"Expected one file for {table.name}, found {', '.join(path.name for path in found)}.")
    return next(iter(exact or found), None)


@dataclass
class _Loaded:
    """A file whose rows are in the temporary table `file_<table>`."""

    layout: Layout
    is_complete: bool
    records: Callable[[], AbstractContextManager[Iterator[Record | Malformed]]]
    """Reads the file again."""

    @property
    def columns(self) -> list[Column]:
        return self.layout.columns

    def has(self, name: str) -> bool:
        return self.layout.has(name)


class _FileReadError(Exception):
    """Leaves the progress bar of a file that was read to its end."""


class _Import:
    """One import, inside its transaction.

    Two temporary tables per file: `file_<table>` with its rows as they were read, and `final_<table>` with the same
    rows as they will be in the end, completed by present values and defaults.
    """

    def __init__(
        self,
        conn: psycopg.Connection,
        cursor: psycopg.Cursor,
        paths: dict[str, Path],
        mapping: BookMapping,
        dialect: Dialect,
        sync: bool,
        allow_mass_delete: bool,
        replace_demo: bool,
        dry_run: bool,
    ) -> None:
        self.conn = conn
        self.cursor = cursor
        self.paths = paths
        self.mapping = mapping
        self.dialect = dialect
        self.sync = sync
        self.allow_mass_delete = allow_mass_delete
        self.replace_demo = replace_demo
        self.dry_run = dry_run
        self.problems = Problems()
        self.remarks: list[str] = []
        self.currency: tuple[str, str] | None = None
        self.loaded: dict[str, _Loaded] = {}
        self.defaults: dict[str, dict[str, LiteralString]] = {}
        self.tables = [table for table in TABLES if table.name in paths]
        self.known = list(TABLES)
        """The tables that the database has."""
        self.replaced: tuple[str, ...] = ()
        """Tables whose present rows are a demo's, and go."""
        shared = [path for path in paths.values() if list(paths.values()).count(path) > 1]
        self.files = {name: f"{path.name} (as {name})" if path in shared else path.name for name, path in paths.items()}
        """How messages name the files, by table."""

    def run(self) -> dict[str, Counts]:
        """Read, check, write. Raises UserError."""
        # Each statement after the locks sees what was committed before them, which an older snapshot would not.
        self.cursor.execute("set transaction isolation level read committed, read write")
        self.cursor.execute("set local timezone to 'UTC'")
        self.cursor.execute("set local datestyle to 'ISO, YMD'")
        self.cursor.execute("set local client_encoding to 'UTF8'")
        self.cursor.execute("set local statement_timeout to 0")
        self.cursor.execute("set local idle_in_transaction_session_timeout to 0")
        self._look_for_tables()
        self._look_for_demo()
        for table in self.tables:
            self._load(table)
        # With problems already, nothing will be written: no reason to block the others.
        if not self.problems.total and not self.dry_run:
            with step("Waiting for other writers"):
                self._lock()
            if not self.replaced:
                # One of those writers may have been the generator.
                self._look_for_demo()
        with step("Checking rules and references"):
            for table in self.tables:
                if table.name in self.loaded:
                    self._complete(table)
            for table in self.tables:
                if table.name in self.loaded:
                    self._check(table)
            for name, loaded in self.loaded.items():
                self._show_as_written(self.files[name], loaded)
            self.problems.raise_if_any(self.files.values())
        deletions = self._count_deletions()
        for table in self.tables:
            self._remark(table)
        if self.dry_run:
            counts = {table.name: self._count(table, deletions) for table in self.tables}
        else:
            with step("Writing the changes"):
                counts = self._write(deletions)
        # Tables without a file lose rows too, when a demo book is replaced.
        return counts | {name: Counts(0, 0, gone, 0) for name, gone in deletions.items() if gone and name not in counts}

    def _look_for_tables(self) -> None:
        """Leave out the tables and columns that a database of an earlier version does not have.

        Raises UserError when it does not have the table of a file.
        """
        self.cursor.execute(
            """
            select cls.relname::text, array_agg(att.attname::text)
            from pg_class as cls
            join pg_attribute as att on att.attrelid = cls.oid and att.attnum > 0 and not att.attisdropped
            where cls.oid = any(select to_regclass('operational.' || name) from unnest(%s::text[]) as name)
            group by cls.relname
            """,
            [[str(table.name) for table in TABLES]],
        )
        present: dict[str, list[str]] = dict(self.cursor.fetchall())
        for table in self.tables:
            if table.name not in present:
                raise UserError(
                    f"The database has no table operational.{table.name} for {self.files[table.name]}. "
                    "Nothing was changed. `make up` brings it to this version."
                )
        self.known = [
            replace(table, columns=tuple(column for column in table.columns if column.name in present[table.name]))
            for table in TABLES
            if table.name in present
        ]
        self.tables = [table for table in self.known if table.name in self.paths]

    def _look_for_demo(self) -> None:
        """Find out whether the book is an invented one. Raises UserError when it is and shall not be replaced."""
        # A database of an earlier version may not have the table yet.
        row = self.cursor.execute("select to_regclass('operational.demo_book') is not null").fetchone()
        if row != (True,):
            return
        row = self.cursor.execute(
            """
            select
                (select max(filled_at)::date::text from operational.demo_book where replaced_at is null),
                (select count(*) from operational.customers),
                (select count(*) from operational.loans),
                (select count(*) from operational.payments)
            """
        ).fetchone()
        assert row is not None
        filled_on, *numbers = row
        if filled_on is None or not any(numbers):
            unneeded = "REPLACE_DEMO=1 had no effect: the database holds no demo book"
            if self.replace_demo and unneeded not in self.remarks:
                self.remarks.append(unneeded)
            return
        customers, loans, payments = numbers
        what = f"{customers:,} customers, {loans:,} loans and {payments:,} payments"
        if not self.replace_demo and not self.dry_run:
            raise UserError(
                f"The import was refused: the database holds the demo book that was filled in on {filled_on} "
                f"({what}), and it would be mixed with yours. Nothing was changed.\n"
                "REPLACE_DEMO=1 deletes all of these first. Or start with an empty book: make nuke, then "
                "SCALE=empty make up."
            )
        known = {str(table.name) for table in self.known}
        self.replaced = tuple(
            name for name in (*_INVENTED, *(("loan_products",) if self.sync else ())) if name in known
        )
        would = "" if self.replace_demo else "; an import needs REPLACE_DEMO=1"
        self.remarks.append(f"the demo book is replaced: {what} are deleted{would}")

    # -- reading ---------------------------------------------------------------------------------------------------

    def _load(self, table: Table) -> None:
        file = self.files[table.name]
        before = self.problems.total
        source = examine(self.paths[table.name], self.dialect)
        facts: list[str] = []
        # Leaving by an exception, the bar does not say "ok": rules and references are still to be checked.
        with suppress(_FileReadError), bar(f"Reading {file}", total=max(source.line_count - 1, 0)) as advance:
            facts = self._read(table, source, advance)
            raise _FileReadError
        for fact in facts:
            err.print(fact, markup=False)
        count = self.problems.total - before
        if count:
            err.print(f"not ok: {file}, {count:,} problem{'' if count == 1 else 's'}", markup=False)

    def _read(self, table: Table, source: Source, advance: Callable[[float, str | None], None]) -> list[str]:
        """Read a file into its temporary table. Returns what was found out about it, as lines to be printed."""
        file = self.files[table.name]
        mapping = self.mapping.table(table.name)
        delimiter, header_line = self._delimiter(table, source)
        with self._records(source, delimiter, header_line) as records:
            header = next(records, None)
        layout = lay_out(table, header, file=file, mapping=mapping, sync=self.sync)
        if layout.problems:
            for problem in self._with_header_hint(table, source, delimiter, layout):
                self.problems.add(problem)
            self.problems.at_least = True
            return []

        rounded = frozenset(name for name, source in mapping.columns.items() if source.round)

        def reader_of(records: Iterator[Record | Malformed], reading: Reading, found: Problems) -> RowReader:
            next(records)
            reading.rounded = rounded
            return RowReader(table, layout, records, found.add, reading, file, mapping, self.dialect.empty, self.sync)

        self._create_file_table(table, layout.columns)
        reader = None
        if self.dialect.is_plain:
            # The plain form leaves no doubt, so that one pass does for a file in it.
            found = Problems()
            with self._records(source, delimiter, header_line) as records:
                attempt = reader_of(records, Reading(), found)
                try:
                    with self.conn.transaction():
                        self._copy(table, attempt, advance)
                    reader = attempt
                    self.problems.merge(found)
                except NotPlainError:
                    advance(-(attempt.rows - attempt.rows % _ROWS_PER_ADVANCE), None)
        if reader is None:
            with self._records(source, delimiter, header_line) as records:
                evidence = reader_of(records, Reading(), Problems()).survey()
            with self._records(source, delimiter, header_line) as records:
                reading = Reading.of(self.dialect, evidence)
                reading.currency = self.currency
                reader = reader_of(records, reading, self.problems)
                self._copy(table, reader, advance)
                self.currency = reading.currency
        if mapping.distinct:
            self._drop_repeated_rows(table, table.keys if mapping.distinct == "first" else layout.columns)
        self.cursor.execute(_sql(table, "analyze {file}"))
        self.problems.at_least |= not reader.is_whole
        again = partial(self._records, source, delimiter, header_line)
        self.loaded[table.name] = _Loaded(layout, reader.is_complete, again)
        return self._facts(table, source, delimiter, reader)

    @contextmanager
    def _records(self, source: Source, delimiter: str, header_line: int) -> Iterator[Iterator[Record | Malformed]]:
        with source.open() as lines:
            yield read_records(lines, delimiter, header_line)

    def _delimiter(self, table: Table, source: Source) -> tuple[str, int]:
        """What separates the columns, and on which line their names stand."""
        header_line = self.dialect.header_line
        with source.open() as lines:
            for _ in range(header_line):
                line = lines.readline(100_000).decode("utf-8", "replace").lstrip("\ufeff").rstrip("\r\n")
                named = re.fullmatch(r"sep=(.)", line)
                if named and header_line == self.dialect.header_line:
                    # Excel reads and writes this line before the header.
                    return self.dialect.delimiter or named[1], header_line + 1
        if self.dialect.delimiter:
            return self.dialect.delimiter, header_line
        return sniff_delimiter(line, _names_of(table, self.mapping.table(table.name))), header_line

    def _with_header_hint(self, table: Table, source: Source, delimiter: str, layout: Layout) -> list[Problem]:
        """The problems of a header; when it is none, with the line that looks like one, as below a report's title."""
        if layout.is_recognised:
            return layout.problems
        known = _names_of(table, self.mapping.table(table.name))
        with self._records(source, delimiter, 1) as records:
            for record in islice(records, 1, 30):
                fields = record.fields if isinstance(record, Record) else []
                if len(known.intersection(squeeze(name or "") for name in fields)) >= 2:
                    hint = f"; line {record.line} looks like it: HEADER_LINE={record.line}"
                    expected = layout.problems[0].expected.removesuffix(OTHER_NAMES) + hint
                    return [replace(layout.problems[0], expected=expected)]
        return layout.problems

    def _copy(self, table: Table, reader: RowReader, advance: Callable[[float, str | None], None]) -> None:
        names = ["line", "has_problem", *(column.name for column in reader.layout.columns)]
        statement = _sql(
            table, "copy {file} ({names}) from stdin", names=sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with self.cursor.copy(statement) as copy:
            for row in reader:
                copy.write_row(row)
                if not reader.rows % _ROWS_PER_ADVANCE:
                    advance(_ROWS_PER_ADVANCE, None)
        advance(reader.rows % _ROWS_PER_ADVANCE, None)

    def _create_file_table(self, table: Table, columns: Sequence[Column]) -> None:
        # Numbers without precision, so that a message shows them as the file has them.
        definitions = [
            sql.SQL("{} {}").format(
                sql.Identifier(column.name), sql.SQL("numeric" if column.kind.startswith("numeric") else column.kind)
            )
            for column in columns
        ]
        self.cursor.execute(
            _sql(
                table,
                "create temporary table {file} (line integer, has_problem boolean, {definitions}) on commit drop",
                definitions=sql.SQL(", ").join(definitions),
            )
        )

    def _drop_repeated_rows(self, table: Table, columns: Sequence[Column]) -> None:
        """Of rows that are equal in these columns keep the first."""
        self.cursor.execute(
            _sql(
                table,
                """
                delete from {file}
                where line in (
                    select line
                    from (select line, row_number() over (partition by {columns} order by line) as n from {file}) as f
                    where n > 1
                )
                """,
                columns=_names(columns),
            )
        )

    def _facts(self, table: Table, source: Source, delimiter: str, reader: RowReader) -> list[str]:
        """How a file was read, and what of it was not."""
        words = {sign: f"{name}s" for name, sign in DELIMITERS.items()}
        how = [] if delimiter == "," else [f"separated by {words.get(delimiter, repr(delimiter))}"]
        how += [*source.facts, *reader.reading.facts]
        lines = ["; ".join([f"read: {self.files[table.name]}, {_rows(reader.rows)}", *how])]
        for column, labels in reader.reading.labels.items():
            shown = [f"{text!r} as {value} ({count:,})" for (text, value), count in labels.items()]
            lines.append(f"  {column}: {_some(shown)}")
        if reader.layout.extra:
            lines.append(f"  columns not read: {_some(reader.layout.extra)}")
        if reader.skipped:
            lines.append(f"  {_rows(reader.skipped)} left out, as the mapping file says")
        return lines

    # -- locking ---------------------------------------------------------------------------------------------------

    def _lock(self) -> None:
        """Keep all other writers out until the end of the transaction. Raises UserError when they do not leave.

        Exclusive mode lets readers pass, but not SELECT … FOR UPDATE, so that no row lock can stand in the way later.
        The application must never be the victim of a deadlock with an import: while it waits for the first table the
        import holds no other, and it waits for the others shorter than deadlock_timeout (1 s) in all. The first wait
        is longer than that, which is what makes an autovacuum give way.
        """
        order = list(self.known)
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            table = order[0]
            try:
                with self.conn.transaction():
                    self.cursor.execute("set local lock_timeout to '1500ms'")
                    for table in order:
                        self.cursor.execute(_sql(table, "lock table {target} in exclusive mode"))
                        self.cursor.execute("set local lock_timeout to '300ms'")
                self.cursor.execute("set local lock_timeout to 0")
                return
            except errors.LockNotAvailable as problem:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"The import gave up: for {LOCK_PATIENCE_SECONDS:.0f} s there was always another open"
                        f" transaction that writes, lastly to {table.name}.\n"
                        "Nothing was changed. Run it again when they are done (pg_stat_activity shows them)."
                    ) from problem
                # Next time wait where it was busy, with empty hands.
                order.remove(table)
                order.insert(0, table)
                time.sleep(0.5)

    # -- checking --------------------------------------------------------------------------------------------------

    def _complete(self, table: Table) -> None:
        """Create final_<table>: the rows of the file as they will be in the database."""
        loaded = self.loaded[table.name]
        self.cursor.execute(
            """
            select att.attname, pg_get_expr(def.adbin, def.adrelid)
            from pg_attribute as att
            join pg_attrdef as def on att.attrelid = def.adrelid and att.attnum = def.adnum
            where att.attrelid = %s::regclass and not att.attisdropped
            """,
            [f"operational.{table.name}"],
        )
        # Expressions that the schema's owner wrote, not input.
        self.defaults[table.name] = dict(self.cursor.fetchall())
        defaults = {name: sql.SQL(expression) for name, expression in self.defaults[table.name].items()}
        merged: list[sql.Composable] = []
        differences: list[sql.Composable] = []
        for column in table.columns:
            has_column = loaded.has(column.name)
            value: LiteralString
            if column.name == "created_at":
                # The trigger keeps it as it was: for a row that is there, the file's is no difference.
                value = "coalesce(present.{column}, file.{column}, {default})"
                value = value if has_column else "coalesce(present.{column}, {default})"
            elif not has_column:
                value = "case when present.{key} is not null then present.{column} else {default} end"
                value = "{default}" if self.sync else value
            elif not column.has_default:
                value = "file.{column}"
            else:
                value = "coalesce(file.{column}, present.{column}, {default})"
                value = "coalesce(file.{column}, {default})" if self.sync else value
            parts = {
                "key": sql.Identifier(table.key.name),
                "column": sql.Identifier(column.name),
                "default": defaults.get(column.name, sql.SQL("null")),
                "kind": sql.SQL(column.kind),
            }
            typed = sql.SQL(f"({value})::{{kind}}").format(**parts)
            merged.append(sql.SQL("{} as {}").format(typed, parts["column"]))
            if has_column or self.sync:
                differences.append(sql.SQL("{} is distinct from present.{}").format(typed, parts["column"]))
        self.cursor.execute(
            _sql(
                table,
                """
                create temporary table {final} on commit drop as
                select file.line, file.has_problem, present.{key} is not null as is_present,
                    present.{key} is not null and ({differs}) as is_changed, {columns}
                from {file} as file
                left join {target} as present on {same} {unless_replaced}
                """,
                same=_same(table, "file", "present"),
                unless_replaced=sql.SQL("and false" if table.name in self.replaced else ""),
                differs=sql.SQL(" or ").join(differences),
                columns=sql.SQL(", ").join(merged),
            )
        )
        self.cursor.execute(_sql(table, "analyze {final}"))

    def _check(self, table: Table) -> None:
        self._check_key(table)
        for rule in table.rules:
            self._check_rule(table, rule)
        for column in self.loaded[table.name].columns:
            if column.unique:
                self._check_unique(table, column)
            if column.references is not None:
                self._check_reference(table, column, column.references)

    def _collect(self, table: Table, column: Column, query: sql.Composable, cause: str = "") -> None:
        """Note the rows of a query with the columns line, value and expected as problems of one cause."""
        self.cursor.execute(
            sql.SQL("select line, value, expected, count(*) over () from ({}) as found order by line limit {}").format(
                query, sql.Literal(_CHECKED_ROWS)
            )
        )
        found = self.cursor.fetchall()
        if found:
            file, label = self.files[table.name], self.loaded[table.name].layout.label(column)
            first = [Problem(file, line, label, value, expected, cause) for line, value, expected, _ in found]
            self.problems.add_checked(first, found[0][3])

    def _check_key(self, table: Table) -> None:
        query = _sql(
            table,
            """
            select line, {last_key}::text as value,
                format('each {key_words} once, but line %s has it already', first_line) as expected
            from (select line, {last_key}, min(line) over (partition by {keys}) as first_line from {file}) as keyed
            where line <> first_line
            """,
            last_key=sql.Identifier(table.keys[-1].name),
            key_words=sql.SQL(" of a ".join(column.name for column in reversed(table.keys))),
            keys=_names(table.keys),
        )
        self._collect(table, table.keys[-1], query, "key not unique")

    def _check_rule(self, table: Table, rule: Rule) -> None:
        loaded = self.loaded[table.name]
        named = next((column for name in rule.columns for column in loaded.columns if column.name == name), None)
        if named is None:
            # All of it present values and defaults, which the database accepted.
            return
        query = _sql(
            table,
            """
            select broken.line, file.{named}::text as value, broken.expected || {origins} as expected
            from (select *, {expected} as expected from {final} where ({holds}) is false {scope}) as broken
            join {file} as file on broken.line = file.line
            """,
            named=sql.Identifier(named.name),
            origins=self._origins(table, rule),
            expected=sql.SQL(rule.expected),
            holds=sql.SQL(rule.holds),
            # With one of its values unreadable, a rule over several columns would find a wrong sum as well.
            scope=sql.SQL("and not has_problem" if len(rule.columns) > 1 else ""),
        )
        self._collect(table, named, query, rule.cause)

    def _origins(self, table: Table, rule: Rule) -> sql.Composable:
        """An expression that says of each value that a rule looks at, and that is not in the file, where it is from."""
        loaded = self.loaded[table.name]
        parts: list[sql.Composable] = [sql.Literal("")]
        for column in table.columns:
            if column.name not in rule.columns or (loaded.has(column.name) and not column.has_default):
                continue
            is_absent: LiteralString = "file.{column} is null" if loaded.has(column.name) else "true"
            is_default: LiteralString = "true" if self.sync else "not broken.is_present"
            parts.append(
                sql.SQL(
                    "case when "
                    + is_absent
                    + " then concat('; {column_name} ', broken.{column}, case when "
                    + is_default
                    + " then ' is the default, no value of the file' "
                    "else ' is in the database, not in the file' end) else '' end"
                ).format(column=sql.Identifier(column.name), column_name=sql.SQL(column.name))
            )
        return sql.SQL(" || ").join(parts)

    def _check_unique(self, table: Table, column: Column) -> None:
        name = sql.Identifier(column.name)
        query = _sql(
            table,
            """
            select line, {column} as value,
                format('a value of its own, but line %s ({key_name} %s) has it too', first_line, first_key) as expected
            from (
                select line, {key}, {column},
                    first_value(line) over peers as first_line,
                    first_value({key}) over peers as first_key
                from {final}
                where {column} is not null
                window peers as (partition by {column} order by line)
            ) as valued
            where {key} <> first_key
            """,
            column=name,
        )
        self._collect(table, column, query, "value not unique")
        if self.sync or table.name in self.replaced:
            # The rows that the file does not hold will be gone.
            return
        query = _sql(
            table,
            """
            select final.line, final.{column} as value,
                format(
                    'a value of its own, but {key_name} %s has it, which is in the database and not in the file',
                    present.{key}
                ) as expected
            from {final} as final
            join {target} as present on final.{column} = present.{column} and final.{key} <> present.{key}
            where not exists (select from {final} as other where other.{key} = present.{key})
            """,
            column=name,
        )
        self._collect(table, column, query, "value of another row")

    def _check_reference(self, table: Table, column: Column, parent_name: str) -> None:
        parent = _table(parent_name)
        has_file = parent.name in self.paths
        if has_file and not (parent.name in self.loaded and self.loaded[parent.name].is_complete):
            # The row may be one that could not be read: that is the problem, not all rows that refer to it.
            return
        places: list[str] = []
        sources: list[sql.Identifier] = []
        if has_file:
            places.append(f"in {self.files[parent.name]}")
            sources.append(_temporary("file", parent))
        if not self.sync and parent.name not in self.replaced:
            places.append("in the database")
            sources.append(_target(parent))
        name = sql.Identifier(column.name)
        absent: list[sql.Composable] = [
            sql.SQL("not exists (select from {} as parent where parent.{} = file.{})").format(
                source, sql.Identifier(parent.key.name), name
            )
            for source in sources
        ]
        query = _sql(
            table,
            """
            select line, {column}::text as value, {expected} as expected
            from {file} as file
            where {column} is not null and {absent}
            """,
            column=name,
            expected=sql.Literal(f"a {parent.key.name} that is {' or '.join(places) or f'in {parent.file}'}"),
            absent=sql.SQL(" and ").join(absent or [sql.SQL("true")]),
        )
        self._collect(table, column, query)

    def _show_as_written(self, file: str, loaded: _Loaded) -> None:
        """Let the problems of a file show its values as it has them, not as they were read into the database."""
        groups = [group for group in self.problems.groups_of(file) if group.first.line > 1]
        lines = {line for group in groups for line in group.samples.values()}
        if not lines:
            return
        fields: dict[int, list[str | None]] = {}
        with loaded.records() as records:
            for record in records:
                if record.line in lines and isinstance(record, Record):
                    fields[record.line] = record.fields
                if record.line >= max(lines):
                    break
        for group in groups:
            position = next((t.position for t in loaded.layout.targets if t.label == group.first.column), None)
            if position is not None:
                group.samples = {
                    fields[line][position] if position < len(fields.get(line, ())) else value: line
                    for value, line in group.samples.items()
                }

    # -- writing ---------------------------------------------------------------------------------------------------

    def _count_deletions(self) -> dict[str, int]:
        """How many rows of each table will be deleted. Raises UserError when that is too much of a table."""
        deletions: dict[str, int] = dict.fromkeys((table.name for table in TABLES), 0)
        excessive: list[str] = []
        for table in self.known:
            if table.name in self.replaced:
                (deletions[table.name],) = self._numbers(table, "select count(*) from {target}")
                continue
            if not self._may_delete(table):
                continue
            present, gone = self._numbers(
                table,
                "select count(*), count(*) filter (where {is_gone}) from {target} as present",
                is_gone=self._is_gone(table),
            )
            deletions[table.name] = gone
            if gone >= MASS_DELETE_ROWS and gone * 2 > present:
                file = self.files.get(table.name, table.file)
                excessive.append(f"  {table.name}: {gone:,} of {present:,} rows are not in {file}")
        if excessive and not self.allow_mass_delete:
            raise UserError(
                "The import was refused: it would delete more than half of a table. Nothing was changed.\n\n"
                + "\n".join(excessive)
                + "\n\nIf these are the right files and that is meant, add MASS_DELETE=1."
            )
        return deletions

    def _may_delete(self, table: Table) -> bool:
        """Whether rows of a table go because the files do not hold them.

        A sync deletes in all tables. The instalments that a file has of a loan are all that the loan has, so that a
        new schedule never mixes with the rest of the former one.
        """
        return self.sync or (table.key_size > 1 and table.name in self.paths)

    def _is_gone(self, table: Table) -> sql.Composable:
        """The condition of rows (alias present) that the files do not hold."""
        if table.name not in self.paths:
            return sql.SQL("true")
        gone = _sql(table, "not exists (select from {file} as file where {same})", same=_same(table, "file", "present"))
        if self.sync:
            return gone
        return sql.SQL("{} and {}").format(
            gone, _sql(table, "exists (select from {file} as file where file.{key} = present.{key})")
        )

    def _remark(self, table: Table) -> None:
        """Remark on the values that rows have although they stand in no file."""
        loaded, file = self.loaded[table.name], self.files[table.name]
        kept: list[str] = []
        (present,) = self._numbers(table, "select count(*) from {final} where is_present")
        for column in table.columns:
            has_column = loaded.has(column.name)
            name = {"column": sql.Identifier(column.name)}
            if column.name == "created_at":
                if has_column and self.sync and present:
                    (others,) = self._numbers(
                        table,
                        "select count(*) from {final} as final join {file} as file on final.line = file.line"
                        " where final.is_present and file.{column} <> final.{column}",
                        **name,
                    )
                    if others:
                        self.remarks.append(
                            f"{table.name}: created_at stays as first recorded in {_rows(others)}, "
                            f"where {file} has another"
                        )
            elif not has_column and present and not self.sync:
                kept.append(column.name)
            elif not has_column and present and not column.has_default:
                (emptied,) = self._numbers(
                    table,
                    "select count(*) from {final} as final join {target} as present on {same}"
                    " where final.is_present and present.{column} is not null",
                    same=_same(table, "final", "present"),
                    **name,
                )
                if emptied:
                    self.remarks.append(
                        f"{table.name}: {column.name} was emptied in {_rows(emptied)}, as {file} has none"
                    )
            if column.has_default and column.name != "created_at":
                (defaulted,) = self._numbers(
                    table,
                    "select count(*) from {final} as final join {file} as file on final.line = file.line"
                    " where ({is_absent}) and ({is_written})",
                    is_absent=sql.SQL("file.{column} is null" if has_column else "true").format(**name),
                    is_written=sql.SQL("true" if self.sync else "not final.is_present"),
                )
                if defaulted:
                    default = self.defaults[table.name].get(column.name, "")
                    value = "the time of the import" if column.default_is_now else default.partition("::")[0]
                    self.remarks.append(
                        f"{table.name}: {column.name} is {value} in {_rows(defaulted)}, the default, as {file} has none"
                    )
            if column.is_percent and has_column:
                rates, greatest = self._numbers(
                    table, "select count({column}), max({column}) from {file} where {column} <> 0", **name
                )
                if rates and greatest <= 1:
                    self.remarks.append(
                        f"{table.name}: no {column.name} is above 1; it is in percent a year, 0.15 means 0.15 %"
                    )
        if kept:
            self.remarks.append(
                f"{table.name}: columns kept as they were in {_rows(present)}, as {file} has none: {', '.join(kept)}"
            )

    def _count(self, table: Table, deletions: dict[str, int]) -> Counts:
        """The counts that writing would have."""
        inserted, updated, unchanged = self._numbers(
            table,
            """
            select
                count(*) filter (where not is_present),
                count(*) filter (where is_changed),
                count(*) filter (where is_present and not is_changed)
            from {final}
            """,
        )
        return Counts(inserted, updated, deletions[table.name], unchanged)

    def _write(self, deletions: dict[str, int]) -> dict[str, Counts]:
        for name in ("loan_installments", "payments", "loans", "customers", "loan_products"):
            if name in self.replaced:
                self.cursor.execute(_sql(_table(name), "delete from {target}"))
        if self.replaced:
            self.cursor.execute("update operational.demo_book set replaced_at = now() where replaced_at is null")
        self._free_unique_values()
        # Payments and instalments go first, as loans may go. Loans, customers and products go when every row that stays
        # was written, because one that stays may have referred to one that goes.
        gone = [name for name, number in deletions.items() if number and name not in self.replaced]
        for name in ("loan_installments", "payments"):
            if name in gone:
                self._delete(_table(name))
        counts: dict[str, Counts] = {}
        for table in self.tables:
            updated = self._update(table)
            inserted = self._insert(table)
            (unchanged,) = self._numbers(table, "select count(*) from {final} where is_present and not is_changed")
            counts[table.name] = Counts(inserted, updated, deletions[table.name], unchanged)
        for name in ("loans", "customers", "loan_products"):
            if name in gone:
                self._delete(_table(name))
        for table in self.tables:
            # Where the key comes from the file.
            if counts[table.name].inserted and table.key_size == 1:
                self._advance_sequence(table)
        self._remark_schedules()
        return counts

    def _remark_schedules(self) -> None:
        """Remark on instalments that do not fit their loan. They are the lender's, so they are written as they are."""
        table = next((table for table in self.tables if table.name == "loan_installments"), None)
        if table is None:
            return
        checks: tuple[tuple[str, LiteralString], ...] = (
            (
                "the instalments' principal is not the amount of the loan",
                "select count(*) from (select loans.loan_id from {target} as present"
                " join operational.loans on loans.loan_id = present.loan_id {scope}"
                " group by loans.loan_id having sum(present.principal_due) <> min(loans.amount)) as found",
            ),
            (
                "a later instalment is not due later",
                "select count(distinct loan_id) from (select loan_id, due_date,"
                " lag(due_date) over (partition by loan_id order by installment_no) as previous_date"
                " from {target} as present {scope}) as found where due_date <= previous_date",
            ),
            (
                "an instalment is due before the disbursement",
                "select count(distinct loans.loan_id) from {target} as present join operational.loans"
                " on loans.loan_id = present.loan_id and present.due_date < loans.disbursed_at::date {scope}",
            ),
        )
        scope = _sql(table, "where present.{key} in (select {key} from {file})")
        for words, query in checks:
            (loans,) = self._numbers(table, query, scope=scope)
            if loans:
                self.remarks.append(f"{table.name}: {words} in {loans:,} loan{'' if loans == 1 else 's'}")

    def _numbers(self, table: Table, query: LiteralString, **parts: sql.Composable) -> tuple[int, ...]:
        row = self.cursor.execute(_sql(table, query, **parts)).fetchone()
        assert row is not None
        return row

    def _free_unique_values(self) -> None:
        """Empty unique values that another row is about to take over, e.g. when two customers swap their e-mails.

        The database checks uniqueness row by row, so in one update the swap would fail half-way. The rows get their
        own new values, or are deleted, later in the same transaction.
        """
        for table in self.tables:
            for column in self.loaded[table.name].columns:
                if column.unique:
                    query = _sql(
                        table,
                        """
                        update {target} as present
                        set {column} = null
                        from {final} as final
                        where final.{column} = present.{column} and final.{key} <> present.{key}
                        """,
                        column=sql.Identifier(column.name),
                    )
                    self.cursor.execute(query)

    def _update(self, table: Table) -> int:
        assignments = [
            sql.SQL("{0} = final.{0}").format(sql.Identifier(column.name))
            for column in (table.columns if self.sync else self.loaded[table.name].columns)
            if column not in table.keys and column.name != "created_at"
        ]
        if not assignments:
            return 0
        query = _sql(
            table,
            """
            update {target} as present
            set {assignments}
            from {final} as final
            where final.is_changed and {same}
            """,
            same=_same(table, "final", "present"),
            assignments=sql.SQL(", ").join(assignments),
        )
        return self.cursor.execute(query).rowcount

    def _insert(self, table: Table) -> int:
        query = _sql(
            table,
            "insert into {target} ({columns}) select {columns} from {final} where not is_present order by {keys}",
            columns=_names(table.columns),
            keys=_names(table.keys),
        )
        return self.cursor.execute(query).rowcount

    def _delete(self, table: Table) -> None:
        query = _sql(table, "delete from {target} as present where {is_gone}", is_gone=self._is_gone(table))
        self.cursor.execute(query)

    def _advance_sequence(self, table: Table) -> None:
        """Let the application's next keys come from where numbers are free."""
        self.cursor.execute("select operational.advance_identity(%s::regclass)", [f"operational.{table.name}"])


def _rows(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"


def _some(texts: Sequence[str]) -> str:
    """The first ten of a list, and how many more there are."""
    more = f" and {len(texts) - 10:,} more" if len(texts) > 10 else ""
    return ", ".join(texts[:10]) + more


def _names(columns: Sequence[Column]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)


def _same(table: Table, left: LiteralString, right: LiteralString) -> sql.Composed:
    """The condition that two aliases stand for the same row."""
    pairs = [
        sql.SQL("{} = {}").format(sql.Identifier(left, column.name), sql.Identifier(right, column.name))
        for column in table.keys
    ]
    return sql.SQL(" and ").join(pairs)


def _table(name: str) -> Table:
    return next(table for table in TABLES if table.name == name)


def _names_of(table: Table, mapping: TableMapping) -> set[str]:
    """The squeezed names by which a header is recognised."""
    mapped = [source.column for source in mapping.columns.values() if source.column]
    return {squeeze(name) for name in (*(column.name for column in table.columns), *mapped)}


def _target(table: Table) -> sql.Identifier:
    return sql.Identifier("operational", table.name)


def _temporary(kind: LiteralString, table: Table) -> sql.Identifier:
    return sql.Identifier("pg_temp", f"{kind}_{table.name}")


def _sql(table: Table, text: LiteralString, **parts: sql.Composable) -> sql.Composed:
    """A statement about one table.

    {target}, {file}, {final}, {key} and {key_name} (inside a text) are known; `parts` are the other placeholders.
    """
    return sql.SQL(text).format(
        target=_target(table),
        file=_temporary("file", table),
        final=_temporary("final", table),
        key=sql.Identifier(table.key.name),
        key_name=sql.SQL(table.key.name),
        **parts,
    )
