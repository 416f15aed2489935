"""The benchmark at a tiny size: what it measures is really done, by the platform and by its peers."""

from __future__ import annotations

import pytest

from eds.bench import commands, report
from eds.bench.cluster import Bench, percentile


def test_every_figure_is_measured_and_the_peers_do_the_same_work(platform, monkeypatch):
    monkeypatch.setattr(commands, "REPEATS", 1)
    monkeypatch.setattr(commands, "REST_SECONDS", 0.5)
    result = commands.measure(Bench(platform.runtime), payments=3000, increment=100, with_peers=True)
    # By hand comes to the same marts as the models do; full reload keeps what was reversed.
    assert result["same_as_by_hand"] is True
    assert result["reload_wrong"] > 0
    for cost in (result["first_load"], *result["no_change"], *result["runs"], result["reconcile"]):
        assert cost["wall"] > cost["extraction"] > 0
        assert cost["memory"] > 50_000_000
    assert result["first_load"]["rows"] > 3000
    assert result["no_change"][0]["rows"] == 0
    assert 200 < result["runs"][0]["rows"] < 3000
    for views in (result["views_at_rest"], result["views_during_a_run"]):
        assert len(views) == 5
        assert all(0 < view["p50"] <= view["p95"] <= view["max"] for view in views.values())
    machine = {"processor": "a", "cores": 2, "memory_bytes": 2**34, "system": "b", "postgresql": "15"}
    page = report.page({"measured_at": "now", "machine": machine, "sizes": [result, result]})
    assert "| increment: whole run |" in page
    assert "xychart-beta" in page


@pytest.mark.parametrize(("values", "share", "expected"), [([5.0], 95, 5.0), ([1.0, 2.0, 3.0], 50, 2.0)])
def test_percentiles(values, share, expected):
    assert percentile(values, share) == expected
