"""Services: each one runs, and PgBouncer answers on both of its databases."""

from __future__ import annotations

from eds.base.services import ServiceState
from eds.cluster.connections import Cluster, connect
from eds.ops.checks.result import Skipped, Verification, must


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
    run.check("services", "PgBouncer serves queries on both databases", lambda: _pooled(run.cluster, states))


def _pooled(cluster: Cluster, states: list[ServiceState]) -> str:
    for state in states:
        if state.name == "pgbouncer" and state.status == "absent":
            raise Skipped(state.detail)
    found = {}
    for database, replica in (("loans_db", False), ("loans_db_ro", True)):
        with connect(cluster.pooled_conninfo(database), prepare_threshold=None) as connection:
            row = connection.execute("select pg_is_in_recovery(), inet_server_port()").fetchone()
        must(row and row[0] is replica, f"{database} leads to a {'primary' if replica else 'replica'}")
        found[database] = row[1] if row else None
    return ", ".join(f"{database} → port {port}" for database, port in found.items())
