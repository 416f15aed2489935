"""Read the files of an import: each one into its temporary table, file_<table>."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice

from psycopg import sql

from eds.base.console import bar, err
from eds.book.csv_import import identities
from eds.book.csv_import.dialect import DELIMITERS, Source, examine, header_of, sniff_delimiter, squeeze
from eds.book.csv_import.interpretation import Reading
from eds.book.csv_import.job import Job, Loaded
from eds.book.csv_import.mapping import TableMapping
from eds.book.csv_import.problems import Problem, Problems, format_rows
from eds.book.csv_import.records import Malformed, Record, read_records
from eds.book.csv_import.rows import OTHER_NAMES, Layout, NotPlainError, RowReader, lay_out
from eds.book.csv_import.schema import Column, Table
from eds.book.csv_import.statements import names, statement

_ROWS_PER_ADVANCE = 2000


class _FileReadError(Exception):
    """Leaves the progress bar of a file that was read to its end."""


def load(job: Job, table: Table) -> None:
    file = job.files[table.name]
    before = job.problems.total
    source = examine(job.paths[table.name], job.dialect)
    job.sources.append(source)
    facts: list[str] = []
    # When an exception ends it, the bar does not say "ok": rules and references are still to be checked.
    with suppress(_FileReadError), bar(f"Reading {file}", total=max(source.line_count - 1, 0)) as advance:
        facts = _read(job, table, source, advance)
        raise _FileReadError
    for fact in facts:
        err.print(fact, markup=False)
    count = job.problems.total - before
    if count:
        err.print(f"not ok: {file}, {count:,} problem{'' if count == 1 else 's'}", markup=False)


def show_as_written(job: Job, file: str, loaded: Loaded) -> None:
    """Let the problems of a file show its values as it has them, not as they were read into the database."""
    groups = [group for group in job.problems.groups_of(file) if group.first.line > 1]
    lines = {line for group in groups for line in group.samples.values()}
    if not lines:
        return
    fields: dict[int, list[str | None]] = {}
    with loaded.records() as records:
        for record in records:
            if record.line in lines and isinstance(record, Record):
                fields[record.line] = record.fields
            if record.line >= max(lines):
                break
    for group in groups:
        position = next((t.position for t in loaded.layout.targets if t.label == group.first.column), None)
        if position is not None:
            group.samples = {
                fields[line][position] if position < len(fields.get(line, ())) else value: line
                for value, line in group.samples.items()
            }


def _read(job: Job, table: Table, source: Source, advance: Callable[[float, str | None], None]) -> list[str]:
    """Read a file into its temporary table. Returns what was found out about it, as lines to be printed."""
    file = job.files[table.name]
    mapping = job.mapping.table(table.name)
    delimiter, header_line = _delimiter(job, table, source)
    with _records(source, delimiter, header_line) as records:
        header = next(records, None)
    layout = lay_out(table, header, file=file, mapping=mapping, sync=job.sync)
    if header is None and header_line > 1:
        option = f"header_line: {mapping.header_line}" if mapping.header_line else f"HEADER_LINE={header_line}"
        more = f"; the file has fewer lines than {option} says"
        layout.problems = [replace(each, line=header_line, expected=each.expected + more) for each in layout.problems]
    if layout.problems:
        for problem in _with_header_hint(job, table, source, delimiter, layout):
            job.problems.add(problem)
        job.problems.at_least = True
        return []

    rounded = frozenset(name for name, source in mapping.columns.items() if source.round)

    def reader_of(records: Iterator[Record | Malformed], reading: Reading, found: Problems) -> RowReader:
        # There is one, unless another program is writing the file, which is detected at the end.
        next(records, None)
        reading.rounded = rounded
        return RowReader(table, layout, records, found.add, reading, file, mapping, job.dialect.empty, job.sync)

    _create_file_table(job, table, layout)
    reader = None
    if job.dialect.is_plain:
        # The plain form is unambiguous: a file in it needs only one pass.
        found = Problems()
        with _records(source, delimiter, header_line) as records:
            attempt = reader_of(records, Reading(currency=job.currency), found)
            try:
                with job.conn.transaction():
                    _copy(job, table, attempt, advance)
                reader = attempt
                job.problems.merge(found)
            except NotPlainError:
                advance(-(attempt.rows - attempt.rows % _ROWS_PER_ADVANCE), None)
    if reader is None:
        with _records(source, delimiter, header_line) as records:
            evidence = reader_of(records, Reading(), Problems()).survey()
        with _records(source, delimiter, header_line) as records:
            reading = evidence.reading(job.dialect)
            reading.currency = job.currency
            reader = reader_of(records, reading, job.problems)
            _copy(job, table, reader, advance)
    job.currency = reader.reading.currency
    identities.compare(job, table, layout)
    for how, texts in reader.reading.clock_changes.items():
        line, text = next(iter(texts.items()))
        job.remarks.append(
            f"{table.name}: {format_rows(len(texts))}, first line {line} ({text!r}), with a time that the clocks of "
            f"{job.dialect.timezone} {how}; a time with its offset from UTC leaves no doubt"
        )
    dropped = 0
    if mapping.distinct:
        dropped = _drop_repeated_rows(job, table, table.keys if mapping.distinct == "first" else layout.columns)
    job.cursor.execute(statement(table, "analyze {file}"))
    if reader.reading.has_assumed_utc or reader.reading.has_assumed_day:
        job.assumed_utc.add(table.name)
    job.problems.at_least |= not reader.is_whole
    again = partial(_records, source, delimiter, header_line)
    job.loaded[table.name] = Loaded(layout, reader.is_complete, again)
    facts = _facts(job, table, source, delimiter, reader)
    if dropped:
        equal = "the key of an earlier row" if mapping.distinct == "first" else "the same values as an earlier row"
        facts.append(f"  {format_rows(dropped)} with {equal} left out (distinct: {str(mapping.distinct).lower()})")
    return facts


@contextmanager
def _records(source: Source, delimiter: str, header_line: int) -> Iterator[Iterator[Record | Malformed]]:
    with source.open() as lines:
        yield read_records(lines, delimiter, header_line)


def _delimiter(job: Job, table: Table, source: Source) -> tuple[str, int]:
    """Return what separates the columns, and on which line their names stand."""
    mapping = job.mapping.table(table.name)
    header, line, separator = header_of(source, mapping.header_line or job.dialect.header_line)
    names_of_columns = _names_of(table, mapping)
    return job.dialect.delimiter or separator or sniff_delimiter(header, names_of_columns), line


def _with_header_hint(job: Job, table: Table, source: Source, delimiter: str, layout: Layout) -> list[Problem]:
    """Return the problems of a header; when it is none, with what separates its names, or the line that has them."""
    if layout.is_recognised:
        return layout.problems
    known = _names_of(table, job.mapping.table(table.name))
    for name, other in DELIMITERS.items():
        if len(known.intersection(squeeze(part) for part in (layout.problems[0].value or "").split(other))) >= 2:
            expected = layout.problems[0].expected.removesuffix(OTHER_NAMES)
            why = f"they are separated otherwise: DELIMITER={name}"
            if other == delimiter:
                why = "there are quotes around the whole line, which make one field of it: remove them"
            return [replace(layout.problems[0], expected=f"{expected}; {why}")]
    with _records(source, delimiter, 1) as records:
        for record in islice(records, 1, 30):
            fields = record.fields if isinstance(record, Record) else []
            if len(known.intersection(squeeze(name or "") for name in fields)) >= 2:
                hint = f"; line {record.line} looks like it: HEADER_LINE={record.line}"
                if len(job.paths) > 1:
                    hint += f", or for this file alone header_line: {record.line} in a mapping file"
                expected = layout.problems[0].expected.removesuffix(OTHER_NAMES) + hint
                return [replace(layout.problems[0], expected=expected)]
    return layout.problems


def _create_file_table(job: Job, table: Table, layout: Layout) -> None:
    # Numbers without precision, so that a message shows them as the file has them.
    definitions = [
        sql.SQL("{} {}").format(
            sql.Identifier(column.name), sql.SQL("numeric" if column.kind.startswith("numeric") else column.kind)
        )
        for column in layout.columns
    ]
    definitions += [sql.SQL("{} text").format(identities.written(target.column)) for target in layout.numbered]
    job.cursor.execute(
        statement(
            table,
            "create temporary table {file} (line integer, has_problem boolean, {definitions}) on commit drop",
            definitions=sql.SQL(", ").join(definitions),
        )
    )


def _copy(job: Job, table: Table, reader: RowReader, advance: Callable[[float, str | None], None]) -> None:
    written = [identities.written(target.column) for target in reader.layout.numbered]
    columns = sql.SQL(", ").join([names(reader.layout.columns), *written])
    with job.cursor.copy(
        statement(table, "copy {file} (line, has_problem, {columns}) from stdin", columns=columns)
    ) as copy:
        for row in reader:
            copy.write_row(row)
            if not reader.rows % _ROWS_PER_ADVANCE:
                advance(_ROWS_PER_ADVANCE, None)
    advance(reader.rows % _ROWS_PER_ADVANCE, None)


def _drop_repeated_rows(job: Job, table: Table, columns: Sequence[Column]) -> int:
    """Keep the first of the rows that are equal in these columns. Return how many others there were."""
    return job.cursor.execute(
        statement(
            table,
            """
            delete from {file}
            where line in (
                select line
                from (select line, row_number() over (partition by {columns} order by line) as n from {file}) as f
                where n > 1
            )
            """,
            columns=names(columns),
        )
    ).rowcount


def _facts(job: Job, table: Table, source: Source, delimiter: str, reader: RowReader) -> list[str]:
    """Return how a file was read, and what of it was not."""
    words = {sign: f"{name}s" for name, sign in DELIMITERS.items()}
    how = [] if delimiter == "," else [f"separated by {words.get(delimiter, repr(delimiter))}"]
    how += [*source.facts, *reader.reading.facts]
    lines = ["; ".join([f"read: {job.files[table.name]}, {format_rows(reader.rows)}", *how])]
    for column, labels in reader.reading.labels.items():
        shown = [f"{text!r} as {value} ({count:,})" for (text, value), count in labels.items()]
        lines.append(f"  {column}: {_some(shown)}")
    if reader.layout.extra:
        lines.append(f"  columns not read: {_some(reader.layout.extra)}")
    if reader.skipped:
        lines.append(f"  {format_rows(reader.skipped)} left out, as the mapping file says")
    return lines


def _some(texts: Sequence[str]) -> str:
    """Return the first ten of a list, and how many more there are."""
    more = f" and {len(texts) - 10:,} more" if len(texts) > 10 else ""
    return ", ".join(texts[:10]) + more


def _names_of(table: Table, mapping: TableMapping) -> set[str]:
    """Return the squeezed names by which a header is recognised."""
    mapped = [source.column for source in mapping.columns.values() if source.column]
    return {squeeze(name) for name in (*(column.name for column in table.columns), *mapped)}
