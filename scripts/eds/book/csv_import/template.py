"""Write the first draft of a mapping file from the headers of a lender's files."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from pathlib import Path

import yaml

from eds.base.errors import UserError
from eds.book.csv_import.dialect import (
    DECIMALS,
    DELIMITERS,
    Dialect,
    Source,
    examine,
    header_of,
    sniff_delimiter,
    squeeze,
)
from eds.book.csv_import.files import EXTENSIONS
from eds.book.csv_import.interpretation import Converter, ExpectedError, Reading
from eds.book.csv_import.mapping import MAPPING_FILE
from eds.book.csv_import.numbering import Series, code_number, letters_of
from eds.book.csv_import.records import Record, read_records
from eds.book.csv_import.schema import TABLES, Column, Table
from eds.book.csv_import.values import converter, is_no_value

_USUAL_NAMES = Path(__file__).with_name("usual_names.yml")
# How many rows are read for the values of a coded column, and how many of these values are listed.
_ROWS = 10_000
_LISTED = 30
# How many rows decide whether a column of another name has fitting values.
_SAMPLES = 20
# How similar a name has to be to that of a column, and the name that the key of any table may have.
_ALIKE = 0.65
_ANY_KEY = "id"
# How many lines are searched for the one with the names of the columns.
_HEADER_AMONG = 30

_HEAD = """\
# Which of your columns and values are which of the book's. docs/import.md explains every key.
# Lines that begin with # are suggestions: check and complete the names, remove the #.

format:
#  format: excel-eu       # auto, excel-us (month first), excel-uk (day first), excel-eu (day first, decimal comma)
#  decimal: comma         # or point
#  dates: dmy             # or mdy, ymd
#  century: 1930          # years of two digits are 1930 to 2029
#  timezone: Africa/Nairobi
#  encoding: windows-1252
#  header_line: 1
#  empty: NULL, -         # what stands for no value

