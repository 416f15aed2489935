"""From the records of a file to the rows of its table."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from eds.book.csv_import.dialect import squeeze
from eds.book.csv_import.interpretation import ExpectedError, Reading
from eds.book.csv_import.mapping import ColumnMapping, TableMapping
from eds.book.csv_import.numbering import Numbering, Translation, identity
from eds.book.csv_import.numbers import currency_of, is_currency_name, without_currency
from eds.book.csv_import.problems import SHOWN_CHARACTERS, Problem
from eds.book.csv_import.records import Malformed, Record
from eds.book.csv_import.schema import Column, Table
from eds.book.csv_import.values import Evidence, converter, is_no_value

OTHER_NAMES = "; or a mapping file that says which of other names is which, as make import-template writes it"

# What a line below the rows says of them: 2 rows, Total: 5, Page 1 of 3.
_COUNT = re.compile(r"\(?[0-9][0-9.,]*\s+[^\W\d_]{3,}.*|[^\W\d_]{3,}\s*(?::|=|\s)\s*\(?[0-9].*", re.DOTALL)

# A function that takes the fields of a record and returns the text of a column.
Getter = Callable[[Sequence[str | None]], str | None]


def _wrong_characters(text: str) -> str | None:
    """Return what was expected, when a text has characters that no field may have."""
    if any("\udc80" <= character <= "\udcff" for character in text):
        return (
            "UTF-8 text (in a spreadsheet choose “CSV UTF-8” when saving); "
            f"or ENCODING=windows-1252, or whichever the file has{_in_other_encodings(text)}"
        )
    if "\0" in text:
        return "a text without NUL characters"
    if found := _CONTROL.search(text):
        return (
            f"a text without control characters, found {_named(found[0])}: they change what a screen shows; "
            "remove them in the source"
        )
    return None


# But for tabs and line breaks; and the characters that turn the direction of writing around.
_CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _named(character: str) -> str:
    name = {"\x1b": "escape", "\x07": "bell", "\x0b": "vertical tab"}.get(character)
    return f"U+{ord(character):04X} ({name or unicodedata.name(character, 'control').lower()})"


_ENCODINGS = ("windows-1252", "mac_roman", "cp850", "windows-1250", "windows-1254", "windows-1251")


def _in_other_encodings(text: str) -> str:
    """Return how a text reads in the encodings that are usual, to choose from."""
    found: dict[str, str] = {}
    for encoding in _ENCODINGS:
        with suppress(UnicodeError):
            shown = text.encode("utf-8", "surrogateescape").decode(encoding)[:SHOWN_CHARACTERS]
            if shown.isprintable():
                found.setdefault(shown, encoding)
    return ": " + ", ".join(f"{name} reads {shown!r}" for shown, name in found.items()) if found else ""


# ---------------------------------------------------------------------------------------------------------------------
# The header
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A column of the table with where its values come from. label: how messages name it.

    identity: of a number that is made of texts, what they are (see numbering.identity()).
    """

    column: Column
    label: str
    position: int | None = None
    get: Getter | None = None
    identity: Getter | None = None


@dataclass
class Layout:
    """What a file's header says. width: of the header, unnamed columns at its end left out.

    unnamed: positions of columns without a name, which have to be empty. extra: names of columns that are not read,
    without those that the mapping ignores. currencies: positions of those among them that have the amounts' currency.
    """

    targets: list[Target] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    unnamed: list[int] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    currencies: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    is_recognised: bool = True

    @property
    def numbered(self) -> list[Target]:
        """The targets whose numbers are made of texts."""
        return [target for target in self.targets if target.identity is not None]

    @property
    def columns(self) -> list[Column]:
        """The columns of the table that get their values from the file."""
        return [target.column for target in self.targets]

    def has(self, name: str) -> bool:
        """Return whether the file says something about a column."""
        return any(column.name == name for column in self.columns)

    def label(self, column: Column) -> str:
        """Return how messages name a column."""
        return next((target.label for target in self.targets if target.column is column), column.name)

    def position(self, name: str) -> int | None:
        """Return the position of a column of this (squeezed) name in the file."""
        return next((place for place, other in enumerate(self.names) if other and squeeze(other) == name), None)


