"""Brings a lender's own loan book in, from four CSV files, as one transaction: all of it or nothing.

A file goes through three steps: its text is split into records and its values are checked here, one by one, because
only here is the line of the file known; the records travel by COPY into temporary tables; rules, keys and references
are then checked there, as sets, and the tables are brought up to date.
"""

from __future__ import annotations

import difflib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, LiteralString, cast

import psycopg
from psycopg import errors, sql
from psycopg.rows import tuple_row
from rich.table import Table as RichTable

from eds.base.console import bar, err, step
from eds.base.errors import UserError

MAX_PROBLEMS = 20
"""So many problems are told at once; the others are counted."""

MAX_RECORD_BYTES = 1_000_000
"""A longer record is a quote that was never closed, or not a CSV file at all."""

MASS_DELETE_ROWS = 10
"""A sync that deletes fewer rows of a table than this needs no confirmation."""

LOCK_PATIENCE_SECONDS = 30.0
"""How long to wait for a moment without other writers."""

# A unique value has to fit into an entry of a B-tree index, which holds 2704 bytes with its header.
_MAX_UNIQUE_BYTES = 2600
_SHOWN_CHARACTERS = 60
_ROWS_PER_ADVANCE = 2000


# ---------------------------------------------------------------------------------------------------------------------
# What a file may hold
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of a table, and so of its file. kind: the column's SQL type."""

    name: LiteralString
    kind: LiteralString
    nullable: bool = False
    has_default: bool = False
    unique: bool = False
    references: LiteralString | None = None

    @property
    def required(self) -> bool:
        """Whether each file of the table must have the column, with a value in each row."""
        return not self.nullable and not self.has_default


@dataclass(frozen=True)
class Rule:
    """A CHECK of the database in a lender's words.

    columns: those that it looks at; a problem names the first of them that the file has. holds: an SQL condition,
    which a row breaks when it is false (null passes, as in CHECK). expected: an SQL expression of type text.
    """

    columns: tuple[LiteralString, ...]
    holds: LiteralString
    expected: LiteralString


@dataclass(frozen=True)
class Table:
    """A table of schema operational with what its file may hold. The first column is the key."""

    name: LiteralString
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]

    @property
    def file(self) -> str:
        """The name of the table's file."""
        return f"{self.name}.csv"

    @property
    def key(self) -> Column:
        """The primary key."""
        return self.columns[0]


def _one_of(column: LiteralString, *values: LiteralString) -> Rule:
    quoted: LiteralString = ", ".join(f"'{value}'" for value in values)
    words: LiteralString = ", ".join(values)
    return Rule((column,), f"{column} in ({quoted})", f"'one of {words}'")


def _not_blank(column: LiteralString) -> Rule:
    return Rule((column,), f"{column} <> ''", "'a text that is not empty'")


def _above_zero(column: LiteralString) -> Rule:
    return Rule((column,), f"{column} > 0", "'a number above 0'")


def _not_negative(column: LiteralString) -> Rule:
    return Rule((column,), f"{column} >= 0", "'0 or more'")


def _ordered(least: LiteralString, greatest: LiteralString) -> Rule:
    return Rule(
        (greatest, least),
        f"{least} <= {greatest}",
        f"format('{least} must not be above {greatest} (found {least} %s, {greatest} %s)', {least}, {greatest})",
    )


_MONEY: LiteralString = "numeric(14, 2)"
_CREATED_AT = Column("created_at", "timestamptz", has_default=True)

