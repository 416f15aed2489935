"""The members of the OLTP cluster, as SQL sees them: who keeps WAL for whom, who streams, who is promoted.

The same on either runtime: it needs the servers' addresses and no server's files.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import psycopg

from eds.base.console import err
from eds.base.errors import UserError
from eds.base.settings import Settings
from eds.cluster.connections import Server, connect, primary_name, primary_server, replica_names, servers

PROMOTE_SECONDS = 120
# A replica that neither streams nor comes nearer to the primary for this long is not following it.
STANDSTILL_SECONDS = 10.0
# A replica that has a long way to go may go it after `make up` is done.
CATCH_UP_SECONDS = 60.0


class Membership:
    """Who is who in the OLTP cluster, for a runtime. Not cached: a failover changes it."""

    settings: Settings

    @property
    def primary(self) -> str:
        """The member that takes the writes."""
        return primary_name(self.settings)

    @property
    def replicas(self) -> tuple[str, ...]:
        """The members that follow the primary."""
        return replica_names(self.settings)


def ensure_slot(settings: Settings, name: str, *, clear: bool = False) -> None:
    """See that the primary keeps WAL for a replica. clear: also end whoever uses the slot now."""
    with connect(primary_server(settings).superuser_conninfo(), autocommit=True) as connection:
        connection.execute("select platform.ensure_replication_slot(%s, %s)", (name, clear))


def drop_idle_slots(server: Server) -> None:
    """Drop the slots that nobody uses: those of a replica's time as a primary would keep WAL for ever."""
    with connect(server.superuser_conninfo("postgres"), autocommit=True) as connection:
        connection.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active")


def checkpoint(server: Server) -> None:
    """Let a server write a checkpoint."""
    with connect(server.superuser_conninfo("postgres"), autocommit=True) as connection:
        connection.execute("checkpoint")


def reload(server: Server) -> None:
    """Let a server read its configuration again."""
    with connect(server.superuser_conninfo("postgres"), autocommit=True) as connection:
        connection.execute("select pg_reload_conf()")


def promote(server: Server) -> None:
    """Make a running replica take writes, and wait until it does; nothing when it does already. Raises UserError."""
    with connect(server.superuser_conninfo("postgres"), autocommit=True) as connection:
        row = connection.execute(
            "select case when pg_is_in_recovery() then pg_promote(true, %s) else true end", (PROMOTE_SECONDS,)
        ).fetchone()
    if row is None or not row[0]:
        raise UserError(
            f"{server.name} was not promoted within {PROMOTE_SECONDS} s; see `make logs SERVICE={server.name}`."
        )


def streams(settings: Settings, name: str) -> bool:
    """Whether a replica streams from the primary."""
    with connect(primary_server(settings).superuser_conninfo("postgres")) as connection:
        row = connection.execute(
            "select 1 from pg_stat_replication where application_name = %s and state = 'streaming'", (name,)
        ).fetchone()
    return row is not None


def _replayed(server: Server) -> str | None:
    """How far a replica has replayed, as text that sorts; None when the server is no replica."""
    with psycopg.connect(server.superuser_conninfo("postgres")) as connection:
        row = connection.execute(
            "select lpad(coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::text, 20) "
            "where pg_is_in_recovery()"
        ).fetchone()
    return row[0] if row else None


def why_not_following(
    settings: Settings, name: str, runs: Callable[[], bool], complaint: Callable[[], str]
) -> str | None:
    """Wait until a running replica streams from the primary. Returns why it never will, or None.

    runs: whether its server runs. complaint: the newest one in its log, or nothing.
    """
    server = servers(settings)[name]
    began = time.monotonic()
    moved, best = began, ""
    while not streams(settings, name):
        now = time.monotonic()
        found = ""
        try:
            position = _replayed(server)
            if position is None:
                return "it is no replica any more (it was promoted)"
            if position > best:
                moved, best = now, position
        except psycopg.OperationalError as error:
            # Its password may be that of an earlier time until it has replayed more.
            found = str(error).strip()
        if now - moved > STANDSTILL_SECONDS or not runs():
            return found or complaint() or "it does not come nearer to the primary"
        if now - began > CATCH_UP_SECONDS:
            err.print(f"{name} is still catching up with the primary; `make ps` shows when it streams")
            return None
        time.sleep(0.1)
    return None


def commits(told: str) -> list[str] | None:
    """The lines of pg_waldump's output that tell of a commit. None: it has not got as far as to look for any.

    Where the WAL of a server that was killed breaks off, it ends with an error too, of another kind.
    """
    found = [line.strip() for line in told.splitlines() if re.search(r"desc: COMMIT(_PREPARED)? ", line)]
    if not found and re.search(r"error: could not (open|read|find file|find any WAL file)", told):
        return None
    return found
