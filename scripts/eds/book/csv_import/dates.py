"""Dates and times in any order and language."""

from __future__ import annotations

import functools
import re
from datetime import UTC, date, datetime, timedelta

from eds.book.csv_import.dialect import squeeze
from eds.book.csv_import.interpretation import DASHES, Converter, ExpectedError, Reading

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)? ?(?:[Zz]|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)
_YEAR_FIRST = re.compile(r"([0-9]{4})([-/.])([0-9]{1,2})\2([0-9]{1,2})|([0-9]{4})([0-9]{2})([0-9]{2})")
_YEAR_LAST = re.compile(r"([0-9]{1,2})([-/.])([0-9]{1,2})\2([0-9]{4}|[0-9]{2})")
_DAY_NAME_YEAR = re.compile(
    r"([0-9]{1,2})(?:st|nd|rd|th|er|\.)?[-/ ]*(?:de +)?([^\W\d_]+)\.?[-/, ]*(?:de +)?([0-9]{4}|[0-9]{2})"
)
_NAME_DAY_YEAR = re.compile(r"([^\W\d_]+)\.? +([0-9]{1,2})(?:st|nd|rd|th)?,? +([0-9]{4})")
_YEAR_NAME_DAY = re.compile(r"([0-9]{4})[-/ ]([^\W\d_]+)[-/ ]([0-9]{1,2})")
_DAY_OF_THE_WEEK = re.compile(r"([^\W\d_]{2,}(?:-[^\W\d_]+)?)\.?,? +((?:[^\W\d_]+\.? +)?[0-9].*)")
_SPLIT_TIME = re.compile(
    r"(?P<date>.*?)(?:(?:[T,]| +|, +)(?P<hour>[0-9]{1,2})(?P<mark>[:.])(?P<minute>[0-9]{2})"
    r"(?:(?P=mark)(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]+))?)?"
    r" ?(?P<half>[AaPp]\.?[Mm]\.?)?"
    r" ?(?P<zone>[Zz]|UTC|GMT|(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})?)?)?"
)
# The range of times that the loan book accepts (infra/primary/sql/015_bounds.sql).
_FIRST_TIME = datetime(1900, 1, 1)
_END_OF_TIME = datetime(9999, 12, 31)
_DATE_WORDS = "a date as YYYY-MM-DD, such as 2024-02-29"
_TIME_WORDS = "a time: YYYY-MM-DD, alone or with an hour and an offset from UTC, such as 2024-02-29T13:45:00+03:00"
_MONTHS = ["January", "February", "March", "April", "May", "June"]
_MONTHS += ["July", "August", "September", "October", "November", "December"]


ORDERS = ("dmy", "mdy", "ymd")
"""The orders of day, month and year that a date of numbers can have."""

_ORDER_WORDS = {"dmy": "day/month/year", "mdy": "month/day/year", "ymd": "year/month/day"}
_ORDER_OPTIONS = {"dmy": "DATES=dmy (day first)", "mdy": "DATES=mdy (month first)", "ymd": "DATES=ymd (year first)"}
_ONE_YEAR_LAST = "a date as year/month/day, as DATES=ymd or another date of the file says"


@functools.lru_cache(maxsize=4096)
def orders_of(text: str) -> tuple[str, frozenset[str]] | None:
    """Return how a date is written, and the orders that its parts allow; None when there is nothing to learn from it.

    It is written with points ("points"), with the month's name ("names"), or with other signs ("dates"). What is
    usual differs: points stand behind a day nearly everywhere.
    """
    match = _SPLIT_TIME.fullmatch(text.strip().translate(DASHES))
    if match is None:
        return None
    if numbers := _YEAR_LAST.fullmatch(match["date"]):
        allowed = frozenset(_readings(numbers))
        return ("points" if numbers[2] == "." else "dates", allowed) if allowed else None
    if (named := _DAY_NAME_YEAR.fullmatch(match["date"])) and squeeze(named[2]) in _month_names():
        return "names", frozenset(_readings_of_name(named))
    if (named := _YEAR_NAME_DAY.fullmatch(match["date"])) and squeeze(named[2]) in _month_names():
        return "names", frozenset({"ymd"})
    return None


