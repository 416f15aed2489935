"""Numbers in any dialect: decimal signs, separators of thousands, currencies."""

from __future__ import annotations

import functools
import re
from decimal import ROUND_HALF_UP, Decimal

from eds.book.csv_import.dialect import squeeze
from eds.book.csv_import.interpretation import DASHES, Converter, ExpectedError, Reading
from eds.book.csv_import.schema import Column

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?")
# What may precede a separator that is ambiguous: 1.500 may be one and a half, or fifteen hundred.
_GROUPED = re.compile(r"[1-9][0-9]{0,2}")
# The form of most numbers, which has only one reading.
_SHORT = re.compile(r"-?[0-9]+([.,])[0-9]{1,2}")
_BESIDE = r"[^\w\s.,'+\-()%/]?[^\W\d_]{0,6}\.?[^\w\s.,'+\-()%/]?"
_SUFFIXES = ("/=", "/-")
# A dash in place of cents says that there are none: 9'000.- and 9000,- are no negative numbers.
_NUMBER_AND_CURRENCY = re.compile(
    rf"({_BESIDE})\s*([+-]?)\s*([0-9.,' ]*[0-9](?:[.,](?!\s*-))?)(?:([.,])\s?-{{1,2}}|\s*(-?))\s*({_BESIDE}|/=|/-)"
)
# Negative as accountants write it, with the currency inside or, as in spreadsheets, outside: $ (90.00), (90.00) KES.
_BRACKETED = re.compile(rf"({_BESIDE})\s*\((.*)\)\s*({_BESIDE}|/=|/-|%)")
_DASH = re.compile(rf"{_BESIDE}\s*(-{{1,3}})\s*{_BESIDE}")
# Kina and kwacha are written before the amount: 5k is five thousand.
_THOUSANDS = ("k",)
# A balance marked as credit or debit: which of them is negative depends on the account.
_SIDES = ("cr", "dr", "db")
# Groups of three digits, or as in India of two before the last three, all with the same separator.
_POINT = re.compile(
    r"(?P<whole>[0-9]*|[1-9][0-9]{0,2}(?P<sep>[, '])[0-9]{3}(?:(?P=sep)[0-9]{3})*|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3})"
    r"(?:\.(?P<decimals>[0-9]*))?"
)
_COMMA = re.compile(
    r"(?P<whole>[0-9]*|[1-9][0-9]{0,2}(?P<sep>[. '])[0-9]{3}(?:(?P=sep)[0-9]{3})*)(?:,(?P<decimals>[0-9]*))?"
)
_SHORTENED = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?[Ee][+-]?[0-9]+")
_BLANKS = DASHES | str.maketrans({"\xa0": " ", "\u202f": " ", "\u2009": " ", "\u2007": " ", "’": "'"})


def _split_number(text: str, column: Column) -> tuple[str, str, str]:
    """Split a number into its sign, its digits with their separators, and its currency. Raises ExpectedError."""
    text = text.translate(_BLANKS).strip()
    if text.startswith("#"):
        raise ExpectedError(f"{_number_words(column)}; this is an error of a spreadsheet's formula or a narrow column")
    if _SHORTENED.fullmatch(text):
        raise ExpectedError(
            f"{_number_words(column)}; a spreadsheet has shortened this one and lost digits: "
            "give the column the format “Number” or “Text” and save again"
        )
    signs = ""
    if bracketed := _BRACKETED.fullmatch(text):
        signs, text = "-", " ".join(part for part in bracketed.groups() if part).strip()
    elif text[:1] in "+-" and text[1:2] and not text[1:2].isdigit():
        signs, text = text[0], text[1:].strip()
    if text.endswith("%"):
        if not column.is_percent:
            raise ExpectedError(f"{_number_words(column)}, without a percent sign")
        text = text[:-1].rstrip()
    match = _NUMBER_AND_CURRENCY.fullmatch(text)
    if match is None:
        raise ExpectedError(_number_words(column))
    before, sign, digits, no_cents, sign_behind, behind_it = match.groups()
    if before and behind_it and behind_it not in _SUFFIXES:
        raise ExpectedError(_number_words(column))
    signs += sign + (sign_behind or "")
    if len(signs) > 1:
        # Two signs may cancel each other, or mark the same thing twice.
        raise ExpectedError(f"{_number_words(column)}, with one sign: brackets are one")
    behind = behind_it.strip(".").lower()
    if behind in _THOUSANDS:
        raise ExpectedError(f"{_number_words(column)}, in full: {behind_it!r} may mean thousands", "an abbreviation")
    if behind in _SIDES:
        raise ExpectedError(f"{_number_words(column)}, with a sign in place of {behind_it!r}", "a word for a sign")
    digits = digits.strip()
    if no_cents and not digits.isdigit():
        # With separators of thousands it is also a decimal sign.
        digits += f"{no_cents}00"
    return "-" if "-" in signs else "", digits, before or behind_it