def lay_out(
    table: Table,
    header: Record | Malformed | None,
    *,
    file: str | None = None,
    mapping: TableMapping | None = None,
    sync: bool = False,
) -> Layout:
    """Find the table's columns in a file's header: by their names in any spelling, and by those of the mapping.

    header: the file's first record, None for an empty file. file: its name in messages. The result is of use only when
    it has no problems. sync: columns whose default differs each time are then required.
    """
    return _Header(table, header, file or table.file, mapping or TableMapping()).lay_out(sync)


class _Header:
    """A file's header while the columns of a table are looked for in it."""

    def __init__(self, table: Table, header: Record | Malformed | None, file: str, mapping: TableMapping) -> None:
        self.table, self.header, self.file, self.mapping = table, header, file, mapping
        self.accepted = ", ".join(column.name for column in table.columns)
        self.known = {squeeze(column.name): column for column in table.columns if column.name not in mapping.columns}
        self.layout = Layout()
        # The columns that were found, by name, and names that belong to no column, with their positions.
        self.found: dict[str, Target] = {}
        self.unknown: list[tuple[int, str]] = []

    def _problem(self, column: str, value: str | None, expected: str) -> None:
        line = self.header.line if self.header else 1
        self.layout.problems.append(Problem(self.file, line, column, value, expected))

    def lay_out(self, sync: bool) -> Layout:
        """Return what the header says."""
        header, layout = self.header, self.layout
        if header is None:
            self._problem("", None, f"a line with the names of the columns: {self.accepted}")
            return layout
        if isinstance(header, Malformed):
            self._problem("", header.value, header.expected)
            return layout
        names = [(name or "").strip() for name in header.fields]
        while names and not names[-1]:
            names.pop()
        layout.names = names
        used = {squeeze(name) for name in _source_columns(self.mapping)}
        if not any(squeeze(name) in self.known or squeeze(name) in used for name in names):
            layout.is_recognised = False
            self._problem("", ",".join(names), f"a line with the names of the columns: {self.accepted}{OTHER_NAMES}")
            return layout
        self._find_by_name(used)
        self._find_by_mapping()
        self._judge_unknown(header)
        self._require(sync)
        # In the order of the file, so that records of a file without a mapping need no rearranging.
        targets = self.found.values()
        layout.targets = sorted(targets, key=lambda target: (target.position is None, target.position or 0))
        return layout

    def _find_by_name(self, used: set[str]) -> None:
        """Find the columns that go by their own names. used: names that the mapping reads."""
        seen: set[str] = set()
        ignored = {squeeze(name) for name in self.mapping.ignore}
        for position, name in enumerate(self.layout.names):
            squeezed = squeeze(name)
            if wrong := _wrong_characters(name):
                self._problem(str(position + 1), name, wrong)
            elif not name:
                if "*" not in self.mapping.ignore:
                    self.layout.unnamed.append(position)
            elif squeezed in self.known or squeezed in used:
                if squeezed in seen:
                    self._problem(name, name, "each column once")
                elif column := self.known.get(squeezed):
                    self.found[column.name] = Target(column, column.name, position)
            elif squeezed not in ignored:
                self.unknown.append((position, name))
            seen.add(squeezed)

    def _find_by_mapping(self) -> None:
        by_name = {column.name: column for column in self.table.columns}
        for column_name, source in self.mapping.columns.items():
            target = _mapped(by_name[column_name], source, self.layout)
            if isinstance(target, Target):
                self.found[column_name] = target
            else:
                self._problem(column_name, None, f"the column {target!r}, which the mapping file names")
        for name in self.mapping.skip:
            if self.layout.position(squeeze(name)) is None:
                self._problem("", None, f"the column {name!r}, which the mapping file names under skip")

    def _judge_unknown(self, header: Record) -> None:
        """Take names that mean no column as further columns, or as misspelled ones that are missing."""
        missing = [
            squeeze(column.name)
            for column in self.table.columns
            if column.name not in self.found and column.name not in self.mapping.columns
        ]
        for position, name in self.unknown:
            if squeeze(name) == "updatedat":
                self.layout.extra.append(f"{name} (kept by the platform)")
                continue
            if "*" in self.mapping.ignore:
                continue
            if is_currency_name(name):
                self.layout.currencies.append(position)
            close = difflib.get_close_matches(squeeze(name), missing, n=1, cutoff=0.75)
            if not close:
                self.layout.extra.append(name)
                continue
            shown = name if name.isprintable() and len(name) <= SHOWN_CHARACTERS else str(position + 1)
            self._problem(
                shown,
                header.fields[position],
                f"one of {self.accepted} (did you mean {self.known[close[0]].name}?); a column that is not to be read "
                "is listed under ignore: in a mapping file, which make import-template writes",
            )

    def _require(self, sync: bool) -> None:
        """Report the columns that are required and that the file does not have."""
        extra = self.layout.extra
        for column in self.table.columns:
            if column.name not in self.found and column.name not in self.mapping.columns and is_required(column, sync):
                hint = f"; not read are {', '.join(extra[:10])}: a mapping file says which is which" if extra else ""
                why = "it is required" if column.required else "with SYNC=1 it is required"
                self._problem(column.name, None, f"this column: {why}{hint}")


