"""The figures of `make bench` as a table for the terminal and as docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from rich.table import Table

from bench import lender

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
    """Return the table: a label and one text per size."""
    sizes = results["sizes"]

    def each(label: str, value: Callable[[dict[str, Any]], str]) -> list[str]:
        return [label, *(value(size) for size in sizes)]

    def run(size: dict[str, Any]) -> float:
        return _median(size["runs"], "wall")

    return [
        each("first load: extraction, per million payments", lambda s: _seconds(_per_million(s, "extraction"))),
        each("first load: models, per million payments", lambda s: _seconds(_per_million(s, "models"))),
        each(
            "first load: the lender's months (fact_loan_month_end and its sums), per million payments",
            lambda s: _seconds(_lender(s, "first", months=True)),
        ),
        each(
            "first load: the lender's other models, per million payments",
            lambda s: _seconds(_lender(s, "first", months=False)),
        ),
        each("no-change run", lambda s: _seconds(_median(s["no_change"], "wall"))),
        each(
            "increment: rows it brings (a small book has fewer active loans)",
            lambda s: f"{_median(s['runs'], 'rows'):.0f}",
        ),
        each("increment: whole run", lambda s: _seconds(run(s))),
        each("increment: extraction", lambda s: _seconds(_median(s["runs"], "extraction"))),
        each("increment: models", lambda s: _seconds(_median(s["runs"], "models"))),
        each("increment: of the models, those of the lender's figures", lambda s: _seconds(_lender(s, "runs"))),
        each("increment: computing time of the warehouse", lambda s: _seconds(_cpu(s, "runs"))),
        each("no-change run: computing time of the warehouse", lambda s: _seconds(_cpu(s, "no_change"))),
        each("a month ends: whole run", lambda s: _seconds(s["month_end"]["wall"] if "month_end" in s else None)),
        each("… of it the lender's models", lambda s: _seconds(_lender(s, "month_end"))),
        each(
            "… computing time of the warehouse",
            lambda s: _seconds(s["month_end"]["warehouse_cpu"] if "month_end" in s else None),
        ),
        each("increment: tests", lambda s: _seconds(_median(s["runs"], "tests"))),
        each("increment, against the smallest size", lambda s: _times(run(s), run(sizes[0]))),
        each("by hand in one psql session (the floor)", lambda s: _seconds(s.get("floor_seconds"))),
        each(
            "the run against the floor", lambda s: _times(run(s), s["floor_seconds"]) if "floor_seconds" in s else "–"
        ),
        each("full reload", lambda s: _seconds(s.get("reload_seconds"))),
        each("full reload against the run", lambda s: _times(s.get("reload_seconds"), run(s))),
        each(
            "full reload with a lateral sum over unindexed staging: that step",
            lambda s: _seconds(s.get("lateral_seconds")),
        ),
        each("dlt by updated_at, with merge", lambda s: _seconds(s.get("dlt_seconds"))),
        each("the marts rebuilt as tables", lambda s: _seconds(s.get("rebuild_seconds"))),
        each("dlt and the marts rebuilt, against the run", lambda s: _times(_dlt(s), run(s))),
        each("payments missing, left over or wrong: this platform", lambda s: str(s.get("wrong", "–"))),
        each("… full reload", lambda s: str(s.get("reload_wrong", "–"))),
        each("… dlt", lambda s: str(s.get("dlt_wrong", "–"))),
        each("views: slowest p95 at rest", lambda s: f"{_worst_p95(s['views_at_rest']):.1f} ms"),
        each(
            "the lender's views: slowest p95 at rest",
            lambda s: f"{_worst_p95(s['lender_views_at_rest']):.1f} ms" if "lender_views_at_rest" in s else "–",
        ),
        each("views: slowest p95 during a run", lambda s: f"{_worst_p95(s['views_during_a_run']):.1f} ms"),
        each(
            "views: longest read during a run",
            lambda s: f"{max(v['max'] for v in s['views_during_a_run'].values()):.0f} ms",
        ),
        each(
            "a run each minute under 500 payments a second: payments that came, a second",
            lambda s: _pace(s, "rate", "{:.0f}"),
        ),
        each("… slowest run", lambda s: _pace(s, "walls", "{:.1f} s")),
        each("… from a payment to its dashboard, p50", lambda s: _pace(s, "fresh_p50", "{:.0f} s")),
        each("… from a payment to its dashboard, p95", lambda s: _pace(s, "fresh_p95", "{:.0f} s")),
        each("audit trail: updates of loans a second, with it and without", lambda s: _trail(s, "update_loan")),
        each("audit trail: inserts of payments a second, with it and without", lambda s: _trail(s, "insert_payment")),
        each(
            "HOT updates of loans, with the audit trail",
            lambda s: f"{s['trail']['hot_share']:.1%}" if "trail" in s else "–",
        ),
        each("memory of dbt over many runs in a row: the first ten, the last ten", _memory),
        each("full reconcile, with all tests", lambda s: _seconds(s.get("reconcile", {}).get("wall"))),
        each("memory of dbt", lambda s: f"{_median(s['runs'], 'memory') / MB:.0f} MB"),
        each("warehouse, bytes per payment", lambda s: f"{s['warehouse_bytes'] / s['payments']:.0f}"),
        each("computing time of the primary in a run", lambda s: _seconds(_median(s["runs"], "primary_cpu"))),
        each("COPY (binary) through a pipe", lambda s: _thousands(s.get("copy_rows_per_second"))),
    ]


def _dlt(size: dict[str, Any]) -> float | None:
    return float(size["dlt_seconds"] + size["rebuild_seconds"]) if "dlt_seconds" in size else None


def _pace(size: dict[str, Any], name: str, form: str) -> str:
    if "pace" not in size:
        return "–"
    value = size["pace"][name]
    return form.format(max(value) if isinstance(value, list) else value)


def _lender(size: dict[str, Any], where: str, *, months: bool | None = None) -> float | None:
    """Return the seconds of the lender's models: in increments, at a month's end, per million payments at first.

    months: those of the loans' history alone, or the others alone.
    """
    if where == "first":
        if "first_load" not in size:
            return None
        nodes = size["first_load"]["nodes"]
        history = lender.month_seconds(nodes)
        return float((history if months else lender.seconds(nodes) - history) / size["payments"] * 1_000_000)
    if where == "month_end":
        return lender.seconds(size["month_end"]["nodes"]) if "month_end" in size else None
    return float(statistics.median(lender.seconds(run["nodes"]) for run in size[where]))


def _cpu(size: dict[str, Any], kind: str) -> float | None:
    return _median(size[kind], "warehouse_cpu") if all("warehouse_cpu" in run for run in size[kind]) else None


def _trail(size: dict[str, Any], kind: str) -> str:
    if "trail" not in size:
        return "–"
    found = size["trail"][kind]
    return f"{found['with_trail']:.0f} / {found['without']:.0f}"


def _memory(size: dict[str, Any]) -> str:
    runs = size.get("memory_of_runs", [])
    if not runs:
        return "–"
    first, last = statistics.median(runs[:10]), statistics.median(runs[-10:])
    return f"{first / MB:.0f} MB, {last / MB:.0f} MB ({len(runs)} runs)"


def nodes(size: dict[str, Any]) -> list[str]:
    """Return the seconds of each model that takes longest: at the first load, in an increment and without a change."""
    names = {name for run in size["runs"] for name in run["nodes"]}

    def median(runs: list[dict[str, Any]], name: str) -> float:
        return float(statistics.median(run["nodes"].get(name, 0.0) for run in runs))

    first = size["first_load"]["nodes"] if "first_load" in size else {}
    return [
        f"| {name} | {_seconds(first.get(name))} | {median(size['runs'], name):.2f} s | "
        f"{median(size['no_change'], name):.2f} s |"
        for name in sorted(names, key=lambda name: -median(size["runs"], name))[:12]
    ]


def targets(results: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return what design asks for, what was found, and whether that is within; only of what was measured."""
    found: list[tuple[str, str, bool]] = []

    def judge(size: dict[str, Any], text: str, value: float | None, form: str, within: Callable[[float], bool]) -> None:
        if value is not None:
            found.append((f"{headings({'sizes': [size]})[0]}: {text}", form.format(value), within(value)))

    def run(size: dict[str, Any]) -> float:
        return _median(size["runs"], "wall")

    by_size = {size["payments"]: size for size in results["sizes"]}
    five, twenty = by_size.get(5_000_000), by_size.get(20_000_000)
    if five and twenty:
        ratio = run(twenty) / run(five)
        judge(twenty, "increment against that at 5 million, 1.3 × at most", ratio, "{:.2f} ×", lambda v: v <= 1.3)
    for size in results["sizes"]:
        floor, reload, dlt = size.get("floor_seconds"), size.get("reload_seconds"), _dlt(size)
        if floor:
            judge(
                size,
                f"increment, 1.3 × of the floor and 2 s at most ({1.3 * floor + 2:.2f} s)",
                run(size),
                "{:.2f} s",
                lambda value, most=1.3 * floor + 2: value <= most,  # type: ignore[misc]
            )
        judge(
            size,
            "run without a change, 2.5 s at most",
            _median(size["no_change"], "wall"),
            "{:.2f} s",
            lambda v: v <= 2.5,
        )
        if size["payments"] >= 5_000_000 and reload:
            least = 20 if size is twenty else 6
            judge(
                size,
                f"full reload against the increment, {least} × at least",
                reload / run(size),
                "{:.1f} ×",
                lambda value, least=least: value >= least,  # type: ignore[misc]
            )
        if size["payments"] >= 1_000_000 and dlt:
            judge(size, "dlt and the marts rebuilt, 4 × at least", dlt / run(size), "{:.1f} ×", lambda v: v >= 4)
        judge(size, "payments missing, left over or wrong, none", size.get("wrong"), "{}", lambda v: v == 0)
        if size["payments"] >= 5_000_000:
            rest, during = size["views_at_rest"], size["views_during_a_run"]
            judge(size, "views at rest, p95 10 ms at most", _worst_p95(rest), "{:.1f} ms", lambda v: v <= 10)
            judge(size, "views during a run, p95 10 ms at most", _worst_p95(during), "{:.1f} ms", lambda v: v <= 10)
            longest = max(view["max"] for view in during.values())
            judge(size, "longest read during a run, 100 ms at most", longest, "{:.0f} ms", lambda v: v <= 100)
        judge(size, "extraction, 1.5 s at most", _median(size["runs"], "extraction"), "{:.2f} s", lambda v: v <= 1.5)
        if size["payments"] >= 1_000_000:
            per = {name: _per_million(size, name) for name in ("extraction", "models")}
            judge(
                size, "first load: extraction, 10 s a million at most", per["extraction"], "{:.1f} s", lambda v: v <= 10
            )
            judge(size, "first load: models, 12 s a million at most", per["models"], "{:.1f} s", lambda v: v <= 12)
        if "month_end" in size and size["payments"] >= 1_000_000:
            judge(
                size,
                "first load: the lender's months, 20 s a million at most",
                _lender(size, "first", months=True),
                "{:.1f} s",
                lambda v: v <= 20,
            )
            judge(size, "a month ends, 15 s at most", size["month_end"]["wall"], "{:.1f} s", lambda v: v <= 15)
        if "trail" in size:
            judge(size, "HOT updates of loans", size["trail"]["hot_share"] * 100, "{:.1f} %", lambda v: v >= 99.5)
        if "pace" in size:
            slowest = max(size["pace"]["walls"])
            judge(size, "slowest of the runs each minute, 60 s at most", slowest, "{:.1f} s", lambda v: v <= 60)
    return found


