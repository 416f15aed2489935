"""Replication: each replica follows, refuses writes, and shows what the primary has written."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from eds.base.disk import size
from eds.cluster.connections import Cluster, connect
from eds.cluster.locks import command_lock
from eds.cluster.queries import answers, current_position, fetch_dicts, fetch_value, in_recovery, wait_for_replay
from eds.ops.checks.result import Failed, Verification, must
from eds.ops.replication import MOST_LAG_BYTES

ARRIVES_SECONDS = 15.0
PROBE = sql.Identifier("platform", "verify_probe")


@contextmanager
def _probe(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Make a table with one row, and drop it again. Yields the row's text and the WAL position after it."""
    with (
        # Two concurrent checks would drop each other's table.
        command_lock(cluster.primary, "verify_probe", "The probe of replication"),
        cluster.primary.connect(autocommit=True) as connection,
    ):
        text = secrets.token_hex(8)
        try:
            # A killed check may have left it.
            connection.execute(sql.SQL("drop table if exists {}").format(PROBE))
            connection.execute(sql.SQL("create table {} (text text)").format(PROBE))
            connection.execute(sql.SQL("insert into {} values (%s)").format(PROBE), (text,))
            row = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone()
            yield text, str(row[0] if row else "")
        finally:
            connection.execute(sql.SQL("drop table if exists {}").format(PROBE))


def check(run: Verification) -> None:
    """Check that each replica follows, is near, refuses writes and shows what the primary has written."""
    cluster = run.cluster
    known = cluster.servers
    names = cluster.replica_names

    def refuses(name: str) -> str:
        conninfo = cluster.conninfo(known[name], "app_user")
        with connect(conninfo) as connection:
            try:
                connection.execute("insert into operational.customers (full_name) values ('verify')")
            except psycopg.errors.ReadOnlySqlTransaction as error:
                return str(error).strip()
            finally:
                connection.rollback()
        raise Failed("it accepted a write")

    def streams(name: str) -> str:
        rows = fetch_dicts(
            cluster.primary,
            "select state, sync_state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint as lag "
            "from pg_stat_replication where application_name = %s",
            (name,),
        )
        must(rows, "it is not connected to the primary: `make up` repairs it")
        row = rows[0]
        must(row["state"] == "streaming", f"its state is {row['state']}")
        must(row["lag"] is not None and row["lag"] <= MOST_LAG_BYTES, f"it is {size(row['lag'])} behind")
        return f"{row['sync_state']}, {size(row['lag'])} behind"

    def recovering(name: str) -> str:
        must(in_recovery(known[name]), "it is no replica: two servers take writes; see docs/runbooks.md")
        return ""

    for name in names:
        run.check("replication", f"{name} is in recovery", lambda name=name: recovering(name))  # type: ignore[misc]
        run.check("replication", f"{name} streams and is near", lambda name=name: streams(name))  # type: ignore[misc]
        run.check("replication", f"{name} refuses writes", lambda name=name: refuses(name))  # type: ignore[misc]

    def arrives() -> str:
        server = cluster.primary
        for name in names:
            must(answers(known[name]), f"{name} does not answer")
        with _probe(cluster) as (text, position):
            for name in names:
                wait_for_replay(known[name], position, ARRIVES_SECONDS)
                must(
                    fetch_value(known[name], "select text from platform.verify_probe") == text,
                    f"{name} shows another row",
                )
        gone = current_position(server)
        for name in names:
            wait_for_replay(known[name], gone, ARRIVES_SECONDS)
            must(
                fetch_value(known[name], "select to_regclass('platform.verify_probe') is null"), f"{name} keeps the row"
            )
        return f"seen on {' and '.join(names)}, and removed again"

    run.check("replication", "a row written on the primary is readable on every replica", arrives)
