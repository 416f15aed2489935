"""An operation of the platform that kills itself at one of its steps: `python -m support.killed OPERATION STEP`.

STEP is a regular expression: the first thing that the operation does to servers or files, through its primitives, and
that matches it. SIGKILL comes before that is done, or, with a + at its end, shortly after it has begun. Without a STEP
the operation ends, and its steps are printed.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from eds.base.services import exclusive
from eds.base.settings import load
from eds.cluster import exchange
from eds.ops import backup, failover, pitr, recovery, restore
from eds.runtime.local.home import Home
from eds.runtime.local.postmaster import Postmaster
from eds.runtime.local.runtime import LocalRuntime

DURING_SECONDS = 0.1


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Steps:
    """Names the steps of this process and kills it at one."""

    def __init__(self, at: str) -> None:
        self.at, self.during = at.rstrip("+"), at.endswith("+")
        self.seen: list[str] = []

    def watch(self, owner: Any, name: str, counts: Callable[..., str | None]) -> None:
        """Let each call of a function count as a step, when `counts` gives it a name."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def watched(*arguments: Any, **options: Any) -> Any:
            if label := counts(*arguments, **options):
                self.seen.append(label)
                if self.at and re.search(self.at, label):
                    if not self.during:
                        _kill()
                    threading.Timer(DURING_SECONDS, _kill).start()
            return original(*arguments, **options)

        setattr(owner, name, watched)


def _statement(_connection: psycopg.Connection, query: Any, *_: Any, **__: Any) -> str | None:
    if isinstance(query, sql.Composed):
        text = query.as_string(None)
        return text[:60] if " database " in text else None
    return "promotion" if "pg_promote(" in str(query) else None


def _program(_home: Home, command: Any, *_: Any, **__: Any) -> str | None:
    name = Path(command[0]).name
    # What only reads is no step.
    reads = ("pg_controldata", "pg_waldump", "ls", "test", "build.sh", "choose_settings.sh")
    if name in reads or (name == "pgbackrest" and command[-1] not in ("restore",) and "archive-push" not in command):
        return None
    return name


def watch(steps: Steps) -> None:
    """Let what changes servers and files count."""
    steps.watch(Path, "rename", lambda path, target: f"{path.name} becomes {Path(target).name}")
    steps.watch(Path, "replace", lambda path, target: f"written: {Path(target).name}")
    steps.watch(shutil, "rmtree", lambda path, *_, **__: f"removed: {Path(path).name}")
    steps.watch(Home, "run", _program)
    steps.watch(Postmaster, "launch", lambda _, name: f"start of {name}")
    steps.watch(Postmaster, "stop", lambda _, name, *__, **___: f"stop of {name}")
    steps.watch(psycopg.Connection, "execute", _statement)
    steps.watch(restore, "_pipe", lambda *_: "load of the dump")
    steps.watch(exchange, "announce", lambda *_: "announcement in the feed")


def main(operation: str, at: str = "") -> None:
    """Run one operation."""
    settings = load()
    runtime = LocalRuntime(settings)
    steps = Steps(at)
    watch(steps)
    with exclusive(settings, operation):
        if operation == "restore":
            made = next(each for each in backup.find(settings) if each.kind == "operational")
            restore.restore(runtime, made, runtime.cluster.primary)
        elif operation == "failover":
            failover.failover(runtime, None)
        elif operation == "rejoin":
            failover.rejoin(runtime, None)
        elif operation == "pitr":
            pitr.recover(runtime, pitr.Target())
            recovery.install_recovered(runtime)
    for number, label in enumerate(steps.seen, 1):
        print(number, label)


if __name__ == "__main__":
    main(*sys.argv[1:])
