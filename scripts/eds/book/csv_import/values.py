"""From the text of a field to the text that PostgreSQL reads as the same value."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

from eds.book.csv_import.dialect import Dialect, squeeze
from eds.book.csv_import.schema import Column, Table

# A unique value has to fit into an entry of a B-tree index, which holds 2704 bytes with its header.
_MAX_UNIQUE_BYTES = 2600
# So many different labels of a column of codes are printed with what they were read as.
_MAX_LABELS = 50


class ExpectedError(Exception):
    """A field does not hold what its column takes. The message says what was expected. cause: see Problem."""

    def __init__(self, expected: str, cause: str = "") -> None:
        super().__init__(expected)
        self.cause = cause


# Text in a file to text that PostgreSQL reads as the same value, None for no value. Raises ExpectedError.
Converter = Callable[[str], str | None]


@dataclass
class Evidence:
    """What the values of a file say about its dialect: for each way of writing, where it was seen first."""

    decimal: dict[str, str] = field(default_factory=dict)
    dates: dict[str, str] = field(default_factory=dict)

    def look(self, column: Column, text: str, line: int) -> None:
        """Take a value into account."""
        if column.kind in ("date", "timestamptz"):
            kind, seen = _order_of(text), self.dates
        elif column.kind.startswith(("numeric", "integer", "bigint")):
            kind, seen = _decimal_of(text, column), self.decimal
        else:
            return
        if kind is not None and kind not in seen:
            seen[kind] = f"line {line} has {text.strip()!r}"


@dataclass
class Reading:
    """How the values of a file are read. decimal and dates are None while they are not known.

    strict: take the plain form alone, so that a file in it is read fast and without a doubt. conflicts: for decimal or
    dates, the values of the file that contradict each other. facts: how the file is read, to be printed.
    """

    decimal: str | None = None
    dates: str | None = None
    century: int | None = None
    timezone: ZoneInfo | None = None
    strict: bool = True
    conflicts: dict[str, str] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)
    labels: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    """By column: what was read as what, beyond the form that the documentation asks for."""
    rounded: frozenset[str] = frozenset()
    """The columns whose numbers are rounded to what they keep."""
    currency: tuple[str, str] | None = None
    """The currency that stands beside amounts, and how it was written first."""

    @classmethod
    def of(cls, dialect: Dialect, evidence: Evidence) -> Reading:
        """Return what the user says, completed by what the file itself leaves no doubt about."""
        reading = cls(dialect.decimal, dialect.dates, dialect.century, dialect.timezone, strict=False)
        words = {"point": "decimal point", "comma": "decimal comma", "dmy": "day first", "mdy": "month first"}
        for name, seen in (("decimal", evidence.decimal), ("dates", evidence.dates)):
            given = getattr(reading, name)
            if given is not None:
                reading.facts.append(words.get(given, "year first"))
            elif len(seen) == 1:
                ((kind, where),) = seen.items()
                setattr(reading, name, kind)
                reading.facts.append(f"{words[kind]} ({where})")
            elif seen:
                reading.conflicts[name] = " and ".join(seen.values())
        return reading

    def note(self, column: Column, text: str, value: str) -> None:
        """Record that a text was read as a value that it does not spell."""
        seen = self.labels.setdefault(column.name, Counter())
        if (text, value) in seen or len(seen) < _MAX_LABELS:
            seen[text, value] += 1


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?")
# 1.500 may be one and a half, or fifteen hundred: what stands before the separator then.
_GROUPED = re.compile(r"[1-9][0-9]{0,2}")
# What most numbers look like, and can be read in one way.
_SHORT = re.compile(r"-?[0-9]+([.,])[0-9]{1,2}")
_BESIDE = r"[^\w\s.,'+\-()%/]?[^\W\d_]{0,6}\.?[^\w\s.,'+\-()%/]?"
_DRESSED = re.compile(rf"({_BESIDE})\s*([+-]?)\s*([0-9.,' ]*[0-9][.,]?)\s*(-?)\s*({_BESIDE}|/=|/-)")
# Groups of three, or as in India of two before the last three, all with the same separator.
_POINT = re.compile(
    r"(?P<whole>[0-9]*|[1-9][0-9]{0,2}(?P<sep>[, '])[0-9]{3}(?:(?P=sep)[0-9]{3})*|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3})"
    r"(?:\.(?P<decimals>[0-9]*))?"
)
_COMMA = re.compile(
    r"(?P<whole>[0-9]*|[1-9][0-9]{0,2}(?P<sep>[. '])[0-9]{3}(?:(?P=sep)[0-9]{3})*)(?:,(?P<decimals>[0-9]*))?"
)
_SHORTENED = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?[Ee][+-]?[0-9]+")
_BLANKS = str.maketrans({"\xa0": " ", "\u202f": " ", "\u2009": " ", "\u2007": " ", "’": "'", "−": "-", "\u2013": "-"})


def _undress(text: str, column: Column) -> tuple[str, str, str]:
    """Split a number into its sign, its digits with their separators, and its currency. Raises ExpectedError."""
    text = text.translate(_BLANKS).strip()
    if text.startswith("#"):
        raise ExpectedError(f"{_number_words(column)}; this is an error of a spreadsheet's formula or a narrow column")
    if _SHORTENED.fullmatch(text):
        raise ExpectedError(
            f"{_number_words(column)}; a spreadsheet has shortened this one and lost digits: "
            "give the column the format “Number” or “Text” and save again"
        )
    is_negative = text.startswith("(") and text.endswith(")")
    if is_negative:
        text = text[1:-1].strip()
    elif text[:1] in "+-" and text[1:2] and not text[1:2].isdigit():
        is_negative, text = text[0] == "-", text[1:].strip()
    if text.endswith("%"):
        if not column.is_percent:
            raise ExpectedError(f"{_number_words(column)}, without a percent sign")
        text = text[:-1].rstrip()
    match = _DRESSED.fullmatch(text)
    if match is None or (match[1] and match[5]) or (match[2] and match[4]):
        raise ExpectedError(_number_words(column))
    beside = match[1] or match[5]
    if match[2] == "-" or match[4] == "-":
        is_negative = not is_negative
    return "-" if is_negative else "", match[3].strip(), beside


def _spell(match: re.Match[str] | None) -> str | None:
    """Return the digits of a match of _POINT or _COMMA, with a decimal point."""
    if match is None:
        return None
    whole, decimals = re.sub(r"[^0-9]", "", match["whole"]), match["decimals"]
    if not whole and not decimals:
        return None
    return whole + (f".{decimals}" if decimals else "")


def _two_readings(digits: str, column: Column) -> tuple[str | None, str | None]:
    """Return what the digits are with a decimal point and with a decimal comma; None for what they cannot be."""
    point, comma = _spell(_POINT.fullmatch(digits)), _spell(_COMMA.fullmatch(digits))
    if point and comma and point != comma and column.is_percent:
        # 12.345 percent are no twelve thousand percent.
        point = point if len(point.partition(".")[0]) <= 3 else None
        comma = comma if len(comma.partition(".")[0]) <= 3 else None
    return point, comma


def _decimal_of(text: str, column: Column) -> str | None:
    """Which decimal sign a value proves, None when it proves none."""
    if _INTEGER.fullmatch(text):
        return None
    if short := _SHORT.fullmatch(text):
        return "point" if short[1] == "." else "comma"
    try:
        _, digits, _ = _undress(text, column)
    except ExpectedError:
        return None
    point, comma = _two_readings(digits, column)
    if point is not None and comma is None:
        return "point"
    return "comma" if comma is not None and point is None else None


def _number_words(column: Column) -> str:
    return "a whole number such as 1042" if not column.kind.startswith("numeric") else "a number such as 1234.50"


def _plain_number(text: str, column: Column, reading: Reading) -> str:
    """Return a number in any dialect as [-]digits[.digits]. Raises ExpectedError, also when it is ambiguous."""
    short = _SHORT.fullmatch(text)
    if short and reading.decimal == ("point" if short[1] == "." else "comma"):
        return text.replace(",", ".")
    sign, digits, beside = _undress(text, column)
    point, comma = _two_readings(digits, column)
    if reading.decimal is None and point and comma and point != comma:
        conflict = reading.conflicts.get("decimal")
        reason = f"the file has both ({conflict})" if conflict else "no other number of the file tells"
        raise ExpectedError(
            f"to know whether {digits} is {point} or {comma}; {reason}: DECIMAL=point or DECIMAL=comma",
            "ambiguous decimal sign",
        )
    if reading.decimal is None and reading.conflicts.get("decimal") and "." in (point or comma or ""):
        raise ExpectedError(
            f"one decimal sign in the file, which has both ({reading.conflicts['decimal']}): "
            "DECIMAL=point or DECIMAL=comma says which is right",
            "both decimal signs",
        )
    number = {"point": point, "comma": comma}.get(reading.decimal or "", point or comma)
    if number is None:
        if (point or comma) and column.kind.startswith("numeric"):
            example = "1234,50" if reading.decimal == "comma" else "1234.50"
            raise ExpectedError(f"a number with a decimal {reading.decimal}, such as {example}")
        raise ExpectedError(_number_words(column))
    if beside:
        _check_currency(beside, column, reading)
    return sign + number


def _check_currency(beside: str, column: Column, reading: Reading) -> None:
    """Take note of the currency beside an amount. Raises ExpectedError for another than before, or for other words."""
    if beside in ("/=", "/-"):
        return
    name = beside.strip(".").lower()
    currency = _currencies().get(name)
    if currency is None or column.is_percent or not column.kind.startswith("numeric"):
        raise ExpectedError(f"{_number_words(column)}, without {beside!r}", "a word beside the number")
    if reading.currency is None:
        reading.currency = (currency, beside)
        reading.facts.append(f"amounts in {beside}")
    elif reading.currency[0] != currency:
        raise ExpectedError(f"one currency in the book, {reading.currency[1]} as before", "another currency")


@functools.cache
def _currencies() -> dict[str, str]:
    """Return the codes of all currencies, by code and by the symbols used where they are official, in lower case."""
    from babel import UnknownLocaleError
    from babel.core import get_global
    from babel.numbers import get_currency_symbol, get_territory_currencies, list_currencies

    found = {code.lower(): code for code in list_currencies()}
    for territory in sorted(get_global("territory_currencies")):
        for official in get_territory_currencies(territory)[:1]:
            try:
                symbol = get_currency_symbol(official, locale=f"en_{territory}")
            except UnknownLocaleError:
                # English is not used there.
                symbol = get_currency_symbol(official, locale="en")
            found.setdefault(symbol.lower().strip("."), official)
    return found | {"$": "USD", "€": "EUR", "£": "GBP", "kshs": "KES", "sh": "KES", "shs": "KES", "rs": "INR"}


def _check_integer(text: str, least: int, greatest: int) -> str:
    # Leading zeros could make a number longer than int() takes.
    if len(text) > 30 or not least <= int(text) <= greatest:
        raise ExpectedError(f"a whole number from {least} to {greatest}")
    return text


def _integer_converter(column: Column, bits: int, is_key: bool, reading: Reading) -> Converter:
    least = -(2 ** (bits - 1))
    # A key of the greatest value would leave none for the rows that the application adds later.
    greatest = 2 ** (bits - 1) - (2 if is_key else 1)

    def convert(text: str) -> str:
        text = text.strip()
        if not _INTEGER.fullmatch(text):
            if reading.strict:
                raise ExpectedError("a whole number such as 1042")
            text = _plain_number(text, column, reading)
            if text.partition(".")[2].strip("0"):
                raise ExpectedError("a whole number such as 1042")
            text = text.partition(".")[0]
        return _check_integer(text, least, greatest)

    return convert


def _numeric_converter(column: Column, precision: int, scale: int, reading: Reading) -> Converter:
    greatest = "9" * (precision - scale) + "." + "9" * scale

    def convert(text: str) -> str:
        text = text.strip()
        match = _NUMBER.fullmatch(text)
        if not match or (match[2] and not reading.strict):
            if reading.strict:
                raise ExpectedError("a number such as 1234.50: a decimal point, no thousands separators, no exponent")
            text = _plain_number(text, column, reading)
            match = _NUMBER.fullmatch(text)
        assert match is not None
        whole, decimals = match.groups()
        if reading.strict and decimals and len(decimals) == 3 and not column.is_percent and _GROUPED.fullmatch(whole):
            # It may be a whole number with a separator of thousands: other numbers of the file tell.
            raise ExpectedError("a number such as 1234.50")
        if len(whole.lstrip("0")) > precision - scale:
            raise ExpectedError(f"a number from -{greatest} to {greatest}")
        if decimals and len(decimals.rstrip("0")) > scale and column.name in reading.rounded:
            reading.note(column, "more decimals", "rounded")
            return str(Decimal(text).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP))
        if decimals and len(decimals.rstrip("0")) > scale:
            raise ExpectedError(f"a number with at most {scale} decimals (nothing is rounded)")
        return text

    return convert


# ---------------------------------------------------------------------------------------------------------------------
# Dates and times
# ---------------------------------------------------------------------------------------------------------------------

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)? ?(?:[Zz]|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)
_YEAR_FIRST = re.compile(r"([0-9]{4})([-/.])([0-9]{1,2})\2([0-9]{1,2})|([0-9]{4})([0-9]{2})([0-9]{2})")
_YEAR_LAST = re.compile(r"([0-9]{1,2})([-/.])([0-9]{1,2})\2([0-9]{4}|[0-9]{2})")
_DAY_NAME_YEAR = re.compile(r"([0-9]{1,2})(?:st|nd|rd|th|\.)?[-/ ]*([^\W\d_]+)\.?[-/, ]*([0-9]{4}|[0-9]{2})")
_NAME_DAY_YEAR = re.compile(r"([^\W\d_]+)\.? +([0-9]{1,2})(?:st|nd|rd|th)?,? +([0-9]{4})")
_YEAR_NAME_DAY = re.compile(r"([0-9]{4})[-/ ]([^\W\d_]+)[-/ ]([0-9]{1,2})")
_SPLIT_TIME = re.compile(
    r"(?P<date>.*?)(?:(?:[T,]| +|, +)(?P<hour>[0-9]{1,2})(?P<mark>[:.])(?P<minute>[0-9]{2})"
    r"(?:(?P=mark)(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]+))?)?"
    r" ?(?P<half>[AaPp]\.?[Mm]\.?)?"
    r" ?(?P<zone>[Zz]|UTC|GMT|(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})?)?)?"
)
# Those that the loan book takes (infra/primary/sql/015_bounds.sql).
_FIRST_MOMENT = datetime(1900, 1, 1)
_END_OF_MOMENTS = datetime(9999, 12, 31)
_DATE_WORDS = "a date as YYYY-MM-DD, such as 2024-02-29"
_MOMENT_WORDS = "a moment: YYYY-MM-DD, alone or with a time and an offset from UTC, such as 2024-02-29T13:45:00+03:00"
_MONTHS = ["January", "February", "March", "April", "May", "June"]
_MONTHS += ["July", "August", "September", "October", "November", "December"]


@functools.lru_cache(maxsize=4096)
def _order_of(text: str) -> str | None:
    """Which order of day and month a value proves, None when it proves none."""
    match = _SPLIT_TIME.fullmatch(text.strip())
    numbers = _YEAR_LAST.fullmatch(match["date"]) if match else None
    if numbers is None:
        return None
    first, second = int(numbers[1]), int(numbers[3])
    if 12 < first <= 31 and 1 <= second <= 12:
        return "dmy"
    return "mdy" if 12 < second <= 31 and 1 <= first <= 12 else None


@functools.cache
def _month_names() -> dict[str, int]:
    """Return the months by their names, long and short, in the languages of exports. None: two months have it."""
    from babel.dates import get_month_names

    found: dict[str, int] = {"sept": 9}
    for language in ("en", "fr", "pt", "sw", "de", "es", "it", "nl"):
        for width in ("wide", "abbreviated"):
            for number, name in get_month_names(width, locale=language).items():
                found[squeeze(name)] = number
    return found


def _full_year(year: str, reading: Reading) -> int:
    if len(year) == 4:
        return int(year)
    if reading.century is None:
        raise ExpectedError(
            "a year of four digits; or CENTURY=1930 says that two digits are a year from 1930 to 2029",
            "year of two digits",
        )
    full = reading.century - reading.century % 100 + int(year)
    return full if full >= reading.century else full + 100


def _day(year: int, month: int, day: int) -> date:
    try:
        return date(year, month, day)
    except ValueError:
        pass
    if not 1 <= month <= 12:
        raise ExpectedError(f"a date that exists: there is no month {month}", "no such date")
    if year < 1:
        raise ExpectedError("a date that exists: there is no year 0", "no such date")
    length = (date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)).day if year < 9999 else 31
    raise ExpectedError(f"a date that exists: {_MONTHS[month - 1]} {year} has {length} days, not {day}", "no such date")


def _any_day(text: str, reading: Reading, words: str) -> date:
    """Return a date in any of the ways to write one. Raises ExpectedError, also when it is ambiguous."""
    if match := _YEAR_FIRST.fullmatch(text):
        year, month, day = (int(part) for part in (match[1] or match[5], match[3] or match[6], match[4] or match[7]))
        return _day(year, month, day)
    if match := _YEAR_LAST.fullmatch(text):
        first, separator, second, year_text = int(match[1]), match[2], int(match[3]), match[4]
        # Nowhere do points stand in a date with the month first.
        order = reading.dates if reading.dates in ("dmy", "mdy") else "dmy" if separator == "." else None
        if order is None and first != second and "dates" in reading.conflicts:
            raise ExpectedError(
                f"one order of day and month in the file, which has both ({reading.conflicts['dates']}): "
                "DATES=dmy or DATES=mdy says which is right",
                "both orders of day and month",
            )
        if order is None and (first == second or first > 12 >= second):
            order = "dmy"
        elif order is None and second > 12 >= first:
            order = "mdy"
        if order is None and first > 12:
            raise ExpectedError(f"a date that exists: there is no month {min(first, second)}", "no such date")
        if order is None:
            raise ExpectedError(
                f"to know whether it is {first} {_name(second)} {year_text} or {second} {_name(first)} {year_text}; "
                "no other "
                "date of the file tells: DATES=dmy (day first) or DATES=mdy (month first)",
                "ambiguous date",
            )
        day, month = (first, second) if order == "dmy" else (second, first)
        if month > 12 >= day >= 1:
            raise ExpectedError(
                f"a date as {'day/month/year' if order == 'dmy' else 'month/day/year'}: there is no month {month}",
                "no such date in this order",
            )
        return _day(_full_year(year_text, reading), month, day)
    for pattern, places in ((_DAY_NAME_YEAR, (3, 2, 1)), (_NAME_DAY_YEAR, (3, 1, 2)), (_YEAR_NAME_DAY, (1, 2, 3))):
        match = pattern.fullmatch(text)
        if match and (month := _month_names().get(squeeze(match[places[1]]), 0)):
            return _day(_full_year(match[places[0]], reading), month, int(match[places[2]]))
    if re.fullmatch(r"[1-6][0-9]{4}(?:\.[0-9]+)?", text):
        shown = date(1899, 12, 30) + timedelta(days=int(text[:5]))
        raise ExpectedError(
            f"{words}; this may be a spreadsheet's number of a day, {shown}: give the column the format “Date” "
            "and save again",
            "number of a day",
        )
    raise ExpectedError(words)


def _name(month: int) -> str:
    return _MONTHS[month - 1] if 1 <= month <= 12 else f"month {month}"


def _date_converter(reading: Reading) -> Converter:
    @functools.lru_cache(maxsize=4096)
    def convert_other(text: str) -> str:
        match = _SPLIT_TIME.fullmatch(text)
        if match is None:
            raise ExpectedError(_DATE_WORDS)
        # A spreadsheet and many databases write a date as its midnight.
        is_midnight = (
            int(match["hour"] or 0) in ((0, 12) if (match["half"] or "").lower().startswith("a") else (0,))
            and not int(match["minute"] or 0)
            and not int(match["second"] or 0)
            and not int(match["fraction"] or 0)
        )
        if not is_midnight:
            raise ExpectedError("a date without a time of the day")
        return _any_day(match["date"], reading, _DATE_WORDS).isoformat()

    def convert(text: str) -> str:
        text = text.strip()
        try:
            if _DATE.fullmatch(text):
                return date.fromisoformat(text).isoformat()
        except ValueError:
            pass
        if reading.strict:
            raise ExpectedError(_DATE_WORDS)
        return convert_other(text)

    return convert


def _timestamp_converter(reading: Reading) -> Converter:
    zone = reading.timezone

    @functools.lru_cache(maxsize=4096)
    def any_day(text: str) -> date:
        return _any_day(text, reading, _MOMENT_WORDS)

    def at(day: date, match: re.Match[str]) -> str:
        hour = int(match["hour"] or 0)
        if match["half"]:
            if not 1 <= hour <= 12:
                raise ExpectedError("an hour from 1 to 12 before AM or PM")
            hour = hour % 12 + (12 if match["half"][0] in "Pp" else 0)
        fraction = (match["fraction"] or "").rstrip("0")
        if len(fraction) > 6:
            raise ExpectedError("a moment with at most 6 decimals of a second (nothing is rounded)")
        minute, second = int(match["minute"] or 0), int(match["second"] or 0)
        hours, minutes = int(match["hours"] or 0), int(match["minutes"] or 0)
        # As far from UTC as PostgreSQL goes.
        if hour > 23 or minute > 59 or second > 59 or hours > 15 or minutes > 59:
            raise ExpectedError("a time that exists, from 00:00:00 to 23:59:59, with an offset up to 15:59")
        moment = datetime(day.year, day.month, day.day, hour, minute, second)
        try:
            if match["zone"]:
                offset = timedelta(hours=hours, minutes=minutes)
                moment += -offset if match["sign"] == "+" else offset
            elif zone is not None:
                moment = moment.replace(tzinfo=zone).astimezone(UTC).replace(tzinfo=None)
        except OverflowError:
            raise ExpectedError(_MOMENT_WORDS) from None
        _check_bounds(moment)
        return f"{moment.isoformat()}{'.' if fraction else ''}{fraction}+00"

    def convert(text: str) -> str:
        text = text.strip()
        if zone is None:
            try:
                if match := _TIMESTAMP.fullmatch(text):
                    return _plain_timestamp(match)
            except (ValueError, OverflowError):
                pass
        if reading.strict:
            raise ExpectedError(_MOMENT_WORDS)
        other = _SPLIT_TIME.fullmatch(text)
        if other is None:
            raise ExpectedError(_MOMENT_WORDS)
        return at(any_day(other["date"]), other)

    return convert


def _plain_timestamp(match: re.Match[str]) -> str:
    day, clock, seconds, fraction, sign, hours, minutes = match.groups()
    moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}:{seconds or '00'}")
    fraction = (fraction or "").rstrip("0")
    if len(fraction) > 6 or int(hours or 0) > 15 or int(minutes or 0) > 59:
        raise ValueError
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    moment += -offset if sign == "+" else offset
    _check_bounds(moment)
    return f"{moment.isoformat()}{'.' if fraction else ''}{fraction}+00"


def _check_bounds(moment: datetime) -> None:
    if not _FIRST_MOMENT <= moment < _END_OF_MOMENTS:
        raise ExpectedError("a moment from 1900-01-01 to 9999-12-30 (UTC)")


# ---------------------------------------------------------------------------------------------------------------------
# Yes or no, codes, texts
# ---------------------------------------------------------------------------------------------------------------------

_BOOLEANS = {"true": "t", "t": "t", "1": "t", "yes": "t", "false": "f", "f": "f", "0": "f", "no": "f"}
_MORE_BOOLEANS = {"y": "t", "active": "t", "enabled": "t", "n": "f", "inactive": "f", "disabled": "f"}
# What programs write for no value, beside an empty field. Numbers and dates can only mean that; a name may be Null.
_NO_VALUE = {"null", "(null)", r"\n", "n/a", "#n/a", "none", "nat", "nil"}


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
        # What is none of the codes is found by the rule, with all other rows that have it.
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


def is_no_value(text: str) -> bool:
    """Whether a number or a date of this text is what a program writes for no value."""
    return text.strip().lower() in _NO_VALUE


def converter(table: Table, column: Column, reading: Reading) -> Converter | None:
    """Return what turns a field of the column into text for PostgreSQL; None when each text is right as it is."""
    is_key = column in table.keys
    match column.kind:
        case "integer":
            return _integer_converter(column, 32, is_key, reading)
        case "bigint":
            return _integer_converter(column, 64, is_key, reading)
        case "date":
            return _date_converter(reading)
        case "timestamptz":
            return _timestamp_converter(reading)
        case "boolean":
            return _boolean_converter(column, reading)
        case "text":
            codes = table.codes(column)
            if codes:
                return _code_converter(column, codes, reading)
            return _convert_unique_text if column.unique else None
    numbers = re.fullmatch(r"numeric\(([0-9]+), ([0-9]+)\)", column.kind)
    assert numbers is not None, column.kind
    return _numeric_converter(column, int(numbers[1]), int(numbers[2]), reading)
