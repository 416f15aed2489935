"""Free space where the platform writes: named with the path before a full disk stops a server, and after it did."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from eds.base.errors import UserError
from eds.base.files import FULL
from eds.base.services import embedded_note, runs_in_docker
from eds.base.settings import Settings, from_root

# `make health` reports less than this; `make up` does not start with less than the others: embedded servers that are to
# be created take about 420 MB, the demo book and the first build included.
LOW_BYTES = 1024**3
NEEDED_BYTES = 256 * 1024**2
FIRST_BYTES = 512 * 1024**2

_TODO = {
    errno.EACCES: "Let this account do so, or name another place",
    errno.EPERM: "Let this account do so, or name another place",
    errno.EROFS: "Its file system is read-only: name another place",
    errno.EEXIST: "Something else is there: name another place",
    errno.ENOTDIR: "Something on the way is no directory: name another place",
    errno.EISDIR: "A directory is there: name a file",
}


def size(number: float | None) -> str:
    """Return bytes for a person: 16.0 MB."""
    if number is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1024 or unit == "GB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def places(settings: Settings, *, archives: bool = False) -> Iterator[Path]:
    """Yield where the platform writes, one directory per file system: state, embedded servers, backups, pages.

    archives: also the repositories of WAL and physical backups. The platform serves while one of them is full, as long
    as the primary has room for the WAL that waits.
    """
    wanted = [settings.state, settings.backups, settings.site]
    note = embedded_note(settings)
    if note.exists():
        home = settings.state / note.read_text(encoding="utf-8").strip()
        wanted += [home, home / "repository"] if archives else [home]
    if archives and settings.backup_repo2 == "posix":
        wanted.append(from_root(Path(settings.backup_repo2_path)))
    seen = set()
    for path in wanted:
        # A path that does not exist yet will be on the file system of its nearest parent that does.
        there = _nearest(path)
        if (device := there.stat().st_dev) not in seen:
            seen.add(device)
            yield path if path.exists() else there


def _nearest(path: Path) -> Path:
    """Return a path, or the directory above it that is there."""
    return next((each for each in (path, *path.parents) if each.exists()), Path("/"))


def describe(path: Path) -> str:
    """Return how much is free where a path is."""
    usage = shutil.disk_usage(path)
    return f"{path}: {size(usage.free)} free of {size(usage.total)}"


def short_of(settings: Settings, wanted: int = LOW_BYTES, *, archives: bool = False) -> list[str]:
    """Return the places with less free space than wanted, each with what is free. archives: see `places`."""
    return [
        f"{describe(path)} (at least {size(wanted)} expected)"
        for path in places(settings, archives=archives)
        if shutil.disk_usage(path).free < wanted
    ]


def check(settings: Settings) -> None:
    """Raise UserError when there is too little space to start."""
    is_first = not embedded_note(settings).exists() and not runs_in_docker(settings)
    if short := short_of(settings, FIRST_BYTES if is_first else NEEDED_BYTES):
        raise UserError(
            "The disk is full, or nearly:\n" + "\n".join(f"  {line}" for line in short) + "\n"
            "Make room there, or move what is written: STATE_DIR, BACKUP_DIR, DOCS_DIR. Nothing was started."
        )


def system_sentence(error: OSError) -> str:
    """Return an error of the system about a file as a sentence: what was expected, what was found, what to do."""
    if not error.filename or not error.strerror:
        return str(error)
    todo = _TODO.get(error.errno or 0, "Correct it, or name another place")
    return f"Expected to read or write {error.filename}, found: {error.strerror}. {todo}."


def explain(error: OSError, settings: Settings | None) -> str:
    """Return an error of the system as a sentence; of a full disk, where, and what is free there."""
    if error.errno not in FULL:
        return system_sentence(error)
    if error.filename:
        path = Path(error.filename)
        return f"{path} could not be written, the disk is full. {describe(_nearest(path))}"
    free = "; ".join(describe(path) for path in places(settings)) if settings else ""
    return f"The disk is full ({error.strerror}). {free}".rstrip()
