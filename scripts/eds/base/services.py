"""What both runtimes have in common: the states of the services, the state directory and its lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from eds.base.errors import UserError
from eds.base.settings import Settings

# Stands in a state directory that the platform made itself.
OWN_STATE_MARK = ".platform"
# The cluster of a recovery beside the primary.
SIDE = "recovered"


@dataclass(frozen=True)
class ServiceState:
    """What `make ps` shows of one service.

    status: running; starting or unhealthy (it runs, and does not do its duty); stopped; or absent (left out).
    """

    name: str
    status: str
    pid: int | None
    port: int | None
    detail: str = ""


def state_directory(settings: Settings) -> Path:
    """Return the state directory, made on first use and then marked as the platform's own."""
    state = settings.state
    try:
        if not state.exists():
            state.mkdir(parents=True)
            (state / OWN_STATE_MARK).touch()
        if not os.access(state, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(
            f"The state directory {state} cannot be made or written by this account: {error.strerror}. "
            "Let it write there, or name another place in STATE_DIR."
        ) from error
    return state


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
    """Whether the data of this checkout is the containers'. RUNTIME decides; without it, the data that is there."""
    if settings.runtime is not None:
        return settings.runtime == "docker"
    return compose_note(settings).exists() and not embedded_note(settings).exists()


@contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """Hold the lock that only one `make up`, `down`, … of a checkout has at a time."""
    lock = FileLock(state_directory(settings) / "command.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            "Another make up, down, clean or nuke of this checkout is running. Wait until it is done."
        ) from error
    except OSError as error:
        raise UserError(
            f"{lock.lock_file} cannot be opened: {error.strerror}. The platform was started by another account (root, "
            "for example): continue as that account, or let it `make nuke` and start from scratch."
        ) from error
    try:
        yield
    finally:
        lock.release()
