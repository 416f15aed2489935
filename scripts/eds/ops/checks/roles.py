"""Roles: each logs in with its password, and may do what it should and nothing else."""

from __future__ import annotations

import psycopg

from eds.cluster.connections import Server
from eds.cluster.provision import OLTP_ROLES, WAREHOUSE_ROLES
from eds.ops import privileges
from eds.ops.checks.result import Verification, must


def check(run: Verification) -> None:
    """Check that each role logs in, and may do what it should and nothing else."""
    cluster, settings = run.cluster, run.runtime.settings
    primary, warehouse = cluster.primary, cluster.warehouse

    def logs_in(place: Server, role: str) -> str:
        options = {"replication": "true"} if role == "replicator" else {}
        password = getattr(settings, f"{role}_password").get_secret_value()
        with psycopg.connect(place.conninfo(role, password, "postgres" if options else None, **options)):
            return ""

    def matrix(place: Server, expected: privileges.Matrix) -> str:
        with place.connect() as connection:
            found, compared = privileges.differences(connection, expected)
        must(not found, "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else ""))
        return f"{compared} cells as expected"

    for place, roles in ((primary, OLTP_ROLES), (warehouse, WAREHOUSE_ROLES)):
        for role in roles:
            run.check(
                "roles",
                f"{role} logs in with its password",
                lambda place=place, role=role: logs_in(place, role),  # type: ignore[misc]
            )
    run.check(
        "roles", "OLTP: each role may do what it should and nothing else", lambda: matrix(primary, privileges.OLTP)
    )
    run.check(
        "roles",
        "warehouse: each role may do what it should and nothing else",
        lambda: matrix(warehouse, privileges.WAREHOUSE),
    )
