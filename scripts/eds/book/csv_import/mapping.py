"""The mapping file: which of a lender's columns and values are which of the book's."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from eds.base.errors import UserError
from eds.book.csv_import.dialect import OPTIONS, Dialect, squeeze
from eds.book.csv_import.numbering import exact
from eds.book.csv_import.schema import TABLES

MAPPING_FILE = "mapping.yml"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnMapping(_Strict):
    """Where the values of a column come from. Exactly one of `column` and `value` is given."""

    column: str | None = None
    """The name of the file's column."""
    value: str | None = None
    """The same value in each row."""
    values: dict[str, str] = Field(default_factory=dict)
    """The translation of values; other texts stay as they are, unless `other` says what they become."""
    other: str | None = None
    empty: str | None = None
    """What an empty field becomes."""
    number: Literal["digits", "code", "hash"] | None = None
    """How a text becomes a key: `digits` takes its digits, `code` reads letters and digits as a number of base 36, and
    `hash` takes any text."""
    also: tuple[str, ...] = ()
    """With `hash`: further columns of the file whose texts belong to the key."""
    round: bool = False
    """Whether more decimals than the column keeps are rounded (half up) instead of refused."""


class TableMapping(_Strict):
    """How the rows of a table are read from a file."""

    file: str | None = None
    header_line: int | None = Field(default=None, ge=1, le=1000)
    """The line of the column names, when it is another than in the other files."""
    distinct: bool | Literal["first"] = False
    """Whether equal rows count once, for a table that is read from another one's file; first: of each key the first."""
    columns: dict[str, ColumnMapping] = Field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    skip: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Rows that are left out: those in which a column of the file has one of these texts."""

    @field_validator("columns", mode="before")
    @classmethod
    def _short_forms(cls, columns: Any) -> Any:
        if not isinstance(columns, dict):
            # YAML has an empty text for a key with nothing but comments after it.
            return columns or {}
        return {name: {"column": what} if isinstance(what, str) else what for name, what in columns.items()}


class BookMapping(_Strict):
    """The mapping file."""

    format: dict[str, str] = Field(default_factory=dict)
    tables: dict[str, TableMapping] = Field(default_factory=dict)

    @field_validator("format", "tables", mode="before")
    @classmethod
    def _nothing_yet(cls, content: Any) -> Any:
        return content or {}

    def table(self, name: str) -> TableMapping:
        """Return the mapping of a table, one that changes nothing when the file does not have it."""
        return self.tables.get(name, TableMapping())


def load_mapping(path: Path) -> BookMapping:
    """Read a mapping file. Raises UserError with the place and what was expected there."""
    try:
        # BaseLoader: Yes, 007 and 2024-01-01 are texts here, as they are in the files.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        mark = getattr(problem, "problem_mark", None)
        if mark is None:
            raise UserError(f"{path.name} is not YAML: {' '.join(str(problem).split())}") from problem
        what = getattr(problem, "problem", None) or "it ends too early"
        raise UserError(
            f"{path.name} is not YAML, line {mark.line + 1}, column {mark.column + 1}: {what}.\n"
            "Keys of one level begin in the same column, a blank follows each colon, and texts with : or # need quotes."
        ) from problem
    try:
        mapping = BookMapping.model_validate(content or {})
    except ValidationError as problem:
        lines = [f"  {_sentence(error)}" for error in problem.errors()]
        raise UserError(f"{path.name}: expected the keys that docs/import.md lists.\n" + "\n".join(lines)) from problem
    errors = list(_errors(mapping))
    if errors:
        raise UserError("\n".join([f"{path.name}:", *(f"  {error}" for error in errors)]))
    Dialect().with_options(mapping.format)
    return mapping


# pydantic's types of errors, and what the mapping file should have at that place.
_EXPECTED = {
    "model_type": "names, each with what belongs to it",
    "dict_type": "names, each with what belongs to it",
    "tuple_type": "a list, such as [Photo, Remarks]",
    "string_type": "a text",
    "bool_parsing": "true or false",
    "int_parsing": "a whole number from 1 to 1000",
    "literal_error": "digits, code or hash (of number), true, false or first (of distinct)",
    "greater_than_equal": "a whole number from 1 to 1000",
    "less_than_equal": "a whole number from 1 to 1000",
}


def _sentence(error: Any) -> str:
    """Return one of pydantic's mistakes as: place, what was expected, what was found."""
    place = [str(part) for part in error["loc"]]
    where = f"{'.'.join(place)}: " if place else ""
    if error["type"] != "extra_forbidden":
        return f"{where}expected {_EXPECTED.get(error['type'], error['msg'])}, found {_shown(error['input'])}"
    models: dict[int, type[BaseModel]] = {1: BookMapping, 3: TableMapping}
    model = models.get(len(place), ColumnMapping)
    keys = list(model.model_fields)
    meant = difflib.get_close_matches(place[-1], keys, 1)
    hint = f" (did you mean {meant[0]}?)" if meant else ""
    return f"{where}expected one of {', '.join(keys)}{hint}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"


def _errors(mapping: BookMapping) -> Iterator[str]:
    """Yield what is wrong with a mapping beyond its form, one sentence each."""
    known = {table.name: [column.name for column in table.columns] for table in TABLES}
    codes = {(table.name, column.name): table.codes(column) for table in TABLES for column in table.columns}
    for name in mapping.format:
        if name not in OPTIONS:
            yield f"format.{name}: expected one of {', '.join(OPTIONS)}"
    for name, table in mapping.tables.items():
        if name not in known:
            yield f"tables.{name}: expected one of {', '.join(known)}"
            continue
        for column, source in table.columns.items():
            place = f"tables.{name}.columns.{column}"
            if column not in known[name]:
                yield f"{place}: expected one of {', '.join(known[name])}"
            if (source.column is None) == (source.value is None):
                yield f"{place}: expected either column (the name in the file) or value (the same in each row)"
            yield from _wrong_codes(place, codes.get((name, column), ()), source)
            yield from _double_values(place, source)
            if source.also and source.number != "hash":
                yield f"{place}.also: expected together with number: hash"


def _double_values(place: str, source: ColumnMapping) -> Iterator[str]:
    """Yield the texts that a mapping gives two meanings: case and blanks around a text make no difference."""
    seen: dict[str, str] = {}
    for text, value in source.values.items():
        first = seen.setdefault(exact(text), text)
        if source.values[first] != value:
            yield (
                f"{place}.values.{text}: expected one meaning, found {_shown(value)} and, for {_shown(first)}, "
                f"{_shown(source.values[first])}"
            )


def _wrong_codes(place: str, codes: tuple[str, ...], source: ColumnMapping) -> Iterator[str]:
    """Yield what a mapping translates into that is none of a column's codes. codes: () for a column of other values."""
    if not codes:
        return
    known = {squeeze(code) for code in codes}
    meant = {f"values.{text}": value for text, value in source.values.items()}
    meant |= {name: value for name in ("value", "other", "empty") if (value := getattr(source, name)) is not None}
    for name, value in meant.items():
        if value and squeeze(value) not in known:
            yield f"{place}.{name}: expected one of {', '.join(codes)}, found {_shown(value)}"
