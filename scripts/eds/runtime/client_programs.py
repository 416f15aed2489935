"""PostgreSQL's client programs: pg_dump, pg_restore, psql, pg_basebackup, … Passwords reach them by the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from eds.base import programs
from eds.base.settings import Settings
from eds.cluster import tls
from eds.cluster.connections import Server
from eds.runtime.choice import select_runtime


def run_program(
    settings: Settings,
    name: str,
    arguments: Sequence[str | Path],
    *,
    password: str | None = None,
    what: str = "",
) -> str:
    """Run a client program to its end. Returns what it printed; raises UserError with the end of it when it fails.

    password: of the role it logs in as.
    """
    secret = {"PGPASSWORD": password} if password is not None else {}
    # In English: its messages are parsed.
    environment = os.environ | {"LC_ALL": "C"} | secret | tls.client_environment(settings)
    command = [*select_runtime(settings)[0].client(name), *arguments]
    return programs.run(command, env=environment, what=what or name).output


def connection_args(server: Server, role: str = "postgres", database: str | None = None) -> list[str]:
    """Return the arguments that lead a client program to a server; without `database`, to none of its databases."""
    place = [f"--host={server.host}", f"--port={server.port}", f"--username={role}", "--no-password"]
    return [*place, f"--dbname={database}"] if database else place
