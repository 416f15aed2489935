"""From the text of a field to the text that PostgreSQL reads as the same value."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta

from eds.book.csv_import.schema import Column, Table

# A unique value has to fit into an entry of a B-tree index, which holds 2704 bytes with its header.
_MAX_UNIQUE_BYTES = 2600


class ExpectedError(Exception):
    """A field does not hold what its column takes. The message says what was expected."""


# Text in a file to text that PostgreSQL reads as the same value. Raises ExpectedError.
Converter = Callable[[str], str]

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)? ?(?:[Zz]|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)
# Those that the loan book takes (infra/primary/sql/015_bounds.sql).
_FIRST_MOMENT = datetime(1900, 1, 1)
_END_OF_MOMENTS = datetime(9999, 12, 31)
_BOOLEANS = {"true": "t", "t": "t", "1": "t", "yes": "t", "false": "f", "f": "f", "0": "f", "no": "f"}


def _integer_converter(bits: int, is_key: bool) -> Converter:
    least = -(2 ** (bits - 1))
    # A key of the greatest value would leave none for the rows that the application adds later.
    greatest = 2 ** (bits - 1) - (2 if is_key else 1)

    def convert(text: str) -> str:
        text = text.strip()
        if not _INTEGER.fullmatch(text):
            raise ExpectedError("a whole number such as 1042")
        # Leading zeros could make a number longer than int() takes.
        if len(text) > 30 or not least <= int(text) <= greatest:
            raise ExpectedError(f"a whole number from {least} to {greatest}")
        return text

    return convert


def _numeric_converter(precision: int, scale: int) -> Converter:
    greatest = "9" * (precision - scale) + "." + "9" * scale

    def convert(text: str) -> str:
        text = text.strip()
        match = _NUMBER.fullmatch(text)
        if not match:
            raise ExpectedError("a number such as 1234.50: a decimal point, no thousands separators, no exponent")
        whole, decimals = match.groups()
        if len(whole.lstrip("0")) > precision - scale:
            raise ExpectedError(f"a number from -{greatest} to {greatest}")
        if decimals and len(decimals.rstrip("0")) > scale:
            raise ExpectedError(f"a number with at most {scale} decimals (nothing is rounded)")
        return text

    return convert


def _convert_date(text: str) -> str:
    text = text.strip()
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text).isoformat()
    except ValueError:
        pass
    raise ExpectedError("a date as YYYY-MM-DD, such as 2024-02-29")


def _convert_timestamp(text: str) -> str:
    match = _TIMESTAMP.fullmatch(text.strip())
    try:
        if match:
            day, clock, seconds, fraction, sign, hours, minutes = match.groups()
            moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}:{seconds or '00'}")
            fraction = (fraction or "").rstrip("0")
            if len(fraction) > 6:
                raise ExpectedError("a moment with at most 6 decimals of a second (nothing is rounded)")
            # As far from UTC as PostgreSQL goes.
            if int(hours or 0) <= 15 and int(minutes or 0) <= 59:
                offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
                moment += -offset if sign == "+" else offset
                if not _FIRST_MOMENT <= moment < _END_OF_MOMENTS:
                    raise ExpectedError("a moment from 1900-01-01 to 9999-12-30 (UTC)")
                return f"{moment.isoformat()}{'.' if fraction else ''}{fraction}+00"
    except (ValueError, OverflowError):
        pass
    raise ExpectedError(
        "a moment: YYYY-MM-DD, alone or with a time and an offset from UTC, such as 2024-02-29T13:45:00+03:00"
    )


def _convert_boolean(text: str) -> str:
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ExpectedError("true or false (also t/f, 1/0, yes/no)") from None


def _convert_unique_text(text: str) -> str:
    if len(text.encode()) > _MAX_UNIQUE_BYTES:
        raise ExpectedError(f"a text of at most {_MAX_UNIQUE_BYTES} bytes")
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