TABLES: tuple[Table, ...] = (
    Table(
        "customers",
        (
            Column("customer_id", "integer"),
            Column("full_name", "text"),
            Column("email", "text", nullable=True, unique=True),
            Column("phone", "text", nullable=True),
            Column("national_id", "text", nullable=True, unique=True),
            Column("date_of_birth", "date", nullable=True),
            Column("city", "text", nullable=True),
            Column("country", "text", has_default=True),
            Column("segment", "text", has_default=True),
            Column("is_active", "boolean", has_default=True),
            _CREATED_AT,
        ),
        (_not_blank("full_name"), _one_of("segment", "retail", "sme", "corporate")),
    ),
    Table(
        "loan_products",
        (
            Column("product_id", "integer"),
            Column("product_name", "text"),
            Column("product_type", "text"),
            Column("min_amount", _MONEY),
            Column("max_amount", _MONEY),
            Column("min_tenure_months", "integer"),
            Column("max_tenure_months", "integer"),
            Column("is_active", "boolean", has_default=True),
            _CREATED_AT,
        ),
        (
            _not_blank("product_name"),
            _one_of("product_type", "personal", "mortgage", "business", "auto", "education"),
            _not_negative("min_amount"),
            _above_zero("min_tenure_months"),
            _ordered("min_amount", "max_amount"),
            _ordered("min_tenure_months", "max_tenure_months"),
        ),
    ),
    Table(
        "loans",
        (
            Column("loan_id", "bigint"),
            Column("customer_id", "integer", references="customers"),
            Column("product_id", "integer", references="loan_products"),
            Column("amount", _MONEY),
            Column("interest_rate", "numeric(7, 4)"),
            Column("tenure_months", "integer"),
            Column("status", "text", has_default=True),
            Column("disbursed_at", "timestamptz", nullable=True),
            Column("maturity_date", "date", nullable=True),
            Column("outstanding_balance", _MONEY, has_default=True),
            Column("loan_officer", "text", nullable=True),
            Column("branch_code", "text", nullable=True),
            _CREATED_AT,
        ),
        (
            _above_zero("amount"),
            _not_negative("interest_rate"),
            _above_zero("tenure_months"),
            _one_of("status", "pending", "active", "repaid", "defaulted", "written_off"),
        ),
    ),
    Table(
        "payments",
        (
            Column("payment_id", "bigint"),
            Column("loan_id", "bigint", references="loans"),
            Column("amount", _MONEY),
            Column("principal_portion", _MONEY),
            Column("interest_portion", _MONEY),
            Column("penalty_portion", _MONEY, has_default=True),
            Column("payment_method", "text"),
            Column("reference_number", "text", nullable=True),
            Column("payment_date", "timestamptz", has_default=True),
            Column("recorded_by", "text", nullable=True),
            Column("notes", "text", nullable=True),
            _CREATED_AT,
        ),
        (
            _above_zero("amount"),
            Rule(
                ("amount", "principal_portion", "interest_portion", "penalty_portion"),
                "principal_portion + interest_portion + penalty_portion = amount",
                "format('principal + interest + penalty must equal amount (found %s+%s+%s=%s, amount %s)', "
                "principal_portion, interest_portion, penalty_portion, "
                "principal_portion + interest_portion + penalty_portion, amount)",
            ),
            _one_of("payment_method", "mpesa", "bank_transfer", "cash", "cheque", "online"),
        ),
    ),
)
"""The four tables, parents before children: the order in which they are read and written."""


