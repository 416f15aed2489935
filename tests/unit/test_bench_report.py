"""The page of the benchmark says of each target whether it is met."""

from __future__ import annotations

from typing import Any

import pytest

from bench import report


def size(payments: int, wall: float, **more: Any) -> dict[str, Any]:
    """Return what was measured at one size of the book, when a run takes `wall` seconds."""
    run = {"wall": wall, "extraction": 1.0, "models": 4.0, "tests": 1.0, "nodes": {}, "rows": 1, "memory": 1}
    views = {"vw": {"p50": 1.0, "p95": 5.0, "max": 20.0}}
    return {
        "payments": payments,
        "runs": [run],
        "no_change": [run | {"wall": 2.0}],
        "first_load": run | {"extraction": payments / 200_000, "models": payments / 50_000},
        "views_at_rest": views,
        "views_during_a_run": views,
        **more,
    }


@pytest.mark.parametrize(("wall", "met"), [(10.0, True), (14.0, False)])
def test_a_target_across_sizes(wall: float, met: bool) -> None:
    results = {"sizes": [size(5_000_000, 10.0), size(20_000_000, wall)]}
    judged = {text: within for text, _, within in report.targets(results)}
    assert judged["20 000 000 payments: increment against that at 5 million, 1.3 × at most"] is met


def test_what_was_not_measured_is_not_judged_and_what_was_is() -> None:
    measured = size(5_000_000, 10.0, floor_seconds=6.0, reload_seconds=50.0, wrong=3)
    judged = {text.split(": ", 1)[1]: (value, met) for text, value, met in report.targets({"sizes": [measured]})}
    assert judged["increment, 1.3 × of the floor and 2 s at most (9.80 s)"] == ("10.00 s", False)
    assert judged["full reload against the increment, 6 × at least"] == ("5.0 ×", False)
    assert judged["payments missing, left over or wrong, none"] == ("3", False)
    assert judged["first load: extraction, 10 s a million at most"] == ("5.0 s", True)
    assert judged["first load: models, 12 s a million at most"] == ("20.0 s", False)
    assert not any("dlt" in text or "HOT" in text for text in judged)
