"""Files that are complete or not there: the one way in which the platform writes a file that something else reads."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

# The system's errors for a full disk, or a used up quota of this account.
FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, text: str, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> bool:
    """Write a file so that a reader sees the old content or the new one, also after a loss of power.

    mode: its permissions; until the rename, only this account can read it. owner: user and group id, else this
    process's own. Returns whether the content changed; a file that has it already is not written.
    """
    if has_content(path, text):
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)
        return False
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        if owner:
            os.chown(temporary, *owner)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return True


def has_content(path: Path, text: str) -> bool:
    """Return whether a file has exactly this content."""
    try:
        return path.read_bytes() == text.encode()
    except (FileNotFoundError, NotADirectoryError):
        return False


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
