"""Docker Compose on the platform's project: its environment, its containers, images and volumes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eds.base import programs
from eds.base.console import err
from eds.base.errors import UserError
from eds.base.files import write_atomically
from eds.base.services import compose_note
from eds.base.settings import OPTIONAL_SERVICES, ROOT, Settings, env_file, from_root, size_in_kb
from eds.cluster.connections import MEMBERS
from eds.cluster.provision import METABASE_DB
from eds.cluster.queries import wait_for
from eds.cluster.server_conf import INFRA
from eds.runtime.docker.engine import ask, docker, exists
from eds.runtime.docker.files import CA, LIVE_FILES, SERVER_PORT, Files, sslmode

COMPOSE_FILE = INFRA / "compose.yaml"
# Compose's environment, beside the files that the containers read.
ENV_FILE = "compose.env"
# How long a start may take; the first clone of a large book is part of it.
STACK_START_SECONDS = 1800
# Within this, a container that is unhealthy for what another one lacked is healthy again: it is asked every 15 seconds.
HEAL_SECONDS = 40
# States of a container that is not started again by itself.
ENDED = ("exited", "dead")
# The memory that a container's processes need beside shared_buffers.
REST_KB = 224 * 1024

# Metabase's own database, where sessions are encrypted: of the variables that take its parts, none takes these.
METABASE_URI = f"jdbc:postgresql://warehouse:{SERVER_PORT}/{METABASE_DB}?sslmode=verify-full&sslrootcert={CA}"


@dataclass
class Compose:
    """The Compose project of one checkout."""

    files: Files

    @property
    def settings(self) -> Settings:
        return self.files.settings

    @property
    def project(self) -> str:
        """The project's name, which is also the first part of the names of containers, networks and volumes."""
        return self.settings.compose_project_name

    def container(self, name: str) -> str:
        """Return the name of a service's container."""
        middle = "postgres_" if name in MEMBERS else ""
        last = {"warehouse": "warehouse_db", "scheduler": "etl_pipeline"}.get(name, name)
        return f"{self.project}_{middle}{last}"

    def volume(self, name: str) -> str:
        """Return the name of the volume of a server's data."""
        return f"{self.project}_{name}_data"

    @property
    def wal_volume(self) -> str:
        """The name of the volume of the WAL archives."""
        return f"{self.project}_wal_archive"

    @property
    def second_repository(self) -> str:
        """What is mounted as the second repository: a directory of this machine, where it is one."""
        settings = self.settings
        if settings.backup_repo2 == "posix":
            return str(from_root(Path(settings.backup_repo2_path)))
        return self.wal_volume

    @property
    def member_image(self) -> str:
        """The image of the servers of the OLTP cluster."""
        return f"{self.project}_postgres"

    def environment(self) -> dict[str, str]:
        """Return what infra/compose.yaml asks for, within this process's environment. No secret of ours is in it."""
        secret = {name.lower() for name in Settings.secret_names()}
        return {name: value for name, value in os.environ.items() if name.lower() not in secret} | self.values()

    def values(self) -> dict[str, str]:
        """Return the settings that infra/compose.yaml asks for, but no secret."""
        settings = self.settings
        secret = {name.lower() for name in Settings.secret_names()}
        values = {
            name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in settings.model_dump(mode="json").items()
            if name not in secret and value is not None
        }
        oltp, warehouse = size_in_kb(settings.oltp_memory) or 0, size_in_kb(settings.warehouse_memory) or 0
        return values | {
            "COMPOSE_PROJECT_NAME": self.project,
            "PLATFORM_FILES": str(self.files.folder),
            "PLATFORM_CHECKOUT": str(ROOT),
            "PLATFORM_SSLMODE": sslmode(settings),
            "TLS": "on" if settings.uses_tls else "off",
            "METABASE_DB_URI": METABASE_URI if settings.uses_tls else "",
            "BACKUP_REPO2_PLACE": self.second_repository if settings.backup_repo2 == "posix" else "wal_archive",
            "OLTP_MEMORY_LIMIT": f"{3 * oltp + REST_KB}k",
            "WAREHOUSE_MEMORY_LIMIT": f"{3 * warehouse + REST_KB}k",
        }

    @property
    def _env_files(self) -> list[Path]:
        """Where Compose's environment is written: beside what the containers read, and where plain Compose looks.

        The latter for the checkout's own stack alone: one with settings elsewhere (a test's) is another stack.
        """
        own = env_file() == ROOT / ".env"
        return [self.files.folder / ENV_FILE, *([INFRA / ".env"] if own else [])]

    def write_environment(self, names: Sequence[str]) -> None:
        """Write what infra/compose.yaml asks for, so that plain `docker compose` means this stack and changes nothing.

        names: the services that should run; plain `docker compose up` starts none beside them.
        """
        optional = {f"{name.upper()}_REPLICAS": str(int(name in names)) for name in OPTIONAL_SERVICES}
        lines = ["# Written by `make up` for plain `docker compose`; settings belong in .env."]
        for name, value in sorted((self.values() | self._digests | optional).items()):
            if "'" in value or "\n" in value:
                quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("\n", "\\n")
                lines.append(f'{name}="{quoted}"')
            else:
                lines.append(f"{name}='{value}'")
        for path in self._env_files:
            write_atomically(path, "\n".join(lines) + "\n", mode=0o600)

    def forget_environment(self) -> None:
        """Remove what `write_environment` has written."""
        for path in self._env_files:
            path.unlink(missing_ok=True)

    def leftovers(self) -> list[str]:
        """Return what there is of this project, whoever made it: containers, volumes, networks."""
        label = f"label=com.docker.compose.project={self.project}"
        found = []
        for kind, command in (
            ("container", ("ps", "--all", "--format", "{{.Names}}")),
            ("volume", ("volume", "ls", "--format", "{{.Name}}")),
            ("network", ("network", "ls", "--format", "{{.Name}}")),
        ):
            _, answer = ask(*command, "--filter", label)
            found += [f"{kind} {name}" for name in answer.split()]
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        """infra/compose.yaml as Compose understands it."""
        config: dict[str, Any] = json.loads(self._run(("config", "--format", "json"), self.environment()))
        return config

    def image(self, name: str) -> str:
        return str(self.config["services"][name]["image"])

    def has_image(self, name: str) -> bool:
        return exists("image", self.image(name))

    def why_no_image(self, name: str) -> str | None:
        """Fetch the public image of a service, unless it is there. Returns why it cannot be pulled, or None."""
        if self.has_image(name):
            return None
        err.print(f"fetching the image {self.image(name)}", markup=False)
        pulled = programs.run(["docker", "pull", "--quiet", self.image(name)], check=False)
        return None if pulled.ok else (pulled.errors.strip().splitlines() or ["no reason given"])[-1]

    @cached_property
    def _digests(self) -> dict[str, str]:
        """A digest for each service of the files that it reads, so that a changed file makes a new container.

        What a failover or new certificates change is no reason for a new one: it takes effect in the one that runs.
        """
        config = self.config
        digests = {}
        for name, service in config["services"].items():
            mounted = [
                Path(mount["source"])
                for mount in service.get("volumes", [])
                if mount["type"] == "bind"
                and Path(mount["source"]).is_relative_to(self.files.folder)
                and mount["target"] != str(CA.parent)
            ]
            mounted += [Path(config["secrets"][use["source"]]["file"]) for use in service.get("secrets", [])]
            digest = hashlib.sha256()
            for place in mounted:
                for path in sorted(place.iterdir()) if place.is_dir() else [place]:
                    if path.name not in LIVE_FILES:
                        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
            digests[f"PLATFORM_DIGEST_{name.upper().replace('-', '_')}"] = digest.hexdigest()
        return digests

    def run(self, *arguments: str, show: bool = False) -> str:
        """Run `docker compose` on this project. Returns its output; raises UserError with it when it fails.

        show: let a person at a terminal see Compose's own progress.
        """
        return self._run(arguments, self.full_environment(), show=show)

    def full_environment(self) -> dict[str, str]:
        """Return what infra/compose.yaml asks for, with the digests of what the containers read."""
        return self.environment() | self._digests

    def command(self, *arguments: str, progress: str = "quiet") -> list[str]:
        """Return the command line of `docker compose` on this project."""
        # Settings come from the environment that goes with it, not from a file that Compose would read in its own way.
        return [
            *("docker", "compose", "--file", str(COMPOSE_FILE), "--env-file", os.devnull),
            *("--project-name", self.project, "--progress", progress),
            *arguments,
        ]

    def _run(self, arguments: Sequence[str], environment: dict[str, str], *, show: bool = False) -> str:
        show = show and err.is_terminal
        return programs.run(
            self.command(*arguments, progress="auto" if show else "quiet"),
            what=f"`docker compose {arguments[0]}`",
            env=environment,
            cwd=INFRA,
            show=show,
        ).output

    def up(self, names: Sequence[str], followers: Collection[str] = ()) -> None:
        """Start services with what they depend on, and wait until they are healthy. Raises UserError with a reason.

        followers: those that lose nothing by a restart.
        """
        try:
            return self._up(names)
        except UserError as error:
            failed = error
        # Compose gives up at once when a container is unhealthy from before: a replica whose primary was away, or a
        # member that was fenced, which what was started just now has cured.
        if self._heals(names, followers):
            try:
                return self._up(names)
            except UserError as error:
                failed = error
        raise UserError("\n".join([str(failed), *self._logs_of_unhealthy()]))

    def _up(self, names: Sequence[str]) -> None:
        options = ("--detach", "--wait", "--wait-timeout", str(STACK_START_SECONDS), "--remove-orphans")
        self.run("up", *options, *names, show=True)

    def _heals(self, names: Sequence[str], followers: Collection[str]) -> bool:
        """Wait for these services and the servers to become healthy. Returns whether some were not, and all are now."""
        wanted = {*names, *MEMBERS, "warehouse", "pgbouncer"}

        def unwell() -> list[dict[str, Any]]:
            return [row for row in self._unwell() if row["Service"] in wanted]

        def become_well() -> bool:
            with contextlib.suppress(UserError):
                wait_for(lambda: not unwell(), HEAL_SECONDS, "all are healthy", every=1)
                return True
            return False

        found = unwell()
        if not found or any(row["State"] in ENDED for row in found):
            return False
        err.print(f"not healthy yet, waiting: {', '.join(sorted({row['Service'] for row in found}))}", markup=False)
        if become_well():
            return True
        # A new start brings a new network as well, when its own has gone (an engine under load can lose it).
        again = sorted({row["Service"] for row in unwell()} & set(followers))
        if not again:
            return False
        err.print(f"still not healthy, starting again: {', '.join(again)}", markup=False)
        self.run("restart", *again)
        return become_well()

    def _unwell(self) -> list[dict[str, Any]]:
        """Return the containers that ended with an error, start again and again, or are unhealthy."""
        return [
            row
            for row in self.containers()
            if (row["State"] in ENDED and row["ExitCode"] != 0)
            or row["State"] == "restarting"
            or row["Health"] == "unhealthy"
        ]

    def _logs_of_unhealthy(self) -> list[str]:
        """Return the ends of the logs of the containers that are not well."""
        lines = []
        for row in self._unwell():
            lines.append(f"The end of the log of {row['Service']}:")
            lines += [f"  {line}" for line in self.tail(row["Service"], 15)]
        return lines

    def containers(self) -> list[dict[str, Any]]:
        """Return the project's containers, as Compose describes them."""
        if not self.owned:
            return []
        output = self._run(("ps", "--all", "--format", "json"), self.environment())
        # One object a line; before Compose 2.21 it was one list.
        parsed = [json.loads(line) for line in output.splitlines() if line.strip()]
        return parsed[0] if parsed and isinstance(parsed[0], list) else parsed

    def running(self) -> set[str]:
        """Return the names of the services whose containers run."""
        return {row["Service"] for row in self.containers() if row["State"] == "running"}

    @property
    def owned(self) -> bool:
        """Whether the project is this checkout's. One that is not is left alone, whatever the command."""
        note = compose_note(self.settings)
        return note.exists() and note.read_text(encoding="utf-8").strip() == self.project

    def claim(self) -> None:
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
                f"When they are this platform's (the checkout was cloned again), bring its .env and {note} back."
            )
        write_atomically(note, f"{self.project}\n")

    def _has_resources(self, project: str) -> bool:
        label = f"label=com.docker.compose.project={project}"
        return any(ask(*command, "--quiet", "--filter", label)[1] for command in (("ps", "--all"), ("volume", "ls")))

    def tail(self, name: str, lines: int) -> list[str]:
        """Return the last lines of a service's log."""
        return ask("logs", "--tail", str(lines), self.container(name))[1].splitlines()

    # --- names in the networks ----------------------------------------------------------------------------------------

    def _wanted_names(self, service: str) -> dict[str, set[str]]:
        """Return under which names a service should be found, by network."""
        wanted = {}
        for key, options in (self.config["services"][service].get("networks") or {}).items():
            wanted[str(self.config["networks"][key]["name"])] = {service, *((options or {}).get("aliases") or [])}
        return wanted

    def missing_names(self) -> list[tuple[str, str, set[str]]]:
        """Return the services that run and are not found by their names: service, network, names."""
        missing = []
        for service in sorted(self.running() & self.config["services"].keys()):
            code, answer = ask("inspect", "--format", "{{json .NetworkSettings.Networks}}", self.container(service))
            if code != 0:
                continue
            found = json.loads(answer)
            for network, names in self._wanted_names(service).items():
                if names - set((found.get(network) or {}).get("Aliases") or []):
                    missing.append((service, network, names))
        return missing

    def connect_again(self, service: str, network: str, names: set[str]) -> None:
        """Give a running container its place and its names in a network again."""
        container = self.container(service)
        ask("network", "disconnect", "--force", network, container)
        docker("network", "connect", *(f"--alias={name}" for name in sorted(names)), network, container)

    def start(self, name: str) -> None:
        """Start the container that a service has; make one when it has none. Nothing else is started."""
        if exists("container", self.container(name)):
            # Not by Compose: its start without the service's dependencies would make a new container.
            docker("start", self.container(name))
        else:
            self.run("up", "--detach", "--no-deps", name)

    def down(self, *options: str, show: bool = False) -> None:
        """Remove the project's containers and networks. options: of `docker compose down`."""
        self._run(("down", "--remove-orphans", *options), self.environment(), show=show)

    def will_change(self, names: Sequence[str]) -> bool:
        """Return whether `up` would replace a running service's container."""
        wanted = dict(line.split() for line in self.run("config", "--hash", "*").splitlines())
        label = '{{.Name}} {{index .Config.Labels "com.docker.compose.config-hash"}}'
        present = [self.container(name) for name in names]
        _, output = ask("inspect", "--format", label, *present)
        found = dict(line.strip("/").split() for line in output.splitlines() if line.startswith("/"))
        return any(found.get(self.container(name), wanted.get(name)) != wanted.get(name) for name in names)
