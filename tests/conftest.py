"""What every test may use."""

from __future__ import annotations

import signal
from collections import Counter
from types import FrameType

import pytest

pytest.register_assert_rewrite("support")

# The files that take longest, in this order: begun first, so that no job is left alone with one of them at the end.
LONGEST = (
    "test_controls_marts",
    "test_controls_extraction",
    "test_tested_states",
    "test_up",
    "test_ops_recovery",
    "test_local_runtime",
    "test_source_moves",
    "test_causal_order",
    "test_runs",
    "test_controls_lending",
    "test_changed_by_hand",
    "test_lender",
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


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def pytest_configure(config: pytest.Config) -> None:
    # A terminated run tears its cluster down like an interrupted one.
    signal.signal(signal.SIGTERM, _interrupt)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


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
