"""Find out what an import would change, and what somebody who knows only the files would not expect."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql

from eds.base.errors import UserError
from eds.book.csv_import.job import Counts, Job
from eds.book.csv_import.problems import format_rows, show_value
from eds.book.csv_import.schema import TABLES, Table
from eds.book.csv_import.statements import names, same, statement
from eds.book.csv_import.values import NO_VALUE
from eds.book.demo.names import read_branches

MASS_DELETE_ROWS = 10
"""An import that deletes fewer rows of a table than this needs no confirmation."""


def count_deletions(job: Job) -> dict[str, int]:
    """Return how many rows of each table will be deleted. Raises UserError when that is too much of a table."""
    deletions: dict[str, int] = dict.fromkeys((table.name for table in TABLES), 0)
    excessive: list[str] = []
    for table in job.known:
        if table.name in job.replaced:
            (deletions[table.name],) = job.numbers(table, "select count(*) from {target}")
            continue
        if not _may_delete(job, table):
            continue
        present, gone = job.numbers(
            table,
            "select count(*), count(*) filter (where {is_gone}) from {target} as present",
            is_gone=is_gone(job, table),
        )
        deletions[table.name] = gone
        if gone >= MASS_DELETE_ROWS and gone * 2 > present:
            file = job.files.get(table.name, table.file)
            excessive.append(f"  {table.name}: {gone:,} of {present:,} rows are not in {file}")
    if excessive and not job.allow_mass_delete:
        raise UserError(
            "The import was refused: it would delete more than half of a table. Nothing was changed.\n\n"
            + "\n".join(excessive)
            + "\n\nIf these are the right files and that is meant, add MASS_DELETE=1."
        )
    return deletions


def _may_delete(job: Job, table: Table) -> bool:
    """Return whether rows of a table go because the files do not hold them.

    A sync deletes in all tables. The instalments that a file has of a loan are all that the loan has, so that a
    new schedule never mixes with the rest of the former one.
    """
    return job.sync or (table.key_size > 1 and table.name in job.paths)


def is_gone(job: Job, table: Table) -> sql.Composable:
    """Return the condition of rows (alias present) that the files do not hold."""
    if table.name not in job.paths:
        return sql.SQL("true")
    gone = statement(table, "not exists (select from {file} as file where {same})", same=same(table, "file", "present"))
    if job.sync:
        return gone
    return sql.SQL("{} and {}").format(
        gone, statement(table, "exists (select from {file} as file where file.{key} = present.{key})")
    )


def remark(job: Job, table: Table) -> None:
    """Remark on the values that rows have although they are in no file."""
    loaded, file = job.loaded[table.name], job.files[table.name]
    kept: list[str] = []
    (present,) = job.numbers(table, "select count(*) from {final} where is_present")
    for column in table.columns:
        has_column = loaded.has(column.name)
        name = {"column": sql.Identifier(column.name)}
        if column.name == "created_at":
            if has_column and job.sync and present:
                (others,) = job.numbers(
                    table,
                    "select count(*) from {final} as final join {file} as file on final.line = file.line"
                    " where final.is_present and file.{column} <> final.{column}",
                    **name,
                )
                if others:
                    job.remarks.append(
                        f"{table.name}: created_at stays as first recorded in {format_rows(others)}, "
                        f"where {file} has another"
                    )
        elif not has_column and present and not job.sync:
            kept.append(column.name)
        elif not has_column and present and not column.has_default:
            (emptied,) = job.numbers(
                table,
                "select count(*) from {final} as final join {target} as present on {same}"
                " where final.is_present and present.{column} is not null",
                same=same(table, "final", "present"),
                **name,
            )
            if emptied:
                job.remarks.append(
                    f"{table.name}: {column.name} was emptied in {format_rows(emptied)}, as {file} has none"
                )
        if column.has_default and column.name != "created_at":
            (defaulted,) = job.numbers(
                table,
                "select count(*) from {final} as final join {file} as file on final.line = file.line"
                " where ({is_absent}) and ({is_written})",
                is_absent=sql.SQL("file.{column} is null" if has_column else "true").format(**name),
                is_written=sql.SQL("true" if job.sync else "not final.is_present"),
            )
            if defaulted:
                default = job.defaults[table.name].get(column.name, "")
                value = "the time of the import" if column.default_is_now else default.partition("::")[0]
                where = format_rows(defaulted)
                job.remarks.append(
                    f"{table.name}: {column.name} is {value} in {where}, the default, as {file} has none"
                )
        if column.is_percent and has_column:
            rates, low, greatest = job.numbers(
                table,
                "select count({column}), count(*) filter (where {column} < 1), max({column})"
                " from {file} where {column} > 0",
                **name,
            )
            if low and greatest > 1:
                job.remarks.append(
                    f"{table.name}: {column.name} is below 1 in {format_rows(low)}; it is in percent a year, "
                    "0.15 means 0.15 %"
                )
            elif rates and greatest <= 1:
                job.remarks.append(
                    f"{table.name}: no {column.name} is above 1; it is in percent a year, 0.15 means 0.15 %"
                )
    if kept:
        job.remarks.append(
            f"{table.name}: columns kept as they were in {format_rows(present)}, as {file} has none: {', '.join(kept)}"
        )


def remark_on_values(job: Job, table: Table) -> None:
    """Remark on values that the rules allow, and that are rarely meant as they are written in the file."""
    layout = job.loaded[table.name].layout
    if layout.has("payment_date"):
        _remark_on_repeated_payments(job, table)
    if table.name == "loans":
        _remark_on_loans(job, table)
    for column in layout.columns:
        name, label = sql.Identifier(column.name), f"{table.name}: {layout.label(column)}"
        if column is table.key and column.references is None:
            _remark_on_low_keys(job, table, name, label)
        if column.kind == "text" and not table.codes(column):
            _remark_on_placeholders(job, table, name, label)
        if column.is_group:
            _remark_on_spellings(job, table, name, label)
        if column.kind == "text":
            _remark_on_garbled_texts(job, table, name, label)
        if column.kind == "date":
            early = sql.SQL("{} < '1900-01-01'").format(name)
            _remark_on_days(job, table, label, early, "before 1900", sql.SQL("min({})").format(name), "earliest")
        if column.is_past:
            late = sql.SQL("{} > now() + interval '1 day'").format(name)
            _remark_on_days(job, table, label, late, "in the future", sql.SQL("max({})").format(name), "last")


_UNUSUAL_LOANS: tuple[tuple[tuple[str, ...], LiteralString, str], ...] = (
    (
        ("status", "written_off_on"),
        "status = 'written_off' and written_off_on is null",
        "status is written_off without written_off_on in {rows}, first line {line}; the figures take the day on which "
        "this status is seen first",
    ),
    (
        ("status", "disbursed_at"),
        "status <> 'pending' and disbursed_at is null",
        "status is not pending and disbursed_at is missing in {rows}, first line {line}",
    ),
    (
        ("disbursed_at", "maturity_date"),
        "maturity_date < (disbursed_at at time zone 'UTC')::date",
        "maturity_date is before disbursed_at in {rows}, first line {line}",
    ),
    (
        ("outstanding_balance",),
        "outstanding_balance < 0",
        "outstanding_balance is below 0 in {rows}, first line {line}",
    ),
)
"""Of loans as they will be: the columns, a condition, and the remark on the rows that meet it."""


def _remark_on_loans(job: Job, table: Table) -> None:
    columns = {column.name for column in table.columns}
    for needed, condition, remark in _UNUSUAL_LOANS:
        if columns.issuperset(needed):
            rows, line = job.numbers(
                table,
                "select count(*), coalesce(min(line), 0) from {final} where {condition}",
                condition=sql.SQL(condition),
            )
            if rows:
                job.remarks.append(f"{table.name}: {remark.format(rows=format_rows(rows), line=line)}")


def _remark_on_days(
    job: Job, table: Table, label: str, condition: sql.Composed, when: str, shown: sql.Composed, which: str
) -> None:
    """Remark on days that meet a condition: how many there are, where the first stands, and the one that is shown."""
    found = job.cursor.execute(
        statement(
            table,
            "select count(*), min(line), ({shown})::date::text from {file} where {condition}",
            shown=shown,
            condition=condition,
        )
    ).fetchone()
    if found and found[0]:
        rows, line, day = found
        job.remarks.append(f"{label} is {when} in {format_rows(rows)}, first line {line}, the {which} is {day}")


def remark_on_zone(job: Job, table: Table) -> None:
    """Remark on times that are on another day in the lender's zone, having been read as UTC without need."""
    zone, layout = job.business_timezone, job.loaded[table.name].layout
    for column in layout.columns:
        if column.kind != "timestamptz" or column.name == "created_at":
            continue
        (moved,) = job.numbers(
            table,
            "select count(*) from {file}"
            " where ({column} at time zone 'UTC')::date <> ({column} at time zone {zone})::date",
            column=sql.Identifier(column.name),
            zone=sql.Literal(zone),
        )
        if moved:
            job.remarks.append(
                f"{table.name}: {layout.label(column)} was read as UTC, and in {format_rows(moved)} that is another "
                f"day in {zone}, by which the figures go (BUSINESS_TIMEZONE); where it is of that zone: TIMEZONE={zone}"
            )


