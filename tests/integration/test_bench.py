"""The benchmark at a tiny size: what it measures is really done, by the platform and by its peers."""

from __future__ import annotations

import pytest

from bench import commands, lender, peers, report
from bench.cluster import Bench, percentile

pytestmark = pytest.mark.bench


def test_every_figure_is_measured_and_the_peers_do_the_same_work(platform, monkeypatch):
    monkeypatch.setattr(commands, "REPEATS", 1)
    monkeypatch.setattr(commands, "REST_SECONDS", 0.5)
    monkeypatch.setattr(commands, "DLT_MOST", 0)
    monkeypatch.setattr(commands.load, "MINUTE", 8.0)
    extent = commands.Extent(increment=100, minutes=1, runs=1, trail_seconds=1.0)
    bench = Bench(platform.runtime)
    result = commands.measure(bench, payments=3000, extent=extent)
    assert peers.rebuild(bench) > 0
    # The SQL by hand gives the same marts as the models; the full reload keeps reversed payments.
    assert result["same_as_by_hand"] is True
    assert result["reload_wrong"] > 0
    assert result["wrong"] == 0
    assert "dlt_seconds" not in result
    assert result["lateral_seconds"] > 0
    assert result["pace"]["rate"] > 100
    assert result["pace"]["fresh_p95"] >= result["pace"]["fresh_p50"] > 0
    assert len(result["memory_of_runs"]) == 1
    assert result["trail"]["update_loan"]["with_trail"] > 0
    assert 0 < result["trail"]["hot_share"] <= 1
    for cost in (result["first_load"], *result["no_change"], *result["runs"], result["reconcile"]):
        assert cost["wall"] > cost["extraction"] > 0
        assert cost["memory"] > 50_000_000
        assert cost["warehouse_cpu"] > 0
    assert result["month_end"]["nodes"]["fact_loan_month_end"] > 0
    assert set(result["lender_views_at_rest"]) == set(lender.QUERIES)
    assert result["first_load"]["rows"] > 3000
    assert result["no_change"][0]["rows"] == 0
    assert 200 < result["runs"][0]["rows"] < 3000
    for views in (result["views_at_rest"], result["views_during_a_run"]):
        assert len(views) == 5
        assert all(0 < view["p50"] <= view["p95"] <= view["max"] for view in views.values())
    machine = {
        "processor": "a",
        "cores": 2,
        "memory_bytes": 2**34,
        "system": "b",
        "postgresql": "15",
        "memory_setting": "4GB",
    }
    page = report.page({"measured_at": "now", "machine": machine, "sizes": [result, result]})
    assert "| increment: whole run |" in page
    assert "| a month ends: whole run |" in page
    assert "## Targets" in page
    again = report.page({"measured_at": "now", "machine": machine, "sizes": [result]}, page + "## Notes\n\nWhy.\n")
    assert again.endswith("## Notes\n\nWhy.\n")
    assert "xychart-beta" in page


@pytest.mark.parametrize(("values", "share", "expected"), [([5.0], 95, 5.0), ([1.0, 2.0, 3.0], 50, 2.0)])
def test_percentiles(values, share, expected):
    assert percentile(values, share) == expected
