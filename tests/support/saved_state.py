"""A loan book and the warehouse built from it, put back in a fraction of the time that filling and building take.

The rows of the book come back as they were: with their times, their keys and the transaction ids of the audit trail,
all of which are below the watermark that the warehouse holds. What happened on the source since then is gone with the
rows, as if it had never been; transaction ids only grow, so the next change is above the watermark.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from eds.cluster.connections import connect
from support.platform import TABLES, Platform

IDENTITY = """
    select system_identifier, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
    from pg_control_system()
"""


@dataclass(frozen=True)
class SavedState:
    """What is put back. source, next_transaction: when it was saved, to see whether it still holds."""

    warehouse_template: str
    source: Any
    next_transaction: int
    rows: dict[str, bytes]
    sequences: list[tuple[str, int, bool]]

    def holds(self, platform: Platform) -> bool:
        """Return whether the source is still the server that it was: same cluster, same timeline, later in time."""
        source, next_transaction = _identity(platform)
        return source == self.source and next_transaction >= self.next_transaction


def _identity(platform: Platform) -> tuple[Any, int]:
    with connect(platform.superuser_conninfo) as connection:
        source = connection.execute(IDENTITY).fetchone()
        row = connection.execute("select pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
    assert row is not None
    return source, int(row[0])


def save(platform: Platform, name: str) -> SavedState:
    """Save the book and the warehouse as they are."""
    rows = {}
    with connect(platform.superuser_conninfo) as connection:
        for table in (*TABLES, "audit_log"):
            with connection.cursor().copy(f"copy operational.{table} to stdout") as copy:
                rows[table] = b"".join(bytes(part) for part in copy)
        names = connection.execute(
            "select schemaname, sequencename from pg_sequences where schemaname = 'operational'"
        ).fetchall()
        sequences = []
        for schema, sequence in names:
            # Its own row: pg_sequences shows no value that was set and not yet taken.
            query = sql.SQL("select last_value, is_called from {}").format(sql.Identifier(schema, sequence))
            last, is_called = connection.execute(query).fetchall()[0]
            sequences.append((f"{schema}.{sequence}", last, is_called))
    template = f"template_of_{name}"
    with connect(platform.servers["warehouse"].superuser_conninfo("postgres"), autocommit=True) as connection:
        databases = {"template": sql.Identifier(template), "database": sql.Identifier(platform.settings.warehouse_db)}
        connection.execute(sql.SQL("drop database if exists {template} with (force)").format(**databases))
        connection.execute(sql.SQL("create database {template} template {database}").format(**databases))
        connection.execute(sql.SQL("revoke all on database {template} from public").format(**databases))
    source, next_transaction = _identity(platform)
    return SavedState(template, source, next_transaction, rows, sequences)


def restore(platform: Platform, state: SavedState) -> None:
    """Put a saved state in place of the present book and warehouse."""
    with platform.emptied_tables() as connection:
        for table, content in state.rows.items():
            with connection.cursor().copy(f"copy operational.{table} from stdin") as copy:
                copy.write(content)
        for sequence, last, is_called in state.sequences:
            connection.execute("select setval(%s::regclass, %s, %s)", (sequence, last, is_called))
    platform.empty_warehouse(state.warehouse_template)
    platform.wait_for_replicas()


def begin_with(
    platform: Platform, saved_states: dict[str, SavedState], name: str, make: Callable[[Platform], object]
) -> Platform:
    """Bring the platform to the state that `make` brings an empty one to, made once for all that begin with it."""
    state = saved_states.get(name)
    if state and state.holds(platform):
        restore(platform, state)
    else:
        platform.empty_book()
        platform.empty_warehouse()
        make(platform)
        saved_states[name] = save(platform, name)
    return platform
