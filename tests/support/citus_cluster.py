"""A throw-away Citus cluster: a coordinator and workers, each a warehouse server of the platform with the extension."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg import sql

from eds.base.settings import Settings
from eds.cluster import provision
from eds.cluster.connections import Cluster, Server, connect
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.ports import free_ports

# Few shards: both workers and the coordinator share one machine.
EXTRA_CONF = (
    "shared_preload_libraries = 'citus,pg_stat_statements'",
    "citus.shard_count = 4",
    "citus.node_conninfo = 'sslmode=prefer'",
    "max_connections = 100",
    "fsync = off",
)


@contextmanager
def _warehouse_server(settings: Settings) -> Iterator[Server]:
    """Start one server of the cluster; it is destroyed at the end, also when this process is killed."""
    values = {"STATE_DIR": str(settings.state), "WAREHOUSE_PORT": str(settings.warehouse_port)}
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "eds", "watchdog", str(os.getpid())],
        env=os.environ | values,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    runtime = LocalRuntime(settings, extra_conf=EXTRA_CONF)
    try:
        runtime.up_warehouse()
        yield runtime.cluster.warehouse
    finally:
        runtime.stop_all(mode="immediate")
        watchdog.kill()
        watchdog.wait()
        runtime.destroy()


def _join(coordinator: Server, workers: list[Server], passwords: dict[str, str]) -> None:
    """Make the workers known to the coordinator, and let these roles from node to node, as docs/scaling.md says it."""
    nodes = [coordinator, *workers]
    for node in nodes:
        with connect(node.superuser_conninfo("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(node.database)))
        with connect(node.superuser_conninfo(), autocommit=True) as connection:
            connection.execute("create extension citus")
            for role in passwords:
                if role != "postgres":
                    connection.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
            connection.cursor().executemany(
                "insert into pg_dist_authinfo values (0, %s, %s)",
                [(role, f"password={password}") for role, password in passwords.items()],
            )
    with connect(coordinator.superuser_conninfo(), autocommit=True) as connection:
        connection.execute("select citus_set_coordinator_host(%s, %s)", (coordinator.host, coordinator.port))
        for worker in workers:
            connection.execute("select citus_add_node(%s, %s)", (worker.host, worker.port))


@contextmanager
def citus_cluster(settings: Settings, place: Path, workers: int = 2) -> Iterator[Settings]:
    """Yield a cluster whose coordinator is provisioned as the warehouse of the OLTP cluster of `settings`.

    place: a directory for the nodes' data. Yields the settings of a platform whose warehouse is the coordinator.
    """
    ports = free_ports(workers + 1)
    nodes = [
        settings.model_copy(
            update={"state_dir": place / f"node{number}", "warehouse_port": port, "dbt_target": "citus"}
        )
        for number, port in enumerate(ports)
    ]
    with _all(nodes) as started:
        passwords = {"postgres": started[0].superuser_password}
        for role in ("etl_writer", "warehouse_reader"):
            passwords[role] = getattr(settings, f"{role}_password").get_secret_value()
        _join(started[0], started[1:], passwords)
        provision.provision_warehouse(Cluster(nodes[0]))
        yield nodes[0]


@contextmanager
def _all(nodes: list[Settings]) -> Iterator[list[Server]]:
    """Yield every server of the cluster."""
    if not nodes:
        yield []
        return
    with _warehouse_server(nodes[0]) as first, _all(nodes[1:]) as others:
        yield [first, *others]