def _remark_on_repeated_payments(job: Job, table: Table) -> None:
    """Remark on rows that differ in their key alone, as when two exports with numbers of their own were joined."""
    others = [
        column for column in job.loaded[table.name].columns if column is not table.key and column.name != "created_at"
    ]
    found = job.cursor.execute(
        statement(
            table,
            """
            select count(*), min(line)
            from (select line, row_number() over (partition by {columns} order by line) as n from {file}) as f
            where n > 1
            """,
            columns=names(others),
        )
    ).fetchone()
    if found and found[0]:
        job.remarks.append(
            f"{table.name}: in {format_rows(found[0])}, first line {found[1]}, "
            f"all but {table.key.name} is as in an earlier row"
        )


def _remark_on_low_keys(job: Job, table: Table, column: sql.Identifier, label: str) -> None:
    """Remark on keys that no system gives out: 0 often stands for none."""
    rows, line, least = job.numbers(
        table, "select count(*), coalesce(min(line), 0), min({column}) from {file} where {column} < 1", column=column
    )
    if rows:
        job.remarks.append(f"{label} is below 1 in {format_rows(rows)}, first line {line}, the least is {least}")


def _remark_on_placeholders(job: Job, table: Table, column: sql.Identifier, label: str) -> None:
    job.cursor.execute(
        statement(
            table,
            """
            select btrim({column}), count(*), min(line)
            from {file}
            where lower(btrim({column})) = any(%s)
            group by 1
            order by 2 desc, 1
            limit 3
            """,
            column=column,
        ),
        [sorted(NO_VALUE | {"-", "--"})],
    )
    for text, rows, line in job.cursor.fetchall():
        job.remarks.append(
            f"{label} is the text {text!r} in {format_rows(rows)}, first line {line}; "
            f"where that stands for no value: EMPTY={text}"
        )


