"""What every test may use."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from types import FrameType

import pytest

pytest.register_assert_rewrite("support")

# The files that take longest, in this order: begun first, so that no job is left alone with one of them at the end.
LONGEST = (
    "test_tested_states",
    "test_up",
    "test_ops_recovery",
    "test_local_runtime",
    "test_source_moves",
    "test_causal_order",
    "test_runs",
    "test_changed_by_hand",
    "test_lender",
    "test_proven_tests",
    "test_scheduler",
    "test_warehouse",
    "test_metabase",
    "test_pages",
    "test_schema_change",
    "test_late_commits",
    "test_history",
    "test_book_import",
    "test_dbt_engine",
)

# Negative controls come last: they test the tests, and a run that has to end in time leaves the rest of them out.
LAST = ("test_controls_extraction", "test_controls_marts", "test_controls_publishing", "test_controls_lending")
# Until when negative controls are begun, in seconds since 1970. Without it, all of them run.
CONTROLS_UNTIL = "CONTROLS_UNTIL"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def pytest_configure(config: pytest.Config) -> None:
    # A terminated run tears its cluster down like an interrupted one.
    signal.signal(signal.SIGTERM, _interrupt)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number - len(LONGEST) for number, name in enumerate(LONGEST)}
    place |= {name: number for number, name in enumerate(LAST, start=1)}
    items.sort(key=lambda item: place.get(item.path.stem, 0))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    until = os.environ.get(CONTROLS_UNTIL)
    if until and item.path.stem in LAST and time.time() > float(until):
        pytest.skip("a negative control, and the time for them was up: `make test-all` runs all of them")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name at the end what was not selected and what this machine could not test, and why."""
    if expression := terminalreporter.config.option.markexpr:
        terminalreporter.section(f"selected: -m {expression!r}")
        terminalreporter.line("`make test-all` runs all but the tests of Docker, `make test-docker` runs those.")
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        terminalreporter.section("left out on this machine")
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count} {'test' if count == 1 else 'tests'}: {reason}")
