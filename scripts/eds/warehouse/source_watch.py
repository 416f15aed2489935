"""Notices that the server which a run reads has stopped answering.

A server that is frozen (its container paused, its machine suspended, its processes stopped) keeps its connections: its
kernel acknowledges what arrives, so that no time limit of TCP ends them. The read that waits for it may rightly take an
hour. What tells the two apart is whether the server still answers anybody else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

from eds.base.errors import UserError
from eds.cluster.connections import MEMBERS, Cluster, Server
from eds.cluster.queries import has_relation
from eds.warehouse.run_sessions import is_of_run

# How long a source may not answer before the run that reads it is ended.
SILENT_SECONDS = 60.0
LOOK_SECONDS = 5.0
PING_SECONDS = 3
# Of each address that was asked: whether anything has ever answered there.
_answered: dict[tuple[str, int], bool] = {}
# Part of the message of a run that was ended for that (runs.TRANSIENT: the next try reads another server).
SILENT = "has stopped answering"


@dataclass(frozen=True)
class Reading:
    """A run whose session in the warehouse waits for rows of a member of the source."""

    run_id: int
    started_by: str
    member: str


def reading(cluster: Cluster) -> Reading | None:
    """Return the run that waits for a server of the source now."""
    with cluster.connect_as_writer(autocommit=True) as connection:
        # A warehouse of an earlier version gets the column with its next run.
        if not has_relation(connection, "operational_fdw.source_settings"):
            return None
        row = connection.execute(
            sql.SQL(
                "select runs.run_id, runs.started_by, runs.source_name from audit.etl_runs as runs "
                "inner join pg_stat_activity as activity on {} "
                "where runs.status = 'running' and runs.source_name = any(%s) "
                "and activity.state = 'active' and activity.wait_event_type = 'Extension'"
            ).format(is_of_run(sql.Identifier("runs", "dbt_invocation_id"))),
            (list(MEMBERS),),
        ).fetchone()
    return Reading(*row) if row else None


def answers(server: Server) -> bool:
    """Return whether a server answers a new client at all, even if only with a refusal."""
    conninfo = make_conninfo(
        host=server.host, port=server.port, dbname=server.database, user="etl_reader", connect_timeout=PING_SECONDS
    )
    answer = PGconn.ping(conninfo.encode()) in (Ping.OK, Ping.REJECT)
    place = server.host, server.port
    _answered[place] = answer or _answered.get(place, False)
    return answer


def _has_answered(server: Server) -> bool:
    """Return whether a server has ever answered this process. Asked once: an unknown name can take long to resolve."""
    place = server.host, server.port
    return _answered[place] if place in _answered else answers(server)


def silent_source(cluster: Cluster) -> Reading | None:
    """Return the run that waits for a server which answers nobody; None when no run does, or the warehouse is away."""
    try:
        found = reading(cluster)
    except (UserError, psycopg.Error):
        return None
    return found if found and not answers(cluster.servers[found.member]) else None


@contextmanager
def watched(cluster: Cluster, who: str, end: Callable[[str], None]) -> Iterator[None]:
    """Call `end` with the reason, once, when the server that the run of `who` reads falls silent meanwhile.

    Only a server that has answered here before falls silent: the scheduler's container reaches the warehouse alone.
    """
    done = threading.Event()

    def watch() -> None:
        heard = [member for member in MEMBERS if _has_answered(cluster.servers[member])]
        silent_since: float | None = None
        while heard and not done.wait(LOOK_SECONDS):
            found = silent_source(cluster)
            if found is None or found.started_by != who or not _has_answered(cluster.servers[found.member]):
                silent_since = None
                continue
            now = time.monotonic()
            silent_since = silent_since or now
            if now - silent_since >= SILENT_SECONDS and not done.is_set():
                end(
                    f"{found.member} {SILENT} while this run was reading it; another server is read. Look at its"
                    " container or machine: paused, suspended, without a disk?"
                )
                return

    thread = threading.Thread(target=watch, name="source-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
