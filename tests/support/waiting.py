"""Waiting for something to come true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_until(
    condition: Callable[[], Any], seconds: float = 60.0, what: str = "what was awaited", pause: float = 0.02
) -> Any:
    """Ask again until the condition gives something true, and return it. Fails the test after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(pause)
    return value