def _readings(numbers: re.Match[str]) -> dict[str, tuple[str, int, int]]:
    """Return the year, month and day of three numbers, in each order in which there are such a month and day.

    With a year of four digits at the end, no other number is the year.
    """
    first, second, last = numbers[1], numbers[3], numbers[4]
    found = {"dmy": (last, int(second), int(first)), "mdy": (last, int(first), int(second))}
    if len(first) == len(last) == 2:
        found["ymd"] = (first, int(second), int(last))
    return {order: parts for order, parts in found.items() if 1 <= parts[1] <= 12 and 1 <= parts[2] <= 31}


def _readings_of_name(named: re.Match[str]) -> dict[str, tuple[str, int, int]]:
    """Return the same of a day, the name of a month, and a year: 24-Feb-29 may have the year first."""
    month = _month_names()[squeeze(named[2])]
    found = {"dmy": (named[3], month, int(named[1]))}
    if len(named[1]) == len(named[3]) == 2:
        found["ymd"] = (named[1], month, int(named[3]))
    possible = {order: parts for order, parts in found.items() if 1 <= parts[2] <= 31}
    return possible or {"dmy": found["dmy"]}


_LANGUAGES = ("en", "fr", "pt", "sw", "de", "es", "it", "nl")


@functools.cache
def _month_names() -> dict[str, int]:
    """Return the months by their names, long and short, in the languages of exports. None: two months have it."""
    from babel.dates import get_month_names

    found: dict[str, int] = {"sept": 9}
    for language in _LANGUAGES:
        for width in ("wide", "abbreviated"):
            for number, name in get_month_names(width, locale=language).items():
                found[squeeze(name)] = number
    return found


@functools.cache
def _days_of_the_week() -> dict[str, set[int]]:
    """Return the days of the week (Monday is 0) by their names, long and short, in the languages of exports."""
    from babel.dates import get_day_names

    found: dict[str, set[int]] = {}
    for language in _LANGUAGES:
        for width in ("wide", "abbreviated"):
            for number, name in get_day_names(width, locale=language).items():
                found.setdefault(squeeze(name), set()).add(number)
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
        return _day_of_numbers(match, reading)
    if (match := _DAY_NAME_YEAR.fullmatch(text)) and squeeze(match[2]) in _month_names():
        readings = _readings_of_name(match)
        order = _order_of_names(readings, reading)
        if order not in readings and len(match[3]) == 2:
            raise _wrong_order(order, f"day {int(match[3] if order == 'ymd' else match[1])}")
        year_text, month, day = readings.get(order) or next(iter(readings.values()))
        return _day(_full_year(year_text, reading), month, day)
    for pattern, places in ((_NAME_DAY_YEAR, (3, 1, 2)), (_YEAR_NAME_DAY, (1, 2, 3))):
        match = pattern.fullmatch(text)
        if match and (month := _month_names().get(squeeze(match[places[1]]), 0)):
            return _day(_full_year(match[places[0]], reading), month, int(match[places[2]]))
    named = _DAY_OF_THE_WEEK.fullmatch(text)
    if named and (days := _days_of_the_week().get(squeeze(named[1]))):
        found = _any_day(named[2], reading, words)
        if found.weekday() not in days:
            raise ExpectedError(f"a date that exists: {found} is not a {named[1]}", "another day of the week")
        return found
    if re.fullmatch(r"[1-6][0-9]{4}(?:\.[0-9]+)?", text):
        shown = date(1899, 12, 30) + timedelta(days=int(text[:5]))
        raise ExpectedError(
            f"{words}; this may be a spreadsheet's number of a day, {shown}: give the column the format “Date” "
            "and save again",
            "number of a day",
        )
    raise ExpectedError(words)


