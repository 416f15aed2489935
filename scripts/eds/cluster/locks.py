"""Locks between the platform's own commands, with a limit, which no other role can take.

An advisory lock can be taken by everybody who may connect. These are locks of tables in the schema `platform`, on which
nobody but the superuser has a privilege. They assign no transaction id, so that they hold back no watermark.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from eds.base.errors import UserError
from eds.cluster.connections import Server, connect

LOCK_SECONDS = 30.0

_HOLDERS = """
    select process.pid, process.usename, process.application_name, process.client_addr::text,
        process.xact_start::timestamptz(0)::text, process.state
    from pg_locks as held
    inner join pg_stat_activity as process on process.pid = held.pid
    where held.relation = to_regclass(%s) and held.granted and held.pid <> pg_backend_pid()
        and held.database = (select oid from pg_database where datname = current_database())
"""
_OLDEST = """
    select process.pid, process.usename, process.application_name, process.client_addr::text,
        process.xact_start::timestamptz(0)::text, process.state
    from pg_stat_activity as process
    where process.datname = current_database() and process.xact_start is not null
        and process.pid <> pg_backend_pid()
    order by process.xact_start
    limit 3
"""


def limit_waiting(connection: psycopg.Connection, seconds: float = LOCK_SECONDS) -> None:
    """Let no statement of the connection's transaction wait longer than this for a lock."""
    connection.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(f"{round(seconds * 1000)}ms")))


def lock_table(connection: psycopg.Connection, table: str, what: str, seconds: float = LOCK_SECONDS) -> None:
    """Lock a table until the transaction's end. Raises UserError with the holder's name when it takes too long.

    what: what the lock is for, as the message begins. The transaction must have done nothing that matters yet.
    """
    try:
        with connection.transaction():
            limit_waiting(connection, seconds)
            connection.execute(sql.SQL("lock table {} in exclusive mode").format(sql.Identifier(*table.split("."))))
            connection.execute("set local lock_timeout to default")
    except psycopg.errors.LockNotAvailable as error:
        rows = connection.execute(_HOLDERS, (table,)).fetchall()
        raise UserError(
            f"{what} waits for another command, which holds the lock {table}: {_describe(rows)}. Waited "
            f"{seconds:.0f} s. Try again when it is done, or end it: select pg_terminate_backend(<process>)."
        ) from error


def blocked(connection: psycopg.Connection, what: str) -> UserError:
    """Make the error for a statement whose lock timed out. It names the transactions that may be in its way."""
    return UserError(
        f"{what} waited {LOCK_SECONDS:.0f} s for a lock and gave up; nothing was changed. Open transactions: "
        f"{_describe(connection.execute(_OLDEST).fetchall())}. End what was forgotten "
        "(select pg_terminate_backend(<process>)), then try again."
    )


@contextmanager
def command_lock(server: Server, name: str, what: str, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold a lock of this name (see infra/primary/sql/060_command_locks.sql) for as long as the block takes."""
    table = f"platform.lock_{name}"
    with connect(server.superuser_conninfo(), autocommit=True) as connection, connection.transaction():
        lock_table(connection, table, what, seconds)
        yield


def _describe(rows: list[tuple[Any, ...]]) -> str:
    """Describe processes to a person who has to decide what to do with them."""
    described = [
        f"process {pid} of {user}{f' ({name})' if name else ''}{f' from {address}' if address else ''}, "
        f"{state} since {since}"
        for pid, user, name, address, since, state in rows
    ]
    return "; ".join(described) or "none any more"
