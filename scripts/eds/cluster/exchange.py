"""A database that takes the place of another one on its server (`make restore`), and what an interrupt of that leaves.

While the two are exchanged, both let nobody in but superusers. The exchange itself is one transaction.
"""

from __future__ import annotations

import re

import psycopg
from psycopg import sql

from eds.cluster.connections import Server, psycopg_notices_off

# The connection limit of a database that only superusers can enter.
NOBODY = 0


def leftovers(server: Server, databases: dict[str, int]) -> tuple[list[str], list[str]]:
    """Return the databases that a restore was loading, and those that it replaced, of all names of a server."""
    pattern = rf"{re.escape(server.database)}_(restore|replaced)_\d{{8}}_\d{{6}}"
    kinds = {name: found[1] for name in sorted(databases) if (found := re.fullmatch(pattern, name))}
    loading, replaced = ([name for name, each in kinds.items() if each == kind] for kind in ("restore", "replaced"))
    return loading, replaced


def limits(connection: psycopg.Connection) -> dict[str, int]:
    """Return the databases of a server with their connection limits."""
    return dict(connection.execute("select datname, datconnlimit from pg_database").fetchall())


def reopen(server: Server) -> list[str]:
    """Let everybody in again where an interrupted restore left the database closed. Returns what was done.

    The book from before it serves when the two databases were not exchanged yet, else the restored one.
    """
    with server.connect("postgres", autocommit=True) as connection:
        psycopg_notices_off(connection)
        databases = limits(connection)
        if databases.get(server.database) != NOBODY:
            return []
        loading, replaced = leftovers(server, databases)
        exchanged = bool(replaced) and not loading
        if exchanged and server.name != "warehouse":
            announce(server)
        connection.execute(sql.SQL("alter database {} connection limit -1").format(sql.Identifier(server.database)))
    what = "the restored one" if exchanged else "the one from before it"
    return [f"{server.database} accepts connections again: a restore was interrupted, and it is {what}"]


def announce(server: Server) -> None:
    """Announce in the change feed that the book was reloaded: one entry lets the warehouse compare all tables.

    After the exchange, and before anybody gets in: the transaction is then younger than every snapshot of the old
    database.
    """
    with server.connect() as connection:
        connection.execute(
            "insert into operational.audit_log (table_name, operation, record_id) values ('customers', 'RELOAD', 0)"
        )
