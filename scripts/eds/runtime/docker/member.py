"""One server in its container, as the operations see it: the `Member` of this runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eds.base import programs
from eds.base.programs import Finished
from eds.base.services import SIDE
from eds.cluster.connections import MEMBERS, Cluster, wait_until_accepting
from eds.cluster.queries import wait_for
from eds.cluster.server_conf import Address, Places, set_password_statements
from eds.runtime.docker import engine
from eds.runtime.docker.compose import STACK_START_SECONDS, Compose
from eds.runtime.docker.files import (
    CA,
    CERTIFICATES,
    CONF_FILE,
    MOUNTED,
    PGDATA,
    REPOSITORY_CONF,
    SECOND_REPOSITORY,
    SERVER_PORT,
    VOLUME,
    WAL_ARCHIVE,
    Files,
    sslmode,
)
from eds.runtime.member import Member

# How long a server with data may take until it accepts connections.
SERVER_SECONDS = 120
# How long a server that does not answer may take for a clean shutdown.
AT_ONCE_SECONDS = 3
# Runs a program on a volume whose server is down. The process id that a killed server left may be that of another
# process in this container, and PostgreSQL's programs would then take the server for running. A running server holds
# the lock.
WITHOUT_SERVER = (
    f'[ ! -e {VOLUME}/lock ] || flock --nonblock {VOLUME}/lock rm -f {PGDATA}/postmaster.pid || true; exec "$@"'
)
# Where a container mounts the volumes of the other members, beside its own.
OTHERS = Path("/members")


@dataclass(frozen=True)
class ComposeMember:
    """One server of the OLTP cluster, or the recovered one beside it.

    Its programs run in its container, or, when that does not run, in one of their own with the same files.
    """

    name: str
    cluster: Cluster
    files: Files
    compose: Compose

    data = PGDATA
    conf_file = CONF_FILE

    @property
    def places(self) -> Places:
        return self.files.places

    @property
    def address(self) -> Address:
        return Address(self.name, SERVER_PORT)

    @property
    def container(self) -> str:
        """The name of its container."""
        return self.compose.container(self.name)

    @property
    def volume(self) -> str:
        """The name of the volume of its data."""
        return self.compose.volume(self.name)

    def data_of(self, name: str) -> Path:
        return OTHERS / name / "pgdata"

    def _mounts(self) -> list[str]:
        mounts = [f"{self.volume}:{VOLUME}", f"{self.files.subfolder(self.name)}:{MOUNTED}:ro"]
        mounts.append(f"{self.files.certificates(self.name)}:{CERTIFICATES}:ro")
        mounts.append(f"{self.compose.wal_volume}:{WAL_ARCHIVE}")
        mounts.append(f"{self.compose.second_repository}:{SECOND_REPOSITORY}")
        mounts.append(f"{self.files.folder / 'secrets' / REPOSITORY_CONF.name}:{REPOSITORY_CONF}:ro")
        if self.name == SIDE:
            mounts += [f"{self.compose.volume(other)}:{OTHERS / other}:ro" for other in MEMBERS]
        return [part for mount in mounts for part in ("--volume", mount)]

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
        what = what or str(command[0])
        # Inside the container, so that the program ends and not only the client of the engine.
        limit = ["timeout", "--kill-after=5", str(timeout)] if timeout else []
        return self._run([*limit, *command], env=env, what=what, check=check, stdin=stdin)

    def _run(
        self,
        command: Sequence[str | Path],
        *mounts: str,
        env: dict[str, str] | None = None,
        what: str = "",
        check: bool = True,
        stdin: str = "",
        user: str = "postgres",
    ) -> Finished:
        options = ["--interactive", "--user", user, *(part for name in env or {} for part in ("--env", name))]
        # The container of a fenced member runs briefly, each time that it refuses to start.
        if self.is_running():
            into = ["exec", *options, self.container, *command]
        else:
            network = f"{self.compose.project}_backend"
            more = [part for mount in mounts for part in ("--volume", mount)]
            libpq = ["--env", f"PGSSLMODE={sslmode(self.files.settings)}", "--env", f"PGSSLROOTCERT={CA}"]
            into = ["run", "--rm", *options, *libpq, "--network", network, "--label", self._label]
            into += [*self._mounts(), *more]
            into += ["--entrypoint", "bash", self.compose.member_image, "-c", WITHOUT_SERVER, "bash", *command]
        return programs.run(["docker", *into], env=os.environ | (env or {}), stdin=stdin, what=what, check=check)

    @property
    def _label(self) -> str:
        """The mark of the containers of programs that work on its volume."""
        return f"platform.works-on={self.volume}"

    def _shell(self, script: str, *mounts: str, user: str = "postgres", stdin: str = "") -> str:
        """Run a shell script with its files."""
        what = f"work on the volume {self.volume}"
        return self._run(["bash", "-euo", "pipefail", "-c", script], *mounts, user=user, stdin=stdin, what=what).output

    def exists(self, path: Path) -> bool:
        # A container would create a missing volume.
        if not engine.exists("volume", self.volume):
            return False
        found = self.run(["test", "-e", path], check=False)
        if found.code > 1:
            # Docker itself failed: that says nothing about the file.
            raise programs.failure(f"looking for {path} in the volume {self.volume}", found.code, found.tail)
        return found.ok

    def write(self, path: Path, text: str) -> None:
        self._shell(f"umask 077; cat >{path}.new; mv {path}.new {path}; sync {path.parent}", stdin=text)

    def configure(self) -> None:
        self.files.render_cluster()

    def start(self) -> None:
        if self.name == SIDE:
            self.compose.run("up", "--detach", "--no-deps", SIDE)
            return
        self.files.unfence(self.name)
        self.compose.start(self.name)
        wait_until_accepting(self.cluster.servers[self.name].superuser_conninfo("postgres"), SERVER_SECONDS)

    def stop(self) -> None:
        self._end_programs()
        if engine.exists("container", self.container):
            engine.docker("stop", self.container)

    def _end_programs(self) -> None:
        """End what a killed command has left working on its volume: pg_rewind, a restore."""
        _, left = engine.ask("ps", "--quiet", "--filter", f"label={self._label}")
        if left:
            engine.docker("rm", "--force", *left.split())

    def fence(self, *, at_once: bool = False) -> None:
        self.files.fence(self.name)
        if at_once and engine.exists("container", self.container):
            # Its server does not answer: an orderly stop would time out.
            engine.docker("stop", "-t", str(AT_ONCE_SECONDS), self.container)
        self.stop()

    def is_running(self) -> bool:
        # The container of a fenced one may be there, and refuse to start it.
        return not self.files.is_fenced(self.name) and engine.is_running(self.container)

    def tail(self, lines: int) -> list[str]:
        return self.compose.tail(self.name, lines)

    def clone(self) -> None:
        self.stop()
        self.files.unfence(self.name)
        # Its container does it, and keeps the old data until the clone is complete.
        self._shell(f"touch {VOLUME}/clone-again")
        self.compose.start(self.name)
        health = ("inspect", "--format", "{{.State.Health.Status}}", self.container)
        what = f"{self.name} clones the primary and follows it (`make logs SERVICE={self.name}` shows more)"
        wait_for(lambda: engine.ask(*health) == (0, "healthy"), STACK_START_SECONDS, what, every=0.5)

    def fill(self, source: str | Callable[[Path], list[str | Path]], lines: Sequence[str]) -> None:
        self.files.render_recovered(lines)
        if isinstance(source, str):
            self._shell(
                f"cd {VOLUME}; cp -a /source/pgdata pgdata; rm -f pgdata/postmaster.pid; "
                "chown -R postgres:postgres .; chmod 700 pgdata",
                f"{self.compose.volume(source)}:/source:ro",
                user="0",
            )
        else:
            self._shell(f"install --directory --owner=postgres --mode=700 {VOLUME} {PGDATA}", user="0")
            self.run(source(PGDATA), what="the restore of a backup")

    def replace_data(self, source: Member) -> str:
        aside = f"pgdata.aside-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        # The note of the superuser's password goes, so that the server adopts that of .env. Between the two renames
        # there is no data directory; the entrypoint then refuses to make a new one.
        self._shell(
            f"""
            cd {VOLUME}
            # Repeated after an interrupt: it was done when this is the very cluster already.
            if cmp -s /source/pgdata/global/pg_control pgdata/global/pg_control; then exit 0; fi
            rm -rf incoming
            [ ! -e pgdata ] || rm -rf pgdata.aside-*
            cp -a /source/pgdata incoming
            sync
            [ ! -e pgdata ] || mv pgdata {aside}
            mv incoming pgdata
            rm -f superuser-password.sha256
            sync
            """,
            f"{self.compose.volume(source.name)}:/source:ro",
        )
        return f"{aside} in the volume {self.volume}"

    def adopt_superuser_password(self) -> None:
        statements = set_password_statements(self.cluster.recovered.superuser_password)
        self.run(
            ["postgres", "--single", "-D", PGDATA, "-c", f"config_file={CONF_FILE}", "postgres"],
            stdin=statements,
            what=f"change of the superuser's password of {self.name}",
        )

    def remove(self) -> bool:
        self._end_programs()
        there = engine.exists("container", self.container)
        if there:
            engine.docker("rm", "--force", self.container)
        if engine.exists("volume", self.volume):
            engine.docker("volume", "rm", self.volume)
        return there
