"""The Docker runtime: the platform's services in containers, by Docker Compose (infra/compose.yaml).

Compose knows what runs and in which order. Here is what it cannot know: the configuration and the secrets that the
containers read, written from `.env` and infra/ into the state directory, and what to tell a person when a step fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import string
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from eds.base.console import err, step
from eds.base.errors import UserError
from eds.base.services import (
    OWN_STATE_MARK,
    SIDE,
    ServiceState,
    check_addresses,
    compose_folder,
    compose_note,
    embedded_note,
    state_directory,
)
from eds.base.settings import OPTIONAL_SERVICES, ROOT, SERVICES_WITH_HOST, Settings, size_in_kb
from eds.cluster import members, server_conf
from eds.cluster.connections import (
    MEMBERS,
    Server,
    recovered_server,
    servers,
    wait_until_accepting,
)
from eds.cluster.server_conf import INFRA, Address, Places
from eds.runtime.local import binaries

COMPOSE_FILE = INFRA / "compose.yaml"
# The first engine with `start_interval`, and the first Compose that this was tried with.
OLDEST_ENGINE = (25, 0)
OLDEST_COMPOSE = (2, 24)
ASK_SECONDS = 20
# The longest that a start may take: the first clone of a large book is part of it.
START_SECONDS = 1800
# The longest that a replica with data may take until it lets somebody in.
REPLICA_SECONDS = 120

SERVERS = ("primary", "replica1", "replica2", "warehouse", "pgbouncer")
# What works on a warehouse that has been built, or needs no more than the warehouse.
LATER = ("scheduler", *OPTIONAL_SERVICES)
# Where the containers find their configuration, their secrets and the WAL archives.
MOUNTED = Path("/etc/platform")
SECRETS = Path("/run/secrets")
WAL_ARCHIVE = Path("/var/lib/postgresql/wal_archive")
PGDATA = Path("/var/lib/postgresql/data/pgdata")
# What a failover changes while the containers run. In a member's folder: who the primary is, the configuration that
# follows from it, and the sentence with which a fenced member refuses to start. In PgBouncer's: who is where.
NOTE = "current-primary"
PART_CONF = "95-part.conf"
FENCE = "fenced"
POOL_CONF = "pgbouncer.ini"
LIVE_FILES = (NOTE, PART_CONF, FENCE, POOL_CONF)
# Files of libpq must be readable by their owner only, which a mounted secret is not: the entrypoint copies it here.
PASSFILE = Path("/tmp/pgpass")
SERVER_PORT = 5432
POSTGRES_IMAGE = "postgres:15-bookworm"
# How the processes in the containers count against a container's memory limit, beside shared_buffers.
OLTP_REST_KB = 224 * 1024
WAREHOUSE_REST_KB = 224 * 1024


def why_not_docker() -> str | None:
    """Why this machine cannot run the platform in containers, as the end of a sentence, or None when it can."""
    if shutil.which("docker") is None:
        return "there is no docker command on the PATH"
    code, answer = _ask("docker", "version", "--format", "{{.Server.Version}}")
    if code != 0:
        return f"no Docker engine answers ({answer.splitlines()[-1] if answer else 'no reason given'})"
    if _version(answer) < OLDEST_ENGINE:
        return f"Docker Engine {_text(OLDEST_ENGINE)} or later is needed, and {answer} is there"
    code, answer = _ask("docker", "compose", "version", "--short")
    if code != 0:
        return "Docker Compose v2 (the command `docker compose`) is not there"
    if _version(answer) < OLDEST_COMPOSE:
        return f"Docker Compose {_text(OLDEST_COMPOSE)} or later is needed, and {answer} is there"
    return None


def _ask(*command: str) -> tuple[int, str]:
    """A short question to the engine. Returns the exit code and what it said."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=ASK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout.strip()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@dataclass
