"""SQL of an import: the names of its tables, and statements about one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

from psycopg import sql

from eds.book.csv_import.schema import TABLES, Column, Table


def statement(table: Table, text: LiteralString, **parts: sql.Composable) -> sql.Composed:
    """Return a statement about one table.

    {target}, {file}, {final}, {key} and {key_name} (inside a text) are known; `parts` are the other placeholders.
    """
    return sql.SQL(text).format(
        target=target(table),
        file=temporary("file", table),
        final=temporary("final", table),
        key=sql.Identifier(table.key.name),
        key_name=sql.SQL(table.key.name),
        **parts,
    )


def target(table: Table) -> sql.Identifier:
    return sql.Identifier("operational", table.name)


def temporary(kind: LiteralString, table: Table) -> sql.Identifier:
    return sql.Identifier("pg_temp", f"{kind}_{table.name}")


def names(columns: Sequence[Column]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)


def same(table: Table, left: LiteralString, right: LiteralString) -> sql.Composed:
    """Return the condition that two aliases stand for the same row."""
    pairs = [
        sql.SQL("{} = {}").format(sql.Identifier(left, column.name), sql.Identifier(right, column.name))
        for column in table.keys
    ]
    return sql.SQL(" and ").join(pairs)


def table_of(name: str) -> Table:
    return next(table for table in TABLES if table.name == name)
