"""Write the first draft of a mapping file from the headers of a lender's files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import yaml

from eds.base.errors import UserError
from eds.book.csv_import.dialect import Dialect, examine, header_of, sniff_delimiter, squeeze
from eds.book.csv_import.files import EXTENSIONS
from eds.book.csv_import.mapping import MAPPING_FILE
from eds.book.csv_import.records import Record, read_records
from eds.book.csv_import.schema import TABLES, Column, Table

# How many rows are read to find the values of a column of codes, and how many of these values are listed.
_ROWS = 10_000
_LISTED = 30

_HEAD = """\
# Which of your columns and values are which of the book's. docs/import.md explains every key.
# Lines that begin with # are suggestions: complete the names, remove the #.

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
    headers = {file: _look_into(file) for file in files if file.is_file()}
    if not headers:
        found = ", ".join(sorted(each.name for each in directory.iterdir())[:10]) or "nothing"
        raise UserError(
            f"{directory}: expected files that end in .csv, .tsv or .txt, to read their headers; found {found}. "
            "Nothing was written. Of a workbook, save each sheet as “CSV UTF-8”."
        )
    text = _HEAD + "\n".join(_section(table, headers) for table in TABLES)
    with path.open("x", encoding="utf-8") as handle:
        handle.write(text)
    return path


def _look_into(file: Path) -> tuple[list[str], list[list[str | None]]]:
    """Return the names of a file's columns, and its first rows."""
    source = examine(file, Dialect())
    header, line, separator = header_of(source)
    known = {squeeze(column.name) for table in TABLES for column in table.columns}
    delimiter = separator or sniff_delimiter(header, known)
    with source.open() as lines:
        records = [
            record.fields
            for record in islice(read_records(lines, delimiter, line), _ROWS)
            if isinstance(record, Record) and record.is_clean
        ]
    return [(name or "").strip() for name in records[0]] if records else [], records[1:]


def _section(table: Table, headers: dict[Path, tuple[list[str], list[list[str | None]]]]) -> str:
    """Return the part of the template that is about a table."""
    wanted = {squeeze(column.name) for column in table.columns}
    named = [file for file in headers if squeeze(file.stem) == squeeze(table.name)]

    def matches(file: Path) -> int:
        return len(wanted.intersection(squeeze(name) for name in headers[file][0]))

    best = max(named or headers, key=matches, default=None)
    names, rows = headers[best] if best is not None else ([], [])
    lines = [f"  {table.name}:", f"    file: {_scalar(best.name if best is not None else table.file)}"]
    lines.append("#    distinct: true       # equal rows count once, for a table that is read from another one's file")
    lines.append("    columns:")
    free = {squeeze(name): position for position, name in enumerate(names) if name}
    for column in table.columns:
        position = free.pop(squeeze(column.name), None)
        if position is None:
            need = "required" if column.required else "optional"
            lines.append(f"#      {column.name}: YOUR COLUMN    # {need}, {_kind(table, column)}")
            continue
        values = _codes(table, column, [row[position] for row in rows if position < len(row)])
        if values:
            lines.append(f"      {column.name}:")
            lines.append(f"        column: {_scalar(names[position])}")
            lines.append(f"#        values:          # each of them one of {', '.join(table.codes(column))}")
            lines += [f"#          {_scalar(value)}: {table.codes(column)[0]}" for value in values]
        else:
            lines.append(f"      {column.name}: {_scalar(names[position])}")
    rest = [names[position] for position in sorted(free.values())]
    lines.append(f"    ignore: [{', '.join(_scalar(name) for name in rest)}]")
    lines.append("#    skip: {YOUR COLUMN: [a value]}    # rows that are left out")
    if not named:
        # Nothing says that this file is the table's: a suggestion.
        lines = [line if line.startswith("#") else f"#{line}" for line in lines]
    return "\n".join(lines) + "\n"


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
