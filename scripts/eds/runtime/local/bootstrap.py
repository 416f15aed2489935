"""Data directories of embedded servers: made under a temporary name, and renamed when they are complete."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eds.base.errors import UserError
from eds.base.files import sync_directory
from eds.runtime.local import processes
from eds.runtime.local.home import Home
from eds.runtime.local.postmaster import Postmaster


@dataclass
class Bootstrap:
    """Makes the data directories of the servers."""

    postmaster: Postmaster

    @property
    def home(self) -> Home:
        """Where the servers live."""
        return self.postmaster.home

    def make(self, name: str, fill: Callable[[Path], None], *, replace: bool = False) -> None:
        """Make a data directory under a temporary name and rename it when it is complete.

        replace: the present directory is kept aside, instead of being left as it is.
        """
        data = self.home.data(name)
        for leftover in self.home.path.glob(f".{name}.new.*"):
            # A killed command's initdb or pg_basebackup may still be writing there.
            processes.end_all_busy_with(leftover)
            shutil.rmtree(leftover)
        if (data / "PG_VERSION").exists() and not replace:
            return
        if data.exists() and not replace:
            raise UserError(
                f"{data} exists but holds no PostgreSQL data. Move it away (or `make nuke`), then `make up` again."
            )
        temporary = Path(tempfile.mkdtemp(dir=self.home.path, prefix=f".{name}.new."))
        try:
            self.home.give(temporary, 0o700)
            fill(temporary)
            self.postmaster.write_conf(name, temporary)
        except BaseException:
            processes.end_all_busy_with(temporary)
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if replace:
            self.put_aside(name)
        temporary.rename(data)
        sync_directory(self.home.path)

    def put_aside(self, name: str) -> Path:
        """Keep the data of a server beside it, under a name with the present time. Older data kept so is removed.

        Where there is no data, the older one stays: it was put aside by an exchange that was interrupted.
        """
        aside = self.home.path / f"{name}.aside-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        if not self.home.data(name).exists():
            return self.kept_aside(name) or aside
        for older in self.home.path.glob(f"{name}.aside-*"):
            shutil.rmtree(older)
        self.home.data(name).rename(aside)
        return aside

    def kept_aside(self, name: str) -> Path | None:
        """Return where older data of a server is kept, or None."""
        return max(self.home.path.glob(f"{name}.aside-*"), default=None)

    @property
    def _sync_options(self) -> list[str]:
        return [] if self.home.settings.pg_durable else ["--no-sync"]

    def initdb(self, name: str) -> Callable[[Path], None]:
        """Return what fills an empty directory with a new database cluster."""

        def fill(directory: Path) -> None:
            handle, pwfile = tempfile.mkstemp(dir=self.home.path / "secrets")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(self.postmaster.cluster.servers[name].superuser_password + "\n")
                self.home.give(Path(pwfile), 0o600)
                self.home.run(
                    [
                        self.home.bindir / "initdb",
                        f"--pgdata={directory}",
                        "--username=postgres",
                        f"--pwfile={pwfile}",
                        "--auth=scram-sha-256",
                        "--data-checksums",
                        "--encoding=UTF8",
                        f"--locale={'C.UTF-8' if sys.platform == 'linux' else 'C'}",
                        *self._sync_options,
                    ],
                    what=f"initdb of {name}",
                )
            finally:
                Path(pwfile).unlink()

        return fill

    def base_backup(self, name: str) -> Callable[[Path], None]:
        """Return what fills an empty directory with a replica of the primary."""

        def fill(directory: Path) -> None:
            primary = self.postmaster.cluster.primary
            self.home.run(
                [
                    self.home.bindir / "pg_basebackup",
                    f"--pgdata={directory}",
                    f"--host={primary.host}",
                    f"--port={primary.port}",
                    "--username=replicator",
                    "--no-password",
                    "--wal-method=stream",
                    "--checkpoint=fast",
                    f"--slot={name}",
                    *self._sync_options,
                ],
                env={"PGPASSFILE": str(self.home.passfile)},
                what=f"pg_basebackup of {name}",
            )
            self.home.write(directory / "standby.signal", "")

        return fill
