"""When a run is due."""

from __future__ import annotations

from datetime import UTC, datetime

from eds.scheduler import Tick, next_tick, overdue

QUARTERS = "*/15 * * * *"
NIGHTLY = "30 2 * * *"


def at(hour: int, minute: int, second: int = 0, day: int = 10) -> datetime:
    return datetime(2026, 3, day, hour, minute, second, tzinfo=UTC)


def test_the_next_tick_is_strictly_after_the_moment() -> None:
    assert next_tick(QUARTERS, NIGHTLY, at(10, 14, 59)) == Tick(at(10, 15), full=False)
    assert next_tick(QUARTERS, NIGHTLY, at(10, 15)) == Tick(at(10, 30), full=False)


def test_a_full_run_wins_when_both_schedules_fire() -> None:
    assert next_tick(QUARTERS, NIGHTLY, at(2, 15)) == Tick(at(2, 30), full=True)


def test_nothing_is_overdue_before_the_tick() -> None:
    assert overdue(QUARTERS, NIGHTLY, at(10, 0), at(10, 14, 59)) is None


def test_a_missed_tick_is_due_once_however_many_were_missed() -> None:
    missed = overdue(QUARTERS, NIGHTLY, at(10, 0), at(13, 7))
    assert missed == Tick(at(13, 0), full=False)
    assert overdue(QUARTERS, NIGHTLY, at(13, 7), at(13, 14)) is None


def test_a_missed_full_run_makes_the_one_run_full() -> None:
    missed = overdue(QUARTERS, NIGHTLY, at(23, 0, day=9), at(6, 0))
    assert missed is not None
    assert missed.full


def test_schedules_may_be_far_apart() -> None:
    assert next_tick("0 0 1 1 *", NIGHTLY, at(10, 0)) == Tick(at(2, 30, day=11), full=True)
