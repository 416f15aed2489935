"""When a run is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eds import scheduler
from eds.base.settings import Settings
from eds.scheduler import Scheduler, Tick, next_tick, overdue
from eds.warehouse import runs

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


@pytest.mark.parametrize("ahead", [timedelta(days=3), timedelta(hours=-1)], ids=["ahead", "an hour ago"])
def test_a_success_stamped_ahead_of_now_does_not_silence_the_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    # Each second.
    secrets: dict[str, Any] = dict.fromkeys(Settings.secret_names(), "none")
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        state_dir=tmp_path,
        etl_schedule="* * * * * *",
        etl_reconcile_schedule=NIGHTLY,
        **secrets,
    )
    loop = Scheduler(settings, catch_up=True)
    ticks: list[Tick] = []

    def tick(due: Tick, _trigger: str) -> None:
        ticks.append(due)
        loop.stopping.set()

    def nothing(*_arguments: Any, **_options: Any) -> None:
        return None

    monkeypatch.setattr(loop, "_tick", tick)
    monkeypatch.setattr(loop, "_last_success", lambda: datetime.now(UTC) + ahead)
    monkeypatch.setattr(loop, "_refresh_pages", nothing)
    for name in ("warm_up", "log"):
        monkeypatch.setattr(scheduler, name, nothing)
    monkeypatch.setattr(scheduler.signal, "signal", nothing)
    loop.serve()
    assert len(ticks) == 1


@pytest.mark.parametrize(
    ("minutes", "problem"),
    [
        (None, "no successful run yet"),
        (-4320, "stamped 4320 minutes ahead of now"),
        (-0.5, None),
        (40, None),
        (41, "41"),
    ],
)
def test_a_success_is_fresh_between_now_and_the_limit(minutes: float | None, problem: str | None) -> None:
    found = runs.stale(minutes, 40)
    assert (found is None) if problem is None else (found is not None and problem in found)
