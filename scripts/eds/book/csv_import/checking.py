"""Check the rows of an import as sets: rules, keys and references.

final_<table> holds the rows of the file as they will be in the database, completed by present values and defaults.
"""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql

from eds.book.csv_import import identities
from eds.book.csv_import.job import Job
from eds.book.csv_import.problems import Problem
from eds.book.csv_import.schema import Column, Rule, Table
from eds.book.csv_import.statements import names, same, statement, table_of, target, temporary

# How many rows that fail a check it returns, per different value.
_CHECKED_ROWS = 20


def complete(job: Job, table: Table) -> None:
    """Create final_<table>: the rows of the file as they will be in the database."""
    loaded = job.loaded[table.name]
    job.cursor.execute(
        """
        select att.attname, pg_get_expr(def.adbin, def.adrelid)
        from pg_attribute as att
        join pg_attrdef as def on att.attrelid = def.adrelid and att.attnum = def.adnum
        where att.attrelid = %s::regclass and not att.attisdropped
        """,
        [f"operational.{table.name}"],
    )
    # Expressions that the schema's owner wrote, not input.
    job.defaults[table.name] = dict(job.cursor.fetchall())
    defaults = {name: sql.SQL(expression) for name, expression in job.defaults[table.name].items()}
    merged: list[sql.Composable] = []
    differences: list[sql.Composable] = []
    for column in table.columns:
        has_column = loaded.has(column.name)
        value: LiteralString
        if column.name == "created_at":
            # The trigger keeps created_at: for an existing row, another value in the file is no difference.
            value = "coalesce(present.{column}, file.{column}, {default})"
            value = value if has_column else "coalesce(present.{column}, {default})"
        elif not has_column:
            value = "case when present.{key} is not null then present.{column} else {default} end"
            value = "{default}" if job.sync else value
        elif not column.has_default:
            value = "file.{column}"
        else:
            value = "coalesce(file.{column}, present.{column}, {default})"
            value = "coalesce(file.{column}, {default})" if job.sync else value
        parts = {
            "key": sql.Identifier(table.key.name),
            "column": sql.Identifier(column.name),
            "default": defaults.get(column.name, sql.SQL("null")),
            "kind": sql.SQL(column.kind),
        }
        typed = sql.SQL(f"({value})::{{kind}}").format(**parts)
        merged.append(sql.SQL("{} as {}").format(typed, parts["column"]))
        if has_column or job.sync:
            differences.append(sql.SQL("{} is distinct from present.{}").format(typed, parts["column"]))
    job.cursor.execute(
        statement(
            table,
            """
            create temporary table {final} on commit drop as
            select file.line, file.has_problem, present.{key} is not null as is_present,
                present.{key} is not null and ({differs}) as is_changed, {columns}
            from {file} as file
            left join {target} as present on {same} {unless_replaced}
            """,
            same=same(table, "file", "present"),
            unless_replaced=sql.SQL("and false" if table.name in job.replaced else ""),
            differs=sql.SQL(" or ").join(differences),
            columns=sql.SQL(", ").join(merged),
        )
    )
    job.cursor.execute(statement(table, "analyze {final}"))


def check(job: Job, table: Table) -> None:
    _check_key(job, table)
    for rule in table.rules:
        _check_rule(job, table, rule)
    for column in job.loaded[table.name].columns:
        if column.unique:
            _check_unique(job, table, column)
        if column.references is not None:
            _check_reference(job, table, column, column.references)


def _collect(job: Job, table: Table, column: Column, query: sql.Composable, cause: str = "") -> None:
    """Note the rows of a query with the columns line, value and expected as problems of one cause."""
    job.cursor.execute(
        sql.SQL("select line, value, expected, count(*) over () from ({}) as found order by line limit {}").format(
            query, sql.Literal(_CHECKED_ROWS)
        )
    )
    found = job.cursor.fetchall()
    if found:
        file, label = job.files[table.name], job.loaded[table.name].layout.label(column)
        first = [Problem(file, line, label, value, expected, cause) for line, value, expected, _ in found]
        job.problems.add_checked(first, found[0][3])


def _check_key(job: Job, table: Table) -> None:
    key = table.keys[-1]
    # That two texts give one number is found where texts become numbers: it is no row that is there twice.
    numbered = job.loaded[table.name].layout.numbered
    texts = [identities.written(target.column) for target in numbered if target.column in table.keys]
    query = statement(
        table,
        """
        select line, {last_key}::text as value,
            format('each {key_words} once, but line %s has it already', first_line) as expected
        from (select line, {last_key}, min(line) over (partition by {keys}) as first_line from {file}) as keyed
        where line <> first_line
        """,
        last_key=sql.Identifier(key.name),
        key_words=sql.SQL(" of a ".join(column.name for column in reversed(table.keys))),
        keys=sql.SQL(", ").join([names(table.keys), *texts]),
    )
    _collect(job, table, key, query, "key not unique")


