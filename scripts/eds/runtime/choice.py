"""Which runtime a checkout has: containers by Docker Compose, or embedded servers. All else asks a `Runtime`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from eds.base.services import ServiceState, compose_note, embedded_note, runs_in_docker
from eds.base.settings import Settings
from eds.cluster.connections import Server
from eds.runtime.docker.runtime import ComposeRuntime, why_not_docker
from eds.runtime.local.runtime import LocalRuntime


class Runtime(Protocol):
    """Starts, stops and looks at the services of one checkout."""

    @property
    def name(self) -> str:
        """As in the setting RUNTIME."""

    @property
    def settings(self) -> Settings: ...

    @property
    def inside(self) -> Settings:
        """The settings with the addresses at which the servers reach each other."""

    @property
    def servers(self) -> dict[str, Server]:
        """The four servers, as this process reaches them."""

    @property
    def primary(self) -> str:
        """The member of the OLTP cluster that takes the writes. Not cached: a failover changes it."""

    @property
    def replicas(self) -> tuple[str, ...]:
        """The members that follow the primary."""

    def prepare(self) -> None:
        """See that everything is there that a start needs; install or build what can be. Nothing is started."""

    def start_servers(self) -> None:
        """Start the four servers and PgBouncer, and bring their databases up to date. Safe to repeat."""

    def start_services(self) -> None:
        """Start what works on a warehouse that has been built: the scheduler and whoever looks. Safe to repeat."""

    def refresh_secrets(self) -> None:
        """Let everything that runs use the passwords of the settings."""

    def up_pgbouncer(self) -> bool | None:
        """Start PgBouncer, or start it anew when its configuration changed. None: there is none here."""

    def stop_all(self, mode: str = "fast") -> list[str]:
        """Stop everything, readers first. mode: fast or immediate. Returns the names of what ran."""

    def destroy(self) -> None:
        """Remove all data. Everything must be stopped."""

    def holdings(self) -> list[str]:
        """What `destroy` destroys, for a person."""

    def clear_logs(self) -> None:
        """Remove the logs. Everything must be stopped."""

    def states(self) -> list[ServiceState]:
        """What runs, in the order in which data flows."""

    def is_running(self, name: str) -> bool:
        """Whether a service runs."""

    def log_place(self, name: str) -> str:
        """Where a service's log is, for a person."""

    def tail(self, name: str, lines: int) -> list[str]:
        """The last lines of a service's log."""

    def fence(self, name: str) -> None:
        """Stop the primary, so that nothing starts it again as one once another member is noted (a failover)."""

    def promote(self, name: str) -> None:
        """Make a running replica the primary. It must be noted as such (`db.set_primary_name`) before."""

    def repoint(self, name: str) -> None:
        """Give a running member the configuration of its present part, without a restart: whom it follows, if any."""

    def why_not_following(self, name: str) -> str | None:
        """Wait until a running replica streams from the primary. Returns why it never will, or None."""

    def stop_server(self, name: str) -> bool:
        """Stop a server in order. Returns whether it ran."""

    def has_data(self, name: str) -> bool:
        """Whether a member has a data directory."""

    def rewind(self, name: str) -> None:
        """Bring a stopped member back to where it left the primary's history, by pg_rewind. Raises UserError."""

    def start_replica(self, name: str) -> str | None:
        """Start a member that has a replica's data. Returns why it does not follow the primary, or None."""

    def clone_replica(self, name: str) -> None:
        """Make a replica from the present primary and start it. Data that it had is put aside."""

    def commits_beyond(self, name: str, position: str, timeline: int) -> list[str] | None:
        """The transactions that a stopped server committed behind a position of its timeline.

        Returns a line for each, as pg_waldump tells them: its number, its position, the time of the commit. None: its
        WAL is not there, or cannot be read.
        """

    def start_copy(self, name: str, port: int) -> None:
        """Start a copy of a stopped member's data beside the primary, to look at. It takes no writes."""

    def archived_bytes(self, segment: str) -> int | None:
        """How long a WAL segment is that the primary has archived, read back whole; None when it is not there."""

    def archived_files(self) -> dict[str, int]:
        """The files of the WAL archives of all members, with their sizes in bytes."""

    def clean_archives(self, oldest: str) -> None:
        """Remove the WAL segments before this one, of any timeline, from the archives."""

    def start_side_cluster(self, base_backup: Path, target: Sequence[str], port: int) -> None:
        """Recover a copy of a base backup beside the primary, on a port of its own. It archives nothing.

        target: recovery settings, as lines of a configuration. Returns before the recovery has ended.
        """

    def side_cluster_runs(self) -> bool:
        """Whether the cluster of a recovery runs."""

    def remove_side_cluster(self) -> bool:
        """Stop and remove the cluster of a recovery. Returns whether there was one."""

    def install_side_cluster(self) -> str:
        """Put the recovered cluster in place of the primary; the replicas are cloned anew.

        The recovery must have ended. Returns where the old data is kept.
        """

    def provision(self) -> None:
        """Bring databases, roles, schemas and the foreign server of both servers up to date."""

    def client(self, name: str) -> list[str]:
        """The command line, up to its options, of a client program of PostgreSQL: pg_dump, say."""

    def psql(self, server: Server, arguments: Sequence[str], password: str) -> tuple[list[str], dict[str, str]]:
        """The command line of psql on a server, and the environment it needs."""


def chosen(settings: Settings) -> tuple[Runtime, str]:
    """The runtime of this checkout, and why it is this one.

    RUNTIME decides. Without it, a checkout stays with the runtime that has its data; a new one takes Docker when an
    engine answers, else the embedded servers.
    """
    if settings.runtime == "docker":
        return ComposeRuntime(settings), "RUNTIME says so"
    if settings.runtime == "local":
        return LocalRuntime(settings), "RUNTIME says so"
    if runs_in_docker(settings):
        return ComposeRuntime(settings), "this checkout's data is there"
    if embedded_note(settings).exists():
        return LocalRuntime(settings), "this checkout's data is there"
    if why := why_not_docker():
        return LocalRuntime(settings), why
    return ComposeRuntime(settings), "a Docker engine answers"


def has_data(settings: Settings) -> bool:
    """Whether either runtime has data of this checkout, which needs the passwords of `.env`."""
    return embedded_note(settings).exists() or compose_note(settings).exists()
