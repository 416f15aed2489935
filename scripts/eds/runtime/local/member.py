"""One embedded server, as the operations see it: the `Member` of this runtime."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eds.base.errors import UserError
from eds.base.files import sync_directory
from eds.base.programs import Finished
from eds.base.services import SIDE
from eds.cluster import members
from eds.cluster.connections import Cluster
from eds.cluster.server_conf import Address, Places, conf
from eds.runtime.local import processes
from eds.runtime.local.bootstrap import Bootstrap
from eds.runtime.local.home import Home
from eds.runtime.local.postmaster import Postmaster
from eds.runtime.member import Member

# The configuration file that only the recovered cluster has.
SIDE_CONF = "99-recovery.conf"


@dataclass(frozen=True)
class LocalMember:
    """One server of the OLTP cluster, or the recovered one beside it."""

    name: str
    home: Home
    cluster: Cluster
    postmaster: Postmaster
    bootstrap: Bootstrap

    @property
    def data(self) -> Path:
        return self.home.data(self.name)

    @property
    def places(self) -> Places:
        return self.postmaster.places(self.name)

    @property
    def conf_file(self) -> Path:
        return self.data / "postgresql.conf"

    @property
    def address(self) -> Address:
        return self.postmaster.address(self.name)

    def data_of(self, name: str) -> Path:
        return self.home.data(name)

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
        program = self.home.bindir / command[0]
        words = [program if program.exists() else command[0], *command[1:]]
        # For programs that a shell script among them calls.
        path = {"PATH": f"{self.home.bindir}{os.pathsep}{self.home.environment['PATH']}"}
        return self.home.run(words, path | (env or {}), what, stdin=stdin, check=check, timeout=timeout)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def write(self, path: Path, text: str) -> None:
        self.home.write(path, text)

    def configure(self) -> None:
        self.postmaster.write_shared_files()
        if self.is_running():
            self.postmaster.write_conf(self.name)

    def start(self) -> None:
        if self.name == SIDE:
            self.postmaster.launch(SIDE)
        else:
            self.postmaster.start(self.name)

    def stop(self) -> None:
        self.postmaster.stop(self.name)
        # A killed command's pg_rewind may still be writing there.
        processes.end_all_busy_with(self.data)
        # After a crash, what the server left would stop the programs that work on its data.
        self.postmaster.clear_up_after_crash(self.name)

    def fence(self, *, at_once: bool = False) -> None:
        # By the time that a command starts it again, another member is noted as the primary.
        if at_once:
            self.postmaster.kill(self.name)
        self.postmaster.stop(self.name)

    def is_running(self) -> bool:
        return self.postmaster.pid(self.name) is not None

    def tail(self, lines: int) -> list[str]:
        return self.home.tail(self.name, lines)

    def clone(self) -> None:
        self.postmaster.write_shared_files()
        self.postmaster.stop(self.name)
        members.ensure_slot(self.cluster, self.name, clear=True)
        replace = self.exists(self.data / "PG_VERSION")
        self.bootstrap.make(self.name, self.bootstrap.base_backup(self.name), replace=replace)
        _, trouble = self.follow()
        if trouble:
            raise UserError(
                f"{self.name} was cloned from the primary just now, but does not follow it. Found: {trouble}\n"
                f"`make logs SERVICE={self.name}` shows more."
            )

    def follow(self) -> tuple[bool, str | None]:
        """Start it as a replica. Returns whether it was (re)started, and why it does not follow the primary, if so."""
        if not self.exists(self.data / "standby.signal"):
            # Without this file it would start as a second primary.
            return False, "it is no replica any more (it was promoted)"
        try:
            started = self.postmaster.start(self.name)
        except UserError as error:
            return False, members.last_complaint(self) or str(error)
        return started, members.why_not_following(self.cluster, self.name, self)

    def fill(self, source: str | Callable[[Path], list[str | Path]], lines: Sequence[str]) -> None:
        self.postmaster.write_shared_files()
        temporary = Path(tempfile.mkdtemp(dir=self.home.path, prefix=f".{self.name}.new."))
        try:
            self.home.give(temporary, 0o700)
            if isinstance(source, str):
                self._copy(self.home.data(source), temporary)
            else:
                self.run(source(temporary), what="the restore of a backup")
            self.postmaster.write_conf(self.cluster.primary_name, temporary)
            own = [
                f"port = {self.cluster.recovered.port}",
                f"hba_file = {conf(self.data / 'pg_hba.conf')}",
                f"log_filename = '{self.name}-%a.log'",
                *lines,
            ]
            self.home.write(temporary / "conf.d" / SIDE_CONF, "\n".join(own) + "\n")
            temporary.rename(self.data)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        # So that the log holds messages of the new cluster only.
        for log_file in self.home.log_files(self.name):
            log_file.unlink()

    def _copy(self, source: Path, target: Path) -> None:
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        (target / "postmaster.pid").unlink(missing_ok=True)
        if account := self.home.account:
            for path in target.rglob("*"):
                os.chown(path, account.uid, account.gid, follow_symlinks=False)

    def replace_data(self, source: Member) -> str:
        if not source.data.exists():
            # Repeated after an interrupt: the exchange was done.
            return str(self.bootstrap.kept_aside(self.name))
        aside = self.bootstrap.put_aside(self.name)
        (source.data / "conf.d" / SIDE_CONF).unlink(missing_ok=True)
        source.data.rename(self.data)
        sync_directory(self.home.path)
        return str(aside)

    def adopt_superuser_password(self) -> None:
        self.postmaster.set_superuser_password(self.name, self.cluster.recovered.superuser_password)

    def remove(self) -> bool:
        for leftover in self.home.path.glob(f".{self.name}.new.*"):
            # A killed command's restore may still be writing there.
            processes.end_all_busy_with(leftover)
            shutil.rmtree(leftover)
        self.postmaster.stop(self.name, mode="immediate")
        there = self.data.exists()
        if there:
            shutil.rmtree(self.data)
        return there
