"""What some tests need of the machine besides Python. Where it is missing they are skipped, and named at the end."""

from __future__ import annotations

import os

import pytest

from eds.dashboards.screenshots import find_chromium
from eds.runtime.local.binaries import find_pgbouncer

METABASE_COMMAND = os.environ.get("METABASE_TEST_COMMAND", "")

pgbouncer = pytest.mark.skipif(
    find_pgbouncer() is None, reason="PgBouncer is not on this machine (Debian: apt-get install pgbouncer)"
)
chromium = pytest.mark.skipif(
    find_chromium() is None, reason="Chromium is not on this machine (Debian: apt-get install chromium)"
)
metabase = pytest.mark.skipif(
    not METABASE_COMMAND, reason="Metabase is not on this machine: METABASE_TEST_COMMAND names no command that runs one"
)
root = pytest.mark.skipif(os.geteuid() != 0, reason="not run by root, who alone drops privileges")
