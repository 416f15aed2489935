"""What happens to the servers of a replicated cluster: paused, cut off, out of reach. Each is undone at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg

from eds.cluster.connections import connect
from support.platform import Platform
from support.waiting import wait_until

REPLICAS = ("replica1", "replica2")


def server_read(platform: Platform, run: dict[str, Any]) -> str:
    """Return the name of the server that a run has read."""
    return next(
        name for name in (*REPLICAS, "primary") if run["source_host"].endswith(f" {platform.servers[name].port}")
    )


def superuser(platform: Platform, name: str) -> psycopg.Connection:
    """Return a connection of the superuser to one server, each statement committed by itself."""
    return connect(platform.servers[name].superuser_conninfo(), autocommit=True)


def pause_replay(platform: Platform, name: str) -> None:
    """Let a replica receive, but replay nothing."""
    with superuser(platform, name) as replica:
        replica.execute("select pg_wal_replay_pause()")
        wait_until(lambda: replica.execute("select pg_get_wal_replay_pause_state()").fetchone() == ("paused",))


@contextmanager
def replay_paused(platform: Platform, name: str) -> Iterator[None]:
    """Yield a replica that receives, but replays nothing, until the end."""
    pause_replay(platform, name)
    try:
        yield
    finally:
        resume_replay(platform, name)


def resume_replay(platform: Platform, name: str) -> None:
    """Let a replica replay again."""
    with superuser(platform, name) as replica:
        replica.execute("select pg_wal_replay_resume()")


def cut_off(platform: Platform, name: str) -> None:
    """Let a replica look for its primary where there is none: its walreceiver ends."""
    with superuser(platform, name) as replica:
        replica.execute("alter system set primary_conninfo = 'host=127.0.0.1 port=1 connect_timeout=1'")
        # Nor does it find the WAL in the archive.
        replica.execute("alter system set restore_command = 'false'")
        replica.execute("select pg_reload_conf()")
        wait_until(lambda: replica.execute("select count(*) from pg_stat_wal_receiver").fetchone() == (0,))


def reconnect(platform: Platform, name: str) -> None:
    """End of `cut_off`."""
    with superuser(platform, name) as replica:
        for setting in ("primary_conninfo", "restore_command"):
            replica.execute(f"alter system reset {setting}")
        replica.execute("select pg_reload_conf()")
        wait_until(lambda: replica.execute("select count(*) from pg_stat_wal_receiver").fetchone() == (1,))


@contextmanager
def replica_cut_off(platform: Platform, name: str) -> Iterator[None]:
    """Yield a replica without a walreceiver, which answers with what it has."""
    cut_off(platform, name)
    try:
        yield
    finally:
        reconnect(platform, name)


@contextmanager
def server_stopped(platform: Platform, name: str) -> Iterator[None]:
    """Yield a server that does not answer."""
    platform.runtime.postmaster.stop(name)
    try:
        yield
    finally:
        platform.runtime.postmaster.start(name)


@contextmanager
def server_frozen(platform: Platform, name: str) -> Iterator[None]:
    """Yield a server whose processes are all stopped: its connections stay, and nobody answers on them."""
    pid = platform.runtime.postmaster.pid(name)
    assert pid is not None
    postmaster = psutil.Process(pid)
    processes = [postmaster]
    try:
        # First the one that starts others.
        postmaster.suspend()
        processes += postmaster.children()
        for process in processes[1:]:
            process.suspend()
        yield
    finally:
        for process in reversed(processes):
            process.resume()


def wait_for_replica(platform: Platform, name: str) -> None:
    """Wait until one replica has replayed everything the primary has written."""
    target = platform.primary("select pg_current_wal_lsn()::text")[0][0]
    with superuser(platform, name) as replica:
        wait_until(
            lambda: replica.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", (target,)).fetchone() == (True,)
        )


def all_replicas_replay(platform: Platform) -> None:
    """Put every replica back to work, whatever a test made of it."""
    for name in REPLICAS:
        # While its replay is paused, a replica starts no walreceiver.
        resume_replay(platform, name)
        reconnect(platform, name)
    platform.wait_for_replicas()