def _remark_on_garbled_texts(job: Job, table: Table, column: sql.Identifier, label: str) -> None:
    """Remark on texts that some program read in another encoding than they were written in: José became JosÃ©."""
    job.cursor.execute(
        statement(
            table,
            "select line, {column} from {file} where {column} ~ '[\u00c2-\u00f4][^\u0001-\u007f]' order by line",
            column=column,
        )
    )
    garbled = [(line, text, meant) for line, text in job.cursor if (meant := ungarbled(text)) is not None]
    if garbled:
        line, text, meant = garbled[0]
        job.remarks.append(
            f"{label} is garbled in {format_rows(len(garbled))}, first line {line}: {show_value(text)} stands for "
            f"{show_value(meant)}, which was UTF-8 and was read as Windows-1252 before it got into the file"
        )


def ungarbled(text: str) -> str | None:
    """Return what a text was before its UTF-8 was taken for Windows-1252; None when it is none of that."""
    try:
        return None if text.isascii() else text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return None


def _remark_on_spellings(job: Job, table: Table, column: sql.Identifier, label: str) -> None:
    job.cursor.execute(
        statement(
            table,
            """
            select array_agg(distinct {column})
            from {final}
            group by lower(regexp_replace(btrim({column}), '\\s+', ' ', 'g'))
            having count(distinct {column}) > 1
            order by min(line)
            limit 3
            """,
            column=column,
        )
    )
    for (texts,) in job.cursor.fetchall():
        shown = " and ".join(repr(text) for text in texts[:3])
        job.remarks.append(f"{label} has {shown}, which count as different; a mapping file (values) makes them one")


def remark_on_branches(job: Job, table: Table) -> None:
    """Remark on branches of which the dashboards know nothing but the code."""
    job.cursor.execute(
        statement(table, "select distinct btrim(branch_code) from {final} where btrim(branch_code) <> '' order by 1")
    )
    try:
        known = {branch.branch_code for branch in read_branches()}
    except UserError:
        # What is wrong with that file, the next run says: it is no part of the import.
        return
    unknown = [code for (code,) in job.cursor.fetchall() if code not in known]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else "")
        job.remarks.append(
            f"{table.name}: the dashboards show {shown} by code and without a region: add them to seeds/branches.csv"
        )


def count(job: Job, table: Table, deletions: dict[str, int]) -> Counts:
    """Return the counts that writing would have."""
    inserted, updated, unchanged = job.numbers(
        table,
        """
        select
            count(*) filter (where not is_present),
            count(*) filter (where is_changed),
            count(*) filter (where is_present and not is_changed)
        from {final}
        """,
    )
    return Counts(inserted, updated, deletions[table.name], unchanged)
