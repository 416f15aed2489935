"""Check that each number that is made of texts stands for one text, in all files of the book."""

from __future__ import annotations

from psycopg import sql

from eds.book.csv_import.job import Job
from eds.book.csv_import.problems import Problem
from eds.book.csv_import.rows import Layout
from eds.book.csv_import.schema import TABLES, Column, Table
from eds.book.csv_import.statements import statement

# How many rows with a number of another text are shown.
_SHOWN_ROWS = 20


def written(column: Column) -> sql.Identifier:
    """Return the column of a file's temporary table that has the texts of a column's numbers."""
    return sql.Identifier(f"{column.name} as written")


def kind_of(table: Table, column: Column) -> str | None:
    """Return the table whose rows a column names, None for a column that names none."""
    return column.references or (table.name if column is table.key else None)


def compare(job: Job, table: Table, layout: Layout) -> None:
    """Note as problems the rows whose number stands for another text than in an earlier row or file.

    A text that was in an earlier file already is a problem of that file alone. Without this check, the payments of
    L-12-3 would go to the loan L-1-23, both being 123 as digits. A column that holds the numbers themselves counts
    beside codes and hashes, where nobody writes such a number by hand.
    """
    spelled = {target.column.name for target in layout.numbered}
    strange = _kinds(job, ("code", "hash"))
    for column in layout.columns:
        kind = kind_of(table, column)
        if kind is not None and (column.name in spelled or kind in strange):
            _compare_column(job, table, layout, column, kind, column.name in spelled)


def _kinds(job: Job, ways: tuple[str, ...]) -> set[str]:
    """Return the kinds of rows of which some file's numbers are made in one of these ways."""
    return {
        kind
        for table in TABLES
        for column in table.columns
        if (source := job.mapping.table(table.name).columns.get(column.name)) is not None
        and source.number in ways
        and (kind := kind_of(table, column)) is not None
    }


def _compare_column(job: Job, table: Table, layout: Layout, column: Column, kind: str, is_spelled: bool) -> None:
    job.cursor.execute(
        "create temporary table if not exists identities ("
        " kind text, number bigint, identity text, file text, line integer, primary key (kind, number, identity)"
        ") on commit drop"
    )
    file = job.files[table.name]
    parts = {
        "number": sql.Identifier(column.name),
        "identity": written(column) if is_spelled else sql.SQL("{}::text").format(sql.Identifier(column.name)),
        "kind": sql.Literal(kind),
        "name": sql.Literal(file),
    }
    job.cursor.execute(
        statement(
            table,
            """
            insert into pg_temp.identities
            select {kind}, {number}, {identity}, {name}, min(line)
            from {file}
            where {number} is not null and {identity} is not null
            group by {number}, {identity}
            on conflict do nothing
            """,
            **parts,
        )
    )
    job.cursor.execute(
        statement(
            table,
            """
            select file.line, {identity}, other.identity, other.file, other.line, file.{number}, count(*) over ()
            from {file} as file
            cross join lateral (
                select other.identity, other.file, other.line
                from pg_temp.identities as other
                where other.kind = {kind} and other.number = file.{number}
                order by other.file = {name}, other.line
                limit 1
            ) as other
            where other.identity <> {identity}
                and exists (
                    select from pg_temp.identities as own
                    where own.kind = {kind} and own.number = file.{number} and own.identity = {identity}
                        and own.file = {name}
                )
            order by file.line
            limit {most}
            """,
            most=sql.Literal(_SHOWN_ROWS),
            **parts,
        )
    )
    found = job.cursor.fetchall()
    if not found:
        return
    source = job.mapping.table(table.name).columns.get(column.name)
    how = f" (number: {source.number})" if source is not None and source.number else ""
    letters = ", or number: code keeps letters apart" if source is not None and source.number == "digits" else ""
    problems = [
        Problem(
            file,
            line,
            layout.label(column),
            text,
            f"a text with a number of its own: it becomes {number}{how}, as does {_shown(other)!r} in line {place} of "
            f"{where}; one {_singular(kind)} is written in one way in all files, and of two, a mapping file gives one "
            f"another text (values){letters}",
            "two texts with one number",
        )
        for line, text, other, where, place, number, _ in found
    ]
    job.problems.add_checked(problems, found[0][-1])


def _shown(identity: str) -> str:
    return identity.replace("\x1f", ", ")


def _singular(kind: str) -> str:
    return kind.removeprefix("loan_").removesuffix("s")
