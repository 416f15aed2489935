"""Where the embedded servers live: their directory, the account that runs them, PostgreSQL's programs.

Each server's data is in the state directory. Started by root, the servers run as an unprivileged account; when that
account cannot reach the checkout, their data is below /var/lib instead and the state directory says where.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eds.base import programs
from eds.base.errors import UserError
from eds.base.files import has_content, write_atomically
from eds.base.services import BACKUP_SCHEDULER, OWN_STATE_MARK, SIDE, compose_folder, embedded_note, state_directory
from eds.base.settings import ROOT, Settings
from eds.cluster import tls
from eds.cluster.connections import MEMBERS
from eds.runtime.local import binaries, processes

TAIL_BYTES = 65536
DEFAULT_STATE = ROOT / ".state"
FAR_HOME = Path("/var/lib/enterprise-data-platform")
# The platform's own files in a state directory that others use too.
OWN_STATE = [
    "servers",
    "servers-home",
    "scheduler.log",
    "scheduler.pid",
    "dbt-target",
    "dbt-logs",
    "dbt-docs",
    "site",
    "tls",
    "metabase",
    "metabase.log",
    "metabase.pid",
    "bootstrap.lock",
    "current-primary",
    "backups",
    "command.lock",
    "command.json",
    "journal.json",
    f"{BACKUP_SCHEDULER}.log",
    f"{BACKUP_SCHEDULER}.pid",
    f"{BACKUP_SCHEDULER}.json",
    "alerts.log",
]


@dataclass(frozen=True)
class Account:
    """The unprivileged account that servers run as when this process is root."""

    name: str
    uid: int
    gid: int

    @property
    def identity(self) -> dict[str, Any]:
        """The account, as arguments of subprocess."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def unprivileged_account(settings: Settings, owner: int | None) -> Account | None:
    """Return the account that runs the servers, None for this one. owner: the owner of data that exists already."""
    if os.geteuid() != 0:
        return None
    if owner and not settings.pg_os_user:
        # Made by an ordinary user before: the same account continues with it.
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
                "Remove PG_OS_USER, or start from scratch with `make nuke`."
            )
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise UserError(f"PG_OS_USER is {settings.pg_os_user}, but there is no such account on this machine.")


