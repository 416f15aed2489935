"""A lock on a file, for one process at a time, that is never waited for in silence nor for ever."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from eds.base.console import err
from eds.base.errors import UserError
from eds.base.files import write_atomically

# After which a wait is explained, and after which it ends with an error.
SILENT_SECONDS = 1.0
LIMIT_SECONDS = 300.0
LOOK_SECONDS = 0.2
COMMAND_WIDTH = 100


def _say(text: str) -> None:
    err.print(text, markup=False)


def _note(path: Path) -> Path:
    """Return the file that says which process holds the lock: nothing can be read from the lock itself."""
    return path.with_name(f"{path.name}.holder.json")


def _on_a_line(command: str) -> str:
    return textwrap.shorten(command, COMMAND_WIDTH, placeholder=" …")


def _holder(path: Path) -> tuple[str, str]:
    """Return who holds the lock, in words, and how to end that process."""
    try:
        note = json.loads(_note(path).read_text(encoding="utf-8"))
        if note["host"] != socket.gethostname():
            return f"process {note['pid']} on {note['host']}", "end that process there"
        process = psutil.Process(note["pid"])
        if process.create_time() == note["created"]:
            who = f"process {process.pid} ({_on_a_line(shlex.join(process.cmdline()))})"
            if process.status() == psutil.STATUS_STOPPED:
                # It receives a request to end only when it goes on.
                how = f"it is suspended: `kill -CONT {process.pid}` lets it go on, `kill -KILL {process.pid}` ends it"
                return who, how
            return who, f"`kill {process.pid}` ends it"
    except (OSError, ValueError, KeyError, psutil.Error):
        pass
    return "another process", f"`fuser -v {shlex.quote(str(path))}` names it"


@contextmanager
def hold(
    path: Path,
    what: str,
    *,
    say: Callable[[str], None] = _say,
    stopping: threading.Event | None = None,
    limit: float | None = None,
) -> Iterator[None]:
    """Hold a lock for one process at a time.

    what: what it is held for, as in "waiting for …". say: takes the explanation of a wait of more than a second.
    stopping: ends the wait when it is set. limit: in seconds, instead of LIMIT_SECONDS. Raises UserError when the lock
    was not given in time, and Timeout when `stopping` was set.
    """
    lock = FileLock(path)
    limit = LIMIT_SECONDS if limit is None else limit
    began, explained = time.monotonic(), False
    while True:
        try:
            lock.acquire(timeout=min(LOOK_SECONDS, limit))
            break
        except Timeout:
            if stopping and stopping.is_set():
                raise
            waited = time.monotonic() - began
            who, how = _holder(path)
            if waited >= limit:
                raise UserError(
                    f"Waited {waited:.0f} s for {what}, which {who} holds ({how}). Nothing was changed: try again when "
                    "it is done."
                ) from None
            if not explained and waited >= SILENT_SECONDS:
                say(f"waiting for {what}, which {who} holds, for {limit:.0f} s at most ({how})")
                explained = True
    try:
        # Whoever waits can do without this note.
        with contextlib.suppress(OSError):
            this = psutil.Process()
            note = {"pid": os.getpid(), "created": this.create_time(), "host": socket.gethostname()}
            write_atomically(_note(path), json.dumps(note) + "\n")
        yield
    finally:
        with contextlib.suppress(OSError):
            _note(path).unlink(missing_ok=True)
        lock.release()
