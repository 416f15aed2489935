"""From the texts of a file to keys, which are numbers, and to the values that a mapping file has for them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from eds.book.csv_import.dialect import squeeze
from eds.book.csv_import.schema import Column

_NO_LETTERS = re.compile(r"[\W\d_]")
_NO_DIGITS = re.compile(r"[^0-9]")
# Signs that make another value of the same letters: A+ is not A-, and neither is A.
_SIGNS = re.compile(r"^[+\-*<>=#%!?]*|[+\-*<>=#%!?]*$")


def exact(text: str) -> str:
    """Return a text in small letters and without superfluous blanks."""
    return " ".join(text.split()).casefold()


def identity(texts: Iterable[str | None]) -> str | None:
    """Return what texts are that a number is made of; None for none. Two of these never stand for the same thing."""
    found = "\x1f".join(exact(text or "") for text in texts)
    return found if found.strip("\x1f") else None


class Translation:
    """The values that a mapping file has for texts.

    A text that is there, but for case and blanks around it, is always meant. Another spelling of it (IN-ARREARS for In
    arrears) is taken where only one value can be meant.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._exact = {exact(text): value for text, value in values.items()}
        meant: dict[tuple[str, ...], set[str]] = {}
        for text, value in values.items():
            meant.setdefault(_spelling(text), set()).add(value)
        self._other = {key: next(iter(found)) for key, found in meant.items() if len(found) == 1 and any(key)}

    def get(self, text: str, other: str | None) -> str:
        """Return the value of a text. other: that of all others, None to leave them as they are."""
        value = self._exact.get(exact(text))
        if value is None and self._other:
            value = self._other.get(_spelling(text))
        return value if value is not None else text if other is None else other


def _spelling(text: str) -> tuple[str, ...]:
    return squeeze(text), *_SIGNS.findall(text.strip())


class Numbering:
    """How the texts of one column become numbers, as `number` in a mapping file says."""

    def __init__(self, column: Column, how: str) -> None:
        self._column, self._how = column, how
        self._series = Series()

    def of(self, texts: Sequence[str | None]) -> str | None:
        """Return the number of the texts, the first of them alone unless they are hashed; None where they are empty."""
        if self._how == "hash":
            return _hashed([text or "" for text in texts], self._column)
        text = texts[0]
        if text is None or not text.strip():
            return text
        return code_number(text) if self._how == "code" else self._series.number(text)


class Series:
    """Codes that differ in their digits alone, such as C-000052, which is number 52."""

    def __init__(self) -> None:
        self._letters = ""

    def number(self, text: str) -> str:
        """Return the digits of a code as a number.

        One with other letters than the first code that has some is returned as it is, which no number is.
        """
        letters, digits = letters_of(text), _NO_DIGITS.sub("", text)
        self._letters = self._letters or letters
        return str(int(digits)) if digits and letters in ("", self._letters) else text


def letters_of(text: str) -> str:
    """Return the letters of a code, in small ones: the codes of a series have the same."""
    return _NO_LETTERS.sub("", text).casefold()


def code_number(text: str) -> str:
    """Return a code of letters and digits as a number of base 36. Which codes differ by more than case is checked.

    A text with anything else in it, blanks, dashes, points and slashes apart, is returned as it is.
    """
    code = text.translate(str.maketrans("", "", " -./\t_"))
    return str(int(code, 36)) if code.isascii() and code.isalnum() and len(code) <= 12 else text


def _hashed(texts: list[str], column: Column) -> str | None:
    """Return a key from texts, the same each time. Of different texts with the same key the check of keys will know."""
    squeezed = [squeeze(text) for text in texts]
    if not any(squeezed):
        return None
    number = int.from_bytes(hashlib.sha256("\x1f".join(squeezed).encode()).digest()[:8], "big")
    # 2**30 keys leave as many for the application's own.
    return str(1 + number % (2**30 if column.kind == "integer" else 2**52))
