"""From the text of a field to the text that PostgreSQL reads as the same value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from eds.book.csv_import.dates import ORDERS, date_converter, is_day_of_spreadsheet, orders_of, timestamp_converter
from eds.book.csv_import.dialect import Dialect, squeeze
from eds.book.csv_import.interpretation import Converter, ExpectedError, Reading
from eds.book.csv_import.numbers import decimal_of, integer_converter, numeric_converter
from eds.book.csv_import.schema import Column, Table

# A unique value has to fit into an entry of a B-tree index, which holds 2704 bytes with its header.
_MAX_UNIQUE_BYTES = 2600


@dataclass
class Evidence:
    """What the values of a file say about its dialect: for each way of writing, where it was seen first.

    dates: by the way in which a date is written (see dates.orders_of()) and its order, the first date that has this
    order and no other. excluded: by the same, the first date that cannot have this order.
    """

    decimal: dict[str, str] = field(default_factory=dict)
    dates: dict[str, dict[str, str]] = field(default_factory=dict)
    excluded: dict[str, dict[str, str]] = field(default_factory=dict)

    def look(self, column: Column, text: str, line: int) -> None:
        """Take a value into account."""
        if column.kind in ("date", "timestamptz"):
            kind, allowed = orders_of(text) or ("", frozenset(ORDERS))
            if len(allowed) == 1:
                _note(self.dates.setdefault(kind, {}), next(iter(allowed)), text, line)
            for order in ORDERS:
                if order not in allowed:
                    _note(self.excluded.setdefault(kind, {}), order, text, line)
        elif column.kind.startswith(("numeric", "integer", "bigint")) and (sign := decimal_of(text, column)):
            _note(self.decimal, sign, text, line)

    def _order(self, kind: str) -> tuple[str | None, str]:
        """Return the order that all dates written in this way have, and the dates that prove it.

        Without an order: the dates that contradict each other, "" when it is only that none decides.
        """
        proven, excluded = self.dates.get(kind, {}), self.excluded.get(kind, {})
        possible = [order for order in ORDERS if order not in excluded]
        if len(proven) > 1:
            return None, " and ".join(proven.values())
        if proven and not possible:
            ((order, where),) = proven.items()
            return None, f"{where} and {excluded[order]}"
        if proven:
            return next(iter(proven.items()))
        # Each of several dates may rule out one order.
        reasons = " and ".join(dict.fromkeys(excluded.values()))
        return (possible[0], reasons) if len(possible) == 1 else (None, "" if possible else reasons)

    def reading(self, dialect: Dialect) -> Reading:
        """Return what the user says, completed by what the file itself leaves no doubt about."""
        reading = Reading(dialect.decimal, dialect.dates, dialect.century, dialect.timezone, strict=False)
        words = {"point": "decimal point", "comma": "decimal comma"}
        words |= {"dmy": "day first", "mdy": "month first", "ymd": "year first"}
        sign, where = next(iter(self.decimal.items())) if len(self.decimal) == 1 else (None, "")
        where = where or " and ".join(self.decimal.values())
        for name, found, reason in (("decimal", sign, where), ("dates", *self._order("dates"))):
            given = getattr(reading, name)
            if given is not None:
                reading.facts.append(words[given])
            elif found is not None:
                setattr(reading, name, found)
                reading.facts.append(f"{words[found]} ({reason})")
            elif reason:
                reading.conflicts[name] = reason
        self._add_other_dates(reading, dialect.dates)
        return reading

    def _add_other_dates(self, reading: Reading, given: str | None) -> None:
        """Complete a reading by what dates with points and with names of months say about themselves."""
        for kind in ("points", "names"):
            order, reason = self._order(kind)
            if given in (None, "mdy") and order is not None:
                reading.orders[kind] = order
                if kind == "points":
                    reading.note_points(order, reason)
            elif given is None and reason:
                reading.conflicts[kind] = reason
        if given is None and reading.dates in ("mdy", "ymd") and "points" not in reading.conflicts:
            # What decides about 12/31/1980 says nothing about 03.04.1980.
            reading.orders.setdefault("points", "dmy")


def _note(seen: dict[str, str], what: str, text: str, line: int) -> None:
    """Keep the first value that shows something."""
    if what not in seen:
        seen[what] = f"line {line} has {text.strip()!r}"


_BOOLEANS = {"true": "t", "t": "t", "1": "t", "yes": "t", "false": "f", "f": "f", "0": "f", "no": "f"}
_MORE_BOOLEANS = {"y": "t", "active": "t", "enabled": "t", "n": "f", "inactive": "f", "disabled": "f"}
# What programs write for no value. Numbers and dates can only mean that; a name may be Null.
NO_VALUE = {"null", "(null)", r"\n", "n/a", "#n/a", "none", "nat", "nil"}


def _boolean_converter(column: Column, reading: Reading) -> Converter:
    def convert(text: str) -> str:
        word = text.strip().lower()
        value = _BOOLEANS.get(word)
        if value is None:
            value = _MORE_BOOLEANS.get(word)
            if value is None:
                raise ExpectedError("true or false (also t/f, 1/0, yes/no, active/inactive)")
            reading.note(column, text.strip(), "true" if value == "t" else "false")
        return value

    return convert


def _code_converter(column: Column, codes: tuple[str, ...], reading: Reading) -> Converter:
    exact = {code: code for code in codes}
    squeezed = {squeeze(code): code for code in codes}

    def convert(text: str) -> str | None:
        if text in exact:
            return text
        if not text.strip():
            return None
        # A value that is not one of the codes is found by the table's rule, with all other rows that have it.
        code = squeezed.get(squeeze(text))
        if code is None:
            return text
        reading.note(column, text, code)
        return code

    return convert


def _convert_unique_text(text: str) -> str | None:
    if not text.strip():
        # Programs that put quotes around every field write "" for no value; several rows may have none.
        return None
    if len(text.encode()) > _MAX_UNIQUE_BYTES:
        raise ExpectedError(f"a text of at most {_MAX_UNIQUE_BYTES} bytes")
    return text


_ERROR = r"#(?:REF!|NAME\?|VALUE!|DIV/0!|NULL!|NUM!|SPILL!|CALC!)"
_DAMAGES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(rf"[+-]?[0-9]+(?:[.,][0-9]+[Ee][+-]?|[Ee][+-])[0-9]{{1,3}}|##+|{_ERROR}"),
        "a spreadsheet has shortened this one and lost digits, or shows an error in its place",
    ),
    (re.compile(r"[0-9]+[.,]0"), "a program took this one for a number, and may have lost zeros at its start"),
)
"""What programs do to texts that are mostly digits."""


def _text_converter(column: Column) -> Converter:
    """Return a converter of texts that refuses those which a spreadsheet has damaged.

    In any column it may have put an error in the place of a value; texts that are mostly digits it takes for numbers,
    and such as 2-1 for dates.
    """
    error = re.compile(rf"\s*(?:{_ERROR})\s*")

    def refuse(what: str) -> None:
        raise ExpectedError(f"a text; {what}: give the column the format “Text”, and save again", what)

    def convert(text: str) -> str | None:
        if column.is_number_like:
            shown = text.strip()
            for pattern, what in _DAMAGES:
                if not shown.isdigit() and pattern.fullmatch(shown):
                    refuse(what)
            if is_day_of_spreadsheet(shown):
                refuse("a spreadsheet took this one for a date")
        elif error.fullmatch(text):
            raise ExpectedError("a text; a spreadsheet shows an error in its place: mend the cell, and save again")
        return _convert_unique_text(text) if column.unique else text

    return convert


def is_no_value(text: str) -> bool:
    """Return whether a number or a date of this text is what a program writes for no value."""
    return text.strip().lower() in NO_VALUE


def converter(table: Table, column: Column, reading: Reading) -> Converter | None:
    """Return what turns a field of the column into text for PostgreSQL; None when each text is right as it is."""
    is_key = column in table.keys
    match column.kind:
        case "integer":
            return integer_converter(column, 32, is_key, reading)
        case "bigint":
            return integer_converter(column, 64, is_key, reading)
        case "date":
            return date_converter(reading)
        case "timestamptz":
            return timestamp_converter(reading)
        case "boolean":
            return _boolean_converter(column, reading)
        case "text":
            codes = table.codes(column)
            return _code_converter(column, codes, reading) if codes else _text_converter(column)
    numbers = re.fullmatch(r"numeric\(([0-9]+), ([0-9]+)\)", column.kind)
    assert numbers is not None, column.kind
    return numeric_converter(column, int(numbers[1]), int(numbers[2]), reading)
