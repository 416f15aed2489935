"""The members of the OLTP cluster, as SQL sees them: who keeps WAL for whom, who streams, who is promoted.

The same on either runtime: it needs the servers' addresses and no server's files.
"""

from __future__ import annotations

import re
import time
from typing import Protocol

import psycopg

from eds.base.console import err
from eds.base.errors import UserError
from eds.cluster.connections import Cluster, Server
from eds.cluster.queries import execute, fetch_value

PROMOTE_SECONDS = 120
# A replica that neither streams nor catches up with the primary for this long is not following it.
STANDSTILL_SECONDS = 10.0
# How long `make up` waits for a replica that is far behind; it may go on catching up afterwards.
CATCH_UP_SECONDS = 60.0


class Watched(Protocol):
    """What has to be known of a server's process while one waits for the server."""

    def is_running(self) -> bool:
        """Return whether its process runs."""

    def tail(self, lines: int) -> list[str]:
        """Return the last lines of its log."""


class Configured(Protocol):
    """What has to be done to a server's files when its part in the cluster changes."""

    @property
    def name(self) -> str: ...

    def configure(self) -> None:
        """Write the configuration of its present part."""


def last_complaint(member: Watched) -> str:
    """Return the newest fatal error in a server's log, without its time, or nothing."""
    lines = [line for line in member.tail(50) if "FATAL: " in line]
    return lines[-1].partition("FATAL: ")[2].strip() if lines else ""


def ensure_slot(cluster: Cluster, name: str, *, clear: bool = False) -> None:
    """Let the primary keep WAL for a replica. clear: also end whoever uses the slot now."""
    execute(cluster.primary, "select platform.ensure_replication_slot(%s, %s)", (name, clear))


def drop_idle_slots(server: Server) -> None:
    """Drop the slots that nobody uses: those of a replica's time as a primary would keep WAL for ever."""
    execute(
        server,
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active",
        database="postgres",
    )


def checkpoint(server: Server) -> None:
    """Let a server write a checkpoint."""
    execute(server, "checkpoint", database="postgres")


def reload(server: Server) -> None:
    """Let a server read its configuration again."""
    execute(server, "select pg_reload_conf()", database="postgres")


def promote(server: Server) -> None:
    """Make a running replica take writes, and wait until it does; nothing when it does already. Raises UserError."""
    query = "select case when pg_is_in_recovery() then pg_promote(true, %s) else true end"
    if not fetch_value(server, query, (PROMOTE_SECONDS,), database="postgres"):
        raise UserError(
            f"{server.name} was not promoted within {PROMOTE_SECONDS} s; see `make logs SERVICE={server.name}`."
        )


def take_part(cluster: Cluster, member: Configured) -> None:
    """Let a running member take its part in the cluster, without a restart: promoted, or following the primary."""
    server = cluster.servers[member.name]
    member.configure()
    if member.name == cluster.primary_name:
        promote(server)
    reload(server)


def streams(cluster: Cluster, name: str) -> bool:
    """Return whether a replica streams from the primary."""
    query = "select count(*) from pg_stat_replication where application_name = %s and state = 'streaming'"
    return bool(fetch_value(cluster.primary, query, (name,), database="postgres"))


def _replayed(server: Server) -> str | None:
    """Return how far a replica has replayed, as text that sorts; None when the server is no replica."""
    with psycopg.connect(server.superuser_conninfo("postgres")) as connection:
        row = connection.execute(
            "select lpad(coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::text, 20) "
            "where pg_is_in_recovery()"
        ).fetchone()
    return row[0] if row else None


def why_not_following(cluster: Cluster, name: str, member: Watched) -> str | None:
    """Wait until a running replica streams from the primary. Returns why it never will, or None."""
    server = cluster.servers[name]
    began = time.monotonic()
    moved, best = began, ""
    while not streams(cluster, name):
        now = time.monotonic()
        found = ""
        try:
            position = _replayed(server)
            if position is None:
                return "it is no replica any more (it was promoted)"
            if position > best:
                moved, best = now, position
        except psycopg.OperationalError as error:
            # Until it has replayed more, its superuser may still have an earlier password.
            found = str(error).strip()
        if now - moved > STANDSTILL_SECONDS or not member.is_running():
            return found or last_complaint(member) or "it is not catching up with the primary"
        if now - began > CATCH_UP_SECONDS:
            err.print(f"{name} is still catching up with the primary; `make ps` shows when it streams")
            return None
        time.sleep(0.1)
    return None


def parse_commits(output: str) -> list[str] | None:
    """Return the lines of pg_waldump's output that are commits. None: it has not got as far as to look for any.

    Where the WAL of a server that was killed breaks off, it ends with an error too, of another kind.
    """
    found = [line.strip() for line in output.splitlines() if re.search(r"desc: COMMIT(_PREPARED)? ", line)]
    if not found and re.search(r"error: could not (open|read|find file|find any WAL file)", output):
        return None
    return found
