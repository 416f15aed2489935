"""How a file writes text, numbers and dates: what the user says, and what the file itself leaves no doubt about.

Nothing ambiguous is guessed. 03/04/2025 is read only once the order of day and month is known, from an option or from
another date of the same file; 1.234 only once the decimal sign is.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Self, TextIO, cast

from eds.base.errors import UserError
from eds.book.csv_import.western import western_sample

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
DECIMALS = ("point", "comma")
DATES = ("ymd", "dmy", "mdy")

FORMATS: dict[str, dict[str, str]] = {
    "auto": {},
    "excel-us": {"decimal": "point", "dates": "mdy"},
    "excel-uk": {"decimal": "point", "dates": "dmy"},
    "excel-eu": {"decimal": "comma", "dates": "dmy"},
}
"""What FORMAT=… means. Delimiter and encoding are visible in the file."""

OPTIONS = {
    "format": "FORMAT",
    "delimiter": "DELIMITER",
    "encoding": "ENCODING",
    "decimal": "DECIMAL",
    "dates": "DATES",
    "century": "CENTURY",
    "timezone": "TIMEZONE",
    "header_line": "HEADER_LINE",
    "empty": "EMPTY",
}


@dataclass(frozen=True)
class Dialect:
    """What the user says about the files; None is found out from each file.

    dates: the order of day, month and year in dates such as 03/04/2025. century: the first year that a year of two
    digits can mean, 1930 for 1930 to 2029. timezone: of times without an offset. header_line: of the column names.
    empty: what stands for no value, beside the empty field.
    """

    delimiter: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    dates: str | None = None
    century: int | None = None
    timezone: zoneinfo.ZoneInfo | None = None
    header_line: int = 1
    empty: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_plain(self) -> bool:
        """Whether no option is about numbers, dates and empty fields, so that the plain form is tried first."""
        return not (self.decimal or self.dates or self.century or self.timezone or self.empty)

    def with_options(self, options: Mapping[str, str]) -> Dialect:
        """Return the dialect with these options, which have the names of OPTIONS. Raises UserError for a wrong one."""
        changes: dict[str, object] = {}
        named = options.get("format")
        if named is not None:
            if named.lower() not in FORMATS:
                raise _wrong_option("format", named, f"one of {', '.join(FORMATS)}")
            options = FORMATS[named.lower()] | dict(options)
        for name, text in options.items():
            if name != "format":
                changes[name] = _parse_option(name, text)
        return replace(self, **changes)  # type: ignore[arg-type]


def _wrong_option(name: str, value: str, expected: str) -> UserError:
    return UserError(f"{OPTIONS[name]}={value}: expected {expected}.")


def _parse_option(name: str, text: str) -> object:
    word = text.strip().lower()
    match name:
        case "delimiter":
            value = DELIMITERS.get(word, text if len(text) == 1 else "")
            if not value or value.isalnum() or value in '"\n\r':
                raise _wrong_option(name, text, f"one of {', '.join(DELIMITERS)}")
            return value
        case "encoding":
            try:
                # Encodings of text only: Python has other codecs, such as rot13.
                bytes(4).decode(word)
                return codecs.lookup(word).name
            except (LookupError, UnicodeError):
                raise _wrong_option(name, text, "an encoding such as utf-8, windows-1252 or utf-16") from None
        case "decimal":
            if word not in DECIMALS:
                raise _wrong_option(name, text, "point or comma")
            return word
        case "dates":
            if word not in DATES:
                raise _wrong_option(name, text, "dmy (day first), mdy (month first) or ymd (year first)")
            return word
        case "century" | "header_line":
            least, greatest = (1800, 2100) if name == "century" else (1, 1000)
            if not word.isdecimal() or not least <= int(word) <= greatest:
                raise _wrong_option(name, text, f"a whole number from {least} to {greatest}")
            return int(word)
        case "timezone":
            try:
                return zoneinfo.ZoneInfo(text.strip())
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
                raise _wrong_option(name, text, "a time zone such as Africa/Nairobi") from None
        case "empty":
            return frozenset(part.strip().lower() for part in text.split(",") if part.strip())
    raise ValueError(name)


# ---------------------------------------------------------------------------------------------------------------------
# Encoding, delimiter, header line
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A file that can be read as lines of UTF-8.

    facts: what was found out about it, to be printed. version: what another program that writes the file changes.
    """

    path: Path
    encoding: str
    line_count: int
    facts: tuple[str, ...]
    version: tuple[int, ...]

    def open(self) -> Lines:
        """Return the lines of the file from its start."""
        return Lines(self.path, self.encoding)

    def check_unchanged(self) -> None:
        """Raise UserError when the file is another than when it was examined: it is read more than once."""
        if _version(self.path.stat()) != self.version:
            raise UserError(
                f"{self.path.name}: expected a file that stays as it is, found that it was changed while it was read. "
                "Nothing was changed in the database.\n"
                "An export or a copy may still be writing it. Run the import again when that is done."
            )


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Lines:
    """Read a file line by line as UTF-8, whatever its encoding. A line ends with LF."""

    def __init__(self, path: Path, encoding: str) -> None:
        self._path = path
        self._bytes: BinaryIO | None = None
        self._text: TextIO | None = None
        if encoding == "utf-8":
            self._bytes = path.open("rb")
        else:
            # Bytes that the encoding does not have become bytes that are not UTF-8, which are found later.
            codecs.register_error(
                "not_of_the_encoding", lambda problem: ("\udcff", cast(UnicodeDecodeError, problem).end)
            )
            errors = "not_of_the_encoding" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
            self._text = path.open(encoding=encoding, errors=errors, newline="\n")

    def readline(self, limit: int) -> bytes:
        """Return the next line with its line end, cut after `limit`; b"" at the end."""
        if self._bytes is not None:
            return self._bytes.readline(limit)
        assert self._text is not None
        try:
            return self._text.readline(limit).encode("utf-8", "surrogateescape")
        except UnicodeError as problem:
            # Single bytes are handled above (see __init__): here the encoding does not fit the file at all.
            raise UserError(
                f"{self._path.name}: expected text in the encoding {self._text.encoding}, found bytes "
                f"that are not ({problem}). Nothing was changed.\n"
                "Without ENCODING=… each file is read as UTF-8, UTF-16 or Windows-1252, whichever it shows to be."
            ) from None

    def close(self) -> None:
        """Close the file."""
        for handle in (self._bytes, self._text):
            if handle is not None:
                handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_SIGNATURES = (
    (b"PK\x03\x04", "a workbook or a zip file"),
    (b"\xd0\xcf\x11\xe0", "an old workbook"),
    (b"\x1f\x8b", "a gzip file"),
    (b"%PDF", "a PDF file"),
    (b"{", "JSON"),
    (b"<", "HTML or XML"),
)
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def examine(path: Path, dialect: Dialect) -> Source:
    """Look at the bytes of a file. Raises UserError when it is no text, and OSError."""
    with path.open("rb") as handle:
        version = _version(os.fstat(handle.fileno()))
        start = handle.read(4096)
        for signature, what in _SIGNATURES:
            if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(signature):
                raise UserError(
                    f"{path.name}: expected a CSV file, found {what}. Nothing was changed.\n"
                    "In a spreadsheet, save the sheet as “CSV UTF-8”."
                )
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS if start.startswith(mark)), dialect.encoding)
        if encoding is None and start.count(b"\0") * 3 > len(start):
            # UTF-16: mostly ASCII characters, of two bytes each.
            encoding = "utf-16-le" if start[1::2].count(b"\0") > start[0::2].count(b"\0") else "utf-16-be"
        handle.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        is_utf8, lines = True, 0
        while block := handle.read(1 << 20):
            lines += block.count(b"\n")
            if is_utf8 and encoding is None:
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    is_utf8 = False
        if is_utf8 and encoding is None:
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                is_utf8 = False
    if encoding is not None:
        return Source(path, encoding, lines, () if encoding == dialect.encoding else (encoding.upper(),), version)
    sample = None if is_utf8 else western_sample(path)
    if sample is None:
        return Source(path, "utf-8", lines, (), version)
    return Source(path, "cp1252", lines, (f"Windows-1252 ({sample})",), version)


