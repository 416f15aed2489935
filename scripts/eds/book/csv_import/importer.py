"""Import a lender's own loan book from CSV files in one transaction: all of it or nothing.

A file goes through three steps: its text is split into records and its values are checked in Python, one by one,
because only there the line of the file is known; the records travel by COPY into temporary tables; rules, keys and
references are then checked there, as sets, and the operational tables are brought up to date.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString, cast

import psycopg
from psycopg import errors, sql
from psycopg.rows import tuple_row
from rich.table import Table as RichTable

from eds.base.console import bar, err, step
from eds.base.errors import UserError
from eds.book.csv_import.problems import MAX_PROBLEMS, Problem, Problems
from eds.book.csv_import.records import read_records
from eds.book.csv_import.rows import RowReader, check_header
from eds.book.csv_import.schema import TABLES, Column, Rule, Table

MASS_DELETE_ROWS = 10
"""A sync that deletes fewer rows of a table than this needs no confirmation."""

LOCK_PATIENCE_SECONDS = 30.0
"""How long to wait for a moment without other writers."""

_ROWS_PER_ADVANCE = 2000


@dataclass(frozen=True)
class Counts:
    """Rows of one table. unchanged: rows of the file that the table has already, as they are."""

    inserted: int
    updated: int
    deleted: int
    unchanged: int


@dataclass(frozen=True)
class Summary:
    """What an import did. tables: by the name of the table, those that had a file. seconds: from start to commit."""

    tables: dict[str, Counts]
    seconds: float

    def table(self) -> RichTable:
        """The counts, to be printed by rich."""
        rich_table = RichTable(title=f"The book was imported in {self.seconds:.1f} s")
        rich_table.add_column("table")
        for heading in ("inserted", "updated", "deleted", "unchanged"):
            rich_table.add_column(heading, justify="right")
        for name, counts in self.tables.items():
            numbers = (counts.inserted, counts.updated, counts.deleted, counts.unchanged)
            rich_table.add_row(name, *(f"{number:,}" for number in numbers))
        return rich_table


def import_book(
    conn: psycopg.Connection, directory: Path, *, sync: bool = False, allow_mass_delete: bool = False
) -> Summary:
    """Brings the book in `directory` into the operational tables, in one transaction.

    conn: to the primary itself (not through a pool), as the application's role, with no transaction open. directory:
    holds customers.csv, loan_products.csv, loans.csv, payments.csv, at least one of them; all four when `sync` is
    set. Rows are inserted or updated by their key, and only rows that differ are written. sync: rows that the files do
    not hold are deleted. allow_mass_delete: let a sync delete more than half of a table.

    Readers are never held up. Other writers wait while the files' rows are checked and written, not while the files
    are read.

    Raises UserError, with nothing changed, when the files cannot be found or read, when anything in them is not as it
    should be (with file, line, column, value and what was expected, 20 problems at most), when a sync would delete too
    much, or when the database refuses. Raises ValueError when a transaction is open.
    """
    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        raise ValueError("import_book needs a connection without an open transaction")
    started = time.monotonic()
    paths = find_files(directory, sync=sync)
    try:
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
            counts = _Import(conn, cursor, paths, sync, allow_mass_delete).run()
    except psycopg.OperationalError as problem:
        raise UserError(
            f"The import failed: {_first_line(problem)}\n"
            "It is all or nothing. Mend the cause and run it again: rows that are there already are left as they are."
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
    return Summary(counts, time.monotonic() - started)


def _first_line(problem: psycopg.Error) -> str:
    return problem.diag.message_primary or (str(problem).splitlines() or [type(problem).__name__])[0]


def find_files(directory: Path, *, sync: bool) -> dict[str, Path]:
    """The files to import, by the name of their table. Raises UserError when they are not there."""
    files = [table.file for table in TABLES]
    wanted = f"{', '.join(files[:-1])} and {files[-1]}"
    if not directory.exists():
        raise UserError(f"There is no directory {directory}.\nGive the one that holds {wanted}: make import DIR=path")
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory.\nGive the one that holds {wanted}: make import DIR=path")
    try:
        others = sorted(path.name for path in directory.iterdir() if path.suffix.lower() == ".csv")
    except OSError as problem:
        raise UserError(f"The directory {directory} cannot be read: {problem.strerror}.") from problem
    others = [name for name in others if name not in files]
    aside = f"\nOther CSV files there: {', '.join(others[:10])}" if others else ""

    paths = {table.name: directory / table.file for table in TABLES if (directory / table.file).exists()}
    missing = [table.file for table in TABLES if table.name not in paths]
    if not paths:
        raise UserError(f"{directory} holds none of the files {wanted}.{aside}")
    if sync and missing:
        raise UserError(
            f"SYNC=1 needs all four files; not in {directory}: {', '.join(missing)}.{aside}\n"
            "A sync deletes the rows that the files do not hold, so without its file a whole table would be deleted.\n"
            "For a table that is to be empty, give a file with the header line alone."
        )
    for path in paths.values():
        if not path.is_file():
            raise UserError(f"{path} is not a file.")
    if others:
        err.print(f"left out, as the import reads only {wanted}: {', '.join(others[:10])}", markup=False)
    return {str(name): path for name, path in paths.items()}


@dataclass
class _Loaded:
    """A file whose rows are in the temporary table `file_<table>`."""

    columns: list[Column]
    is_complete: bool

    def has(self, name: str) -> bool:
        return any(column.name == name for column in self.columns)


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
        sync: bool,
        allow_mass_delete: bool,
    ) -> None:
        self.conn = conn
        self.cursor = cursor
        self.paths = paths
        self.sync = sync
        self.allow_mass_delete = allow_mass_delete
        self.problems = Problems()
        self.loaded: dict[str, _Loaded] = {}
        self.tables = [table for table in TABLES if table.name in paths]

    def run(self) -> dict[str, Counts]:
        """Reads, checks, writes. Raises UserError."""
        # Each statement after the locks sees what was committed before them, which an older snapshot would not.
        self.cursor.execute("set transaction isolation level read committed, read write")
        self.cursor.execute("set local timezone to 'UTC'")
        self.cursor.execute("set local datestyle to 'ISO, YMD'")
        self.cursor.execute("set local client_encoding to 'UTF8'")
        self.cursor.execute("set local statement_timeout to 0")
        self.cursor.execute("set local idle_in_transaction_session_timeout to 0")
        for table in self.tables:
            self._load(table)
        # With problems already, nothing will be written: no reason to hold up the others.
        if not self.problems.total:
            with step("Waiting for other writers"):
                self._lock()
        with step("Checking rules and references"):
            for table in self.tables:
                if table.name in self.loaded:
                    self._complete(table)
            for table in self.tables:
                if table.name in self.loaded:
                    self._check(table)
            self.problems.raise_if_any()
        deletions = self._count_deletions() if self.sync else {}
        with step("Writing the changes"):
            return self._write(deletions)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _load(self, table: Table) -> None:
        path = self.paths[table.name]
        with path.open("rb") as handle:
            lines = sum(block.count(b"\n") for block in iter(lambda: handle.read(1 << 20), b""))
            handle.seek(0)
            with bar(f"Reading {table.file}", total=max(lines - 1, 0)) as advance:
                records = read_records(handle)
                columns, problems = check_header(table, next(records, None))
                if problems:
                    for problem in problems:
                        self.problems.add(problem)
                    self.problems.at_least = True
                    return
                reader = RowReader(table, columns, records, self.problems.add)
                self._create_file_table(table, columns)
                names = ["line", "has_problem", *(column.name for column in columns)]
                copy_statement = _sql(
                    table, "copy {file} ({names}) from stdin", names=sql.SQL(", ").join(map(sql.Identifier, names))
                )
                with self.cursor.copy(copy_statement) as copy:
                    for row in reader:
                        copy.write_row(row)
                        if not reader.rows % _ROWS_PER_ADVANCE:
                            advance(_ROWS_PER_ADVANCE, None)
                advance(reader.rows % _ROWS_PER_ADVANCE, None)
        self.cursor.execute(_sql(table, "analyze {file}"))
        self.problems.at_least |= not reader.is_whole
        self.loaded[table.name] = _Loaded(columns, reader.is_complete)

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

    # -- locking ---------------------------------------------------------------------------------------------------

    def _lock(self) -> None:
        """Keeps all other writers out until the end of the transaction. Raises UserError when they do not leave.

        Exclusive mode lets readers pass, but not SELECT … FOR UPDATE, so that no row lock can stand in the way later.
        The application must never be the victim of a deadlock with an import: while it waits for the first table the
        import holds no other, and it waits for the others shorter than deadlock_timeout (1 s) in all. The first wait
        is longer than that, which is what makes an autovacuum give way.
        """
        order = list(TABLES)
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
        """Creates final_<table>: the rows of the file as they will be in the database."""
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
        defaults = {name: sql.SQL(cast(LiteralString, expression)) for name, expression in self.cursor.fetchall()}
        merged: list[sql.Composable] = []
        differences: list[sql.Composable] = []
        for column in table.columns:
            value: LiteralString
            if not loaded.has(column.name):
                value = "case when present.{key} is not null then present.{column} else {default} end"
            elif not column.has_default:
                value = "file.{column}"
            elif column.name != "created_at":
                value = "coalesce(file.{column}, present.{column}, {default})"
            else:
                # The trigger keeps it as it was: for a row that is there, the file's is no difference.
                value = "coalesce(present.{column}, file.{column}, {default})"
            parts = {
                "key": sql.Identifier(table.key.name),
                "column": sql.Identifier(column.name),
                "default": defaults.get(column.name, sql.SQL("null")),
                "kind": sql.SQL(column.kind),
            }
            typed = sql.SQL(f"({value})::{{kind}}").format(**parts)
            merged.append(sql.SQL("{} as {}").format(typed, parts["column"]))
            if loaded.has(column.name):
                differences.append(sql.SQL("{} is distinct from present.{}").format(typed, parts["column"]))
        self.cursor.execute(
            _sql(
                table,
                """
                create temporary table {final} on commit drop as
                select file.line, file.has_problem, present.{key} is not null as is_present,
                    present.{key} is not null and ({differs}) as is_changed, {columns}
                from {file} as file
                left join {target} as present on file.{key} = present.{key}
                """,
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

    def _collect(self, table: Table, column: str, query: sql.Composable) -> None:
        """Notes the rows of a query with the columns line, value and expected as problems."""
        self.cursor.execute(
            sql.SQL("select line, value, expected, count(*) over () from ({}) as found order by line limit {}").format(
                query, sql.Literal(MAX_PROBLEMS)
            )
        )
        found = self.cursor.fetchall()
        if found:
            first = [Problem(table.file, line, column, value, expected) for line, value, expected, _ in found]
            self.problems.add_counted(first, found[0][3])

    def _check_key(self, table: Table) -> None:
        query = _sql(
            table,
            """
            select line, {key}::text as value,
                format('each {key_name} once, but line %s has it already', first_line) as expected
            from (select line, {key}, min(line) over (partition by {key}) as first_line from {file}) as keyed
            where line <> first_line
            """,
        )
        self._collect(table, table.key.name, query)

    def _check_rule(self, table: Table, rule: Rule) -> None:
        named = next((name for name in rule.columns if self.loaded[table.name].has(name)), None)
        if named is None:
            # All of it present values and defaults, which the database accepted.
            return
        query = _sql(
            table,
            """
            select broken.line, file.{named}::text as value, broken.expected
            from (select line, {expected} as expected from {final} where ({holds}) is false {scope}) as broken
            join {file} as file on broken.line = file.line
            """,
            named=sql.Identifier(named),
            expected=sql.SQL(rule.expected),
            holds=sql.SQL(rule.holds),
            # With one of its values unreadable, a rule over several columns would tell of a wrong sum as well.
            scope=sql.SQL("and not has_problem" if len(rule.columns) > 1 else ""),
        )
        self._collect(table, named, query)

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
        self._collect(table, column.name, query)
        if self.sync:
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
        self._collect(table, column.name, query)

    def _check_reference(self, table: Table, column: Column, parent_name: str) -> None:
        parent = _table(parent_name)
        has_file = parent.name in self.paths
        if has_file and not (parent.name in self.loaded and self.loaded[parent.name].is_complete):
            # The row may be one that could not be read: that is told, not all rows that refer to it.
            return
        places: list[str] = []
        sources: list[sql.Identifier] = []
        if has_file:
            places.append(f"in {parent.file}")
            sources.append(_temporary("file", parent))
        if not self.sync:
            places.append("in the database")
            sources.append(_target(parent))
        name = sql.Identifier(column.name)
        absent = [
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
            expected=sql.Literal(f"a {parent.key.name} that is {' or '.join(places)}"),
            absent=sql.SQL(" and ").join(absent),
        )
        self._collect(table, column.name, query)

    # -- writing ---------------------------------------------------------------------------------------------------

    def _count_deletions(self) -> dict[str, int]:
        """How many rows of each table the sync will delete. Raises UserError when that is too much of a table."""
        deletions: dict[str, int] = {}
        excessive: list[str] = []
        for table in self.tables:
            present, gone = self._numbers(
                table,
                """
                select count(*), count(*) filter (where file.line is null)
                from {target} as present
                left join {file} as file on present.{key} = file.{key}
                """,
            )
            deletions[table.name] = gone
            if gone >= MASS_DELETE_ROWS and gone * 2 > present:
                excessive.append(f"  {table.name}: {gone:,} of {present:,} rows are not in {table.file}")
        if excessive and not self.allow_mass_delete:
            raise UserError(
                "The import was refused: it would delete more than half of a table. Nothing was changed.\n\n"
                + "\n".join(excessive)
                + "\n\nIf these are the right files and that is meant, add MASS_DELETE=1."
            )
        return deletions

    def _write(self, deletions: dict[str, int]) -> dict[str, Counts]:
        self._free_unique_values()
        # Payments go first, as loans may go. Loans, customers and products go when every row that stays was written,
        # because one that stays may have referred to one that goes.
        if deletions.get("payments"):
            self._delete(_table("payments"))
        counts: dict[str, Counts] = {}
        for table in self.tables:
            updated = self._update(table)
            inserted = self._insert(table)
            (unchanged,) = self._numbers(table, "select count(*) from {final} where is_present and not is_changed")
            counts[table.name] = Counts(inserted, updated, deletions.get(table.name, 0), unchanged)
        for name in ("loans", "customers", "loan_products"):
            if deletions.get(name):
                self._delete(_table(name))
        for table in self.tables:
            if counts[table.name].inserted:
                self._advance_sequence(table)
        return counts

    def _numbers(self, table: Table, query: LiteralString) -> tuple[int, ...]:
        row = self.cursor.execute(_sql(table, query)).fetchone()
        assert row is not None
        return row

    def _free_unique_values(self) -> None:
        """Empties unique values that another row is about to take over, e.g. when two customers swap their e-mails.

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
            for column in self.loaded[table.name].columns
            if column is not table.key and column.name != "created_at"
        ]
        query = _sql(
            table,
            """
            update {target} as present
            set {assignments}
            from {final} as final
            where final.is_changed and final.{key} = present.{key}
            """,
            assignments=sql.SQL(", ").join(assignments),
        )
        return self.cursor.execute(query).rowcount

    def _insert(self, table: Table) -> int:
        query = _sql(
            table,
            "insert into {target} ({columns}) select {columns} from {final} where not is_present order by {key}",
            columns=sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns),
        )
        return self.cursor.execute(query).rowcount

    def _delete(self, table: Table) -> None:
        query = _sql(
            table,
            """
            delete from {target} as present
            where not exists (select from {file} as file where file.{key} = present.{key})
            """,
        )
        self.cursor.execute(query)

    def _advance_sequence(self, table: Table) -> None:
        """Let the application's next keys come from where numbers are free."""
        self.cursor.execute("select operational.advance_identity(%s::regclass)", [f"operational.{table.name}"])


def _table(name: str) -> Table:
    return next(table for table in TABLES if table.name == name)


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
