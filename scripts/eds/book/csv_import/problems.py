"""What is wrong with the files of an import, and the message that lists it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from eds.base.errors import UserError
from eds.book.csv_import.schema import TABLES

MAX_PROBLEMS = 20
"""So many problems are told at once; the others are counted."""
SHOWN_CHARACTERS = 60


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
class Problems:
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
    shown = repr(value[:SHOWN_CHARACTERS])
    # Bytes that are not UTF-8 were read as lone surrogates, see read_records().
    shown = re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", shown)
    return f"{shown} …" if len(value) > SHOWN_CHARACTERS else shown


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