def is_required(column: Column, sync: bool) -> bool:
    """Return whether each file must have the column. created_at is written once and stays, so a sync needs none."""
    return column.required or (sync and column.default_is_now and column.name != "created_at")


def _source_columns(mapping: TableMapping) -> Iterator[str]:
    """Yield the names of the file's columns that a mapping reads."""
    for source in mapping.columns.values():
        if source.column is not None:
            yield source.column
        yield from source.also
    yield from mapping.skip


def _mapped(column: Column, source: ColumnMapping, layout: Layout) -> Target | str:
    """Return the target of a mapped column, or the name of the file's column that is not there."""
    if source.column is None:
        return Target(column, column.name, None, lambda fields: source.value)
    places: list[int] = []
    for name in (source.column, *source.also):
        place = layout.position(squeeze(name))
        if place is None:
            return name
        places.append(place)
    position = places[0]
    label = column.name if squeeze(source.column) == squeeze(column.name) else f"{column.name} (“{source.column}”)"
    if not (source.values or source.other is not None or source.empty is not None or source.number):
        return Target(column, label, position)
    translation = Translation(source.values)

    def get(fields: Sequence[str | None]) -> str | None:
        text = fields[position]
        if text is None or not text.strip():
            return text if source.empty is None else source.empty
        return translation.get(text, source.other)

    if source.number is None:
        return Target(column, label, position, get)
    number = Numbering(column, source.number)

    def texts(fields: Sequence[str | None]) -> list[str | None]:
        return [get(fields), *(fields[place] for place in places[1:])]

    def is_replaced(fields: Sequence[str | None]) -> bool:
        # What the mapping file has for an empty field is the number itself.
        return source.empty is not None and not (fields[position] or "").strip()

    return Target(
        column,
        label,
        position,
        lambda fields: source.empty if is_replaced(fields) else number.of(texts(fields)),
        lambda fields: None if is_replaced(fields) else identity(texts(fields)),
    )


# ---------------------------------------------------------------------------------------------------------------------
# The rows
# ---------------------------------------------------------------------------------------------------------------------


class NotPlainError(Exception):
    """A value is not in the plain form: the file has to be surveyed before it is read."""


