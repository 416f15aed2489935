"""Short queries on one server, and waiting for a condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from psycopg.rows import dict_row
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from eds.base.errors import UserError
from eds.cluster.connections import Server, wait_until_accepting


def fetch_all(server: Server, query: str, parameters: Any = None, database: str | None = None) -> list[tuple[Any, ...]]:
    """Run one statement as a server's superuser, committed by itself. Returns its rows."""
    with server.connect(database, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


# For statements whose result does not matter.
execute = fetch_all


def fetch_dicts(server: Server, query: str, parameters: Any = None) -> list[dict[str, Any]]:
    """Run one statement as `fetch_all` does, with each row as a dictionary."""
    with server.connect(autocommit=True) as connection:
        return connection.cursor(row_factory=dict_row).execute(query.encode(), parameters).fetchall()


def fetch_value(server: Server, query: str, parameters: Any = None, database: str | None = None) -> Any:
    """Return the single value that a query gives."""
    return fetch_all(server, query, parameters, database)[0][0]


def has_relation(connection: psycopg.Connection[Any], name: str) -> bool:
    """Return whether the connection's database has a table or view of this name, which has its schema in front."""
    return connection.execute("select to_regclass(%s) is not null", (name,)).fetchone() == (True,)


def count_rows(connection: psycopg.Connection, tables: Iterable[str]) -> dict[str, int]:
    """Count the rows of tables, in the connection's transaction. tables: their names, quoted where SQL needs it."""
    counts = {}
    for table in tables:
        row = connection.execute(f"select count(*) from {table}".encode()).fetchone()  # noqa: S608 - names of the catalogue
        assert row is not None
        counts[table] = int(row[0])
    return counts


def answers(server: Server, seconds: float = 1.0) -> bool:
    """Return whether a server accepts a login of its superuser."""
    try:
        wait_until_accepting(server.superuser_conninfo("postgres"), seconds)
    except UserError:
        return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.05) -> None:
    """Wait until `condition` holds; what a server that restarts answers is no. Raises UserError after `seconds`."""

    def holds() -> bool:
        try:
            return condition()
        except (psycopg.OperationalError, UserError):
            return False

    try:
        Retrying(stop=stop_after_delay(seconds), wait=wait_fixed(every), retry=retry_if_result(lambda met: not met))(
            holds
        )
    except RetryError as error:
        raise UserError(f"Timed out after {seconds:.0f} s; expected: {what}.") from error


def in_recovery(server: Server) -> bool:
    """Return whether a server is a replica."""
    return bool(fetch_value(server, "select pg_is_in_recovery()"))


def current_position(server: Server) -> str:
    """Return the end of the WAL that a primary has written."""
    return str(fetch_value(server, "select pg_current_wal_flush_lsn()"))


def wait_for_replay(server: Server, position: str, seconds: float) -> None:
    """Wait until a replica has replayed up to `position`. Raises UserError after `seconds`."""
    wait_for(
        lambda: bool(fetch_value(server, "select pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,))),
        seconds,
        f"{server.name} has replayed up to {position}",
    )
