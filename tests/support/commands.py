"""Commands of the platform, run as `make` runs them: in a process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from eds.base.settings import ROOT, Settings

# Of the machine, whichever platform is tested on it.
OF_THE_MACHINE = {"PG_BINDIR", "PG_OS_USER"}


def start(arguments: tuple[str, ...], values: dict[str, str]) -> subprocess.Popen[str]:
    """Start `python -m eds` in a shell whose environment has these settings and no others."""
    settings = {name.upper() for name in Settings.model_fields} - OF_THE_MACHINE
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in settings}
    return subprocess.Popen(
        [sys.executable, "-m", "eds", *arguments],
        cwd=ROOT,
        env=inherited | values,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests that run in the background of a shell have inherited that an interrupt is ignored.
        preexec_fn=_heed_interrupts,
    )


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str], code: int, stdin: str = "", timeout: float | None = None) -> str:
    """Wait for a command. Returns what it wrote; fails the test at another exit code."""
    output, _ = process.communicate(stdin, timeout=timeout)
    assert process.returncode == code, f"{process.args!r} ended with {process.returncode}:\n{output}"
    return output
