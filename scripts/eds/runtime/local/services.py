"""The embedded processes that are not PostgreSQL: PgBouncer, the schedulers, Metabase."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from eds.base.errors import UserError
from eds.base.files import has_content, write_atomically
from eds.base.programs import tail
from eds.base.services import BACKUP_SCHEDULER, ServiceState
from eds.base.settings import ROOT
from eds.cluster import server_conf
from eds.cluster.connections import Cluster, wait_until_accepting
from eds.runtime.local import binaries, metabase_jar, processes
from eds.runtime.local.home import Home

SERVICE_START_SECONDS = 120
# How long a scheduler may take to finish a run, a backup or a drill.
SCHEDULER_STOPS_SECONDS = 45.0
# The variable that identifies the settings and the code of a running scheduler.
STARTED_WITH = "EDS_STARTED_WITH"


@dataclass
class Services:
    """Starts and stops the processes beside the servers, each by its name."""

    home: Home
    cluster: Cluster
    # Schedulers that nobody has waited for yet, with the length that their log had before.
    _launched: dict[str, tuple[subprocess.Popen[bytes], int]] = field(default_factory=dict, init=False)

    def _log(self, name: str) -> Path:
        return self.home.settings.state / f"{name}.log"

    def pidfile(self, name: str) -> Path:
        return (
            self.home.path / "pgbouncer/pgbouncer.pid"
            if name == "pgbouncer"
            else self.home.settings.state / f"{name}.pid"
        )

    def _process(self, name: str) -> psutil.Process | None:
        def is_ours(process: psutil.Process) -> bool:
            if name == "pgbouncer":
                return process.name() == name and processes.works_in(process, self.home.path)
            if name == "metabase":
                try:
                    return process.environ().get(metabase_jar.MARK) == str(self.home.settings.state)
                except psutil.Error:
                    return False
            return process.cmdline()[-2:] == ["eds", name] and processes.works_in(process, ROOT)

        return processes.find(processes.first_number(self.pidfile(name)), is_ours)

    def pid(self, name: str) -> int | None:
        """Return the process id of PgBouncer, Metabase or the scheduler of this checkout, when it runs."""
        process = self._process(name)
        return process.pid if process else None

    def port(self, name: str) -> int | None:
        """Return the port that a running process has now."""
        process = self._process(name)
        if process is None:
            return None
        if name == "metabase":
            return int(process.environ()["MB_JETTY_PORT"])
        ini = (self.home.path / "pgbouncer" / "pgbouncer.ini").read_text(encoding="utf-8")
        found = re.search(r"(?m)^listen_port = (\d+)$", ini)
        return int(found.group(1)) if found else None

    def start_pgbouncer(self) -> bool | None:
        """Start PgBouncer, or restart it when its configuration changed. None: there is no binary here."""
        binary = binaries.find_pgbouncer()
        if binary is None:
            return None
        settings, primary, replica = self.cluster.settings, self.cluster.primary, self.cluster.replicas[0]
        folder = self.home.path / "pgbouncer"
        folder.mkdir(exist_ok=True)
        self.home.give(folder, 0o750)
        self.home.ensure_certificate("pgbouncer", settings.pgbouncer_host)
        ini = server_conf.pgbouncer_ini(
            settings,
            tls=self.home.tls,
            primary_host=primary.host,
            primary_port=primary.port,
            # This PgBouncer takes one port per database; the replicas of one machine differ by port: the first serves.
            replica_host=replica.host,
            replica_port=replica.port,
            listen_addr=settings.pgbouncer_host,
            listen_port=settings.pgbouncer_port,
            pidfile=folder / "pgbouncer.pid",
            logfile=self.home.path / "log" / "pgbouncer.log",
            auth_file=folder / "userlist.txt",
        )
        userlist = server_conf.pgbouncer_userlist(settings)
        files = {folder / "userlist.txt": userlist, folder / "pgbouncer.ini": ini}
        if self.pid("pgbouncer") is not None and all(has_content(path, text) for path, text in files.items()):
            return False
        # As with the servers: written only while it is stopped, so the files are what a running one was started with.
        self.stop("pgbouncer")
        for path, text in files.items():
            self.home.write(path, text)
        self.home.run([binary, "-d", "-q", folder / "pgbouncer.ini"], what="start of pgbouncer")
        wait_until_accepting(self.cluster.pooled_conninfo(), SERVICE_START_SECONDS)
        return True

    def reload_pgbouncer(self) -> None:
        """Let a running PgBouncer read its certificate again. Sessions stay."""
        if (pid := self.pid("pgbouncer")) is not None:
            os.kill(pid, signal.SIGHUP)

    def _scheduler_should_have(self) -> str:
        """Return a digest of what a scheduler keeps in memory: settings, its code, the installed packages."""
        digest = hashlib.sha256(self.home.settings.fingerprint().encode())
        code = sorted(path for path in (ROOT / "scripts/eds").rglob("*") if "__pycache__" not in path.parts)
        for path in [*code, *sorted((ROOT / "infra/dashboards").glob("*.yml")), Path(sys.prefix) / ".installed"]:
            if path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def scheduler_is_outdated(self, name: str = "scheduler") -> bool:
        """Return whether a running scheduler was started with other settings or other code than there are now."""
        process = self._process(name)
        if process is None:
            return False
        try:
            return process.environ().get(STARTED_WITH) != self._scheduler_should_have()
        except psutil.Error:
            return True

    def launch_scheduler(self, name: str = "scheduler") -> None:
        """Start a scheduler, or restart it when its settings changed, without waiting until it is ready."""
        if self.pid(name) is not None and not self.scheduler_is_outdated(name):
            return
        self.stop(name, SCHEDULER_STOPS_SECONDS)
        log_file = self._log(name)
        start = log_file.stat().st_size if log_file.exists() else 0
        process = self._launch(
            name, [sys.executable, "-m", "eds", name], ROOT, {STARTED_WITH: self._scheduler_should_have()}
        )
        self._launched[name] = process, start

    def start_scheduler(self, name: str = "scheduler") -> bool:
        """Start a scheduler as `launch_scheduler` does, and wait until it is ready. Returns whether it was started."""
        self.launch_scheduler(name)
        if name not in self._launched:
            return False
        process, start = self._launched.pop(name)
        deadline = time.monotonic() + SERVICE_START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise UserError(f"The {name} ended at once:\n" + tail(self.home.tail(name, 15)))
            with self._log(name).open("rb") as log:
                log.seek(start)
                if b'"event": "started"' in log.read():
                    return True
            time.sleep(0.05)
        raise UserError(
            f"The {name} did not start within {SERVICE_START_SECONDS} s; `make logs SERVICE={name}` shows more."
        )

    def start_backup_scheduler(self) -> bool:
        """Start the scheduler of backups when one of its schedules is on, else stop it. Returns whether it runs."""
        if not self.home.settings.backup_schedules:
            self.stop(BACKUP_SCHEDULER, SCHEDULER_STOPS_SECONDS)
            return False
        self.start_scheduler(BACKUP_SCHEDULER)
        return True

    def backup_scheduler_state(self) -> ServiceState:
        """Return what `make ps` shows of the scheduler of backups."""
        schedules = self.home.settings.backup_schedules
        pid = self.pid(BACKUP_SCHEDULER)
        if not schedules and pid is None:
            return ServiceState(BACKUP_SCHEDULER, "absent", None, None, "no schedule of backups is set")
        shown = ", ".join(f"{name.removesuffix('_schedule')}: {value}" for name, value in schedules.items())
        return ServiceState(BACKUP_SCHEDULER, "running" if pid else "stopped", pid, None, shown)

    def start_metabase(self) -> bool:
        """Start the Metabase of METABASE_JAR in the background. Returns whether it was started; it takes a while."""
        if self.pid("metabase") is not None:
            return False
        command = metabase_jar.command(self.home.settings)
        metabase_jar.folder(self.home.settings).mkdir(exist_ok=True)
        self._launch(
            "metabase", command, metabase_jar.folder(self.home.settings), metabase_jar.environment(self.home.settings)
        )
        return True

    def _launch(
        self, name: str, command: list[str], directory: Path, variables: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a process in the background, with a log and a file of its process id in the state directory."""
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        write_atomically(self.pidfile(name), f"{process.pid}\n", mode=0o600)
        return process

    def stop(self, name: str, seconds: float = 15) -> bool:
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
        self.pidfile(name).unlink(missing_ok=True)
        return process is not None
