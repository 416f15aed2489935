"""From the bytes of a file to its records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

_WORDS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}

_UNCLEAN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]")
"""Control characters, but for tabs and line breaks, and what turns the direction of writing around."""

MAX_RECORD_BYTES = 1_000_000
"""A longer record is a quote that was never closed, or not a CSV file at all."""


@dataclass(frozen=True)
class Malformed:
    """A record that cannot be split into fields. position: of the field, from 0, or None for the whole record."""

    line: int
    position: int | None
    value: str
    expected: str
    is_last: bool = False
    """Whether nothing behind it could be read."""


@dataclass(frozen=True)
class Record:
    """The fields of one record. None is an empty field without quotes, "" one with them.

    is_clean: whether it has neither bytes that are not UTF-8 (they are lone surrogates here) nor control characters.
    """

    line: int
    fields: list[str | None]
    is_clean: bool


class _OpenQuoteError(Exception):
    """The closing quote is not in the text."""


class _BadFieldError(Exception):
    def __init__(self, position: int, value: str, expected: str) -> None:
        super().__init__(expected)
        self.position = position
        self.value = value
        self.expected = expected


class Readable(Protocol):
    """What records are read from: a binary file, or another source of lines in UTF-8."""

    def readline(self, limit: int, /) -> bytes:
        """Return the next line with its line end, cut after `limit`; b"" at the end."""


def _split(text: str, delimiter: str) -> list[str | None]:
    """Return the fields of a record without its line end. Raises _OpenQuoteError or _BadFieldError."""
    fields: list[str | None] = []
    start = 0
    while True:
        # Some programs write ="0042", so that a spreadsheet keeps the zeros.
        if text.startswith('="', start):
            start += 1
        if text.startswith('"', start):
            end = text.find('"', start + 1)
            while end >= 0 and text.startswith('"', end + 1):
                end = text.find('"', end + 2)
            if end < 0:
                raise _OpenQuoteError
            value = text[start + 1 : end].replace('""', '"')
            end += 1
            if end < len(text) and text[end] != delimiter:
                raise _BadFieldError(
                    len(fields),
                    text[start : end + 20],
                    f"{_WORDS.get(delimiter, repr(delimiter))} or the end of the line after the closing quote; "
                    'a quote inside quotes is written ""',
                )
            is_formula = len(value) > 2 and value.startswith('="') and value.endswith('"')
            fields.append(value[2:-1] if is_formula else value)
        else:
            end = text.find(delimiter, start)
            if end < 0:
                end = len(text)
            value = text[start:end]
            if '"' in value:
                raise _BadFieldError(
                    len(fields),
                    value,
                    'quotes around the whole field when there are quotes in it, each of those written ""',
                )
            if "\r" in value:
                raise _BadFieldError(
                    len(fields),
                    value,
                    "lines that end in LF or CRLF (in a spreadsheet choose “CSV UTF-8” when saving); "
                    "a field with a line break in it needs quotes",
                )
            fields.append(value or None)
        if end >= len(text):
            return fields
        start = end + 1


def read_records(handle: Readable, delimiter: str = ",", header_line: int = 1) -> Iterator[Record | Malformed]:
    """Yield the records of a CSV file (RFC 4180, UTF-8 with or without a byte order mark), the header first.

    header_line: the line of the header; what precedes it is skipped, as are blank lines. The csv module would do,
    were it not that it cannot distinguish an empty field from an empty quoted one on every supported Python, nor say
    on which line a record starts.
    """
    line_number = 0
    at_start = True
    while raw := handle.readline(MAX_RECORD_BYTES + 1):
        line_number += 1
        start_line = line_number
        if at_start:
            at_start = False
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if line_number < header_line:
            continue
        while True:
            body = raw.removesuffix(b"\n").removesuffix(b"\r")
            if len(raw) > MAX_RECORD_BYTES:
                what = "a closing quote" if b'"' in raw else "the end of the line"
                expected = f"{what} within {MAX_RECORD_BYTES:,} bytes; nothing behind it was read"
                text = body[:1000].decode("utf-8", "surrogateescape")
                yield Malformed(start_line, None, text, expected, is_last=True)
                return
            if not body:
                break
            try:
                text = body.decode("utf-8")
                # Most records have printable characters alone, which is found sooner.
                is_clean = text.isprintable() or _UNCLEAN.search(body) is None
            except UnicodeDecodeError:
                text = body.decode("utf-8", "surrogateescape")
                is_clean = False
            try:
                if '"' not in text and "\r" not in text:
                    fields = [value or None for value in text.split(delimiter)]
                else:
                    fields = _split(text, delimiter)
            except _BadFieldError as problem:
                yield Malformed(start_line, problem.position, problem.value, problem.expected)
            except _OpenQuoteError:
                # Only a line with a quote can close it: no need to look again before there is one.
                more = b""
                while b'"' not in more and len(raw) <= MAX_RECORD_BYTES:
                    more = handle.readline(MAX_RECORD_BYTES + 1)
                    if not more:
                        expected = "a closing quote before the end of the file"
                        yield Malformed(start_line, None, text, expected, is_last=True)
                        return
                    line_number += 1
                    raw += more
                continue
            else:
                yield Record(start_line, fields, is_clean)
            break
