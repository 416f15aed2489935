"""What the steps of an import share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from eds.book.csv_import.dialect import Dialect, Source
from eds.book.csv_import.mapping import BookMapping
from eds.book.csv_import.problems import Problems
from eds.book.csv_import.records import Malformed, Record
from eds.book.csv_import.rows import Layout
from eds.book.csv_import.schema import TABLES, Column, Table
from eds.book.csv_import.statements import statement


@dataclass(frozen=True)
class Counts:
    """Rows of one table. unchanged: rows of the file that the table has already, as they are."""

    inserted: int
    updated: int
    deleted: int
    unchanged: int


@dataclass
class Loaded:
    """A file whose rows are in the temporary table `file_<table>`."""

    layout: Layout
    is_complete: bool
    records: Callable[[], AbstractContextManager[Iterator[Record | Malformed]]]
    """Reads the file again."""

    @property
    def columns(self) -> list[Column]:
        return self.layout.columns

    def has(self, name: str) -> bool:
        return self.layout.has(name)


@dataclass
class Job:
    """One import inside its transaction: what was asked for, and what its steps have found out so far.

    Two temporary tables per file: `file_<table>` with its rows as they were read, and `final_<table>` with the same
    rows as they will be in the end, completed by present values and defaults.
    """

    conn: psycopg.Connection
    cursor: psycopg.Cursor
    paths: dict[str, Path]
    mapping: BookMapping
    dialect: Dialect
    sync: bool
    allow_mass_delete: bool
    replace_demo: bool
    dry_run: bool
    problems: Problems = field(default_factory=Problems)
    remarks: list[str] = field(default_factory=list)
    currency: tuple[str, str] | None = None
    """The currency of the files, and how it was written first."""
    shown_currency: str | None = None
    """The currency of the dashboards."""
    business_timezone: str = "UTC"
    """The zone by whose days the figures are computed."""
    assumed_utc: set[str] = field(default_factory=set)
    """The tables with days or times that were read as UTC because nothing says otherwise."""
    sources: list[Source] = field(default_factory=list)
    """The files, as they were when their reading began."""
    loaded: dict[str, Loaded] = field(default_factory=dict)
    defaults: dict[str, dict[str, LiteralString]] = field(default_factory=dict)
    known: list[Table] = field(default_factory=lambda: list(TABLES))
    """The tables that the database has."""
    replaced: tuple[str, ...] = ()
    """Tables whose present rows are those of a demo book, and are deleted."""
    tables: list[Table] = field(init=False)
    """The tables that have a file."""
    files: dict[str, str] = field(init=False)
    """How messages name the files, by table."""

    def __post_init__(self) -> None:
        self.tables = [table for table in TABLES if table.name in self.paths]
        paths = list(self.paths.values())
        self.files = {
            name: f"{path.name} (as {name})" if paths.count(path) > 1 else path.name
            for name, path in self.paths.items()
        }

    def numbers(self, table: Table, query: LiteralString, **parts: sql.Composable) -> tuple[int, ...]:
        """Return the one row of a query about a table, all numbers."""
        row = self.cursor.execute(statement(table, query, **parts)).fetchone()
        assert row is not None
        return row