def reachable(path: Path, account: Account) -> bool:
    """Return whether `account` can get to `path` (or to its nearest existing parent) and through it."""
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
class Home:
    """The directory of the embedded servers, and what is done there as their account."""

    settings: Settings

    # --- places -------------------------------------------------------------------------------------------------------

    @cached_property
    def account(self) -> Account | None:
        home = self._noted_path
        return unprivileged_account(self.settings, (home.stat().st_uid or None) if home and home.exists() else None)

    @property
    def _noted_path(self) -> Path | None:
        """Where the servers' data is, or None before the first start."""
        state = self.settings.state
        try:
            home = state / embedded_note(self.settings).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{state / 'servers-home'} cannot be read: {error.strerror}.") from error
        beside = state / "servers"
        # A checkout that was moved has its data still beside the pointer.
        return beside if not home.exists() and beside.exists() else home

    @cached_property
    def path(self) -> Path:
        """The directory of the servers' data, made on first use."""
        state = state_directory(self.settings)
        home = self._noted_path
        if home is None:
            home = state / "servers"
            if self.account and not reachable(state, self.account):
                home = FAR_HOME / hashlib.sha256(str(state).encode()).hexdigest()[:12]
                home.parent.mkdir(exist_ok=True)
                # Independent of the umask: the account must be able to pass through.
                home.parent.chmod(0o755)
        try:
            home.mkdir(parents=True, exist_ok=True)
            self._claim(home, state)
            of_members = [f"pgbackrest/{name}" for name in (*MEMBERS, SIDE)]
            for folder in ("bin", "log", "secrets", "repository", "pgbackrest", *of_members):
                (home / folder).mkdir(parents=True, exist_ok=True)
                self.give(home / folder, 0o750)
            self.give(home, 0o750)
            # Relative when it is in the state directory, so that a checkout can be moved.
            pointer = str(home.relative_to(state) if home.is_relative_to(state) else home) + "\n"
            write_atomically(embedded_note(self.settings), pointer, mode=0o600)
        except PermissionError as error:
            raise UserError(
                f"{error.filename or home} belongs to another account: the platform was started by that one "
                f"(root, for example). Continue as that account, or let it `make nuke` and start from scratch."
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
        write_atomically(note, f"{state}\n")

    @cached_property
    def data_major(self) -> int | None:
        """The major version of PostgreSQL that made the data, or None when there is none yet."""
        for name in (*MEMBERS, "warehouse"):
            if major := processes.first_number(self.data(name) / "PG_VERSION"):
                return major
        return None

    @cached_property
    def bindir(self) -> Path:
        """PostgreSQL's binaries, in a place where the servers' account can run them."""
        found = binaries.find_postgres(self.settings, self.data_major)
        if not self.account or reachable(found, self.account):
            return found
        copy = self.path / "postgresql"
        marker = copy / "copied-from"
        # Another build has another time stamp.
        origin = f"{found} {(found / 'postgres').stat().st_mtime_ns}"
        parts = binaries.parts_of(found)
        if not has_content(marker, origin):
            shutil.rmtree(copy, ignore_errors=True)
            for part in parts:
                shutil.copytree(part, copy / part.name, symlinks=True)
            for path in [copy, *copy.rglob("*")]:
                # Independent of the umask at its installation: the account must read all files and run the programs.
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(mode | (0o755 if path.is_dir() or mode & stat.S_IXUSR else 0o644))
            write_atomically(marker, origin)
        return copy / found.relative_to(parts[0].parent)

    def data(self, name: str) -> Path:
        """Return the data directory of a server."""
        return self.path / name

    @cached_property
    def pgbackrest(self) -> tuple[Path | None, str]:
        """pgBackRest's binary; else None, and why there is none that fits."""
        return binaries.find_pgbackrest(binaries.major_version(self.bindir) or 0)

    def repository_conf(self, name: str) -> Path:
        """Return pgBackRest's configuration for a member."""
        return self.path / "secrets" / f"pgbackrest-{name}.conf"

    @property
    def passfile(self) -> Path:
        """The password file of libpq with replicator's password."""
        return self.path / "secrets" / "replicator.pgpass"

    def log_files(self, name: str) -> list[Path]:
        """Return the log files of a service, oldest first."""
        if name in ("scheduler", "metabase", BACKUP_SCHEDULER):
            return [path for path in [self.settings.state / f"{name}.log"] if path.exists()]
        return sorted((self.path / "log").glob(f"{name}[-.]*"), key=lambda path: path.stat().st_mtime)

    def tail(self, name: str, lines: int) -> list[str]:
        """Return the last lines of a service's newest log that has any."""
        for path in reversed(self.log_files(name)):
            with path.open("rb") as file:
                file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
                if text := file.read().decode("utf-8", errors="replace").splitlines()[-lines:]:
                    return text
        return []

    # --- acting as the servers' account -------------------------------------------------------------------------------

    def give(self, path: Path, mode: int) -> None:
        """Give a file or directory to the servers' account, with these permissions."""
        path.chmod(mode)
        if self.account:
            os.chown(path, self.account.uid, self.account.gid)

    @property
    def identity(self) -> dict[str, Any]:
        """The servers' account, as arguments of subprocess."""
        return self.account.identity if self.account else {}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the servers: messages in one language, and nothing else of the caller's."""
        own = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.path), "LC_ALL": "C"}
        if self.tls:
            # For libpq in whatever a server starts: its foreign servers, pg_rewind, pgBackRest.
            own |= {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(self.tls / "ca.crt")}
        return own

    @property
    def tls(self) -> Path | None:
        """The directory of the servers' certificates and keys, and of the CA's certificate; None without TLS."""
        return self.path / "tls" if self.settings.uses_tls else None

    def ensure_certificate(self, name: str, host: str, *, renew: bool = False) -> None:
        """Give a server its certificate and key where sessions are encrypted, unless it has them for this host."""
        if self.tls is None:
            return
        self.tls.mkdir(exist_ok=True)
        self.give(self.tls, 0o750)
        tls.ensure_certificate(self.settings, self.tls / f"{name}.crt", host, write=self.write, renew=renew)

    def run(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        what: str = "",
        stdin: str = "",
        check: bool = True,
        timeout: float | None = None,
    ) -> programs.Finished:
        """Run a program as the servers' account. Raises UserError when it fails, unless `check` is off."""
        return programs.run(
            command,
            what=what,
            check=check,
            cwd=self.path,
            env=self.environment | dict(env or {}),
            stdin=stdin,
            timeout=timeout,
            identity=self.identity,
        )

    def write(self, path: Path, text: str, mode: int = 0o600) -> bool:
        """Write a file of the servers' account. Returns whether its content changed."""
        owner = (self.account.uid, self.account.gid) if self.account else None
        return write_atomically(path, text, mode=mode, owner=owner)

    # --- removal ------------------------------------------------------------------------------------------------------

    def clear_logs(self) -> None:
        """Remove the logs. Everything must be stopped."""
        for name in ("scheduler.log", "metabase.log", f"{BACKUP_SCHEDULER}.log", "alerts.log"):
            (self.settings.state / name).unlink(missing_ok=True)
        for log_file in (self.path / "log").glob("*.log"):
            log_file.unlink()

    def destroy(self) -> None:
        """Remove the servers' data, logs and state. Everything must be stopped."""
        home, state = self.path, self.settings.state
        shutil.rmtree(home)
        if home.parent == FAR_HOME:
            with contextlib.suppress(OSError):
                FAR_HOME.rmdir()
        own = state == DEFAULT_STATE or (state / OWN_STATE_MARK).exists()
        if own and not compose_folder(self.settings).exists():
            shutil.rmtree(state)
            return
        # A directory that existed before may hold files that are not the platform's.
        for name in OWN_STATE:
            if (state / name).is_dir():
                shutil.rmtree(state / name)
            else:
                (state / name).unlink(missing_ok=True)