@dataclass
class RowReader:
    """Iterate over the rows of a file as they go into its temporary table, and notes what is wrong with them.

    Yields (line, has_problem, value of each column …, text of each number that is made of texts …). A wrong value
    becomes null, so that the other columns and the rows that refer to this one can still be checked. A record that has
    no usable key is left out, as is one of empty fields. Raises NotPlainError at the first value that a strict reading
    does not take.
    """

    table: Table
    layout: Layout
    records: Iterator[Record | Malformed]
    note: Callable[[Problem], None]
    reading: Reading = field(default_factory=Reading)
    file: str = ""
    mapping: TableMapping = field(default_factory=TableMapping)
    empty: frozenset[str] = frozenset()
    sync: bool = False
    rows: int = 0
    """Rows yielded."""
    skipped: int = 0
    """Rows that the mapping leaves out."""
    is_complete: bool = True
    """Whether no record had to be left out."""
    is_whole: bool = True
    """Whether the file was read to its end."""

    def __iter__(self) -> Iterator[tuple[int | bool | str | None, ...]]:
        file = self.file or self.table.file
        targets = self.layout.targets
        plan = [
            (index, target, converter(self.table, target.column, self.reading), is_required(target.column, self.sync))
            for index, target in enumerate(targets)
        ]
        key_indexes = [self.layout.columns.index(column) for column in self.table.keys]
        strict = self.reading.strict
        identities = [target.identity for target in self.layout.numbered]
        for record, fields in self._fields(file):
            for position in self.layout.currencies:
                self._check_currency(file, record, position)
            wrong = () if record.is_clean else self._check_characters(file, record.line, fields)
            has_problem = bool(wrong)
            self.reading.line = record.line
            for index, target, convert, required in plan:
                value = fields[index]
                if value is not None and convert is not None:
                    text = value
                    try:
                        fields[index] = value = convert(text)
                    except ExpectedError as problem:
                        if strict:
                            raise NotPlainError from None
                        fields[index] = None
                        if not text.strip():
                            value = None
                        elif is_no_value(text):
                            self.reading.note(target.column, text.strip(), "no value")
                            value = None
                        else:
                            has_problem = True
                            expected = f"{problem}{_placeholder_hint(target.column, text)}"
                            self.note(Problem(file, record.line, target.label, text, expected, problem.cause))
                if value is None and required and index not in wrong:
                    has_problem = True
                    self.note(Problem(file, record.line, target.label, None, "a value: it may not be empty"))
            if any(fields[index] is None for index in key_indexes):
                self.is_complete = False
                continue
            self.rows += 1
            yield (record.line, has_problem, *fields, *(of and of(record.fields) for of in identities))

    def _fields(self, file: str) -> Iterator[tuple[Record, list[str | None]]]:
        """Yield the records that are rows, with a text for each target."""
        names, unnamed = self.layout.names, self.layout.unnamed
        width = len(names)
        targets = self.layout.targets
        is_direct = not any(target.get for target in targets) and (
            [target.position for target in targets] == list(range(width))
        )
        getters = [_getter(target) for target in targets]
        translated = [
            (index, target.position, target.column)
            for index, target in enumerate(targets)
            if target.position is not None and self._is_translated(target)
        ]
        skips = [
            (self.layout.position(squeeze(name)), {text.strip().lower() for text in texts})
            for name, texts in self.mapping.skip.items()
        ]
        key_position = next((target.position for target in targets if target.column is self.table.key), None)
        for record in self.records:
            if isinstance(record, Malformed):
                self.is_complete = False
                self.is_whole = not record.is_last
                in_header = record.position is not None and record.position < width
                name = self._label_at(record.position) if in_header and record.position is not None else ""
                self.note(Problem(file, record.line, name, record.value, record.expected))
                continue
            fields = record.fields
            # Most rows have a key, so only few have to be checked for being empty.
            key = fields[key_position] if key_position is not None and key_position < len(fields) else None
            if not key and not any(value and value.strip() for value in fields):
                continue
            if len(fields) > width and not any(value and value.strip() for value in fields[width:]):
                del fields[width:]
            if len(fields) != width:
                self.is_complete = False
                hint = " (a field with the delimiter inside needs quotes around it)" if len(fields) > width else ""
                text = ",".join(value or "" for value in fields)
                expected = f"{width} fields, as in the header, not {len(fields)}{hint}"
                self.note(Problem(file, record.line, "", text, expected))
                continue
            for position in unnamed:
                if fields[position]:
                    self.note(
                        Problem(
                            file,
                            record.line,
                            f"column {position + 1}",
                            fields[position],
                            'a name for it in the header; or ignore: ["*"] in a mapping file, which leaves it out',
                        )
                    )
            if skips and any(
                position is not None and (fields[position] or "").strip().lower() in texts for position, texts in skips
            ):
                self.skipped += 1
                continue
            if (key is None or not key.isdigit()) and self._is_no_row(fields):
                self.is_complete = False
                self._note_no_row(file, record.line, fields)
                continue
            if not is_direct:
                given, fields = fields, [get(fields) for get in getters]
                for index, position, column in translated:
                    written, meant = given[position], fields[index]
                    if written and meant is not None and written != meant:
                        self.reading.note(column, written.strip(), meant)
            if self.empty:
                fields = [
                    None if value and self._is_empty(target.column, value) else value
                    for target, value in zip(targets, fields, strict=True)
                ]
            yield record, fields

    def _is_translated(self, target: Target) -> bool:
        """Return whether the mapping file gives texts of this column another meaning, which the result then lists."""
        source = self.mapping.columns.get(target.column.name)
        return source is not None and source.number is None and bool(source.values or source.other is not None)

    def _key_target(self) -> Target | None:
        """Return the target of the key, where it is a number in the file."""
        source = self.mapping.columns.get(self.table.key.name)
        if source is not None and (source.number or source.value is not None):
            return None
        return next((target for target in self.layout.targets if target.column is self.table.key), None)

    def _is_no_row(self, fields: Sequence[str | None]) -> bool:
        """Return whether a record is the header once more, or looks like a line of totals.

        That has no digit in the key, and of what is required a third is empty; or a number and a word, such as 2 rows,
        and nothing of what is required.
        """
        key = self._key_target()
        if key is None or key.position is None:
            return False
        text = fields[key.position] or ""
        counts = any(letter.isdigit() for letter in text)
        if counts and not _COUNT.fullmatch(text.strip()):
            return False
        if [(field or "").strip() for field in fields] == self.layout.names:
            return True
        required = [
            target.position
            for target in self.layout.targets
            if target is not key and target.position is not None and is_required(target.column, self.sync)
        ]
        empty = sum(not (fields[position] or "").strip() for position in required)
        if counts:
            return empty == len(required)
        return empty > 0 and empty * 3 >= len(required)

    def _note_no_row(self, file: str, line: int, fields: Sequence[str | None]) -> None:
        key = self._key_target()
        assert key is not None and key.position is not None
        name, text = self.layout.names[key.position], (fields[key.position] or "").strip()
        skip = json.dumps({name: [text]}, ensure_ascii=False)
        expected = (
            f"a row with {self.table.key.name} and the other columns that are required; a line of totals or of names "
            f"is removed, or left out by a mapping file: skip: {skip}"
        )
        value = ",".join(value or "" for value in fields)
        self.note(Problem(file, line, "", value, expected, "no row"))

    def _is_empty(self, column: Column, text: str) -> bool:
        """Return whether a text stands for no value, as the user says."""
        return not self.empty.isdisjoint((text.strip().lower(), _bare(column, text).lower()))

    def _label_at(self, position: int) -> str:
        return next(
            (target.label for target in self.layout.targets if target.position == position), self.layout.names[position]
        )

    def _check_currency(self, file: str, record: Record, position: int) -> None:
        """Note as a problem that a column of the file says another currency than the book has."""
        text = (record.fields[position] or "").strip()
        try:
            if text and not is_no_value(text):
                self.reading.check_currency(currency_of(text) or text, text)
        except ExpectedError as problem:
            name = self.layout.names[position]
            expected = f"{problem}; a mapping file leaves rows out (skip), or the column unread (ignore: [{name}])"
            self.note(Problem(file, record.line, name, text, expected, problem.cause))

    def _check_characters(self, file: str, line: int, fields: list[str | None]) -> tuple[int, ...]:
        """Empty the fields with invalid bytes or control characters. Return their positions."""
        wrong: list[int] = []
        for index, value in enumerate(fields):
            expected = _wrong_characters(value or "")
            if expected:
                wrong.append(index)
                self.note(Problem(file, line, self.layout.targets[index].label, value, expected, "characters"))
                fields[index] = None
        return tuple(wrong)

    def survey(self) -> Evidence:
        """Read all records for what their values say about the dialect."""
        evidence = Evidence()
        typed = [(index, target.column) for index, target in enumerate(self.layout.targets)]
        typed = [(index, column) for index, column in typed if column.kind not in ("text", "boolean")]
        for record, fields in self._fields(""):
            for index, column in typed:
                if value := fields[index]:
                    evidence.look(column, value, record.line)
        return evidence


def _bare(column: Column, text: str) -> str:
    """Return a text without the blanks around it, and a dash in place of an amount without its currency."""
    return without_currency(text.strip()) if column.kind.startswith("numeric") else text.strip()


def _placeholder_hint(column: Column, text: str) -> str:
    """Return how to say that a text without a letter or digit, such as a spreadsheet's dash for zero, is no value."""
    shown = _bare(column, text)
    if len(shown) > 3 or squeeze(shown) or "," in shown or not shown.isprintable():
        return ""
    return f"; where {shown} stands for no value: EMPTY={shown}"


def _getter(target: Target) -> Getter:
    if target.get is not None:
        return target.get
    position = target.position
    assert position is not None
    return lambda fields: fields[position]
