"""The seam between the platform and what it runs on: what containers and embedded processes must be able to do.

A `Member` is one PostgreSQL server and its files; a `Runtime` is all services of a checkout. Whatever can be expressed
in these (a rewind, a recovery beside the primary, what a former primary alone has committed) is written once, above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from eds.base.programs import Finished
from eds.base.services import ServiceState
from eds.base.settings import Settings
from eds.cluster.connections import Cluster, Server
from eds.cluster.server_conf import Address, Places


class Member(Protocol):
    """One server of the OLTP cluster, or the recovered one beside it. Paths are those that its own programs see."""

    @property
    def name(self) -> str: ...

    @property
    def data(self) -> Path:
        """Its data directory."""

    @property
    def places(self) -> Places:
        """Where it finds what its configuration names: pgBackRest's configuration, scripts."""

    @property
    def conf_file(self) -> Path:
        """Its main configuration file."""

    @property
    def address(self) -> Address:
        """Where the other members reach it."""

    def data_of(self, name: str) -> Path:
        """Return where it sees the data directory of another member."""

    def run(
        self,
        command: Sequence[str | Path],
        *,
        env: dict[str, str] | None = None,
        what: str = "",
        check: bool = True,
        stdin: str = "",
        timeout: float | None = None,
    ) -> Finished:
        """Run a program with its files, as the servers' account. Raises UserError when it fails, unless not `check`.

        timeout: it is ended after so many seconds, and has then failed.
        """

    def exists(self, path: Path) -> bool:
        """Return whether there is a file or directory."""

    def write(self, path: Path, text: str) -> None:
        """Write a file."""

    def configure(self) -> None:
        """Write the configuration of its present part in the cluster; it takes effect with a reload or a start."""

    def start(self) -> None:
        """Start it, and wait until it accepts logins."""

    def stop(self) -> None:
        """Stop it in order; nothing but a command starts it again."""

    def fence(self, *, at_once: bool = False) -> None:
        """Stop it so that nothing starts it again as a primary. at_once: it does not answer, so do not wait for it."""

    def is_running(self) -> bool:
        """Return whether its process runs."""

    def tail(self, lines: int) -> list[str]:
        """Return the last lines of its log."""

    def clone(self) -> None:
        """Make it a replica of the present primary, and start it. Data that it had is kept aside."""

    def fill(self, source: str | Callable[[Path], list[str | Path]], lines: Sequence[str]) -> None:
        """Give it a data directory, and the primary's configuration with these further lines.

        source: the name of a stopped member whose data is copied, or what gives the command that fills a directory.
        """

    def replace_data(self, source: Member) -> str:
        """Put the data of another stopped member in place of its own. Returns where its own is kept, for a person."""

    def adopt_superuser_password(self) -> None:
        """Give it, while it is stopped, the superuser's password of the settings; its own need not be known."""

    def remove(self) -> bool:
        """Stop it at once and remove its data. Returns whether there was any."""


class Runtime(Protocol):
    """All services of one checkout."""

    @property
    def name(self) -> str:
        """As in the setting RUNTIME."""

    @property
    def settings(self) -> Settings: ...

    @property
    def cluster(self) -> Cluster:
        """The servers, as this process reaches them."""

    @property
    def inside(self) -> Cluster:
        """The servers, as they reach each other."""

    def member(self, name: str) -> Member:
        """Return one server of the OLTP cluster, or the recovered one."""

    @property
    def why_no_repository(self) -> str | None:
        """Why there is neither a WAL archive nor a physical backup here, with what to install; None: there are both."""

    def prepare(self) -> None:
        """Ensure everything that a start needs; install or build what can be. Nothing is started."""

    def prepare_recovery(self) -> None:
        """Make, where nothing was ever started, what the programs of a member need: its configuration, a repository."""

    def start_servers(self) -> None:
        """Start the four servers and PgBouncer, and bring their databases up to date. Safe to repeat."""

    def launch_services(self) -> None:
        """Start what takes long to be ready and waits for its time, such as the scheduler, beside the first build."""

    def start_services(self) -> None:
        """Start what needs a warehouse that has been built: the scheduler and the dashboards. Safe to repeat."""

    def start_pgbouncer(self) -> bool | None:
        """Start PgBouncer, or let it adopt a changed configuration. None: there is none here."""

    def renew_certificates(self, *, ca: bool) -> list[str]:
        """Give every server that listens another certificate, and another CA when asked to. Returns their names."""

    def unreachable(self, *names: str) -> list[str]:
        """Say which of these members are not reached by name from PgBouncer, the warehouse or a replica that runs."""

    def provision(self) -> None:
        """Bring databases, roles, schemas and the foreign server of both servers up to date."""

    def refresh_secrets(self) -> None:
        """Let everything that runs use the passwords of the settings."""

    def stop_all(self, mode: str = "fast") -> list[str]:
        """Stop everything, readers first. mode: fast or immediate. Returns the names of what ran."""

    def destroy(self) -> None:
        """Remove all data. Everything must be stopped."""

    def data_locations(self) -> list[str]:
        """List what `destroy` destroys, for a person."""

    def leftovers(self) -> list[str]:
        """List what `destroy` did not remove and that looks like this platform's, for a person."""

    def clear_logs(self) -> None:
        """Remove the logs. Everything must be stopped."""

    def states(self) -> list[ServiceState]:
        """List the services and their states, in the order in which data flows."""

    def is_running(self, name: str) -> bool:
        """Return whether a service runs."""

    def log_place(self, name: str) -> str:
        """Return where a service's log is, for a person."""

    def tail(self, name: str, lines: int) -> list[str]:
        """Return the last lines of a service's log."""

    def client(self, name: str) -> list[str]:
        """Return the command line, up to its options, of a client program of PostgreSQL: pg_dump, say."""

    def script_psql(self) -> tuple[list[str], dict[str, Any]]:
        """Return the command line, up to its options, of psql for SQL of others, and the account that it runs as.

        The account: as arguments of subprocess. It is never root where that can be avoided.
        """

    def psql(self, server: Server, arguments: Sequence[str], password: str) -> tuple[list[str], dict[str, str]]:
        """Return the command line of psql on a server, and the environment it needs."""