class ComposeRuntime(members.Membership):
    """Starts, stops and looks at the services of one checkout: the `Runtime` of Docker Compose."""

    name: ClassVar[str] = "docker"

    settings: Settings

    # --- what the containers read -------------------------------------------------------------------------------------

    @property
    def project(self) -> str:
        """The Compose project, which is also the first part of the names of containers, networks and volumes."""
        return self.settings.compose_project_name

    @cached_property
    def folder(self) -> Path:
        """The directory of what the containers read."""
        return compose_folder(self.settings)

    @property
    def services(self) -> list[str]:
        """The services that should run, in the order in which data flows."""
        return [name for name in (*SERVERS, *LATER) if name not in self.settings.left_out]

    @property
    def servers(self) -> dict[str, Server]:
        """The four servers, as this machine reaches them."""
        return servers(self.settings)

    @property
    def inside(self) -> Settings:
        """The settings with the addresses at which the servers reach each other."""
        places: dict[str, str | int] = {}
        for name in self.servers:
            places |= {f"{name}_host": name, f"{name}_port": SERVER_PORT}
        return self.settings.model_copy(update=places)

    def container(self, name: str) -> str:
        """The name of a service's container."""
        middle = "postgres_" if name in MEMBERS else ""
        last = {"warehouse": "warehouse_db", "scheduler": "etl_pipeline"}.get(name, name)
        return f"{self.project}_{middle}{last}"

    def render(self) -> None:
        """Write what the containers read: configuration that is open, secrets behind a directory that is not.

        A container's account is not the account that owns these files, so the files themselves are readable by all;
        nobody else on this machine gets to the secrets, because their directory is closed.
        """
        settings = self.settings
        state_directory(settings)
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o755)
        secrets = self.folder / "secrets"
        secrets.mkdir(mode=0o700, exist_ok=True)
        secrets.chmod(0o700)
        for name in Settings.secret_names():
            _write(secrets / name.lower(), getattr(settings, name.lower()).get_secret_value(), 0o444)
        superuser = ("postgres", settings.postgres_password.get_secret_value())
        replicator = ("replicator", settings.replicator_password.get_secret_value())
        # Whichever of them is the primary.
        places = [Address(name, SERVER_PORT) for name in MEMBERS]
        entries = [(place, *role) for place in places for role in (replicator, superuser)]
        entries.append((Address("127.0.0.1", SERVER_PORT), *superuser))
        _write(secrets / "member_pgpass", server_conf.pgpass(entries), 0o444)
        _write(secrets / "pgbouncer_userlist", server_conf.pgbouncer_userlist(settings), 0o444)
        of_all = [
            (Address(name, SERVER_PORT), "postgres", place.superuser_password)
            for name, place in servers(settings).items()
        ]
        _write(secrets / "pgadmin_pgpass", server_conf.pgpass(of_all), 0o444)

        for name in servers(settings):
            self._render_server(name)
        self._render_cluster()
        self._render_pgbouncer()
        template = string.Template((INFRA / "pgadmin" / "servers.json").read_text(encoding="utf-8"))
        text = template.substitute(oltp_db=settings.oltp_db, warehouse_db=settings.warehouse_db)
        _write(self._subfolder("pgadmin") / "servers.json", text)
        for file in ("nginx.conf", "not-yet.html"):
            _write(self._subfolder("docs") / file, (INFRA / "docs" / file).read_text(encoding="utf-8"))

    def _render_pgbouncer(self) -> None:
        ini = server_conf.pgbouncer_ini(
            self.settings,
            primary_host=self.primary,
            primary_port=SERVER_PORT,
            replica_host=",".join(self.replicas),
            replica_port=SERVER_PORT,
            listen_addr="*",
            listen_port=6432,
            pidfile="",
            logfile="",
            auth_file=SECRETS / "pgbouncer_userlist",
        )
        _write(self._subfolder("pgbouncer") / POOL_CONF, ini)

    def _places(self, name: str) -> Places:
        return Places(scripts=MOUNTED, own_archive=_archive(name), archive=_archive(self.primary), passfile=PASSFILE)

    def _render_server(self, name: str) -> None:
        folder = self._subfolder(name)
        static = server_conf.static_files(name)
        lines = [
            "# Written by `make up`; settings belong in .env and infra/postgres.",
            "listen_addresses = '*'",
            f"port = {SERVER_PORT}",
            "unix_socket_directories = ''",
            f"hba_file = {server_conf.conf(MOUNTED / 'pg_hba.conf')}",
            *server_conf.settings_lines(self.settings, name, self._places(name)),
        ]
        files = static | {"90-runtime.conf": "\n".join(lines) + "\n"}
        includes = [file for file in files if file != "pg_hba.conf"] + ([PART_CONF] if name in MEMBERS else [])
        # What initdb found out about the machine comes first.
        paths = [PGDATA / "postgresql.conf", *(MOUNTED / file for file in sorted(includes))]
        lines = [f"include {server_conf.conf(path)}" for path in paths]
        # Written by entrypoint.sh before the server starts.
        lines.insert(1, f"include_if_exists {server_conf.conf(Path('/tmp') / server_conf.BUILD_CONF)}")
        files["postgresql.conf"] = "\n".join(lines) + "\n"
        files[server_conf.BUILD_SETTINGS.name] = server_conf.BUILD_SETTINGS.read_text(encoding="utf-8")
        if name in MEMBERS:
            # pg_rewind goes back in the member's own history, which is in its own archive.
            own = server_conf.restore_command(MOUNTED, [_archive(name)])
            files["rewind.conf"] = (
                f"include {server_conf.conf(MOUNTED / 'postgresql.conf')}\nrestore_command = {server_conf.conf(own)}\n"
            )
        for file, text in files.items():
            _write(folder / file, text)
        for script in (
            "archive_wal.sh",
            "restore_wal.sh",
            server_conf.CHOOSE_SETTINGS.name,
            "entrypoint.sh",
            "health.sh",
        ):
            _write(folder / script, (INFRA / "postgres" / script).read_text(encoding="utf-8"), 0o755)

    def _render_cluster(self) -> None:
        """Tell each member, and the provisioning, who is the primary. A member that runs takes it over by a reload."""
        # The one that takes the writes learns it last.
        for name in (*self.replicas, self.primary):
            follows = Address(self.primary, SERVER_PORT) if name in self.replicas else None
            lines = server_conf.part_lines(name, self._places(name), follows)
            _write(self._subfolder(name) / PART_CONF, "\n".join(lines) + "\n")
            _write(self._subfolder(name) / NOTE, f"{self.primary}\n")
        _write(self._subfolder("provision") / NOTE, f"{self.primary}\n")

    def _subfolder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        return folder

    # --- Compose ------------------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """What infra/compose.yaml asks for: the settings, but no secret."""
        settings = self.settings
        secret = {name.lower() for name in Settings.secret_names()}
        values = {
            name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in settings.model_dump(mode="json").items()
            if name not in secret and value is not None
        }
        oltp, warehouse = size_in_kb(settings.oltp_memory) or 0, size_in_kb(settings.warehouse_memory) or 0
        return (
            {name: value for name, value in os.environ.items() if name.lower() not in secret}
            | values
            | {
                "COMPOSE_PROJECT_NAME": self.project,
                "PLATFORM_FILES": str(self.folder),
                "PLATFORM_CHECKOUT": str(ROOT),
                "OLTP_MEMORY_LIMIT": f"{3 * oltp + OLTP_REST_KB}k",
                "WAREHOUSE_MEMORY_LIMIT": f"{3 * warehouse + WAREHOUSE_REST_KB}k",
            }
        )

    @cached_property
    def _config(self) -> dict[str, Any]:
        """infra/compose.yaml as Compose understands it."""
        config: dict[str, Any] = json.loads(self._run(("config", "--format", "json"), self.environment()))
        return config

    def _image(self, name: str) -> str:
        return str(self._config["services"][name]["image"])

    def _has_image(self, name: str) -> bool:
        return _ask("docker", "image", "inspect", "--format", "{{.Id}}", self._image(name))[0] == 0

    def _why_no_image(self, name: str) -> str | None:
        """Fetch the public image of a service, unless it is there. Returns why it cannot be had, or None."""
        if self._has_image(name):
            return None
        err.print(f"fetching the image {self._image(name)}", markup=False)
        pull = ["docker", "pull", "--quiet", self._image(name)]
        done = subprocess.run(pull, capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]

    @cached_property
    def _digests(self) -> dict[str, str]:
        """A digest for each service of the files that it reads, so that a changed file makes a new container.

        What a failover changes is no reason for a new one: it takes effect in the one that runs.
        """
        config = self._config
        digests = {}
        for name, service in config["services"].items():
            mounted = [
                Path(mount["source"])
                for mount in service.get("volumes", [])
                if mount["type"] == "bind" and Path(mount["source"]).is_relative_to(self.folder)
            ]
            mounted += [Path(config["secrets"][use["source"]]["file"]) for use in service.get("secrets", [])]
            digest = hashlib.sha256()
            for place in mounted:
                for path in sorted(place.iterdir()) if place.is_dir() else [place]:
                    if path.name not in LIVE_FILES:
                        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
            digests[f"PLATFORM_DIGEST_{name.upper().replace('-', '_')}"] = digest.hexdigest()
        return digests

    def compose(self, *arguments: str, show: bool = False) -> str:
        """Run `docker compose` on this project. Returns its output; raises UserError with it when it fails.

        show: let a person at a terminal see Compose's own progress.
        """
        return self._run(arguments, self.full_environment(), show=show)

    def full_environment(self) -> dict[str, str]:
        """What infra/compose.yaml asks for, with the digests of what the containers read."""
        return self.environment() | self._digests

    def command(self, *arguments: str, progress: str = "quiet") -> list[str]:
        """The command line of `docker compose` on this project."""
        # Settings come from the environment that goes with it, not from a file that Compose would read in its own way.
        return [
            *("docker", "compose", "--file", str(COMPOSE_FILE), "--env-file", os.devnull),
            *("--project-name", self.project, "--progress", progress),
            *arguments,
        ]

    def _run(self, arguments: Sequence[str], environment: dict[str, str], *, show: bool = False) -> str:
        show = show and err.is_terminal
        done = subprocess.run(
            self.command(*arguments, progress="auto" if show else "quiet"),
            env=environment,
            cwd=INFRA,
            stdin=subprocess.DEVNULL,
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout or "").strip()
            raise UserError(f"`docker compose {arguments[0]}` failed (exit code {done.returncode}). {said}".rstrip())
        return done.stdout or ""

    def _up(self, names: Sequence[str]) -> None:
        options = ("--detach", "--wait", "--wait-timeout", str(START_SECONDS), "--remove-orphans")
        try:
            self.compose("up", *options, *names, show=True)
        except UserError as error:
            raise UserError("\n".join([str(error), *self._troubles()])) from None

    def _troubles(self) -> list[str]:
        """What the containers that are not well have to say."""
        lines = []
        for row in self._containers():
            ended = row["State"] in ("exited", "dead") and row["ExitCode"] != 0
            if ended or row["State"] == "restarting" or row["Health"] == "unhealthy":
                lines.append(f"The end of the log of {row['Service']}:")
                lines += [f"  {line}" for line in self.tail(row["Service"], 15)]
        return lines

    def _containers(self) -> list[dict[str, Any]]:
        """The project's containers, as Compose describes them."""
        if not self.owned:
            return []
        output = self._run(("ps", "--all", "--format", "json"), self.environment())
        # One object a line; before Compose 2.21 it was one list.
        parsed = [json.loads(line) for line in output.splitlines() if line.strip()]
        return parsed[0] if parsed and isinstance(parsed[0], list) else parsed

    @property
    def owned(self) -> bool:
        """Whether the project is this checkout's. One that is not is left alone, whatever the command."""
        note = compose_note(self.settings)
        return note.exists() and note.read_text(encoding="utf-8").strip() == self.project

    def _claim(self) -> None:
        """Note that the project is this checkout's. Raises UserError when it is another's."""
        if self.owned:
            return
        note = compose_note(self.settings)
        noted = note.read_text(encoding="utf-8").strip() if note.exists() else None
        if noted and self._has_resources(noted):
            raise UserError(
                f"The data of this checkout is in the Compose project {noted}, and COMPOSE_PROJECT_NAME is now "
                f"{self.project}. Set it back, or destroy the old one: COMPOSE_PROJECT_NAME={noted} make nuke"
            )
        if self._has_resources(self.project):
            raise UserError(
                f"There are containers or volumes of a Compose project {self.project}, which this checkout did not "
                f"make: another checkout's, say. Set COMPOSE_PROJECT_NAME=… to another name in .env, and other ports. "
                f"When they are this platform's (the checkout was cloned anew), bring its .env and {note} back."
            )
        note.write_text(f"{self.project}\n", encoding="utf-8")

    def _has_resources(self, project: str) -> bool:
        label = f"label=com.docker.compose.project={project}"
        return any(
            _ask("docker", *command, "--quiet", "--filter", label)[1] for command in (("ps", "--all"), ("volume", "ls"))
        )

    # --- the whole ----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """See that there is an engine, write what the containers read, and build the images. Nothing is started."""
        if why := why_not_docker():
            raise UserError(
                f"RUNTIME is docker, but {why}. Mend that, or set RUNTIME=local for the embedded servers, which have "
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
        self.render()
        self._claim()
        places = {
            name: (getattr(self.settings, f"{name}_host", "127.0.0.1"), getattr(self.settings, f"{name}_port"))
            for name in self.services
            if name != "scheduler"
        }
        check_addresses(places, {port for row in self._containers() for port in _published(row)})
        if why := self._why_no_image("primary"):
            raise UserError(
                f"The image {self._image('primary')} cannot be had: {why}\nMend that, or set RUNTIME=local, which "
                "needs no images."
            )
        with step("images"):
            self.compose("build", show=True)

    def start_servers(self) -> None:
        """Start the four servers and PgBouncer, and bring their databases up to date. Safe to repeat.

        A former primary that a failover has fenced is cloned anew; its old data is kept aside in its volume.
        """
        for name in self.replicas:
            if self._is_fenced(name):
                err.print(
                    f"{name}, a former primary, is cloned anew; its old data is kept in the volume "
                    f"{self._volume(name)} (pgdata.aside-…) until this happens again"
                )
        self._unfence(*MEMBERS)
        self._bring_up()

    def _bring_up(self) -> None:
        if self.is_running("scheduler") and self._will_change(("provision", *SERVERS)):
            # It would run against servers that move, or with passwords that change, under it.
            with step("stopped the scheduler: settings or configuration have changed"):
                self.compose("stop", "scheduler")
        self._settle()
        with step("primary, replicas, warehouse and PgBouncer"):
            # The two that the provisioning works on first: when one does not start, it is said at once.
            self._up([self.primary, "warehouse"])
            self._up([name for name in SERVERS if not self._is_fenced(name)])

    def _settle(self) -> None:
        """Let the members that run take the parts that are noted: a failover that was interrupted is finished.

        At no point do two of them take writes. A member that starts later reads the note by itself.
        """
        running = {row["Service"] for row in self._containers() if row["State"] == "running"}
        for name in self.replicas:
            if name in running and self._ask_inside(name, "select pg_is_in_recovery()") == "f":
                with step(f"stopped {name}: it takes writes, and the primary is {self.primary}"):
                    self.stop_server(name)
                    running.discard(name)
        name = self.primary
        if name in running and self._ask_inside(name, "select pg_is_in_recovery()") == "t":
            with step(f"{name} promoted: a failover was interrupted"):
                if self._ask_inside(name, f"select pg_promote(true, {members.PROMOTE_SECONDS})") != "t":
                    raise UserError(f"{name} was not promoted; see `make logs SERVICE={name}`.")
        for name in MEMBERS:
            if name in running:
                self._ask_inside(name, "select pg_reload_conf()")
        if "pgbouncer" in running:
            self.up_pgbouncer()

    def _ask_inside(self, name: str, query: str) -> str | None:
        """The answer of a server whose port or password may be about to change, or None when it gives none."""
        script = (
            "PGPASSWORD=$(cat /run/secrets/postgres_password) PGCONNECT_TIMEOUT=5 exec psql -h 127.0.0.1 "
            f'-p {SERVER_PORT} -U postgres -d postgres -XAtqc "$1"'
        )
        command = ("docker", "exec", self.container(name), "bash", "-c", script, "ask", query)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def up_pgbouncer(self) -> bool:
        """Start PgBouncer, or let a running one take over its configuration. Returns whether it was started."""
        self._render_pgbouncer()
        if not self.is_running("pgbouncer"):
            self._start("pgbouncer")
            return True
        # Clients keep their sessions. By its init: for the engine, a signal of its own would count as a stop.
        code, said = _ask("docker", "exec", self.container("pgbouncer"), "sh", "-c", "kill -HUP 1")
        if code != 0:
            raise UserError(f"PgBouncer cannot be told its new configuration: {said}")
        return False

    def _start(self, name: str) -> None:
        """Start the container that a service has; make one when it has none. Nothing else is started."""
        if _ask("docker", "inspect", "--format", "{{.Id}}", self.container(name))[0] == 0:
            # Not by Compose: a start of its without what the service depends on would make a new container.
            self._docker("start", self.container(name))
        else:
            self.compose("up", "--detach", "--no-deps", name)

    def start_services(self) -> None:
        """Start what works on a warehouse that has been built: the scheduler, Metabase, pgAdmin, the docs."""
        reasons = dict.fromkeys(self.settings.left_out, "by DISABLED_SERVICES")
        for name in OPTIONAL_SERVICES:
            if name not in reasons and (why := self._why_no_image(name)):
                reasons[name] = f"its image cannot be had: {why}"
        names = [name for name in LATER if name not in reasons]
        with step(", ".join(names)):
            # What they depend on runs already; without this, the provisioning would run a second time.
            self._up(["--no-deps", *names])
        for name, why in reasons.items():
            if self.is_running(name):
                self.compose("rm", "--stop", "--force", name)
            err.print(f"left out: {name}, {why}", markup=False)

    def refresh_secrets(self) -> None:
        """Let everything that runs use the passwords of the settings: what changed for a container makes a new one."""
        self.prepare()
        # What only a fenced one has is left alone.
        self._bring_up()
        self.start_services()

    def _will_change(self, names: Sequence[str]) -> bool:
        """Whether `up` would make a running service's container anew."""
        wanted = dict(line.split() for line in self.compose("config", "--hash", "*").splitlines())
        label = '{{.Name}} {{index .Config.Labels "com.docker.compose.config-hash"}}'
        present = [self.container(name) for name in names]
        _, output = _ask("docker", "inspect", "--format", label, *present)
        found = dict(line.strip("/").split() for line in output.splitlines() if line.startswith("/"))
        return any(found.get(self.container(name), wanted.get(name)) != wanted.get(name) for name in names)

    def stop_all(self, mode: str = "fast") -> list[str]:
        """Stop everything, readers first, and remove the containers. Returns the names of what ran."""
        if not self.owned:
            return []
        running = [state.name for state in reversed(self.states()) if state.status not in ("stopped", "absent")]
        self.remove_side_cluster()
        timeout = ["--timeout", "0"] if mode == "immediate" else []
        self._run(("down", "--remove-orphans", *timeout), self.environment(), show=True)
        return running

    def destroy(self) -> None:
        """Remove the containers, networks and volumes of this project, and what the containers read."""
        if self.owned:
            self.remove_side_cluster()
            self._run(("down", "--volumes", "--remove-orphans", "--timeout", "0"), self.environment())
        state = self.settings.state
        for folder in (self.folder, state / "dbt-target", state / "dbt-logs"):
            shutil.rmtree(folder, ignore_errors=True)
        if (state / OWN_STATE_MARK).exists() and not embedded_note(self.settings).exists():
            shutil.rmtree(state)

    def holdings(self) -> list[str]:
        """What `destroy` destroys, for a person."""
        return [f"containers, networks and volumes of the Compose project {self.project}", str(self.folder)]

    # --- looking ------------------------------------------------------------------------------------------------------

    def states(self) -> list[ServiceState]:
        """What runs, in the order in which data flows."""
        rows = {row["Service"]: row for row in self._containers()}
        result = []
        for name in (*SERVERS, *LATER):
            port = getattr(self.settings, f"{name}_port", None)
            row = rows.get(name)
            if row is None and (why := self._why_absent(name)):
                result.append(ServiceState(name, "absent", None, None, why))
                continue
            if self._is_fenced(name):
                detail = (
                    "fenced by make failover: make failover-diff shows what only it has, make rejoin brings it back"
                )
                result.append(ServiceState(name, "stopped", None, port, detail))
                continue
            status, detail = _status(row)
            if name == self.primary and name != "primary":
                detail = f"the primary since the last failover; {detail}".rstrip("; ")
            elif name == "primary" and name != self.primary:
                detail = f"a replica since the last failover; {detail}".rstrip("; ")
            published = _published(row) if row else []
            if published and port not in published:
                detail = f"{port} in the settings: `make up` moves it"
            result.append(ServiceState(name, status, None, published[0] if published else port, detail))
        return result

    def _why_absent(self, name: str) -> str | None:
        """Why a service should not run here, or None when it should."""
        if name in self.settings.left_out:
            return "left out by DISABLED_SERVICES"
        if self.owned and name in OPTIONAL_SERVICES and not self._has_image(name):
            return f"skipped: no image {self._image(name)} on this machine"
        return None

    def is_running(self, name: str) -> bool:
        """Whether a service runs. A fenced server does not: its container may be there, and refuse to start it."""
        return not self._is_fenced(name) and any(
            row["Service"] == name and row["State"] == "running" for row in self._containers()
        )

    def log_place(self, name: str) -> str:
        """Where a service's log is, for a person."""
        return f"docker logs {self.container(name)}"

    def tail(self, name: str, lines: int) -> list[str]:
        """The last lines of a service's log."""
        _, output = _ask("docker", "logs", "--tail", str(lines), self.container(name))
        return output.splitlines()

    def clear_logs(self) -> None:
        """The logs went with the containers."""

    def archived_files(self) -> dict[str, int]:
        """The files of the WAL archives of all members, with their sizes in bytes."""
        listing = ("find", str(WAL_ARCHIVE), "-name", "*.gz", "-printf", "%f %s\\n")
        code, output = _ask("docker", "exec", self.container(self.primary), *listing)
        if code != 0:
            raise UserError(f"The WAL archive cannot be listed: {output}")
        return {name: int(length) for name, length in (line.split() for line in output.splitlines())}

    def clean_archives(self, oldest: str) -> None:
        """Remove the WAL segments before this one, of any timeline, from the archives."""
        for name in MEMBERS:
            command = ("pg_archivecleanup", "-x", ".gz", str(_archive(name)), oldest)
            code, output = _ask("docker", "exec", "--user", "postgres", self.container(self.primary), *command)
            if code != 0:
                raise UserError(f"The WAL archive cannot be cleaned: {output}")

    # --- a failover ---------------------------------------------------------------------------------------------------

    def _volume(self, name: str) -> str:
        return f"{self.project}_{name}_data"

    def stop_server(self, name: str) -> bool:
        """Stop a server in order; the engine does not start it again by itself. Returns whether it ran."""
        code, status = _ask("docker", "inspect", "--format", "{{.State.Status}}", self.container(name))
        if code != 0:
            return False
        self._docker("stop", self.container(name))
        return status == "running"

    def fence(self, name: str) -> None:
        """Stop the primary, and let its container refuse to start, whoever starts it."""
        sentence = (
            f"{name} is fenced, because make failover made another member the primary or was about to: it does not "
            f"start. make failover-diff NAME={name} shows what only it has, make rejoin brings it back as a replica; "
            "make up goes on with a failover that was interrupted."
        )
        _write(self._subfolder(name) / FENCE, sentence + "\n")
        self.stop_server(name)

    def _is_fenced(self, name: str) -> bool:
        return (self.folder / name / FENCE).exists()

    def _unfence(self, *names: str) -> None:
        for name in names:
            (self._subfolder(name) / FENCE).unlink(missing_ok=True)

    def promote(self, name: str) -> None:
        """Make a running replica the primary. It must be noted as such (`db.set_primary_name`) before."""
        self._render_cluster()
        members.promote(self.servers[name])
        members.reload(self.servers[name])

    def repoint(self, name: str) -> None:
        """Give a running member the configuration of its present part, without a restart: whom it follows, if any."""
        self._render_cluster()
        members.reload(self.servers[name])

    def _last_complaint(self, name: str) -> str:
        lines = [line for line in self.tail(name, 50) if "FATAL: " in line]
        return lines[-1].partition("FATAL: ")[2].strip() if lines else ""

    def why_not_following(self, name: str) -> str | None:
        """Wait until a running replica streams from the primary. Returns why it never will, or None."""
        return members.why_not_following(
            self.settings, name, lambda: self.is_running(name), lambda: self._last_complaint(name)
        )

    def has_data(self, name: str) -> bool:
        """Whether a member has a data directory."""
        if _ask("docker", "volume", "inspect", self._volume(name))[0] != 0:
            return False
        look = "if [ -e /member/pgdata/PG_VERSION ]; then echo yes; fi"
        return self._in_volumes(look, f"{self._volume(name)}:/member:ro", user="postgres").strip() == "yes"

    def rewind(self, name: str) -> None:
        """Bring a stopped member back to where it left the primary's history, by pg_rewind. Raises UserError."""
        self._render_cluster()
        entrypoint = str(MOUNTED / "entrypoint.sh")
        options = ("--rm", "--no-deps", "--no-TTY", "--entrypoint", entrypoint)
        self.compose("run", *options, name, name, "postgres_password", "rewind")

    def start_replica(self, name: str) -> str | None:
        """Start a member that has a replica's data. Returns why it does not follow the primary, or None."""
        self._unfence(name)
        self._start(name)
        try:
            wait_until_accepting(self.servers[name].superuser_conninfo("postgres"), REPLICA_SECONDS)
        except UserError as error:
            return self._last_complaint(name) or str(error)
        return self.why_not_following(name)

    def clone_replica(self, name: str) -> None:
        """Make a replica from the present primary and start it. Data that it had is put aside."""
        self.stop_server(name)
        self._unfence(name)
        # Its container does it, and keeps the old data until the clone is complete.
        self._in_volumes("touch /member/clone-anew", f"{self._volume(name)}:/member", user="postgres")
        self._start(name)
        health = ("docker", "inspect", "--format", "{{.State.Health.Status}}", self.container(name))
        try:
            Retrying(
                stop=stop_after_delay(START_SECONDS),
                wait=wait_fixed(0.5),
                retry=retry_if_result(lambda answer: answer != (0, "healthy")),
            )(_ask, *health)
        except RetryError as error:
            raise UserError(
                f"{name} was told to clone the primary, and does not follow it after {START_SECONDS} s; "
                f"`make logs SERVICE={name}` shows more."
            ) from error

    def commits_beyond(self, name: str, position: str, timeline: int) -> list[str] | None:
        """The transactions that a stopped server committed behind a position of its timeline.

        Returns a line for each, as pg_waldump tells them: its number, its position, the time of the commit. None: its
        WAL is not there, or cannot be read.
        """
        if not self.has_data(name):
            return None
        # Where the WAL of a server that was killed breaks off, pg_waldump ends with an error.
        told = self._in_volumes(
            f"pg_waldump --path=/member/pgdata/pg_wal --timeline={timeline} --start={position} --rmgr=Transaction "
            "2>&1 || true",
            f"{self._volume(name)}:/member:ro",
            user="postgres",
        )
        return members.commits(told)

    # --- a recovery beside the primary --------------------------------------------------------------------------------

    @property
    def _side_volume(self) -> str:
        return f"{self.project}_{SIDE}_data"

    def _in_volumes(self, script: str, *volumes: str, user: str = "0") -> str:
        """Run a shell script in a container of PostgreSQL's image, with these volumes and nothing else."""
        mounts = [part for volume in volumes for part in ("--volume", volume)]
        command = ["docker", "run", "--rm", "--network", "none", "--user", user, "--entrypoint", "bash", *mounts]
        return self._docker(*command[1:], POSTGRES_IMAGE, "-euo", "pipefail", "-c", script)

    def _docker(self, *arguments: str) -> str:
        """Run a command of Docker that may take long. Raises UserError with what it said when it fails."""
        done = subprocess.run(
            ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise UserError(f"`docker {arguments[0]}` failed (exit code {done.returncode}): {done.stderr.strip()}")
        return done.stdout

    def start_side_cluster(self, base_backup: Path, target: Sequence[str], port: int) -> None:
        """Recover a copy of a base backup beside the primary, in a container of its own. It archives nothing.

        target: recovery settings, as lines of a configuration. Returns before the recovery has ended.
        """
        sources = [_archive(name) for name in MEMBERS]
        extra = []
        if not self.is_running(self.primary):
            # What a primary that is down has not archived any more.
            sources.append(Path("/primary/pgdata/pg_wal"))
            extra = ["--volume", f"{self._volume(self.primary)}:/primary:ro"]
        lines = [
            f"restore_command = {server_conf.conf(server_conf.restore_command(MOUNTED, sources))}",
            "recovery_target_action = promote",
            *target,
        ]
        self._start_aside(f"{base_backup}:/source:ro", "/source", lines, port, "recovery.signal", extra)

    def start_copy(self, name: str, port: int) -> None:
        """Start a copy of a stopped member's data beside the primary, to look at. It takes no writes."""
        if self.is_running(name):
            raise UserError(f"{name} runs: there is no need for a copy of it.")
        if not self.has_data(name):
            raise UserError(f"{name} has no data in the volume {self._volume(name)}.")
        lines = ["default_transaction_read_only = on"]
        self._start_aside(f"{self._volume(name)}:/source:ro", "/source/pgdata", lines, port)
        try:
            wait_until_accepting(recovered_server(self.settings).superuser_conninfo("postgres"), REPLICA_SECONDS)
        except UserError as error:
            raise UserError(f"The copy of {name} does not start: {error}\n" + "\n".join(self.tail(SIDE, 15))) from error

    def _start_aside(
        self,
        mount: str,
        source: str,
        lines: Sequence[str],
        port: int,
        signal_file: str | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        """Start a cluster from a copy of a data directory, in place of one that was started so before.

        mount: the volume with the source. extra: further mounts of the cluster.
        """
        self.remove_side_cluster()
        check_addresses({"pitr": ("127.0.0.1", port)}, ())
        folder = self._subfolder(SIDE)
        for path in self._subfolder(self.primary).iterdir():
            _write(folder / path.name, path.read_text(encoding="utf-8"), 0o755 if path.suffix == ".sh" else 0o644)
        own = [
            f"cluster_name = {server_conf.conf(SIDE)}",
            "archive_mode = off",
            "synchronous_standby_names = ''",
            *lines,
        ]
        _write(folder / "99-recovery.conf", "\n".join(own) + "\n")
        main = (folder / "postgresql.conf").read_text(encoding="utf-8")
        include = f"include {server_conf.conf(MOUNTED / '99-recovery.conf')}\n"
        _write(folder / "postgresql.conf", main + include)
        volume = f"{self._side_volume}:/var/lib/postgresql/data"
        signal = f"touch pgdata/{signal_file}; " if signal_file else ""
        self._in_volumes(
            f"cd /var/lib/postgresql/data; cp -a {source} pgdata; rm -f pgdata/postmaster.pid; {signal}"
            "chown -R postgres:postgres .; chmod 700 pgdata",
            volume,
            mount,
        )
        self._docker(
            *("run", "--detach", "--name", self.container(SIDE), "--user", "postgres"),
            *("--security-opt", "no-new-privileges:true", "--publish", f"127.0.0.1:{port}:{SERVER_PORT}"),
            *("--volume", volume, "--volume", f"{folder}:{MOUNTED}:ro"),
            *("--volume", f"{self.project}_wal_archive:{WAL_ARCHIVE}:ro", *extra),
            *("--entrypoint", "postgres", POSTGRES_IMAGE),
            *("-D", str(PGDATA), "-c", f"config_file={MOUNTED}/postgresql.conf"),
        )

    def side_cluster_runs(self) -> bool:
        """Whether the container of a recovery runs."""
        return _ask("docker", "inspect", "--format", "{{.State.Running}}", self.container(SIDE)) == (0, "true")

    def remove_side_cluster(self) -> bool:
        """Remove the container and the volume of a recovery. Returns whether there was one."""
        there = _ask("docker", "inspect", self.container(SIDE))[0] == 0
        if there:
            self._docker("rm", "--force", self.container(SIDE))
        if _ask("docker", "volume", "inspect", self._side_volume)[0] == 0:
            self._docker("volume", "rm", self._side_volume)
        return there

    def install_side_cluster(self) -> str:
        """Put the recovered cluster in place of the primary; the replicas are cloned anew.

        The recovery must have ended. Returns where the old data is kept.
        """
        aside = f"pgdata.aside-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        again = self.is_running("scheduler")
        primary, replicas = self.primary, self.replicas
        with step(f"the servers stopped, the recovered cluster in the place of {primary}"):
            self._docker("stop", self.container(SIDE))
            self.compose("stop", "scheduler", "pgbouncer", *replicas, primary)
            # The new timeline's history goes to the archive: without it, no later recovery finds its way along. The
            # note of the superuser's password goes, so that the server takes over that of .env. Between the two
            # renames there is no data directory; the entrypoint then refuses to make a new one.
            self._in_volumes(
                f"""
                for history in /{SIDE}/pgdata/pg_wal/*.history; do
                    [ ! -e "$history" ] || {MOUNTED}/archive_wal.sh "$history" {_archive(primary)}
                done
                cd /primary
                rm -rf incoming pgdata.aside-*
                cp -a /{SIDE}/pgdata incoming
                sync
                [ ! -e pgdata ] || mv pgdata {aside}
                mv incoming pgdata
                rm -f superuser-password.sha256
                sync
                """,
                f"{self._side_volume}:/{SIDE}",
                f"{self._volume(primary)}:/primary",
                f"{self.project}_wal_archive:{WAL_ARCHIVE}",
                f"{self._subfolder(primary)}:{MOUNTED}:ro",
                user="postgres",
            )
            for replica in replicas:
                # A replica without data is cloned when it starts.
                script = f"cd /replica; rm -rf pgdata.aside-*; [ ! -e pgdata ] || mv pgdata {aside}"
                self._in_volumes(script, f"{self._volume(replica)}:/replica", user="postgres")
            self.remove_side_cluster()
        self.start_servers()
        if again:
            self._up(["--no-deps", "scheduler"])
        return f"{aside} in the volume {self._volume(primary)}"

    def provision(self) -> None:
        """Bring databases, roles, schemas and the foreign server of both servers up to date, by the one-shot job."""
        self.compose("run", "--rm", "--no-deps", "provision")

    def archived_bytes(self, segment: str) -> int | None:
        """How long a WAL segment is that the primary has archived, read back whole; None when it is not there."""
        file = _archive(self.primary) / f"{segment}.gz"
        container = self.container(self.primary)
        read = f"test -e {file} || exit 3; set -o pipefail; gzip -dc {file} | wc -c"
        code, output = _ask("docker", "exec", container, "bash", "-c", read)
        if code == 3:
            return None
        if code != 0:
            raise UserError(f"{file} in {container} cannot be read back: {output}")
        return int(output)

    def client(self, name: str) -> list[str]:
        """The command line, up to its options, of a client program of PostgreSQL.

        It is this machine's when there is one; else the image's, which sees the ports and the files of this machine
        that it may need: temporary ones and backups.
        """
        with contextlib.suppress(UserError):
            return [str(binaries.client_program(self.settings, name))]
        places = {tempfile.gettempdir(), *(str(path) for path in [self.settings.backups] if path.exists())}
        return [
            *("docker", "run", "--rm", "--interactive", "--network", "host"),
            *("--user", f"{os.getuid()}:{os.getgid()}", "--env", "PGPASSWORD", "--env", "LC_ALL", "--env", "PGOPTIONS"),
            *("--entrypoint", name),
            *(part for place in sorted(places) for part in ("--volume", f"{place}:{place}")),
            POSTGRES_IMAGE,
        ]

    def psql(self, server: Server, arguments: Sequence[str], password: str) -> tuple[list[str], dict[str, str]]:
        """The command line of psql in a server's container, and the environment it needs."""
        terminal = ["--tty"] if os.isatty(0) and os.isatty(1) else []
        # -e with a name alone: the value comes from the environment and stands on no command line.
        into = ["docker", "exec", "--interactive", *terminal, "--env", "PGPASSWORD", self.container(server.name)]
        return [*into, "psql", "-h", "127.0.0.1", "-p", str(SERVER_PORT), *arguments], {"PGPASSWORD": password}


def _archive(name: str) -> Path:
    """Where a member archives its WAL. Each can read all; one whose timeline is its own does not mislead the others."""
    return WAL_ARCHIVE if name == "primary" else WAL_ARCHIVE / name


def _status(row: dict[str, Any] | None) -> tuple[str, str]:
    """A container's status and detail, as `make ps` shows them."""
    if row is None:
        return "stopped", ""
    if row["State"] != "running":
        return "stopped", f"{row['State']}, exit code {row['ExitCode']}"
    return {"": "running", "healthy": "running"}.get(row["Health"], row["Health"]), str(row["Health"])


def _published(row: dict[str, Any]) -> list[int]:
    """The ports of this machine that a container has."""
    ports = {publisher["PublishedPort"] for publisher in row.get("Publishers") or []}
    return sorted(port for port in ports if port)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file whole, unless it has this content."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    path.chmod(mode)