def _day_of_numbers(match: re.Match[str], reading: Reading) -> date:
    """Return a date of three numbers whose last may be the year. Raises ExpectedError, also when it is ambiguous."""
    first, second, last = int(match[1]), int(match[3]), match[4]
    readings = _readings(match)
    order = _order_of_points(match[0], readings, reading) if match[2] == "." else reading.dates
    if order == "ymd" and not len(match[1]) == len(last) == 2:
        raise ExpectedError(_ONE_YEAR_LAST, "year at the end")
    if order is None:
        if len(set(readings.values())) != 1 or first != second:
            _refuse_conflict("points" if match[2] == "." else "dates", readings, reading)
        if len(set(readings.values())) > 1:
            raise _ambiguous(readings, reading)
        # Where no order gives a date, the reason is that of the order that comes closest.
        order = next(iter(readings), "mdy" if second > 12 >= first else "dmy")
    year_text, month, day = {
        "dmy": (last, second, first),
        "mdy": (last, first, second),
        "ymd": (match[1], second, int(last)),
    }[order]
    if readings and order not in readings:
        raise _wrong_order(order, f"month {month}" if not 1 <= month <= 12 else f"day {day}")
    return _day(_full_year(year_text, reading), month, day)


def _order_of_points(text: str, readings: dict[str, tuple[str, int, int]], reading: Reading) -> str | None:
    """Return the order of a date with points: the day comes first, unless the user or the file says otherwise."""
    proven = reading.orders.get("points")
    if proven is not None:
        if proven != reading.dates:
            reading.note_points(proven, repr(text))
        return proven
    if reading.dates in ("dmy", "ymd"):
        return reading.dates
    if "points" in reading.conflicts:
        return None
    if reading.dates is None:
        return "dmy" if "dmy" in readings else next(iter(readings), None)
    # DATES=mdy is usually about dates with other signs in the same files.
    possible = {order: readings[order] for order in ("dmy", "mdy") if order in readings}
    if len(set(possible.values())) > 1:
        days = _or([_spelled(parts, reading) for parts in possible.values()])
        raise ExpectedError(
            f"to know whether it is {days}: DATES=mdy puts the month first, and with points the day comes first, as it "
            "is read without DATES=mdy; otherwise write it as YYYY-MM-DD",
            "month first with points",
        )
    return next(iter(possible), "mdy")


def _order_of_names(readings: dict[str, tuple[str, int, int]], reading: Reading) -> str:
    """Return the order of a date with a name of a month. Raises ExpectedError when it is ambiguous."""
    if len(readings) == 1 and reading.dates is None:
        return next(iter(readings))
    if reading.dates is not None:
        return "ymd" if reading.dates == "ymd" else "dmy"
    _refuse_conflict("names", readings, reading)
    if "names" in reading.orders:
        return reading.orders["names"]
    raise _ambiguous(readings, reading)


def _wrong_order(order: str, wrong: str) -> ExpectedError:
    return ExpectedError(f"a date as {_ORDER_WORDS[order]}: there is no {wrong}", "no such date in this order")


def _refuse_conflict(kind: str, readings: dict[str, tuple[str, int, int]], reading: Reading) -> None:
    """Raise ExpectedError when dates of the file that are written in this way contradict each other."""
    if kind in reading.conflicts:
        orders = {"names": ("dmy", "ymd"), "points": ("dmy", "mdy"), "dates": ("dmy", "mdy")}[kind]
        options = dict.fromkeys([*orders, *readings])
        raise ExpectedError(
            f"one order of day and month in the file, which has both ({reading.conflicts[kind]}): "
            f"{_or([f'DATES={order}' for order in options])} says which is right",
            "both orders of day and month",
        )


def _ambiguous(readings: dict[str, tuple[str, int, int]], reading: Reading) -> ExpectedError:
    """Return the question that a date with several readings raises."""
    days = [_spelled(parts, reading) for parts in dict.fromkeys(readings.values())]
    options = [_ORDER_OPTIONS[order] for order in readings]
    needs_century = reading.century is None and any(len(year) == 2 for year, _, _ in readings.values())
    century = "; and CENTURY=1930, with which two digits are a year from 1930 to 2029" if needs_century else ""
    return ExpectedError(
        f"to know whether it is {_or(days)}; no other date of the file tells: {_or(options)}{century}", "ambiguous date"
    )


