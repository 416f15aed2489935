"""`python -m bench`: the benchmark, apart from the product's own command line."""

from __future__ import annotations

import signal
from types import FrameType

from bench.commands import app
from eds.cli import main


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# A terminated benchmark removes its cluster as an interrupted one does; a shell lets a job in the background ignore
# interrupts.
signal.signal(signal.SIGTERM, _interrupt)
signal.signal(signal.SIGINT, _interrupt)
main(app)
