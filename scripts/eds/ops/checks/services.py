"""Services: each one runs, and PgBouncer answers on both of its databases."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import make_conninfo

from eds.base.services import ServiceState
from eds.cluster.connections import MEMBERS, POOLS, Cluster, connect
from eds.cluster.queries import fetch_all
from eds.ops.checks.result import Failed, Skipped, Verification, must


def check(run: Verification) -> None:
    """Check that every service runs and PgBouncer answers."""

    def look(status: str, detail: str) -> str:
        if status == "absent":
            raise Skipped(detail)
        must(status == "running", f"{status}: `make up` starts it")
        return detail

    states = run.runtime.states()
    for state in states:
        run.check("services", f"{state.name} runs", lambda state=state: look(state.status, state.detail))  # type: ignore[misc]
    run.check("services", "each member is reached by its name", lambda: _reached(run, states))
    if run.runtime.settings.uses_tls:
        run.check("services", "every session is encrypted", lambda: _encrypted(run))
    run.check("services", "PgBouncer serves queries on both databases", lambda: _pooled(run.cluster, states))


def _reached(run: Verification, states: list[ServiceState]) -> str:
    """Ask from PgBouncer's, the warehouse's and the replicas' places: the pool of the replicas has more than one."""
    running = [state.name for state in states if state.name in MEMBERS and state.status == "running"]
    trouble = run.runtime.unreachable(*running)
    must(not trouble, f"{'; '.join(trouble)}: `make up` repairs it")
    return ", ".join(running)


def _encrypted(run: Verification) -> str:
    """Try to connect without TLS, and look at the sessions that are there."""
    cluster, settings = run.cluster, run.runtime.settings
    shown = []
    for server in cluster.servers.values():
        try:
            psycopg.connect(make_conninfo(server.superuser_conninfo("postgres"), sslmode="disable")).close()
        except psycopg.OperationalError:
            pass
        else:
            raise Failed(f"{server.name} accepts a session without TLS")
        rows = fetch_all(
            server,
            "select usename, application_name from pg_stat_ssl inner join pg_stat_activity using (pid) "
            "where not ssl and client_addr is not null",
            database="postgres",
        )
        must(not rows, f"{server.name} has sessions without TLS: {', '.join(map(str, rows))}")
        shown.append(server.name)
    return f"verify-full, certificates of {settings.ca_file}; {', '.join(shown)} accept nothing else"


def _pooled(cluster: Cluster, states: list[ServiceState]) -> str:
    for state in states:
        if state.name == "pgbouncer" and state.status == "absent":
            raise Skipped(state.detail)
    found = {}
    for database, replica in POOLS.items():
        with connect(cluster.pooled_conninfo(database), prepare_threshold=None) as connection:
            row = connection.execute("select pg_is_in_recovery(), inet_server_port()").fetchone()
        must(row and row[0] is replica, f"{database} leads to a {'primary' if replica else 'replica'}")
        found[database] = row[1] if row else None
    return ", ".join(f"{database} → port {port}" for database, port in found.items())
