"""What brings an imported book to the dashboards."""

from __future__ import annotations

import psycopg
from psycopg import sql

from eds.base.errors import UserError
from eds.book.csv_import.schema import TABLES
from eds.cluster.connections import Cluster, connect
from eds.cluster.queries import has_relation

# As in guard_mass_delete() of macros/extraction/load_landing_table.sql.
_FEW_ROWS = 10


def is_mass_delete(lost: int, live: int, max_share: float) -> bool:
    """Return whether a run refuses to take over the loss of so many of a table's rows."""
    return lost > 0 and lost > live * max_share and (lost >= _FEW_ROWS or lost == live)


def mass_deletes(cluster: Cluster) -> list[str]:
    """Return the tables whose loss the next run would refuse, each with its figures.

    All tables are compared: the loss may be one of an earlier import, or of somebody else. A run sets rows that were
    inserted against rows that went, so that the numbers of rows on both sides are all that has to be known. From a
    warehouse that does not answer, or has not run yet, nothing can be lost.
    """
    found: list[str] = []
    try:
        with cluster.connect_as_writer() as copies, connect(cluster.app_conninfo()) as primary:
            for table in (str(table.name) for table in TABLES):
                name = sql.Identifier("operational", table)
                if not all(has_relation(each, f"operational.{table}") for each in (copies, primary)):
                    continue
                live = _count(copies, sql.SQL("select count(*) from {} where _deleted_at is null").format(name))
                lost = live - _count(primary, sql.SQL("select count(*) from {}").format(name))
                if is_mass_delete(lost, live, cluster.settings.etl_max_delete_share):
                    found.append(f"{lost:,} of {live:,} rows of {table}")
    except (psycopg.Error, UserError):
        return []
    return found


def _count(connection: psycopg.Connection, query: sql.Composed) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def next_step(cluster: Cluster) -> str:
    """Return the sentence that ends an import."""
    losses = mass_deletes(cluster)
    if losses:
        return (
            f"The warehouse is to lose {', '.join(losses)}, which it does only when that is confirmed. "
            "To bring the book to the dashboards: make etl NOW=1 MASS_DELETE=1"
        )
    return "The next scheduled run brings the book to the dashboards; to do it now: make etl NOW=1"
