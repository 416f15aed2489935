"""Which process is whose: process ids are reused, so a number in a file proves nothing by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from eds.base.errors import UserError
from eds.runtime.ports import describe

POSTGRES_PROGRAMS = ("postgres", "initdb", "pg_basebackup", "pg_ctl", "pg_rewind", "pgbackrest")


def first_number(path: Path) -> int | None:
    """Return the number that a file (of a process id, of a version) begins with, or None."""
    try:
        return int(path.read_text(encoding="utf-8", errors="replace").split(maxsplit=1)[0])
    except (FileNotFoundError, NotADirectoryError, ValueError, IndexError):
        return None


def find(pid: int | None, is_ours: Callable[[psutil.Process], bool]) -> psutil.Process | None:
    """Return the live process of this id if `is_ours` accepts it; one that may not be looked at is not ours."""
    if pid is None or pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE and is_ours(process):
            return process
    except (psutil.Error, OSError):
        pass
    return None


def works_in(process: psutil.Process, directory: Path) -> bool:
    """Return whether a process's working directory is this one (also when either was renamed since)."""
    return Path(process.cwd()).samefile(directory)


def is_postmaster(process: psutil.Process, data: Path) -> bool:
    """Return whether a process is the PostgreSQL server of a data directory.

    A server works in its data directory, and keeps its own arguments; its children replace theirs by a title.
    """
    command = process.cmdline()
    return bool(command) and Path(command[0]).name == "postgres" and "-D" in command and works_in(process, data)


def busy_with(directory: Path) -> list[psutil.Process]:
    """Return PostgreSQL's processes that work in a directory or below, or name it in their arguments.

    Others (a shell in the directory, an editor) are left alone.
    """
    place = str(directory)
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() in POSTGRES_PROGRAMS and (
                f"{process.cwd()}{os.sep}".startswith(place + os.sep)
                or any(part.rpartition("=")[2] == place for part in process.cmdline())
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def end_all_busy_with(directory: Path, patience: float = 0.0) -> None:
    """End what a killed command has left running in a directory. patience: seconds to let it end by itself first."""
    deadline = time.monotonic() + patience
    while (left := busy_with(directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(20):
        if not left:
            return
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        for process in left:
            wait_gone(process, 1)
        # A parent may have started another one meanwhile.
        left = busy_with(directory)
    raise UserError(
        f"These processes are still running in {directory} and cannot be ended: "
        f"{', '.join(describe(process) for process in left)}. End them, then try again."
    )


def wait_gone(process: psutil.Process, seconds: float) -> bool:
    """Wait until a process has ended (its parent may take its time to notice). Returns whether it has."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