# ---------------------------------------------------------------------------------------------------------------------
# What is told
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One thing to mend. line: where its record starts, the header is line 1. column: "" when it is the whole record.

    value: what the file holds there, None for nothing. expected: what should be there, as a phrase.
    """

    file: str
    line: int
    column: str
    value: str | None
    expected: str


@dataclass
class _Problems:
    """The problems found so far: the first of each file are kept, all are counted."""

    kept: list[Problem] = field(default_factory=list)
    total: int = 0
    at_least: bool = False
    """Whether part of a file could not be looked at, so that there may be more than `total`."""
    _kept_by_file: Counter[str] = field(default_factory=Counter)

    def add(self, problem: Problem) -> None:
        """Problems of one file are added in the order of its lines."""
        self.total += 1
        if self._kept_by_file[problem.file] < MAX_PROBLEMS:
            self._kept_by_file[problem.file] += 1
            self.kept.append(problem)

    def add_counted(self, first: Sequence[Problem], total: int) -> None:
        """The first problems of one check, and how many it found in all."""
        self.total += total
        self.kept.extend(first)

    def raise_if_any(self) -> None:
        """Raises UserError with the first problems, by file and line."""
        if self.total:
            raise UserError(format_problems(self.kept, self.total, self.at_least))


def show_value(value: str | None) -> str:
    """A value as a message shows it: quoted, control characters and invalid bytes escaped, cut to 60 characters."""
    if value is None:
        return "nothing"
    shown = repr(value[:_SHOWN_CHARACTERS])
    # Bytes that are not UTF-8 were read as lone surrogates, see read_records().
    shown = re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", shown)
    return f"{shown} …" if len(value) > _SHOWN_CHARACTERS else shown


def format_problems(problems: Sequence[Problem], total: int, at_least: bool = False) -> str:
    """The message of a refused import.

    problems: in any order; the first 20 by file and line are written out. total: how many there are. at_least: whether
    there may be more than total.
    """
    order = {table.file: position for position, table in enumerate(TABLES)}
    ranked = sorted(problems, key=lambda problem: (order.get(problem.file, len(order)), problem.line))
    shown = ranked[:MAX_PROBLEMS]
    count = f"{'at least ' if at_least else ''}{total} problem{'' if total == 1 else 's'}"
    lines = [f"The import was refused: {count}. Nothing was changed."]
    file = ""
    for problem in shown:
        if problem.file != file:
            file = problem.file
            lines += ["", file]
        where = f"line {problem.line}" + (f", column {problem.column}" if problem.column else "")
        lines += [f"  {where}: found {show_value(problem.value)}", f"      expected {problem.expected}"]
    if total > len(shown):
        lines += ["", f"and {'at least ' if at_least else ''}{total - len(shown)} more"]
    return "\n".join(lines)


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


# ---------------------------------------------------------------------------------------------------------------------
# From bytes to records
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Malformed:
    """A record that cannot be split into fields. position: of the field, from 0, or None for the whole record."""

    line: int
    position: int | None
    value: str
    expected: str
    is_last: bool = False
    """Whether nothing behind it could be read."""


@dataclass(frozen=True)
class Record:
    """The fields of one record. None is an empty field without quotes, "" one with them.

    is_clean: whether it has neither bytes that are not UTF-8 (they are lone surrogates here) nor NUL characters.
    """

    line: int
    fields: list[str | None]
    is_clean: bool


class _OpenQuoteError(Exception):
    """The closing quote is not in the text."""


class _BadFieldError(Exception):
    def __init__(self, position: int, value: str, expected: str) -> None:
        super().__init__(expected)
        self.position = position
        self.value = value
        self.expected = expected


def _split(text: str) -> list[str | None]:
    """The fields of a record without its line end. Raises _OpenQuoteError or _BadFieldError."""
    fields: list[str | None] = []
    start = 0
    while True:
        if text.startswith('"', start):
            end = text.find('"', start + 1)
            while end >= 0 and text.startswith('"', end + 1):
                end = text.find('"', end + 2)
            if end < 0:
                raise _OpenQuoteError
            value = text[start + 1 : end].replace('""', '"')
            end += 1
            if end < len(text) and text[end] != ",":
                raise _BadFieldError(
                    len(fields),
                    text[start : end + 20],
                    'a comma or the end of the line after the closing quote; a quote inside quotes is written ""',
                )
            fields.append(value)
        else:
            end = text.find(",", start)
            if end < 0:
                end = len(text)
            value = text[start:end]
            if '"' in value:
                raise _BadFieldError(
                    len(fields),
                    value,
                    'quotes around the whole field when there are quotes in it, each of those written ""',
                )
            if "\r" in value:
                raise _BadFieldError(
                    len(fields),
                    value,
                    "lines that end in LF or CRLF; a field with a line break in it needs quotes",
                )
            fields.append(value or None)
        if end >= len(text):
            return fields
        start = end + 1


def read_records(handle: BinaryIO) -> Iterator[Record | Malformed]:
    """The records of a CSV file (RFC 4180, UTF-8 with or without a byte order mark), the header first.

    Blank lines are passed over. The csv module would do, were it not that it cannot tell an empty field from an empty
    quoted one on every supported Python, nor on which line a record starts.
    """
    line_number = 0
    at_start = True
    while raw := handle.readline(MAX_RECORD_BYTES + 1):
        line_number += 1
        start_line = line_number
        if at_start:
            at_start = False
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                expected = "UTF-8; this is UTF-16 (in a spreadsheet choose “CSV UTF-8” when saving)"
                yield Malformed(start_line, None, raw[:20].decode("utf-8", "surrogateescape"), expected, is_last=True)
                return
        while True:
            body = raw.removesuffix(b"\n").removesuffix(b"\r")
            if len(raw) > MAX_RECORD_BYTES:
                what = "a closing quote" if b'"' in raw else "the end of the line"
                expected = f"{what} within {MAX_RECORD_BYTES:,} bytes; nothing behind it was read"
                text = body[:1000].decode("utf-8", "surrogateescape")
                yield Malformed(start_line, None, text, expected, is_last=True)
                return
            if not body:
                break
            is_clean = b"\0" not in body
            try:
                text = body.decode("utf-8")
            except UnicodeDecodeError:
                text = body.decode("utf-8", "surrogateescape")
                is_clean = False
            try:
                if '"' not in text and "\r" not in text:
                    fields = [value or None for value in text.split(",")]
                else:
                    fields = _split(text)
            except _BadFieldError as problem:
                yield Malformed(start_line, problem.position, problem.value, problem.expected)
            except _OpenQuoteError:
                # Only a line with a quote can close it: no need to look again before there is one.
                more = b""
                while b'"' not in more and len(raw) <= MAX_RECORD_BYTES:
                    more = handle.readline(MAX_RECORD_BYTES + 1)
                    if not more:
                        expected = "a closing quote before the end of the file"
                        yield Malformed(start_line, None, text, expected, is_last=True)
                        return
                    line_number += 1
                    raw += more
                continue
            else:
                yield Record(start_line, fields, is_clean)
            break


# ---------------------------------------------------------------------------------------------------------------------
# From text to values
# ---------------------------------------------------------------------------------------------------------------------


class _ExpectedError(Exception):
    """A field does not hold what its column takes. The message says what was expected."""


# Text in a file to text that PostgreSQL reads as the same value. Raises _ExpectedError.
Converter = Callable[[str], str]

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)? ?(?:[Zz]|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)
_BOOLEANS = {"true": "t", "t": "t", "1": "t", "yes": "t", "false": "f", "f": "f", "0": "f", "no": "f"}


def _integer_converter(bits: int, is_key: bool) -> Converter:
    least = -(2 ** (bits - 1))
    # A key of the greatest value would leave none for the rows that the application adds later.
    greatest = 2 ** (bits - 1) - (2 if is_key else 1)

    def convert(text: str) -> str:
        text = text.strip()
        if not _INTEGER.fullmatch(text):
            raise _ExpectedError("a whole number such as 1042")
        # Leading zeros could make a number longer than int() takes.
        if len(text) > 30 or not least <= int(text) <= greatest:
            raise _ExpectedError(f"a whole number from {least} to {greatest}")
        return text

    return convert


def _numeric_converter(precision: int, scale: int) -> Converter:
    greatest = "9" * (precision - scale) + "." + "9" * scale

    def convert(text: str) -> str:
        text = text.strip()
        match = _NUMBER.fullmatch(text)
        if not match:
            raise _ExpectedError("a number such as 1234.50: a decimal point, no thousands separators, no exponent")
        whole, decimals = match.groups()
        if len(whole.lstrip("0")) > precision - scale:
            raise _ExpectedError(f"a number from -{greatest} to {greatest}")
        if decimals and len(decimals.rstrip("0")) > scale:
            raise _ExpectedError(f"a number with at most {scale} decimals (nothing is rounded)")
        return text

    return convert


def _convert_date(text: str) -> str:
    text = text.strip()
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text).isoformat()
    except ValueError:
        pass
    raise _ExpectedError("a date as YYYY-MM-DD, such as 2024-02-29")


def _convert_timestamp(text: str) -> str:
    match = _TIMESTAMP.fullmatch(text.strip())
    try:
        if match:
            day, clock, seconds, fraction, sign, hours, minutes = match.groups()
            moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}:{seconds or '00'}")
            fraction = (fraction or "").rstrip("0")
            if len(fraction) > 6:
                raise _ExpectedError("a moment with at most 6 decimals of a second (nothing is rounded)")
            # As far from UTC as PostgreSQL goes.
            if int(hours or 0) <= 15 and int(minutes or 0) <= 59:
                offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
                moment += -offset if sign == "+" else offset
                return f"{moment.isoformat()}{'.' if fraction else ''}{fraction}+00"
    except (ValueError, OverflowError):
        pass
    raise _ExpectedError(
        "a moment: YYYY-MM-DD, alone or with a time and an offset from UTC, such as 2024-02-29T13:45:00+03:00"
    )


def _convert_boolean(text: str) -> str:
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        raise _ExpectedError("true or false (also t/f, 1/0, yes/no)") from None


def _convert_unique_text(text: str) -> str:
    if len(text.encode()) > _MAX_UNIQUE_BYTES:
        raise _ExpectedError(f"a text of at most {_MAX_UNIQUE_BYTES} bytes")
    return text


def converter(table: Table, column: Column) -> Converter | None:
    """What turns a field of the column into text for PostgreSQL; None when each text is right as it is."""
    is_key = column is table.key
    match column.kind:
        case "integer":
            return _integer_converter(32, is_key)
        case "bigint":
            return _integer_converter(64, is_key)
        case "date":
            return _convert_date
        case "timestamptz":
            return _convert_timestamp
        case "boolean":
            return _convert_boolean
        case "text":
            return _convert_unique_text if column.unique else None
    numbers = re.fullmatch(r"numeric\(([0-9]+), ([0-9]+)\)", column.kind)
    assert numbers is not None, column.kind
    return _numeric_converter(int(numbers[1]), int(numbers[2]))


# ---------------------------------------------------------------------------------------------------------------------
# From records to checked rows
# ---------------------------------------------------------------------------------------------------------------------


def _wrong_characters(text: str) -> str | None:
    """What was expected, when a text has characters that no field may have."""
    if any("\udc80" <= character <= "\udcff" for character in text):
        return "UTF-8 text (in a spreadsheet choose “CSV UTF-8” when saving)"
    return "a text without NUL characters" if "\0" in text else None


def check_header(table: Table, header: Record | Malformed | None) -> tuple[list[Column], list[Problem]]:
    """The columns that a file has, in its order, and what is wrong with its header.

    header: the file's first record, None for an empty file. The columns are of use only when there is no problem.
    """
    accepted = ", ".join(column.name for column in table.columns)
    if header is None:
        return [], [Problem(table.file, 1, "", None, f"a line with the names of the columns: {accepted}")]
    if isinstance(header, Malformed):
        return [], [Problem(table.file, header.line, "", header.value, header.expected)]

    def problem(column: str, value: str | None, expected: str) -> Problem:
        return Problem(table.file, header.line, column, value, expected)

    names = [(name or "").strip().lower() for name in header.fields]
    known = {column.name: column for column in table.columns}
    if not known.keys() & set(names):
        whole = ",".join(name or "" for name in header.fields)
        for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if {name.strip().strip('"') for name in whole.lower().split(separator)} & known.keys():
                return [], [problem("", whole, f"columns separated by commas, not by {word}")]
        return [], [problem("", whole, f"a line with the names of the columns: {accepted}")]

    columns: list[Column] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for position, name in enumerate(names, start=1):
        wrong = _wrong_characters(name)
        if wrong:
            problems.append(problem(str(position), name, wrong))
        elif not name:
            problems.append(problem(str(position), None, "the name of a column"))
        elif name in seen:
            problems.append(problem(name, name, "each column once"))
        elif name == "updated_at":
            problems.append(problem(name, name, "no such column: updated_at is kept by the platform, leave it out"))
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            shown = name if name.isprintable() and len(name) <= _SHOWN_CHARACTERS else str(position)
            problems.append(problem(shown, header.fields[position - 1], f"one of {accepted}{hint}"))
        else:
            columns.append(known[name])
        seen.add(name)
    for column in table.columns:
        if column.required and column.name not in seen:
            problems.append(problem(column.name, None, "this column: it is required"))
    return columns, problems


@dataclass
class RowReader:
    """Iterates over the rows of a file as they go into its temporary table, and notes what is wrong with them.

    Yields (line, has_problem, value of each column …). A wrong value becomes null, so that the other columns and the
    rows that refer to this one can still be checked. A record that has no usable key is left out.
    """

    table: Table
    columns: Sequence[Column]
    records: Iterator[Record | Malformed]
    note: Callable[[Problem], None]
    rows: int = 0
    """Rows yielded."""
    is_complete: bool = True
    """Whether no record had to be left out."""
    is_whole: bool = True
    """Whether the file was read to its end."""

    def __iter__(self) -> Iterator[tuple[int | bool | str | None, ...]]:
        file = self.table.file
        plan = [
            (position, column, converter(self.table, column), column.required)
            for position, column in enumerate(self.columns)
        ]
        key_position = self.columns.index(self.table.key)
        width = len(self.columns)
        for record in self.records:
            if isinstance(record, Malformed):
                self.is_complete = False
                self.is_whole = not record.is_last
                in_header = record.position is not None and record.position < width
                name = self.columns[record.position].name if in_header and record.position is not None else ""
                self.note(Problem(file, record.line, name, record.value, record.expected))
                continue
            fields = record.fields
            if len(fields) != width:
                self.is_complete = False
                hint = " (a field with a comma inside needs quotes around it)" if len(fields) > width else ""
                text = ",".join(value or "" for value in fields)
                expected = f"{width} fields, as in the header, not {len(fields)}{hint}"
                self.note(Problem(file, record.line, "", text, expected))
                continue
            wrong = () if record.is_clean else self._check_characters(record)
            has_problem = bool(wrong)
            for position, column, convert, required in plan:
                value = fields[position]
                if value is None:
                    if required and position not in wrong:
                        has_problem = True
                        self.note(Problem(file, record.line, column.name, None, "a value: it may not be empty"))
                elif convert is not None:
                    try:
                        fields[position] = convert(value)
                    except _ExpectedError as problem:
                        has_problem = True
                        fields[position] = None
                        hint = "" if value else "; for no value leave the field empty, without quotes"
                        hint = hint if not column.required else ""
                        self.note(Problem(file, record.line, column.name, value, f"{problem}{hint}"))
            if fields[key_position] is None:
                self.is_complete = False
                continue
            self.rows += 1
            yield (record.line, has_problem, *fields)

    def _check_characters(self, record: Record) -> tuple[int, ...]:
        """Empties the fields with invalid bytes or NUL characters. Returns their positions."""
        wrong: list[int] = []
        for position, value in enumerate(record.fields):
            expected = _wrong_characters(value or "")
            if expected:
                wrong.append(position)
                self.note(Problem(self.table.file, record.line, self.columns[position].name, value, expected))
                record.fields[position] = None
        return tuple(wrong)


# ---------------------------------------------------------------------------------------------------------------------
# The import
# ---------------------------------------------------------------------------------------------------------------------


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
        self.problems = _Problems()
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
        """Lets the table's own keys go on behind the greatest imported one."""
        row = self.cursor.execute(
            "select pg_get_serial_sequence(%s, %s)", [f"operational.{table.name}", table.key.name]
        ).fetchone()
        if row is None or row[0] is None:
            return
        # Never back: a key that was given out once and deleted again must not come a second time.
        query = _sql(
            table,
            """
            select setval({sequence_name}, book.greatest_key)
            from (select max({key}) as greatest_key from {target}) as book, {sequence} as sequence
            where book.greatest_key >= sequence.last_value
            """,
            sequence_name=sql.Literal(row[0]),
            # Quoted by PostgreSQL where it has to be.
            sequence=sql.SQL(row[0]),
        )
        self.cursor.execute(query)


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
