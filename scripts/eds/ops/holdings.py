"""What a platform holds, in figures: for the question before it is destroyed."""

from __future__ import annotations

import psycopg

from eds.base.disk import size
from eds.base.errors import UserError
from eds.book.demo import fill
from eds.cluster.connections import Cluster, connect
from eds.cluster.queries import has_relation
from eds.ops import backup
from eds.runtime.member import Runtime
from eds.runtime.pgbackrest import Repository


def holdings(runtime: Runtime) -> list[str]:
    """Return the loan book, the warehouse and the backups of a platform, a line each, counted now.

    Of what does not answer a line says so: it may hold anything.
    """
    return [_book(runtime.cluster), _warehouse(runtime.cluster), *_backups(runtime)]


def _book(cluster: Cluster) -> str:
    try:
        with connect(cluster.app_conninfo()) as connection, connection.cursor() as cursor:
            if not has_relation(connection, "operational.payments"):
                return "no loan book yet"
            filled_on = fill.filled_on(cursor)
            customers, loans, payments = fill.rows_of_book(cursor)
    except (UserError, psycopg.Error):
        return "the loan book, whose primary does not answer: make up starts it, and this is asked again with figures"
    if not customers + loans + payments:
        return "an empty loan book"
    whose = "the loan book" if filled_on is None else f"the demo book of {filled_on}"
    return f"{whose}: {customers:,} customers, {loans:,} loans, {payments:,} payments"


def _warehouse(cluster: Cluster) -> str:
    try:
        with cluster.connect_as_writer() as connection:
            found = []
            for relation, question, what in (
                ("audit.etl_runs", "select count(*) from audit.etl_runs", "runs on record"),
                (
                    "publish.reported_month_ends",
                    "select count(distinct month_end) from publish.reported_month_ends",
                    "months as they were reported, which no run can bring back",
                ),
            ):
                if has_relation(connection, relation):
                    row = connection.execute(question).fetchone()
                    assert row is not None
                    found.append(f"{row[0]:,} {what}")
    except (UserError, psycopg.Error):
        return "the warehouse, which does not answer"
    return f"the warehouse: {', '.join(found)}" if found else "an empty warehouse"


def _backups(runtime: Runtime) -> list[str]:
    """Return the backups that would go: a BACKUP_DIR of the lender's own stays, with the dumps in it."""
    lines = []
    dumps = [] if runtime.settings.backup_dir else backup.find(runtime.settings)
    if dumps:
        lines.append(f"{len(dumps):,} dumps, {size(sum(each.bytes for each in dumps))}")
    try:
        physical = [] if runtime.why_no_repository else Repository(runtime).info().backups
    except (UserError, OSError):
        return [*lines, "physical backups, which cannot be listed now"]
    if physical:
        lines.append(f"{len(physical):,} physical backups, the newest of {physical[-1].finished_at:%Y-%m-%d %H:%M} UTC")
    return lines
