"""Write the rows of an import that differ from those of the operational tables."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql

from eds.book.csv_import import planning
from eds.book.csv_import.job import Counts, Job
from eds.book.csv_import.schema import Table
from eds.book.csv_import.statements import names, same, statement


def write(job: Job, deletions: dict[str, int]) -> dict[str, Counts]:
    # Each table refers only to tables before it.
    backwards = job.known[::-1]
    for table in backwards:
        if table.name in job.replaced:
            job.cursor.execute(statement(table, "delete from {target}"))
    _free_unique_values(job)
    # Payments and instalments are deleted first, because their loans may be deleted. Loans, customers and products are
    # deleted after every remaining row was written, because a remaining row may have referred to a deleted one.
    gone = [table for table in backwards if deletions[table.name] and table.name not in job.replaced]
    for table in gone:
        if table.name in ("loan_installments", "payments"):
            _delete(job, table)
    counts: dict[str, Counts] = {}
    for table in job.tables:
        updated = _update(job, table)
        inserted = _insert(job, table)
        (unchanged,) = job.numbers(table, "select count(*) from {final} where is_present and not is_changed")
        counts[table.name] = Counts(inserted, updated, deletions[table.name], unchanged)
    for table in gone:
        if table.name not in ("loan_installments", "payments"):
            _delete(job, table)
    for table in job.tables:
        # Where the key comes from the file.
        if counts[table.name].inserted and table.key_size == 1:
            _advance_sequence(job, table)
    _remark_schedules(job)
    if job.replaced:
        # The last statement: what is read before this time shows the demo book still.
        job.cursor.execute("update operational.demo_book set replaced_at = clock_timestamp() where replaced_at is null")
    return counts


def _remark_schedules(job: Job) -> None:
    """Remark on instalments that do not fit their loan. They are the lender's, so they are written as they are."""
    table = next((table for table in job.tables if table.name == "loan_installments"), None)
    if table is None:
        return
    checks: tuple[tuple[str, LiteralString], ...] = (
        (
            "the instalments' principal is not the amount of the loan",
            "select count(*) from (select loans.loan_id from {target} as present"
            " join operational.loans on loans.loan_id = present.loan_id {scope}"
            " group by loans.loan_id having sum(present.principal_due) <> min(loans.amount)) as found",
        ),
        (
            "a later instalment is not due later",
            "select count(distinct loan_id) from (select loan_id, due_date,"
            " lag(due_date) over (partition by loan_id order by installment_no) as previous_date"
            " from {target} as present {scope}) as found where due_date <= previous_date",
        ),
        (
            "an instalment is due before the disbursement",
            "select count(distinct loans.loan_id) from {target} as present join operational.loans"
            " on loans.loan_id = present.loan_id and present.due_date < loans.disbursed_at::date {scope}",
        ),
    )
    scope = statement(table, "where present.{key} in (select {key} from {file})")
    for words, query in checks:
        (loans,) = job.numbers(table, query, scope=scope)
        if loans:
            job.remarks.append(f"{table.name}: {words} in {loans:,} loan{'' if loans == 1 else 's'}")


def _free_unique_values(job: Job) -> None:
    """Empty unique values that another row is about to take over, e.g. when two customers swap their e-mails.

    The database checks uniqueness row by row, so in one update the swap would fail midway. The rows get their
    own new values, or are deleted, later in the same transaction.
    """
    for table in job.tables:
        for column in job.loaded[table.name].columns:
            if column.unique:
                query = statement(
                    table,
                    """
                    update {target} as present
                    set {column} = null
                    from {final} as final
                    where final.{column} = present.{column} and final.{key} <> present.{key}
                    """,
                    column=sql.Identifier(column.name),
                )
                job.cursor.execute(query)


def _update(job: Job, table: Table) -> int:
    assignments = [
        sql.SQL("{0} = final.{0}").format(sql.Identifier(column.name))
        for column in (table.columns if job.sync else job.loaded[table.name].columns)
        if column not in table.keys and column.name != "created_at"
    ]
    if not assignments:
        return 0
    query = statement(
        table,
        """
        update {target} as present
        set {assignments}
        from {final} as final
        where final.is_changed and {same}
        """,
        same=same(table, "final", "present"),
        assignments=sql.SQL(", ").join(assignments),
    )
    return job.cursor.execute(query).rowcount


def _insert(job: Job, table: Table) -> int:
    query = statement(
        table,
        "insert into {target} ({columns}) select {columns} from {final} where not is_present order by {keys}",
        columns=names(table.columns),
        keys=names(table.keys),
    )
    return job.cursor.execute(query).rowcount


def _delete(job: Job, table: Table) -> None:
    query = statement(table, "delete from {target} as present where {is_gone}", is_gone=planning.is_gone(job, table))
    job.cursor.execute(query)


def _advance_sequence(job: Job, table: Table) -> None:
    """Let the application's next keys come from where numbers are free."""
    job.cursor.execute("select operational.advance_identity(%s::regclass)", [f"operational.{table.name}"])