def header_of(source: Source, number: int = 1) -> tuple[str, int, str | None]:
    """Return the line with the names of the columns, its number, and the delimiter that a line `sep=;` before it names.

    number: which line it is, not counting that one, which Excel reads and writes.
    """
    at, separator = 0, None
    with source.open() as lines:
        while at < number:
            at += 1
            line = lines.readline(100_000).decode("utf-8", "replace").lstrip("\ufeff").rstrip("\r\n")
            if separator is None and (named := re.fullmatch(r'"?sep=([^"])"?[,;|\t]*', line)):
                separator, number = named[1], number + 1
    return line, number, separator


def squeeze(name: str) -> str:
    """Return a name without case, accents, blanks and punctuation: Loan ID, LOAN_ID and loanId are the same.

    The vowel signs of Indic scripts, and the like, are no accents but letters.
    """
    if name.isascii():
        return "".join(filter(str.isalnum, name)).lower()
    decomposed = unicodedata.normalize("NFKD", name)
    return "".join(each for each in decomposed if each.isalnum() or _is_letter_sign(each)).lower()


def _is_letter_sign(character: str) -> bool:
    """Return whether a combining mark is part of the spelling.

    By their class, those of 200 and more stand above or below any letter, as accents do, and those from 10 to 35 are
    the optional vowels of Hebrew and Arabic.
    """
    if unicodedata.category(character) not in ("Mn", "Mc"):
        return False
    kind = unicodedata.combining(character)
    is_selector = "\ufe00" <= character <= "\ufe0f" or character == "\u034f"
    return kind < 200 and not 10 <= kind <= 35 and not is_selector


def sniff_delimiter(header: str, known: Iterable[str]) -> str:
    """Return what separates the columns of a header: that with which most of the known (squeezed) names are in it.

    Unlike the module csv, which looks at frequencies, it knows what it is looking for.
    """
    wanted = set(known)
    best, most = ",", (0, 0)
    for delimiter in DELIMITERS.values():
        names = [squeeze(name) for name in header.split(delimiter)]
        # Without a known name in any line, choose the delimiter that gives the most columns.
        found = (len(wanted.intersection(names)), len(names))
        if found > most:
            best, most = delimiter, found
    return best
