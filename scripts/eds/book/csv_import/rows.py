"""From the records of a file to the rows of its table."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from eds.book.csv_import.problems import SHOWN_CHARACTERS, Problem
from eds.book.csv_import.records import Malformed, Record
from eds.book.csv_import.schema import Column, Table
from eds.book.csv_import.values import ExpectedError, converter


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
            shown = name if name.isprintable() and len(name) <= SHOWN_CHARACTERS else str(position)
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
                    except ExpectedError as problem:
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
