"""PostgreSQL's client programs: pg_dump, pg_restore, psql, pg_basebackup, … Passwords reach them by the environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from eds.base.errors import UserError
from eds.base.settings import Settings
from eds.cluster.connections import Server
from eds.runtime.choice import chosen

ENOUGH_LINES = 15


def program(settings: Settings, name: str) -> list[str]:
    """The command line, up to its options, of a client program. Raises UserError when there is none."""
    return chosen(settings)[0].client(name)


def run_program(
    settings: Settings,
    name: str,
    arguments: Sequence[str | Path],
    *,
    password: str | None = None,
    stdin: int | None = None,
    what: str = "",
) -> str:
    """Run a client program to its end. Returns what it printed; raises UserError with the end of it when it fails.

    password: of the role it logs in as. stdin: a file descriptor to read from (default: nothing).
    """
    environment = os.environ | {"LC_ALL": "C"}
    if password is not None:
        environment["PGPASSWORD"] = password
    done = subprocess.run(
        [*program(settings, name), *(str(part) for part in arguments)],
        env=environment,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-ENOUGH_LINES:])
        raise UserError(f"{what or name} failed (exit code {done.returncode}):\n{tail}")
    return done.stdout


def at(server: Server, role: str = "postgres", database: str | None = None) -> list[str]:
    """The arguments that lead a client program to a server; without `database`, to none of its databases."""
    place = [f"--host={server.host}", f"--port={server.port}", f"--username={role}", "--no-password"]
    return [*place, f"--dbname={database}"] if database else place