tables:
"""


def write_template(directory: Path) -> Path:
    """Write mapping.yml into the directory and return its path.

    A file belongs to the table whose columns it has most of. Raises UserError when a mapping file is there already.
    """
    if not directory.is_dir():
        raise UserError(f"There is no directory {directory}. Example: make import-template DIR=/data/book")
    path = directory / MAPPING_FILE
    if path.exists():
        raise UserError(f"{path} is there already. Nothing was changed. Move it away to get a new template.")
    files = sorted(file for file in directory.iterdir() if file.suffix.lower() in EXTENSIONS)
    heads = {file: _look_into(file) for file in files if file.is_file()}
    if not heads:
        found = ", ".join(sorted(each.name for each in directory.iterdir())[:10]) or "nothing"
        raise UserError(
            f"{directory}: expected files that end in .csv, .tsv or .txt, to read their headers; found {found}. "
            "Nothing was written. Of a workbook, save each sheet as “CSV UTF-8”."
        )
    text = _HEAD + "\n".join(_section(table, heads) for table in TABLES)
    with path.open("x", encoding="utf-8") as handle:
        handle.write(text)
    return path


@dataclass(frozen=True)
class _Head:
    """The start of a file: the names of its columns, the line they are on, and its first rows."""

    names: list[str]
    line: int
    rows: list[list[str | None]]

    def samples(self, position: int) -> list[str]:
        """Return the first values of a column, without what stands for no value."""
        texts = [row[position] for row in self.rows[:_SAMPLES] if position < len(row)]
        return [text for text in texts if text and text.strip(" -") and not is_no_value(text)]


def _look_into(file: Path) -> _Head:
    source = examine(file, Dialect())
    _, start, separator = header_of(source)
    known = {squeeze(column.name) for table in TABLES for column in table.columns}
    delimiter = separator or sniff_delimiter(_likely_header(source, known), known)
    with source.open() as lines:
        records = [
            record
            for record in islice(read_records(lines, delimiter, start), _ROWS)
            if isinstance(record, Record) and record.is_clean
        ]
    at = _place_of_names([record.fields for record in records[:_HEADER_AMONG]], known)
    if at is None:
        return _Head([], 1, [])
    # Excel's line `sep=;` is not counted.
    line = records[at].line - (start - 1)
    names = [(name or "").strip() for name in records[at].fields]
    return _Head(names, line, [record.fields for record in records[at + 1 :]])


def _likely_header(source: Source, known: set[str]) -> str:
    """Return the line that has most of the known names; without any, the one with the most columns."""
    with source.open() as lines:
        texts = [lines.readline(100_000).decode("utf-8", "replace").lstrip("\ufeff") for _ in range(_HEADER_AMONG)]

    def score(text: str) -> tuple[int, int]:
        parts = [text.split(delimiter) for delimiter in DELIMITERS.values()]
        return max((len(known.intersection(map(squeeze, names))), len(names)) for names in parts)

    return max(texts, key=score)


def _place_of_names(records: list[list[str | None]], known: set[str]) -> int | None:
    """Return which record has the names of the columns, behind the titles that spreadsheets have.

    It is the first with two known names. Without one, the first with more than half as many texts as the fullest.
    """
    filled = [[name for name in fields if name and name.strip()] for fields in records]
    named = (place for place, names in enumerate(filled) if len(known.intersection(map(squeeze, names))) >= 2)
    fullest = max(map(len, filled), default=0)
    full = (place for place, names in enumerate(filled) if len(names) * 2 > fullest)
    return next(named, next(full, None))


def _section(table: Table, heads: dict[Path, _Head]) -> str:
    """Return the part of the template that is about a table."""
    wanted = {squeeze(column.name) for column in table.columns}
    named = [file for file in heads if squeeze(file.stem) == squeeze(table.name)]

    def matches(file: Path) -> tuple[int, int]:
        head = heads[file]
        return len(wanted.intersection(map(squeeze, head.names))), len(_similar(table, head))

    best = max(named or heads, key=matches, default=None)
    head = heads[best] if best is not None else _Head([], 1, [])
    names, rows = head.names, head.rows
    lines = [f"  {table.name}:", f"    file: {_scalar(best.name if best is not None else table.file)}"]
    if head.line > 1:
        lines.append(f"    header_line: {head.line}")
    lines.append("#    distinct: true       # equal rows count once, for a table that is read from another one's file")
    lines.append("    columns:")
    free = {squeeze(name): position for position, name in enumerate(names) if name}
    similar = _similar(table, head)
    for column in table.columns:
        position = free.pop(squeeze(column.name), None)
        if position is None:
            need = "required" if column.required else "optional"
            other = similar.get(squeeze(column.name))
            place = None if other is None else free.pop(other)
            name = "YOUR COLUMN" if place is None else _scalar(names[place])
            hint = _key_hint(table, column, head, place)
            lines.append(f"#      {column.name}: {name}    # {need}, {_kind(table, column)}{hint and f'; {hint}'}")
            continue
        values = _codes(table, column, [row[position] for row in rows if position < len(row)])
        if values:
            lines.append(f"      {column.name}:")
            lines.append(f"        column: {_scalar(names[position])}")
            lines.append(f"#        values:          # each of them one of {', '.join(table.codes(column))}")
            # No suggestion: a wrong one would be data that nobody sees to be wrong.
            lines += [f"#          {_scalar(value)}: YOUR CHOICE" for value in values]
        else:
            hint = _key_hint(table, column, head, position)
            lines.append(f"      {column.name}: {_scalar(names[position])}{hint and f'    # {hint}'}")
    rest = [names[position] for position in sorted(free.values())]
    if rest:
        shown = ", ".join(_scalar(name) for name in rest)
        lines.append(f"#    ignore: [{shown}]    # not recognised: map what the book needs, ignore the others")
    lines.append("#    skip: {YOUR COLUMN: [a value]}    # rows that are left out")
    if not named:
        # Nothing says that this file is the table's: a suggestion.
        lines = [line if line.startswith("#") else f"#{line}" for line in lines]
    return "\n".join(lines) + "\n"


def _key_hint(table: Table, column: Column, head: _Head, position: int | None) -> str:
    """Return how the texts of a key that are no whole numbers become some, "" where they are."""
    if position is None or (column not in table.keys and column.references is None):
        return ""
    written = head.samples(position)
    convert = converter(table, column, Reading(strict=False))
    if all(_is_value(text, convert) for text in written):
        return ""
    series = Series()
    numbers = [series.number(text) for text in written]
    most = 2**31 - 2 if column.kind == "integer" else 10**18
    is_series = len({letters_of(text) for text in written}) == 1 and len(set(numbers)) == len(set(written))
    if is_series and all(number.isdigit() and int(number) <= most for number in numbers):
        return f"not whole numbers: {{column: {_scalar(head.names[position])}, number: digits}}"
    # Five letters or digits are at most 60 million as a number in base 36.
    fits = all(code_number(text).isdigit() and (column.kind == "bigint" or len(squeeze(text)) <= 5) for text in written)
    return f"not whole numbers: {{column: {_scalar(head.names[position])}, number: {'code' if fits else 'hash'}}}"


@cache
def _usual_names() -> dict[str, dict[str, list[str]]]:
    """Return what other systems call the columns, squeezed, by table and column."""
    names: dict[str, dict[str, list[str]]] = yaml.safe_load(_USUAL_NAMES.read_text(encoding="utf-8"))
    return names


def _similar(table: Table, head: _Head) -> dict[str, str]:
    """Return which of a file's other (squeezed) names may mean which column that has none. Each name stands once."""
    positions = {squeeze(name): position for position, name in enumerate(head.names) if name}
    known = {squeeze(column.name): column for column in table.columns}
    missing = [name for name in known if name not in positions]
    usual = _usual_names().get(table.name, {})
    found: dict[str, str] = {}

    def take(name: str, column: str) -> bool:
        if name in found.values() or not _fits(table, known[column], head.samples(positions[name])):
            return False
        missing.remove(column)
        found[column] = name
        return True

    others = [name for name in positions if name not in known]
    for column in list(missing):
        any(
            take(name, column)
            for name in usual.get(known[column].name, ())
            if name in others and (name != _ANY_KEY or _is_distinct(head.samples(positions[name])))
        )
    for name in others:
        if _is_known(name):
            continue
        # A lower similarity than an import requires for a typing error: here it is only a suggestion.
        alike = difflib.get_close_matches(name, missing, n=len(missing) or 1, cutoff=_ALIKE)
        any(take(name, column) for column in alike)
    return found


