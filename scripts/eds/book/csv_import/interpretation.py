"""How the values of a file are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from eds.book.csv_import.schema import Column

# How many different labels of a coded column are printed with their interpretation.
_MAX_LABELS = 50


DASHES: dict[int, str] = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"), "-")
"""For str.translate(): the forms of a dash that word processors and spreadsheets write in place of a hyphen."""


class ExpectedError(Exception):
    """A field does not hold what its column takes. The message says what was expected. cause: see Problem."""

    def __init__(self, expected: str, cause: str = "") -> None:
        super().__init__(expected)
        self.cause = cause


# Text in a file to text that PostgreSQL reads as the same value, None for no value. Raises ExpectedError.
Converter = Callable[[str], str | None]


@dataclass
class Reading:
    """How the values of a file are read. decimal and dates are None while they are not known.

    strict: take the plain form alone, so that a file in it is read fast and without a doubt. conflicts: for decimal or
    a way to write dates (see dates.orders_of()), the values of the file that contradict each other. facts: how the file
    is read, to be printed.
    """

    decimal: str | None = None
    dates: str | None = None
    century: int | None = None
    timezone: ZoneInfo | None = None
    strict: bool = True
    orders: dict[str, str] = field(default_factory=dict)
    """What the file's own dates with points and with names of months say about their order."""
    conflicts: dict[str, str] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)
    labels: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    """By column: what was read as what, beyond the form that the documentation asks for."""
    rounded: frozenset[str] = frozenset()
    """The columns whose numbers are rounded to what they keep."""
    currency: tuple[str, str] | None = None
    """The currency that is written beside amounts, and how it was written first."""
    has_assumed_utc: bool = False
    """Whether the file has a time of the day without an offset, and no zone is given."""
    has_assumed_day: bool = False
    """Whether a day alone was read as its midnight in UTC, since no zone is given."""

    line: int = 0
    """The line of the record that is being read."""
    clock_changes: dict[str, dict[int, str]] = field(default_factory=dict)
    """The times that a zone's clocks show twice or not at all, when they change: by how they are read, and by line."""

    def check_currency(self, currency: str, text: str) -> None:
        """Take note of the currency of amounts. Raises ExpectedError when it is another than before."""
        if self.currency is None:
            self.currency = (currency, text)
            self.facts.append(f"amounts in {text}")
        elif self.currency[0] != currency:
            raise ExpectedError(f"one currency in the book, {self.currency[1]} as before", "another currency")

    def note_utc(self, text: str) -> None:
        """Record that a time was read as UTC because nothing says otherwise."""
        if not self.has_assumed_utc:
            self.has_assumed_utc = True
            self.facts.append(f"times without an offset as UTC ({text!r})")

    def note_clock_change(self, text: str, moment: datetime) -> None:
        """Record a time of the zone that its clocks show twice, or never."""
        if moment.utcoffset() == moment.replace(fold=1).utcoffset():
            return
        exists = moment.astimezone(UTC).astimezone(moment.tzinfo).replace(tzinfo=None) == moment.replace(tzinfo=None)
        how = (
            "show twice, read as the first of the two"
            if exists
            else "never showed, read as if they had not changed yet"
        )
        self.clock_changes.setdefault(how, {}).setdefault(self.line, text)

    def note_points(self, order: str, where: str) -> None:
        """Record in which order dates with points are read. where: what shows it, or the first of them."""
        words = {"dmy": "day", "mdy": "month", "ymd": "year"}[order]
        if not any(fact.startswith("dates with points") for fact in self.facts):
            self.facts.append(f"dates with points {words} first ({where})")

    def note(self, column: Column, text: str, value: str) -> None:
        """Record that a text was read as a value that it does not spell."""
        seen = self.labels.setdefault(column.name, Counter())
        if (text, value) in seen or len(seen) < _MAX_LABELS:
            seen[text, value] += 1