def _check_rule(job: Job, table: Table, rule: Rule) -> None:
    loaded = job.loaded[table.name]
    named = next((column for name in rule.columns for column in loaded.columns if column.name == name), None)
    if named is None:
        # All its columns have present values and defaults, which the database accepted.
        return
    query = statement(
        table,
        """
        select broken.line, file.{named}::text as value, broken.expected || {origins} as expected
        from (select *, {expected} as expected from {final} where ({holds}) is false {scope}) as broken
        join {file} as file on broken.line = file.line
        """,
        named=sql.Identifier(named.name),
        origins=_origins(job, table, rule),
        expected=sql.SQL(
            f"{rule.expected} || '; a mapping file translates other words (values)'" if rule.codes else rule.expected
        ),
        holds=sql.SQL(rule.holds),
        # With one of its values unreadable, a rule over several columns would find a wrong sum as well.
        scope=sql.SQL("and not has_problem" if len(rule.columns) > 1 else ""),
    )
    _collect(job, table, named, query, rule.cause)


def _origins(job: Job, table: Table, rule: Rule) -> sql.Composable:
    """Return an expression that names the origin of each value that a rule looks at and the file does not have."""
    loaded = job.loaded[table.name]
    parts: list[sql.Composable] = [sql.Literal("")]
    for column in table.columns:
        if column.name not in rule.columns or (loaded.has(column.name) and not column.has_default):
            continue
        is_absent: LiteralString = "file.{column} is null" if loaded.has(column.name) else "true"
        is_default: LiteralString = "true" if job.sync else "not broken.is_present"
        parts.append(
            sql.SQL(
                "case when "
                + is_absent
                + " then concat('; {column_name} ', broken.{column}, case when "
                + is_default
                + " then ' is the default, no value of the file' "
                "else ' is in the database, not in the file' end) else '' end"
            ).format(column=sql.Identifier(column.name), column_name=sql.SQL(column.name))
        )
    return sql.SQL(" || ").join(parts)


def _check_unique(job: Job, table: Table, column: Column) -> None:
    name = sql.Identifier(column.name)
    query = statement(
        table,
        """
        select line, {column} as value,
            format('a value of its own, but line %s ({key_name} %s) has it too', first_line, first_key) as expected
        from (
            select line, {key}, {column},
                first_value(line) over peers as first_line,
                first_value({key}) over peers as first_key
            from {final}
            where {column} is not null
            window peers as (partition by {column} order by line)
        ) as valued
        where {key} <> first_key
        """,
        column=name,
    )
    _collect(job, table, column, query, "value not unique")
    if job.sync or table.name in job.replaced:
        # Rows that the file does not contain will be gone.
        return
    query = statement(
        table,
        """
        select final.line, final.{column} as value,
            format(
                'a value of its own, but {key_name} %s has it, which is in the database and not in the file',
                present.{key}
            ) as expected
        from {final} as final
        join {target} as present on final.{column} = present.{column} and final.{key} <> present.{key}
        where not exists (select from {final} as other where other.{key} = present.{key})
        """,
        column=name,
    )
    _collect(job, table, column, query, "value of another row")


def _check_reference(job: Job, table: Table, column: Column, parent_name: str) -> None:
    parent = table_of(parent_name)
    has_file = parent.name in job.paths
    if has_file and not (parent.name in job.loaded and job.loaded[parent.name].is_complete):
        # The row may be one that could not be read: that is the problem, not all rows that refer to it.
        return
    places: list[str] = []
    sources: list[sql.Identifier] = []
    if has_file:
        places.append(f"in {job.files[parent.name]}")
        sources.append(temporary("file", parent))
    if not job.sync and parent.name not in job.replaced:
        places.append("in the database")
        sources.append(target(parent))
    name = sql.Identifier(column.name)
    absent: list[sql.Composable] = [
        sql.SQL("not exists (select from {} as parent where parent.{} = file.{})").format(
            source, sql.Identifier(parent.key.name), name
        )
        for source in sources
    ]
    query = statement(
        table,
        """
        select line, {column}::text as value, {expected} as expected
        from {file} as file
        where {column} is not null and {absent}
        """,
        column=name,
        expected=sql.Literal(f"a {parent.key.name} that is {' or '.join(places) or f'in {parent.file}'}"),
        absent=sql.SQL(" and ").join(absent or [sql.SQL("true")]),
    )
    _collect(job, table, column, query)
