"""What is wrong with the files of an import, and the message that lists it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from eds.base.errors import UserError

MAX_GROUPS = 20
"""So many groups of problems are written out for each file; the others are counted."""

MAX_VALUES = 3
"""So many different values of a group are written out."""

SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Problem:
    """One thing to correct. line: where its record starts. column: "" when it is the record as a unit.

    value: what the file has there, None for nothing. expected: what should be there, as a phrase. cause: what the rows
    with the same problem have in common, when that is less than `expected`.
    """

    file: str
    line: int
    column: str
    value: str | None
    expected: str
    cause: str = ""


@dataclass
class Group:
    """The problems of one file, column and cause: the first of them, and how many rows have it."""

    first: Problem
    rows: int = 0
    samples: dict[str | None, int] = field(default_factory=dict)
    """Different values, each with a line that has it."""

    def lines(self) -> list[str]:
        """Return the group in the message of a refused import."""
        place = f"{self.first.column}: " if self.first.column else ""
        rows = f"line {self.first.line}" if self.rows == 1 else f"{self.rows:,} rows, first line {self.first.line}"
        values = ", ".join(show_value(value) for value in list(self.samples)[:MAX_VALUES])
        more = ", …" if len(self.samples) > MAX_VALUES else ""
        return [f"  {place}{rows}, found {values}{more}", f"      expected {self.first.expected}"]


class Problems:
    """The problems found so far, in groups. Of each group the first is kept, all are counted."""

    def __init__(self) -> None:
        self.total = 0
        self.at_least = False
        """Whether part of a file could not be checked, so that there may be more than `total`."""
        self._groups: dict[tuple[str, str, str], Group] = {}

    def add(self, problem: Problem, rows: int = 1) -> None:
        """Add a problem. rows: how many rows have the same one, this first of them included."""
        self.total += rows
        key = (problem.file, problem.column, problem.cause or problem.expected)
        group = self._groups.setdefault(key, Group(problem))
        group.rows += rows
        if problem.line < group.first.line:
            group.first = problem
        if len(group.samples) <= MAX_VALUES:
            group.samples.setdefault(problem.value, problem.line)

    def add_checked(self, first: Sequence[Problem], rows: int) -> None:
        """Add the result of one check: its first problems, and the number of rows that do not pass it."""
        self.add(first[0], rows - len(first) + 1)
        for problem in first[1:]:
            self.add(problem)

    def groups_of(self, file: str) -> list[Group]:
        """Return the groups of a file."""
        return [group for (name, _, _), group in self._groups.items() if name == file]

    def merge(self, other: Problems) -> None:
        """Add the problems of a part that was read on its own."""
        for key, group in other._groups.items():
            self.add(group.first, group.rows)
            self._groups[key].samples |= group.samples

    def raise_if_any(self, files: Iterable[str]) -> None:
        """Raise UserError with the problems of all files. files: those of the import, in order."""
        if self.total:
            raise UserError(self._message(files))

    def _message(self, files: Iterable[str]) -> str:
        """Return the message of a refused import: every file, its groups of problems by their first line."""
        least = "at least " if self.at_least else ""
        plural = "" if self.total == 1 else "s"
        lines = [f"The import was refused: {least}{self.total:,} problem{plural}. Nothing was changed."]
        for file in files:
            found = sorted(self.groups_of(file), key=lambda group: group.first.line)
            if not found:
                lines += ["", f"{file}: no problem{' in what could be checked' if self.at_least else ''}"]
                continue
            lines += ["", file]
            for group in found[:MAX_GROUPS]:
                lines += group.lines()
            if len(found) > MAX_GROUPS:
                lines.append(f"  and {sum(group.rows for group in found[MAX_GROUPS:]):,} more")
        return "\n".join(lines)


def show_value(value: str | None) -> str:
    """Quote a value as messages have it: control characters and invalid bytes escaped, cut to 60 characters."""
    if value is None:
        return "nothing"
    shown = repr(value[:SHOWN_CHARACTERS])
    # Bytes that are not of the file's encoding were read as lone surrogates, see read_records().
    shown = re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", shown)
    return f"{shown} …" if len(value) > SHOWN_CHARACTERS else shown


def format_rows(number: int) -> str:
    """Return a number of rows, in words: 1 row, 12 rows, 1,200 rows."""
    return f"{number:,} row{'' if number == 1 else 's'}"
