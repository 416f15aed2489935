"""The figures of `make bench` as a table for the terminal and as docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from rich.table import Table

MB = 1024 * 1024


def _median(costs: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(cost[name] for cost in costs))


def _worst_p95(views: dict[str, dict[str, float]]) -> float:
    return float(max(view["p95"] for view in views.values()))


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _times(part: float | None, whole: float) -> str:
    return "–" if part is None else f"{part / whole:.1f} ×"


def rows(results: dict[str, Any]) -> list[list[str]]:
    """The table: a label and one text per size."""
    sizes = results["sizes"]

    def each(label: str, value: Callable[[dict[str, Any]], str]) -> list[str]:
        return [label, *(value(size) for size in sizes)]

    def run(size: dict[str, Any]) -> float:
        return _median(size["runs"], "wall")

    return [
        each("first load: extraction, per million payments", lambda s: _seconds(_per_million(s, "extraction"))),
        each("first load: models, per million payments", lambda s: _seconds(_per_million(s, "models"))),
        each("no-change run", lambda s: _seconds(_median(s["no_change"], "wall"))),
        each(
            "increment: rows it brings (a small book has fewer active loans)",
            lambda s: f"{_median(s['runs'], 'rows'):.0f}",
        ),
        each("increment: whole run", lambda s: _seconds(run(s))),
        each("increment: extraction", lambda s: _seconds(_median(s["runs"], "extraction"))),
        each("increment: models", lambda s: _seconds(_median(s["runs"], "models"))),
        each("increment: tests", lambda s: _seconds(_median(s["runs"], "tests"))),
        each("increment, against the smallest size", lambda s: _times(run(s), run(sizes[0]))),
        each("by hand in one psql session (the floor)", lambda s: _seconds(s.get("floor_seconds"))),
        each(
            "the run against the floor", lambda s: _times(run(s), s["floor_seconds"]) if "floor_seconds" in s else "–"
        ),
        each("full reload", lambda s: _seconds(s.get("reload_seconds"))),
        each("full reload against the run", lambda s: _times(s.get("reload_seconds"), run(s))),
        each("payments that full reload has too many, or wrong", lambda s: str(s.get("reload_wrong", "–"))),
        each("views: slowest p95 at rest", lambda s: f"{_worst_p95(s['views_at_rest']):.1f} ms"),
        each("views: slowest p95 during a run", lambda s: f"{_worst_p95(s['views_during_a_run']):.1f} ms"),
        each(
            "views: longest read during a run",
            lambda s: f"{max(v['max'] for v in s['views_during_a_run'].values()):.0f} ms",
        ),
        each("full reconcile, with all tests", lambda s: _seconds(s["reconcile"]["wall"])),
        each("memory of dbt", lambda s: f"{_median(s['runs'], 'memory') / MB:.0f} MB"),
        each("warehouse, bytes per payment", lambda s: f"{s['warehouse_bytes'] / s['payments']:.0f}"),
        each("computing time of the primary in a run", lambda s: _seconds(_median(s["runs"], "primary_cpu"))),
        each("COPY (binary) through a pipe", lambda s: _thousands(s.get("copy_rows_per_second"))),
    ]


def _thousands(rows_per_second: float | None) -> str:
    return "–" if rows_per_second is None else f"{rows_per_second / 1000:.0f} k rows/s"


def _per_million(size: dict[str, Any], name: str) -> float:
    return float(size["first_load"][name] / size["payments"] * 1_000_000)


def headings(results: dict[str, Any]) -> list[str]:
    """The sizes, as column headings."""
    return [f"{size['payments']:,} payments".replace(",", " ") for size in results["sizes"]]


def table(results: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title="What a run costs")
    shown.add_column("")
    for heading in headings(results):
        shown.add_column(heading, justify="right")
    for row in rows(results):
        shown.add_row(*row)
    return shown


def page(results: dict[str, Any]) -> str:
    """docs/benchmarks.md."""
    machine, sizes = results["machine"], results["sizes"]
    lines = [
        "# What a run costs",
        "",
        "Written by `make bench`; the raw figures are in [benchmarks.json](benchmarks.json). Figures are medians of "
        "three, on one machine in one go: look at the ratios.",
        "",
        f"{results['measured_at']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / MB / 1024:.0f} GiB, PostgreSQL {machine['postgresql']}, {machine['system']}. "
        f"An increment: {sizes[0]['increment']:,} new payments with the balances of their loans, 200 back-dated "
        "payments, 200 changed customers, 50 reversed payments. A run is a whole `dbt build` with its tests, started "
        "as the scheduler does it.",
        "",
        "| | " + " | ".join(headings(results)) + " |",
        "| --- |" + " ---: |" * len(sizes),
        *("| " + " | ".join(row) + " |" for row in rows(results)),
        "",
    ]
    if len(sizes) > 1:
        names = ", ".join(f'"{size["payments"] / 1_000_000:g} M"' for size in sizes)
        platform = ", ".join(f"{_median(size['runs'], 'wall'):.2f}" for size in sizes)
        reload = ", ".join(f"{size.get('reload_seconds', 0):.2f}" for size in sizes)
        lines += [
            "```mermaid",
            "xychart-beta",
            '    title "Seconds to take in an increment: this platform (bars), full reload (line)"',
            f"    x-axis [{names}]",
            '    y-axis "seconds"',
            f"    bar [{platform}]",
            *([f"    line [{reload}]"] if all("reload_seconds" in size for size in sizes) else []),
            "```",
            "",
        ]
    return "\n".join(lines)