def without_currency(text: str) -> str:
    """Return a spreadsheet's dash for zero without the currency beside it, any other text as it is."""
    dash = _DASH.fullmatch(text.translate(_BLANKS).strip())
    return dash[1] if dash else text


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
        # 12.345 percent cannot be twelve thousand percent.
        point = point if len(point.partition(".")[0]) <= 3 else None
        comma = comma if len(comma.partition(".")[0]) <= 3 else None
    return point, comma


def decimal_of(text: str, column: Column) -> str | None:
    """Return which decimal sign a value proves, None when it proves none."""
    if _INTEGER.fullmatch(text):
        return None
    if short := _SHORT.fullmatch(text):
        return "point" if short[1] == "." else "comma"
    try:
        _, digits, _ = _split_number(text, column)
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
    sign, digits, beside = _split_number(text, column)
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
    if beside in _SUFFIXES:
        return
    currency = currency_of(beside)
    if currency is None or column.is_percent or not column.kind.startswith("numeric"):
        raise ExpectedError(f"{_number_words(column)}, without {beside!r}", "a word beside the number")
    reading.check_currency(currency, beside)


_CURRENCY_NAMES = {
    "ccy",
    "ccycode",
    "curr",
    "cur",
    "isocurr",
    "devise",
    "moneda",
    "moeda",
    "waehrung",
    "wahrung",
    "sarafu",
}


def is_currency_name(name: str) -> bool:
    """Return whether a column of this name has the currency of the row's amounts."""
    squeezed = squeeze(name)
    squeezed = re.sub("^(currency)(?:code|name|id|symbol|iso)$", r"\1", squeezed)
    return squeezed.endswith("currency") or squeezed in _CURRENCY_NAMES


def currency_of(text: str) -> str | None:
    """Return the code of a currency that is named by its code or by a symbol; None when it is not known."""
    return _currencies().get(text.strip(".").lower())


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


def _check_integer(text: str, least: int, greatest: int, names_row: bool) -> str:
    # Leading zeros could make a number longer than int() takes.
    if len(text) > 30 or not least <= int(text) <= greatest:
        hint = "; of a longer one a mapping file makes a key (number: hash)" if names_row else ""
        raise ExpectedError(f"a whole number from {least} to {greatest}{hint}")
    return text


def integer_converter(column: Column, bits: int, is_key: bool, reading: Reading) -> Converter:
    least = -(2 ** (bits - 1))
    # A key of the greatest value would leave none for the rows that the application adds later.
    greatest = 2 ** (bits - 1) - (2 if is_key else 1)
    names_row = is_key or column.references is not None

    def convert(text: str) -> str:
        text = text.strip()
        if not _INTEGER.fullmatch(text):
            if reading.strict:
                raise ExpectedError("a whole number such as 1042")
            if names_row and any(character.isalpha() for character in text) and not _SHORTENED.fullmatch(text):
                raise ExpectedError(
                    "a whole number such as 1042; a mapping file makes one of a code (number: code) "
                    "or of any other text (number: hash), in each file that has it"
                )
            text = _plain_number(text, column, reading)
            if text.partition(".")[2].strip("0"):
                raise ExpectedError("a whole number such as 1042")
            text = text.partition(".")[0]
        return _check_integer(text, least, greatest, names_row)

    return convert


def numeric_converter(column: Column, precision: int, scale: int, reading: Reading) -> Converter:
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
            # It may be a whole number with a thousands separator: other numbers of the file decide.
            raise ExpectedError("a number such as 1234.50")
        if len(whole.lstrip("0")) > precision - scale:
            raise ExpectedError(f"a number from -{greatest} to {greatest}")
        if decimals and len(decimals.rstrip("0")) > scale and column.name in reading.rounded:
            reading.note(column, "more decimals", "rounded")
            return str(Decimal(text).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP))
        if decimals and len(decimals.rstrip("0")) > scale:
            raise ExpectedError(
                f"a number with at most {scale} decimals (nothing is rounded, unless a mapping file has round: true "
                "for the column)"
            )
        return text

    return convert