def _thousands(rows_per_second: float | None) -> str:
    return "–" if rows_per_second is None else f"{rows_per_second / 1000:.0f} k rows/s"


def _per_million(size: dict[str, Any], name: str) -> float | None:
    return float(size["first_load"][name] / size["payments"] * 1_000_000) if "first_load" in size else None


def headings(results: dict[str, Any]) -> list[str]:
    """Return the sizes, as column headings."""
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


NOTES = "## Notes"


def page(results: dict[str, Any], before: str = "") -> str:
    """docs/benchmarks.md. before: the page as it is; what a person wrote under its last heading, Notes, stays."""
    machine, sizes = results["machine"], results["sizes"]
    lines = [
        "# What a run costs",
        "",
        "Written by `make bench OUT=docs`; the raw figures are in [benchmarks.json](benchmarks.json). Figures are "
        "medians of three, on one machine in one go: look at the ratios.",
        "",
        f"{results['measured_at']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / MB / 1024:.0f} GiB (MEMORY={machine['memory_setting']}), "
        f"PostgreSQL {machine['postgresql']}, {machine['system']}. "
        f"An increment: {sizes[0]['increment']:,} new payments with the balances of their loans, 200 back-dated "
        "payments, 200 changed customers, 50 reversed payments. A run is a whole `dbt build` with its tests, started "
        "as the scheduler does it.",
        "",
        "| | " + " | ".join(headings(results)) + " |",
        "| --- |" + " ---: |" * len(sizes),
        *("| " + " | ".join(row) + " |" for row in rows(results)),
        "",
    ]
    if judged := targets(results):
        lines += [
            "## Targets",
            "",
            "| | found | |",
            "| --- | ---: | --- |",
            *(f"| {text} | {value} | {'met' if met else '**missed**'} |" for text, value, met in judged),
            "",
            "## Models",
            "",
        ]
    for size in sizes[-1:]:
        lines += [
            f"The models that take longest, at {headings({'sizes': [size]})[0]}:",
            "",
            "| | first load | increment | without a change |",
            "| --- | ---: | ---: | ---: |",
            *nodes(size),
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
    if NOTES in before:
        lines += [before[before.index(NOTES) :].rstrip("\n"), ""]
    return "\n".join(lines)
