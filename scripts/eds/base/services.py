"""What both runtimes have in common: the states of the services, the state directory and its lock."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from eds.base.errors import UserError
from eds.base.files import FULL, write_atomically
from eds.base.settings import Settings

# The name of a file that marks a state directory which the platform created.
OWN_STATE_MARK = ".platform"
# Makes backups and restore drills on schedule: a process of this machine on either runtime.
BACKUP_SCHEDULER = "backup-scheduler"
# The cluster of a recovery beside the primary.
SIDE = "recovered"


@dataclass(frozen=True)
class ServiceState:
    """What `make ps` shows of one service.

    status: running; starting or unhealthy (it runs, but does not serve); stopped; or absent (left out).
    """

    name: str
    status: str
    pid: int | None
    port: int | None
    detail: str = ""


# Folders of a state directory besides the servers' data and the containers' files: for this account alone.
PRIVATE_FOLDERS = ("site", "dbt-docs", "dbt-logs", "dbt-target", "metabase", "backups")


def state_directory(settings: Settings) -> Path:
    """Return the state directory, made on first use and then marked as the platform's own.

    The servers' account gets through it to its data, and containers' accounts to theirs; nobody else reads what is in
    it.
    """
    state = settings.state
    try:
        if not state.exists():
            state.mkdir(parents=True)
            # Independent of the umask: the servers' account must be able to pass through.
            state.chmod(0o711)
            (state / OWN_STATE_MARK).touch()
        if (state / OWN_STATE_MARK).exists():
            _set_mode(state, 0o711)
        if not settings.docs_dir:
            (state / "site").mkdir(exist_ok=True)
        for folder in PRIVATE_FOLDERS:
            _set_mode(state / folder, 0o700)
        for path in state.iterdir():
            if path.is_file() and path.name != OWN_STATE_MARK:
                _set_mode(path, 0o600)
        if not os.access(state, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(
            f"The state directory {state} cannot be made or written by this account: {error.strerror}. "
            "Let it write there, or name another place in STATE_DIR."
        ) from error
    return state


def _set_mode(path: Path, mode: int) -> None:
    """Close a file or directory that is there to other accounts; another account's is left to that one."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
            return
        if stat.S_IMODE(found.st_mode) & ~mode & 0o777:
            path.chmod(mode)


def embedded_note(settings: Settings) -> Path:
    """Return the file that says where the embedded servers' data is. It exists when there is such data."""
    return settings.state / "servers-home"


def compose_folder(settings: Settings) -> Path:
    """Return what the containers read: configuration and secrets."""
    return settings.state / "compose"


def compose_note(settings: Settings) -> Path:
    """Return the file that names the Compose project of this checkout. It exists when there may be volumes of it."""
    return compose_folder(settings) / "project"


def runs_in_docker(settings: Settings) -> bool:
    """Return whether this checkout's data is in containers. RUNTIME decides; without it, the data that is there."""
    if settings.runtime is not None:
        return settings.runtime == "docker"
    return compose_note(settings).exists() and not embedded_note(settings).exists()


# How long a command waits for a scheduled one to leave: it removes what it has begun.
GIVE_WAY_SECONDS = 60.0


def _holder_note(settings: Settings) -> Path:
    return settings.state / "command.json"


def _holder(settings: Settings) -> tuple[dict[str, Any], psutil.Process | None]:
    """Return the note of the command that holds the lock, and its process when it still runs."""
    try:
        note = json.loads(_holder_note(settings).read_text(encoding="utf-8"))
        process = psutil.Process(note["pid"])
        if process.create_time() == note["created"]:
            return note, process
    except (OSError, ValueError, KeyError, psutil.Error):
        return {}, None
    return note, None


def running_command(settings: Settings) -> str | None:
    """Return the name of the command that holds the lock of this checkout, or None."""
    note, process = _holder(settings)
    return str(note["command"]) if process else None


@contextmanager
def exclusive(settings: Settings, command: str, *, gives_way: bool = False) -> Iterator[None]:
    """Hold the lock that only one `make up`, `down`, … of a checkout has at a time.

    command: the name of the one that takes it. gives_way: another command interrupts this one, and takes the lock when
    it has left. Raises UserError when a command that does not give way holds the lock.
    """
    lock = FileLock(state_directory(settings) / "command.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            note, process = _holder(settings)
            if not note.get("gives_way") or process is None or gives_way:
                raise
            process.send_signal(signal.SIGINT)
            lock.acquire(timeout=GIVE_WAY_SECONDS)
    except Timeout as error:
        name = running_command(settings)
        what = f"make {name}" if name else "Another command"
        raise UserError(f"{what} of this checkout is running. Wait until it is done.") from error
    except OSError as error:
        raise UserError(
            f"{lock.lock_file} cannot be opened: {error.strerror}. The platform was started by another account (root, "
            "for example): continue as that account, or let it `make nuke` and start from scratch."
        ) from error
    this = psutil.Process()
    if gives_way:
        # A process that was started in the background may have inherited that interrupts are ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        note = {"pid": this.pid, "created": this.create_time(), "command": command, "gives_way": gives_way}
        try:
            write_atomically(_holder_note(settings), json.dumps(note) + "\n", mode=0o600)
        except OSError as error:
            # Stopping and destroying must work on a full disk too; others then see less about the running command.
            if error.errno not in FULL:
                raise
        yield
    finally:
        _holder_note(settings).unlink(missing_ok=True)
        lock.release()
