"""One embedded PostgreSQL server: its configuration, its process, its superuser's password."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from eds.base.console import err
from eds.base.errors import UserError
from eds.base.files import has_content
from eds.base.programs import tail
from eds.base.services import SIDE
from eds.base.settings import from_root
from eds.cluster import server_conf
from eds.cluster.connections import MEMBERS, Cluster, WrongPasswordError, wait_until_accepting
from eds.cluster.server_conf import conf
from eds.runtime.local import processes
from eds.runtime.local.home import Home

START_SECONDS = 120
STOP_SECONDS = 60
# How long a server that does not answer may take to end.
AT_ONCE_SECONDS = 3
# A replica takes over a changed password with the primary's WAL.
PASSWORD_ARRIVES_SECONDS = 15.0


@dataclass
class Postmaster:
    """Configures, starts and stops the servers of a home, each by its name.

    extra_conf: lines for every server's configuration (tests use it).
    """

    home: Home
    cluster: Cluster
    extra_conf: Sequence[str] = ()

    # --- configuration ------------------------------------------------------------------------------------------------

    def write_shared_files(self) -> None:
        """Write what the servers have in common: how they use the repository, and the replicas' passwords."""
        script = server_conf.INFRA / "postgres" / "restore_wal.sh"
        self.home.write(self.home.path / "bin" / script.name, script.read_text(encoding="utf-8"), 0o750)
        for name in (*MEMBERS, SIDE):
            self.home.write(self.home.repository_conf(name), self._repository_conf(name))
        # Independent of which member is the primary.
        password = self.cluster.settings.replicator_password.get_secret_value()
        entries = [(self.address(name), "replicator", password) for name in MEMBERS]
        self.home.write(self.home.passfile, server_conf.pgpass(entries))

    def _repository_conf(self, name: str) -> str:
        settings, home = self.cluster.settings, self.home
        port = self.cluster.recovered.port if name == SIDE else self.address(name).port
        places = server_conf.RepositoryPlaces(
            repository=home.path / "repository",
            second=from_root(Path(settings.backup_repo2_path)) if settings.backup_repo2_path else None,
            work=home.path / "pgbackrest" / name,
            data=home.data(name),
            port=port,
        )
        return server_conf.repository_conf(settings, places)

    def places(self, name: str) -> server_conf.Places:
        """Return where a server finds what its configuration names."""
        home = self.home
        return server_conf.Places(
            scripts=home.path / "bin",
            repository_conf=home.repository_conf(name) if home.pgbackrest[0] else None,
            passfile=home.passfile,
            tls=home.tls,
        )

    def address(self, name: str) -> server_conf.Address:
        """Return where a server listens."""
        server = self.cluster.servers[name]
        return server_conf.Address(server.host, server.port)

    def _runtime_conf(self, name: str) -> str:
        home, address, primary = self.home, self.address(name), self.cluster.primary_name
        places = self.places(name)
        follows = self.address(primary) if name in MEMBERS and name != primary else None
        lines = [
            "# Written by the platform at each start; settings belong in .env and infra/postgres.",
            f"listen_addresses = {conf(address.host)}",
            f"port = {address.port}",
            "unix_socket_directories = ''",
            f"hba_file = {conf(home.data(name) / 'pg_hba.conf')}",
            "logging_collector = on",
            f"log_directory = {conf(home.path / 'log')}",
            f"log_filename = '{name}-%a.log'",
            "log_rotation_age = 1d",
            "log_rotation_size = 0",
            "log_truncate_on_rotation = on",
            *server_conf.settings_lines(self.cluster.settings, name, places),
            *([] if name == "warehouse" else server_conf.part_lines(name, places, follows)),
        ]
        return "\n".join([*lines, *self.extra_conf]) + "\n"

    @cached_property
    def _build_conf(self) -> str:
        """The settings that depend on how the server's program was built, as it answers."""
        script = self.home.path / "bin" / server_conf.CHOOSE_SETTINGS.name
        self.home.write(script, server_conf.CHOOSE_SETTINGS.read_text(encoding="utf-8"), 0o750)
        return self.home.run(
            [script, self.home.bindir / "postgres"], stdin=server_conf.BUILD_SETTINGS.read_text(encoding="utf-8")
        ).output

    def _conf_files(self, name: str, data: Path) -> dict[Path, str]:
        """Return a server's configuration as it should be: the files and their text."""
        self.home.ensure_certificate(name, self.address(name).host)
        files = {
            data / "conf.d" / server_conf.BUILD_CONF: self._build_conf,
            data / "conf.d" / "90-runtime.conf": self._runtime_conf(name),
        }
        for file_name, text in server_conf.static_files(name, tls=self.home.tls is not None).items():
            files[data / file_name if file_name == "pg_hba.conf" else data / "conf.d" / file_name] = text
        main = data / "postgresql.conf"
        include = "include_dir = 'conf.d'"
        text = main.read_text(encoding="utf-8")
        if include not in text:
            files[main] = f"{text}\n{include}\n"
        return files

    def write_conf(self, name: str, data: Path | None = None) -> None:
        """Bring a server's configuration up to date, in its data directory or in another one for it.

        Only while it is stopped, or with a reload afterwards: so the files always are what a running server was started
        with, also when a command is killed midway.
        """
        data = data or self.home.data(name)
        (data / "conf.d").mkdir(exist_ok=True)
        self.home.give(data / "conf.d", 0o700)
        for path, text in self._conf_files(name, data).items():
            self.home.write(path, text)

    # --- the process --------------------------------------------------------------------------------------------------

    def _process(self, name: str) -> psutil.Process | None:
        data = self.home.data(name)
        pid = processes.first_number(data / "postmaster.pid")
        return processes.find(pid, lambda process: processes.is_postmaster(process, data))

    def _pidfile(self, name: str) -> list[str]:
        """postmaster.pid: process id, data directory, start time, port, socket, address, memory, status."""
        try:
            text = (self.home.data(name) / "postmaster.pid").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [line.strip() for line in text.splitlines()]

    def pid(self, name: str) -> int | None:
        """Return the process id of a running server of ours, else None."""
        process = self._process(name)
        return process.pid if process else None

    def port(self, name: str) -> int | None:
        """Return the port that a running server has now."""
        if self.pid(name) is None:
            return None
        line = self._pidfile(name)[3:4]
        return int(line[0]) if line and line[0].isdigit() else None

    def start(self, name: str) -> bool:
        """Start a server, or restart it when its configuration changed. Returns whether it was (re)started."""
        data = self.home.data(name)
        changed = any(not has_content(path, text) for path, text in self._conf_files(name, data).items())
        if self._pidfile(name)[7:8] == ["stopping"]:
            # Left by a `make down` that was killed while it waited.
            self.stop(name)
        start = changed or self.pid(name) is None
        if start:
            self.stop(name)
            self.clear_up_after_crash(name)
            self.write_conf(name)
            self.launch(name)
        try:
            wait_until_accepting(self.cluster.servers[name].superuser_conninfo("postgres"), START_SECONDS)
        except WrongPasswordError:
            self._take_over_superuser_password(name)
            start = True
        return start

    def clear_up_after_crash(self, name: str) -> None:
        """Remove what a killed server has left, so that it does not keep the next one from starting."""
        data = self.home.data(name)
        pidfile = data / "postmaster.pid"
        if not pidfile.exists():
            return
        # Its sessions end by themselves, when they notice; until then they hold its shared memory.
        processes.end_all_busy_with(data, patience=5)
        # PostgreSQL takes any live process of its account under that number for the old server.
        pid = processes.first_number(pidfile)
        # A server in single-user mode, as pg_rewind starts one, writes its number with a minus sign.
        if pid is None or pid <= 0 or psutil.pid_exists(pid):
            pidfile.unlink()

    def launch(self, name: str) -> None:
        """Start a stopped server and wait until it is ready.

        Not by pg_ctl, whose shell command does not stand every path that a checkout may have.
        """
        data = self.home.data(name)
        command: list[str | Path] = [self.home.bindir / "postgres", "-D", data]
        if (data / "standby.signal").exists():
            control = self.home.run([self.home.bindir / "pg_controldata", data], what=f"reading pg_control of {name}")
            command += server_conf.replay_options(control.output)
        log_file = self.home.path / "log" / f"{name}.start.log"
        if not log_file.exists():
            self.home.write(log_file, "", 0o640)
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.home.path,
                env=self.home.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # An interrupt at the keyboard is for this command, not for the servers.
                start_new_session=True,
                **self.home.identity,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            lines = self._pidfile(name)
            if lines[:1] == [str(process.pid)] and lines[7:8] in (["ready"], ["standby"]):
                return
            code = process.poll()
            if code is not None or time.monotonic() > deadline:
                how = f"exit code {code}" if code is not None else f"not ready after {START_SECONDS} s"
                raise UserError(f"{name} did not start ({how}). The end of its log:\n{tail(self.home.tail(name, 50))}")
            time.sleep(0.02)

    def _take_over_superuser_password(self, name: str) -> None:
        """Give a server the superuser's password of the settings, when it has another one.

        Nobody can log in to change it, so the server is stopped and the statement run in single-user mode, which asks
        whoever owns the data directory for no password. A replica gets it from the primary, with the WAL.
        """
        server = self.cluster.servers[name]
        if name in self.cluster.replica_names:
            deadline = time.monotonic() + PASSWORD_ARRIVES_SECONDS
            while True:
                try:
                    return wait_until_accepting(server.superuser_conninfo("postgres"), START_SECONDS)
                except WrongPasswordError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
        setting = "WAREHOUSE_POSTGRES_PASSWORD" if name == "warehouse" else "POSTGRES_PASSWORD"
        err.print(f"{name}: {setting} has changed, the server adopts it")
        self.stop(name)
        self.set_superuser_password(name, server.superuser_password)
        self.launch(name)
        wait_until_accepting(server.superuser_conninfo("postgres"), START_SECONDS)

    def set_superuser_password(self, name: str, password: str) -> None:
        """Set the superuser's password of a stopped server, in single-user mode."""
        self.home.run(
            [self.home.bindir / "postgres", "--single", "-D", self.home.data(name), "postgres"],
            what=f"change of the superuser's password of {name}",
            stdin=server_conf.set_password_statements(password),
        )

    def stop(self, name: str, mode: str = "fast") -> bool:
        """Stop a server (mode fast or immediate). Returns whether it ran."""
        process = self._process(name)
        if process is None:
            return False
        # The signal that pg_ctl sends. Sent directly, it also stops a server whose binaries are gone.
        process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        if not processes.wait_gone(process, STOP_SECONDS):
            err.print(
                f"{name} did not stop within {STOP_SECONDS} s: it is stopped at once, and recovers when it starts"
            )
            process.send_signal(signal.SIGQUIT)
            if not processes.wait_gone(process, STOP_SECONDS):
                raise UserError(f"{name} (pid {process.pid}) does not stop; see `make logs SERVICE={name}`.")
        return True

    def kill(self, name: str) -> None:
        """End a server that does not answer, and all its processes: also one that is suspended."""
        if (process := self._process(name)) is None:
            return
        process.send_signal(signal.SIGQUIT)
        if not processes.wait_gone(process, AT_ONCE_SECONDS):
            processes.end_all_busy_with(self.home.data(name))
