"""Running other programs: to the end, with the end of what they print as the reason when they fail."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eds.base.errors import UserError

# How many lines of a failed program's output are shown.
TAIL_LINES = 15


@dataclass(frozen=True)
class Finished:
    """How a program ended. code: its exit code; 127 when it could not be run, 124 when it took too long."""

    code: int
    output: str
    errors: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def tail(self) -> str:
        """The last lines of what it printed, as far as they may be the reason for a failure."""
        return tail((self.errors.strip() or self.output.strip()).splitlines())


def tail(lines: Sequence[str]) -> str:
    """Return the last lines of a program's messages."""
    return "\n".join(lines[-TAIL_LINES:])


def run(
    command: Sequence[str | Path],
    *,
    what: str = "",
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | int | None = None,
    timeout: float | None = None,
    show: bool = False,
    merge: bool = False,
    identity: Mapping[str, Any] | None = None,
) -> Finished:
    """Run a program to its end. Raises UserError with its last lines when it fails.

    what: the program's name in the message. check: False returns a failure instead of raising it. env: its complete
    environment (default: this process's). stdin: text, or a file descriptor (default: nothing). show: let it write to
    the terminal. merge: its errors come within the output, in their order. identity: the account it runs as, as
    arguments of subprocess.
    """
    arguments = [str(part) for part in command]
    stream = None if show else subprocess.PIPE
    source: dict[str, Any] = {"input": stdin} if isinstance(stdin, str) else {"stdin": stdin or subprocess.DEVNULL}
    try:
        done = subprocess.run(
            arguments,
            cwd=cwd,
            env=None if env is None else dict(env),
            stdout=stream,
            stderr=subprocess.STDOUT if merge else stream,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=timeout,
            **source,
            **(identity or {}),
        )
        finished = Finished(done.returncode, done.stdout or "", done.stderr or "")
    except subprocess.TimeoutExpired:
        finished = Finished(124, "", f"it did not end within {timeout:.0f} s")
    except OSError as error:
        finished = Finished(127, "", f"{arguments[0]} cannot be run: {error.strerror}")
    if check and not finished.ok:
        raise failure(what or Path(arguments[0]).name, finished.code, finished.tail)
    return finished


def failure(what: str, code: int, reason: str) -> UserError:
    """Return the error of a program that failed."""
    return UserError(f"{what} failed (exit code {code})" + (f":\n{reason}" if reason else ""))
