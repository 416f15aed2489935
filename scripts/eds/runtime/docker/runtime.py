"""The Docker runtime: the platform's services in containers, by Docker Compose (infra/compose.yaml).

Compose knows what runs and in which order. Here is what it cannot know: whether this machine and this checkout may
start, what a failover changes, and what to report when a step fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from eds.base import programs
from eds.base.console import done, err, step
from eds.base.errors import UserError
from eds.base.services import BACKUP_SCHEDULER, OWN_STATE_MARK, SIDE, ServiceState, embedded_note
from eds.base.settings import OPTIONAL_SERVICES, SERVICES_WITH_HOST, Settings
from eds.cluster import members, tls
from eds.cluster.connections import MEMBERS, Cluster, Server
from eds.runtime.docker import engine
from eds.runtime.docker.compose import Compose
from eds.runtime.docker.engine import why_not_docker
from eds.runtime.docker.files import ADOPT_CERTIFICATES, CA, MOUNTED, PGDATA, SERVER_PORT, Files
from eds.runtime.docker.member import ComposeMember
from eds.runtime.local import binaries
from eds.runtime.local.home import Home, reachable, unprivileged_account
from eds.runtime.local.services import SCHEDULER_STOPS_SECONDS, Services
from eds.runtime.pgbackrest import check_directory
from eds.runtime.ports import check_addresses

SERVERS = ("primary", "replica1", "replica2", "warehouse", "pgbouncer")
# Services that need a warehouse that has been built, or nothing but the warehouse.
LATER = ("scheduler", *OPTIONAL_SERVICES)


@dataclass
class ComposeRuntime:
    """Starts, stops and looks at the services of one checkout: the `Runtime` of Docker Compose."""

    name: ClassVar[str] = "docker"

    settings: Settings

    # --- its parts ----------------------------------------------------------------------------------------------------

    @cached_property
    def cluster(self) -> Cluster:
        """The servers, as this machine reaches them."""
        return Cluster(self.settings)

    @property
    def inside(self) -> Cluster:
        places: dict[str, str | int | Path] = {"tls": "on" if self.settings.uses_tls else "off", "tls_ca_file": CA}
        for name in self.cluster.servers:
            places |= {f"{name}_host": name, f"{name}_port": SERVER_PORT}
        return Cluster(self.settings.model_copy(update=places))

    @cached_property
    def files(self) -> Files:
        """What the containers read."""
        return Files(self.cluster)

    @cached_property
    def compose(self) -> Compose:
        """The Compose project."""
        return Compose(self.files)

    @cached_property
    def host_services(self) -> Services:
        """The processes of this machine beside the containers: the scheduler of backups.

        It uses the engine as a person's commands do. A container in its place would need the engine's socket, which is
        as good as root on this machine, or the data and the passwords of every server.
        """
        return Services(Home(self.settings), self.cluster)

    def member(self, name: str) -> ComposeMember:
        return ComposeMember(name, self.cluster, self.files, self.compose)

    @property
    def services(self) -> list[str]:
        """The services that should run, in the order in which data flows."""
        return [name for name in (*SERVERS, *LATER) if name not in self.settings.left_out]

    @property
    def why_no_repository(self) -> str | None:
        """Why there is neither a WAL archive nor a physical backup here: the image of the members has pgBackRest."""
        return None

    # --- the platform -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Check the engine and the addresses, write what the containers read, build the images. Nothing is started."""
        if why := why_not_docker():
            raise UserError(
                f"RUNTIME is docker, but {why}. Fix that, or set RUNTIME=local for the embedded servers, which have "
                "data of their own."
            )
        elsewhere = [
            name
            for name in SERVICES_WITH_HOST
            if getattr(self.settings, f"{name}_host") not in ("127.0.0.1", "localhost")
        ]
        if elsewhere:
            raise UserError(
                "With Docker, every port is published on 127.0.0.1. Remove from .env and the environment: "
                + ", ".join(f"{name.upper()}_HOST" for name in elsewhere)
            )
        check_directory(self.settings)
        self.files.render()
        self.compose.claim()
        self._check_data()
        places = {
            name: (getattr(self.settings, f"{name}_host", "127.0.0.1"), getattr(self.settings, f"{name}_port"))
            for name in self.services
            if name != "scheduler"
        }
        check_addresses(places, {port for row in self.compose.containers() for port in _published(row)})
        if why := self.compose.why_no_image("warehouse"):
            raise UserError(
                f"The image {self.compose.image('warehouse')} cannot be pulled: {why}\nFix that, or set RUNTIME=local, "
                "which needs no images."
            )
        with step("images"):
            self.compose.run("build", show=True)
        self.compose.write_environment([name for name in self.services if self.compose.has_image(name)])

    def _check_data(self) -> None:
        """Raise UserError when there was a loan book and its volume is gone: an empty one must not take its place."""
        primary = self.cluster.primary_name
        volume = self.compose.volume(primary)
        if not self.files.had_data or engine.exists("volume", volume):
            return
        kept = self._member_volumes()
        dumps = sorted(self.settings.backups.glob("backup_operational_*[pz]"))
        newest = f"{len(dumps)}, the newest {dumps[-1].name}" if dumps else "none"
        raise UserError(
            f"This checkout had a loan book, and the volume {volume} of its primary ({primary}) is gone: "
            "`docker compose down --volumes` removes it, for example. Nothing was started.\n"
            + (f"Still there: {', '.join(kept)}, with what that member had.\n" if kept else "")
            + "To begin again, with an empty loan book: make up FRESH=1. It removes no backup.\n"
            f"Dumps in {self.settings.backups}: {newest}. After FRESH=1, make restore FILE=… puts one in place.\n"
            "From a second repository (BACKUP_REPO2): make restore-machine."
        )

    def _member_volumes(self) -> list[str]:
        volumes = [self.compose.volume(name) for name in MEMBERS]
        return [volume for volume in volumes if engine.exists("volume", volume)]

    def begin_again(self) -> None:
        """Forget the loan book whose volumes are gone, so that the next start makes an empty one. Keeps all backups.

        Raises UserError when a member's data is there: nothing is destroyed here.
        """
        if kept := self._member_volumes():
            raise UserError(
                f"This checkout has a loan book already, in {', '.join(kept)}: FRESH=1 and restore-machine are for one "
                "whose data is gone. `make up` starts what is there; `make nuke` destroys it; docker volume rm removes "
                "one of them."
            )
        self.cluster.set_primary("primary")
        self.files.unfence(*MEMBERS)
        self.files.forget_data()

    def prepare_recovery(self) -> None:
        # By Compose, so that networks and volumes are this project's.
        self.compose.run("create", *MEMBERS)
        self.compose.run("run", "--rm", "--no-deps", "wal-archive")

    def start_servers(self) -> None:
        """Start the four servers and PgBouncer, and bring their databases up to date. Safe to repeat.

        A former primary that a failover has fenced is cloned again; its old data is kept aside in its volume.
        """
        for name in self.cluster.replica_names:
            if self.files.is_fenced(name):
                err.print(
                    f"{name}, a former primary, is cloned again; its old data is kept in the volume "
                    f"{self.compose.volume(name)} (pgdata.aside-…) until this happens again"
                )
        self.files.unfence(*MEMBERS)
        self._bring_up()
        self.files.note_data()

    def _bring_up(self) -> None:
        if self.is_running("scheduler") and self.compose.will_change(("provision", *SERVERS)):
            # It would run against servers that move to other ports or change their passwords meanwhile.
            with step("stopped the scheduler: settings or configuration have changed"):
                self.compose.run("stop", "scheduler")
        for service, network, names in self.compose.missing_names():
            with step(f"{service} is found again by its name in {network}"):
                self.compose.connect_again(service, network, names)
        self._settle()
        self._adopt_certificates()
        with step("primary, replicas, warehouse and PgBouncer"):
            # The two that the provisioning needs first: when one does not start, it is reported at once.
            self.compose.up([self.cluster.primary_name, "warehouse"])
            self.compose.up(
                [name for name in SERVERS if not self.files.is_fenced(name)], followers=self.cluster.replica_names
            )

    def _settle(self) -> None:
        """Let the members that run take the parts that are noted: a failover that was interrupted is finished.

        At no point do two of them take writes. A member that starts later reads the note by itself.
        """
        primary, replicas = self.cluster.primary_name, self.cluster.replica_names
        running = self.compose.running()
        for name in replicas:
            if name in running and self._ask_inside(name, "select pg_is_in_recovery()") == "f":
                with step(f"stopped {name}: it takes writes, and the primary is {primary}"):
                    self.member(name).stop()
                    running.discard(name)
        if primary in running and self._ask_inside(primary, "select pg_is_in_recovery()") == "t":
            with step(f"{primary} promoted: a failover was interrupted"):
                if self._ask_inside(primary, f"select pg_promote(true, {members.PROMOTE_SECONDS})") != "t":
                    raise UserError(f"{primary} was not promoted; see `make logs SERVICE={primary}`.")
        for name in MEMBERS:
            if name in running:
                self._ask_inside(name, "select pg_reload_conf()")
        if "pgbouncer" in running:
            self.start_pgbouncer()

    def _ask_inside(self, name: str, query: str) -> str | None:
        """Ask a server whose port or password may be about to change. None: it gives no answer."""
        script = (
            "PGPASSWORD=$(cat /run/secrets/postgres_password) PGCONNECT_TIMEOUT=5 exec psql -h 127.0.0.1 "
            f'-p {SERVER_PORT} -U postgres -d postgres -XAtqc "$1"'
        )
        command = ["docker", "exec", self.compose.container(name), "bash", "-c", script, "ask", query]
        found = programs.run(command, check=False)
        return found.output.strip() if found.ok else None

    def start_pgbouncer(self) -> bool:
        """Start PgBouncer, or let a running one adopt its configuration. Returns whether it was started."""
        self.files.render_pgbouncer()
        if not self.is_running("pgbouncer"):
            self.compose.start("pgbouncer")
            return True
        # Clients keep their sessions. By its init: for the engine, a signal of its own would count as a stop.
        code, answer = engine.ask("exec", self.compose.container("pgbouncer"), "sh", "-c", "kill -HUP 1")
        if code != 0:
            raise UserError(f"PgBouncer cannot reload its configuration: {answer}")
        return False

    def launch_services(self) -> None:
        """Nothing: what the scheduler takes long to read is in its image."""

    def start_services(self) -> None:
        """Start what needs a warehouse that has been built: the scheduler, Metabase, pgAdmin, the docs."""
        reasons = dict.fromkeys(self.settings.left_out, "by DISABLED_SERVICES")
        for name in OPTIONAL_SERVICES:
            if name not in reasons and (why := self.compose.why_no_image(name)):
                reasons[name] = f"its image cannot be pulled: {why}"
        names = [name for name in LATER if name not in reasons]
        self.compose.write_environment(names)
        with step(", ".join(names)):
            # With what they depend on: without it, they would differ from what plain `docker compose` makes.
            self.compose.up(names)
        if self.host_services.start_backup_scheduler():
            done("scheduler of backups, a process of this machine")
        for name, why in reasons.items():
            if self.is_running(name):
                self.compose.run("rm", "--stop", "--force", name)
            err.print(f"left out: {name}, {why}", markup=False)

    def refresh_secrets(self) -> None:
        """Let everything that runs use the passwords of the settings: what changed for a container makes a new one."""
        self.prepare()
        # Fenced members stay fenced: what only they have is kept.
        self._bring_up()
        self.start_services()

    def renew_certificates(self, *, ca: bool) -> list[str]:
        if not self.compose.owned:
            raise UserError("No container has a certificate yet: `make up` makes both.")
        tls.ensure_ca(self.settings, renew=ca)
        names = self.files.render_certificates(renew=True)
        # The pool first: it trusts the former CA, too, and a server that has the new one's certificate needs it.
        if self.is_running("pgbouncer"):
            self.start_pgbouncer()
        self._adopt_certificates()
        return names

    def _adopt_certificates(self) -> None:
        """Let the servers that run read their certificates again. Sessions that are open stay."""
        if not self.settings.uses_tls:
            return
        running = self.compose.running()
        script = f"{MOUNTED / ADOPT_CERTIFICATES} && pg_ctl reload --silent --pgdata={PGDATA}"
        for name in self.cluster.servers:
            if name not in running or self.files.is_fenced(name):
                continue
            code, answer = engine.ask("exec", self.compose.container(name), "sh", "-c", script)
            if code != 0:
                # A server that is just starting reads them by itself.
                err.print(f"{name} does not take its certificate over by a reload: {answer}", markup=False)

    def unreachable(self, *names: str) -> list[str]:
        """Say which of these members are not reached, by their names, from where their clients are."""
        trouble = []
        probe = 'for host in "$@"; do pg_isready -q -h "$host" -p 5432 -t 3 || echo "$host"; done'
        running = self.compose.running()
        for place in ("pgbouncer", "warehouse", *self.cluster.replica_names):
            others = [name for name in names if name != place]
            if place not in running or not others:
                continue
            code, answer = engine.ask("exec", self.compose.container(place), "sh", "-c", probe, "probe", *others)
            if code != 0:
                trouble.append(f"{place} cannot be asked: {answer}")
            trouble += [f"{place} does not reach {name}" for name in answer.split() if code == 0]
        return trouble

    def provision(self) -> None:
        """Bring databases, roles, schemas and the foreign server of both servers up to date, by the one-shot job."""
        self.compose.run("run", "--rm", "--no-deps", "provision")

    def stop_all(self, mode: str = "fast") -> list[str]:
        """Stop everything, readers first, and remove the containers. Returns the names of what ran."""
        if not self.compose.owned:
            return []
        running = [state.name for state in reversed(self.states()) if state.status not in ("stopped", "absent")]
        self.host_services.stop(BACKUP_SCHEDULER, SCHEDULER_STOPS_SECONDS)
        self.member(SIDE).remove()
        self.compose.down(*(["--timeout", "0"] if mode == "immediate" else []), show=True)
        return running

    def destroy(self) -> None:
        """Remove the containers, networks and volumes of this project, and what the containers read."""
        self.host_services.stop(BACKUP_SCHEDULER, SCHEDULER_STOPS_SECONDS)
        if self.compose.owned:
            self.member(SIDE).remove()
            self.compose.down("--volumes", "--timeout", "0")
        self.compose.forget_environment()
        state = self.settings.state
        for folder in (self.files.folder, state / "dbt-target", state / "dbt-logs"):
            shutil.rmtree(folder, ignore_errors=True)
        if (state / OWN_STATE_MARK).exists() and not embedded_note(self.settings).exists():
            shutil.rmtree(state)

    def data_locations(self) -> list[str]:
        project = self.compose.project
        return [f"containers, networks and volumes of the Compose project {project}", str(self.files.folder)]

    def leftovers(self) -> list[str]:
        backups = [str(path) for path in [self.settings.backups] if self.settings.backup_dir and path.exists()]
        return self.compose.leftovers() + backups

    def clear_logs(self) -> None:
        """Do nothing: the logs went with the containers."""

    # --- looking ------------------------------------------------------------------------------------------------------

    def states(self) -> list[ServiceState]:
        rows = {row["Service"]: row for row in self.compose.containers()}
        primary = self.cluster.primary_name
        result = []
        for name in (*SERVERS, *LATER):
            port = getattr(self.settings, f"{name}_port", None)
            row = rows.get(name)
            if row is None and (why := self._why_absent(name)):
                result.append(ServiceState(name, "absent", None, None, why))
                continue
            if self.files.is_fenced(name):
                detail = (
                    "fenced by make failover: make failover-diff shows what only it has, make rejoin brings it back"
                )
                result.append(ServiceState(name, "stopped", None, port, detail))
                continue
            status, detail = _status(row)
            if name == primary and name != "primary":
                detail = f"the primary since the last failover; {detail}".rstrip("; ")
            elif name == "primary" and name != primary:
                detail = f"a replica since the last failover; {detail}".rstrip("; ")
            published = _published(row) if row else []
            if published and port not in published:
                detail = f"{port} in the settings: `make up` moves it"
            result.append(ServiceState(name, status, None, published[0] if published else port, detail))
        return [*result, self.host_services.backup_scheduler_state()]

    def _why_absent(self, name: str) -> str | None:
        """Return why a service should not run here, or None when it should."""
        if name in self.settings.left_out:
            return "left out by DISABLED_SERVICES"
        if self.compose.owned and name in OPTIONAL_SERVICES and not self.compose.has_image(name):
            return f"skipped: no image {self.compose.image(name)} on this machine"
        return None

    def is_running(self, name: str) -> bool:
        """Return whether a service runs. A fenced server does not, although its container may be there."""
        if name == BACKUP_SCHEDULER:
            return self.host_services.pid(name) is not None
        return not self.files.is_fenced(name) and name in self.compose.running()

    def log_place(self, name: str) -> str:
        if name == BACKUP_SCHEDULER:
            return str(self.settings.state / f"{name}.log")
        return f"docker logs {self.compose.container(name)}"

    def tail(self, name: str, lines: int) -> list[str]:
        if name == BACKUP_SCHEDULER:
            return self.host_services.home.tail(name, lines)
        return self.compose.tail(name, lines)

    # --- client programs ----------------------------------------------------------------------------------------------

    def client(self, name: str) -> list[str]:
        """Return the command line, up to its options, of a client program of PostgreSQL.

        It is this machine's when there is one; else the image's, which sees the ports and the files of this machine
        that it may need: temporary ones and backups.
        """
        with contextlib.suppress(UserError):
            return [str(binaries.client_program(self.settings, name))]
        places = {tempfile.gettempdir(), *(str(path) for path in [self.settings.backups] if path.exists())}
        return [
            *("docker", "run", "--rm", "--interactive", "--network", "host"),
            *("--user", f"{os.getuid()}:{os.getgid()}", *self._client_environment),
            *("--entrypoint", name),
            *(part for place in sorted(places) for part in ("--volume", f"{place}:{place}")),
            self.compose.image("warehouse"),
        ]

    def script_psql(self) -> tuple[list[str], dict[str, Any]]:
        """Return the command line of psql for SQL of others, and the account that it runs as."""
        with contextlib.suppress(UserError):
            found = binaries.client_program(self.settings, "psql")
            account = unprivileged_account(self.settings, None)
            if account is None:
                return [str(found)], {}
            if reachable(found, account):
                return [str(found)], account.identity
        # In a container of its own, as nobody: it sees no file of this machine.
        return [
            *("docker", "run", "--rm", "--interactive", "--network", "host", "--user", "65534:65534"),
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", *self._client_environment),
            *("--entrypoint", "psql", self.compose.image("warehouse")),
        ], {}

    @property
    def _client_environment(self) -> list[str]:
        """Hand libpq's variables, those that are set, on to a container for a program, with the file that one names."""
        names = ("PGPASSWORD", "PGOPTIONS", "LC_ALL", *tls.client_environment(self.settings))
        ca = self.settings.ca_file
        mount = ["--volume", f"{ca}:{ca}:ro"] if self.settings.uses_tls else []
        return [*(part for name in names for part in ("--env", name)), *mount]

    def psql(self, server: Server, arguments: Sequence[str], password: str) -> tuple[list[str], dict[str, str]]:
        """Return the command line of psql in a server's container, and the environment it needs."""
        terminal = ["--tty"] if os.isatty(0) and os.isatty(1) else []
        # -e with a name alone: the value comes from the environment and is on no command line.
        container = self.compose.container(server.name)
        into = ["docker", "exec", "--interactive", *terminal, "--env", "PGPASSWORD", "--env", "PGOPTIONS", container]
        return [*into, "psql", "-h", "127.0.0.1", "-p", str(SERVER_PORT), *arguments], {"PGPASSWORD": password}


def _status(row: dict[str, Any] | None) -> tuple[str, str]:
    """Return a container's status and detail, as `make ps` shows them."""
    if row is None:
        return "stopped", ""
    if row["State"] != "running":
        return "stopped", f"{row['State']}, exit code {row['ExitCode']}"
    return {"": "running", "healthy": "running"}.get(row["Health"], row["Health"]), str(row["Health"])


def _published(row: dict[str, Any]) -> list[int]:
    """Return the ports of this machine that a container has."""
    ports = {publisher["PublishedPort"] for publisher in row.get("Publishers") or []}
    return sorted(port for port in ports if port)