def _or(texts: list[str]) -> str:
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _spelled(parts: tuple[str, int, int], reading: Reading) -> str:
    year, month, day = parts
    full = year if len(year) == 4 or reading.century is None else str(_full_year(year, reading))
    return f"{day} {_MONTHS[month - 1]} {full}"


_SHORT_DAY = re.compile(r"[0-9]{1,2}[-.] ?([^\W\d_]{3,5})\.?(?:[- ][0-9]{2})?|([^\W\d_]{3,5})\.?[- ][0-9]{2}")


def is_day_of_spreadsheet(text: str) -> bool:
    """Return whether a text is how a spreadsheet shows the day for which it took a code such as 2-1."""
    match = _SHORT_DAY.fullmatch(text)
    return match is not None and squeeze(match[1] or match[2]) in _month_names()


def date_converter(reading: Reading) -> Converter:
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
        text = text.strip().translate(DASHES)
        try:
            if _DATE.fullmatch(text):
                return date.fromisoformat(text).isoformat()
        except ValueError:
            pass
        if reading.strict:
            raise ExpectedError(_DATE_WORDS)
        return convert_other(text)

    return convert


def timestamp_converter(reading: Reading) -> Converter:
    zone = reading.timezone

    @functools.lru_cache(maxsize=4096)
    def any_day(text: str) -> date:
        return _any_day(text, reading, _TIME_WORDS)

    def at(day: date, match: re.Match[str]) -> str:
        hour = int(match["hour"] or 0)
        if match["half"]:
            if not 1 <= hour <= 12:
                raise ExpectedError("an hour from 1 to 12 before AM or PM")
            hour = hour % 12 + (12 if match["half"][0] in "Pp" else 0)
        fraction = (match["fraction"] or "").rstrip("0")
        if len(fraction) > 6:
            raise ExpectedError("a time with at most 6 decimals of a second (nothing is rounded)")
        minute, second = int(match["minute"] or 0), int(match["second"] or 0)
        hours, minutes = int(match["hours"] or 0), int(match["minutes"] or 0)
        # PostgreSQL's largest offset from UTC.
        if hour > 23 or minute > 59 or second > 59 or hours > 15 or minutes > 59:
            raise ExpectedError("a time that exists, from 00:00:00 to 23:59:59, with an offset up to 15:59")
        moment = datetime(day.year, day.month, day.day, hour, minute, second)
        try:
            if match["zone"]:
                offset = timedelta(hours=hours, minutes=minutes)
                moment += -offset if match["sign"] == "+" else offset
            elif zone is None:
                if hour or minute:
                    reading.note_utc(match[0])
                else:
                    reading.has_assumed_day = True
            else:
                local = moment.replace(tzinfo=zone)
                if hour or minute:
                    reading.note_clock_change(match[0], local)
                moment = local.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:
            raise ExpectedError(_TIME_WORDS) from None
        _check_bounds(moment)
        return f"{moment.isoformat()}{'.' if fraction else ''}{fraction}+00"

    def convert(text: str) -> str:
        text = text.strip().translate(DASHES)
        if zone is None:
            try:
                if match := _TIMESTAMP.fullmatch(text):
                    plain = _plain_timestamp(match)
                    if not match[5] and text[-1] not in "Zz":
                        if match[2] and match[2] != "00:00":
                            reading.note_utc(text)
                        else:
                            reading.has_assumed_day = True
                    return plain
            except (ValueError, OverflowError):
                pass
        if reading.strict:
            raise ExpectedError(_TIME_WORDS)
        other = _SPLIT_TIME.fullmatch(text)
        if other is None:
            raise ExpectedError(_TIME_WORDS)
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
    if not _FIRST_TIME <= moment < _END_OF_TIME:
        raise ExpectedError("a time from 1900-01-01 to 9999-12-30 (UTC)")
