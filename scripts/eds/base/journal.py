"""The journal of operations that would leave something half-done when they are killed.

An operation is entered before its first change and removed after its last one. What is found there when no command is
running was interrupted: the next `make up`, and the operation itself, resume or undo it (`eds.ops.interrupted`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from eds.base.errors import UserError
from eds.base.files import write_atomically
from eds.base.services import state_directory
from eds.base.settings import Settings

Entries = dict[str, dict[str, str]]


def _path(settings: Settings) -> Path:
    return settings.state / "journal.json"


def entries(settings: Settings) -> Entries:
    """Return the operations that have begun and not ended, by name, each with what is known of it."""
    try:
        found = json.loads(_path(settings).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{_path(settings)} cannot be read: {error}. It names operations that were interrupted; remove it when "
            "there were none, then `make up`."
        ) from error
    return {str(name): {str(key): str(value) for key, value in details.items()} for name, details in found.items()}


def _write(settings: Settings, found: Entries) -> None:
    if found:
        state_directory(settings)
        write_atomically(_path(settings), json.dumps(found, indent=2) + "\n", mode=0o600)
    else:
        _path(settings).unlink(missing_ok=True)


def enter(settings: Settings, operation: str, **details: str) -> None:
    """Note that an operation begins. Survives a loss of power."""
    began = {"began": datetime.now(UTC).isoformat(timespec="seconds")}
    _write(settings, entries(settings) | {operation: began | details})


def remove(settings: Settings, operation: str) -> None:
    """Note that an operation has ended, or was undone."""
    found = entries(settings)
    if found.pop(operation, None) is not None:
        _write(settings, found)


@contextmanager
def entered(settings: Settings, operation: str, **details: str) -> Iterator[None]:
    """Keep an operation in the journal for as long as the block lasts; after an error in it, too: it is half-done."""
    enter(settings, operation, **details)
    yield
    remove(settings, operation)


def describe(settings: Settings) -> list[str]:
    """Return a sentence for each operation that is in the journal."""
    return [
        f"make {name.partition(' ')[0]} was interrupted (it began {details.get('began', 'some time ago')}): `make up` "
        "resumes or undoes it"
        for name, details in entries(settings).items()
    ]
