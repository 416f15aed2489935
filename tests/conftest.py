"""What every test may use."""

from __future__ import annotations

import signal
from types import FrameType

import pytest

pytest.register_assert_rewrite("support")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def pytest_configure(config: pytest.Config) -> None:
    # A terminated run tears its cluster down like an interrupted one.
    signal.signal(signal.SIGTERM, _interrupt)