def _is_distinct(texts: list[str]) -> bool:
    return len(set(texts)) == len(texts)


@cache
def _is_known(name: str) -> bool:
    """Return whether a squeezed name is that of some column of the book, or usual for one."""
    return any(name == squeeze(column.name) for table in TABLES for column in table.columns) or any(
        name in names for columns in _usual_names().values() for names in columns.values()
    )


def _fits(table: Table, column: Column, texts: list[str]) -> bool:
    """Return whether at least half of the texts can be values of the column, in some dialect. Keys may be codes."""
    if not texts or column.kind == "text" or column in table.keys or column.references is not None:
        return True

    for decimal, dates in product(DECIMALS, ("dmy", "mdy")):
        convert = converter(table, column, Reading(decimal=decimal, dates=dates, century=1930, strict=False))
        if sum(_is_value(text, convert) for text in texts) * 2 >= len(texts):
            return True
    return False


def _is_value(text: str, convert: Converter | None) -> bool:
    try:
        return convert is None or convert(text) is not None
    except ExpectedError:
        return False


_KINDS = {"integer": "a whole number", "bigint": "a whole number", "date": "a date", "text": "a text"}
_KINDS |= {"timestamptz": "a date, with or without a time", "boolean": "yes or no"}


def _kind(table: Table, column: Column) -> str:
    codes = table.codes(column)
    return f"one of {', '.join(codes)}" if codes else _KINDS.get(column.kind, "a number")


def _codes(table: Table, column: Column, texts: list[str | None]) -> list[str]:
    """Return the values of a column of codes that are not among them, in any spelling."""
    known = {squeeze(code) for code in table.codes(column)}
    if not known:
        return []
    found = {text.strip() for text in texts if text and text.strip() and squeeze(text) not in known}
    return sorted(found)[:_LISTED]


def _scalar(text: str) -> str:
    """Return a text as a YAML scalar, quoted where it has to be."""
    quoted = yaml.safe_dump(text, default_flow_style=True, allow_unicode=True, width=10**6).strip()
    quoted = quoted.removesuffix("\n...").removesuffix("...").strip()
    return quoted if "," not in quoted or quoted[0] in "'\"" else f'"{quoted}"'
