"""The command `make bench`."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from bench import lender, load, peers, report
from bench.cluster import Bench, Latency, RunCost, throw_away
from eds.base.console import err, out, step
from eds.base.errors import UserError
from eds.base.settings import Settings, ensure_env_file, env_file, with_home
from eds.base.settings import load as load_settings
from eds.book.demo import fill
from eds.warehouse.runs import RECONCILE_VARS

app = typer.Typer(add_completion=False)

PAYMENTS = 20_000
REPEATS = 3
REST_SECONDS = 5.0
TRAFFIC = 500
# Sizes above which a method of comparison takes longer than the rest of the benchmark.
LATERAL_MOST = 100_000
DLT_MOST = 5_000_000
TRAFFIC_MOST = 5_000_000


def _cost(cost: RunCost) -> dict[str, Any]:
    return {name: getattr(cost, name) for name in RunCost.__dataclass_fields__}


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    increment: new payments of an increment. peers: also the other ways. minutes: of a run each minute under traffic.
    runs: without a change in a row, for the memory. trail_seconds: of each turn that prices the audit trail (0: none).
    """

    increment: int = PAYMENTS
    peers: bool = True
    minutes: int = 0
    runs: int = 0
    trail_seconds: float = 0.0


def measure(bench: Bench, payments: int, extent: Extent) -> dict[str, Any]:
    """Measure everything at one size of the book, on an empty cluster."""
    result: dict[str, Any] = {"payments": payments, "increment": extent.increment}
    with step(f"{payments:,} payments: book filled"):
        result["fill_seconds"] = bench.fill(payments)
    result["book_bytes"] = bench.ask("select pg_database_size(current_database())", bench.primary)
    with step("first load"):
        result["first_load"] = _cost(bench.run())
    result["warehouse_bytes"] = bench.ask("select pg_database_size(current_database())")
    with step("runs without a change"):
        bench.run()
        result["no_change"] = [_cost(bench.run()) for _ in range(REPEATS)]
    reload = None
    if extent.peers:
        with step("full reload: first load"):
            reload = peers.Reload(bench)
            result["reload_first_seconds"] = reload.run()
        if payments <= LATERAL_MOST:
            with step("full reload: all loans by a lateral sum"):
                result["lateral_seconds"] = reload.lateral()
    with step("increments, the first one to warm up"):
        bench.increment(extent.increment, "warm")
        bench.run()
        result["runs"] = []
        for number in range(REPEATS - 1):
            bench.increment(extent.increment, str(number))
            result["runs"].append(_cost(bench.run()))
    dlt = peers.Dlt(bench) if extent.peers and payments <= DLT_MOST else None
    # A payment whose transaction is open while everybody reads, and commits before everybody reads again.
    with bench.late_payment():
        bench.increment(extent.increment, "before")
        bench.run()
        if dlt:
            with step("dlt: first load"):
                result["dlt_first_seconds"] = dlt.run()
    bench.increment(extent.increment, "last")
    if reload:
        with step("the same increment by the others"):
            result |= _beside(bench, reload, dlt)
    result["runs"].append(_cost(bench.run()))
    result["wrong"] = peers.payments_that_differ(bench, bench.warehouse, LANDED)
    if extent.peers:
        result["same_as_by_hand"] = result.pop("floor_state") == bench.ask(STATE)
    if dlt:
        with step("the marts rebuilt as tables"):
            result["rebuild_seconds"] = peers.rebuild(bench)
    with step("readers at rest and during a run"):
        with Latency(bench.reader) as latency:
            time.sleep(REST_SECONDS)
        result["views_at_rest"] = latency.summary()
        with Latency(bench.reader, lender.QUERIES) as latency:
            time.sleep(REST_SECONDS)
        result["lender_views_at_rest"] = latency.summary()
        bench.increment(extent.increment, "read")
        with Latency(bench.reader) as latency:
            bench.run()
        result["views_during_a_run"] = latency.summary()
    if extent.minutes:
        with step(f"a run each minute, with {TRAFFIC} payments a second"):
            result["pace"] = asdict(load.keep_up(bench, extent.minutes, TRAFFIC))
    if extent.runs:
        with step(f"{extent.runs} runs in a row"):
            result["memory_of_runs"] = [bench.run().memory for _ in range(extent.runs)]
    if extent.trail_seconds:
        with step("the audit trail's price"):
            result["trail"] = load.trail_cost(bench, extent.trail_seconds, REPEATS)
    with step("full reconcile"):
        result["reconcile"] = _cost(bench.run("--vars", json.dumps(RECONCILE_VARS)))
    with step("a month ends"):
        result["month_end"] = lender.month_that_ends(bench)
    return result


# What the marts add up to: equal for two warehouses that hold the same.
STATE = """
    select
        (
            select row(count(*), sum(payment_amount), sum(customer_sk), sum(loan_sk))::text
            from warehouse.fact_payments
        )
        || (
            select row(count(*), sum(total_paid), sum(outstanding_balance), sum(customer_sk))::text
            from warehouse.fact_loans
        )
        || (select row(sum(payment_count), sum(payment_amount))::text from warehouse.agg_payments)
        || (select row(sum(loan_count), sum(outstanding_balance))::text from warehouse.agg_loans)
        || (select row(sum(total_paid), sum(payment_count))::text from warehouse.agg_customers)
"""


# Payments as the warehouse has them.
LANDED = "(select payment_id, loan_id, payment_amount as amount from warehouse.fact_payments) as facts"


def _beside(bench: Bench, reload: peers.Reload, dlt: peers.Dlt | None) -> dict[str, Any]:
    """Let the peers take in the same increment, before the platform takes it in."""
    result: dict[str, Any] = {}
    with bench.copy_of_the_warehouse("floor_peer") as conninfo:
        watermark = bench.ask("select watermark::text from audit.extraction_state")
        result["floor_seconds"] = peers.floor(bench, "floor_peer", watermark)
        result["floor_state"] = bench.ask(STATE, conninfo)
        result["copy_rows_per_second"] = peers.copy_pipe(bench, "floor_peer")
    result["reload_seconds"] = reload.run()
    result["reload_wrong"] = reload.wrong()
    reload.drop()
    if dlt:
        result["dlt_seconds"] = dlt.run()
        result["dlt_wrong"] = dlt.wrong()
        dlt.drop()
    return result


@app.command(name="bench", rich_help_panel="Development")
def bench_command(
    sizes: Annotated[str, typer.Option(metavar="1M,5M", help="Numbers of payments: 1M,5M,20M.")] = "1M",
    increment: Annotated[int, typer.Option(metavar="20000", min=1, help="New payments of an increment.")] = PAYMENTS,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="Measure the platform alone.")] = False,
    minutes: Annotated[int, typer.Option(metavar="5", min=0, help="Of a run each minute under traffic.")] = 0,
    runs: Annotated[int, typer.Option(metavar="200", min=0, help="Without a change in a row, for the memory.")] = 0,
    trail: Annotated[float, typer.Option(metavar="5", min=0, help="Seconds per turn to price the audit trail.")] = 0,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="docs", help="Directory to write benchmarks.md and .json into.")
    ] = None,
) -> None:
    """Measure what a run costs, beside other ways to do it. Example: make bench SIZES=1M,5M"""
    scales = [fill.Scale.parse(size) for size in sizes.split(",")]
    if not all(scale.payments for scale in scales):
        raise UserError(f"SIZES is {sizes}: expected numbers of payments greater than 0, such as 1M,5M.")
    settings = _settings()
    # Traffic at the largest size that two cores fill in minutes; what no size changes once, at the first.
    busy = max((scale.payments for scale in scales if scale.payments <= TRAFFIC_MOST), default=0)
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "memory_setting": settings.memory,
    }
    measured: list[dict[str, Any]] = []
    results = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "sizes": measured,
    }
    if target:
        target = with_home(target)
        target.mkdir(parents=True, exist_ok=True)
    for number, scale in enumerate(scales):
        extent = Extent(
            increment=increment,
            peers=not no_peers,
            minutes=minutes if scale.payments == busy else 0,
            runs=runs if number == 0 else 0,
            trail_seconds=trail if number == 0 else 0.0,
        )
        with throw_away(settings) as bench:
            if minutes or trail:
                load.assert_pgbench(bench)
            machine["postgresql"] = bench.ask("show server_version")
            measured.append(measure(bench, scale.payments, extent))
        # Saved after each size, so that a large one that fails costs no small one.
        if target:
            (target / "benchmarks.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            page = target / "benchmarks.md"
            before = page.read_text(encoding="utf-8") if page.exists() else ""
            page.write_text(report.page(results, before), encoding="utf-8")
        elif number + 1 < len(scales):
            out.print(report.table(results))
    out.print(report.table(results))
    if target:
        err.print(f"written: {target / 'benchmarks.md'} and benchmarks.json beside it")


def _settings() -> Settings:
    """Return the settings of this checkout, or of the environment and the defaults when it has no environment file yet.

    The throw-away cluster's passwords are read from it once, so they need no file that stays.
    """
    if env_file().exists():
        return load_settings()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.env"
        ensure_env_file(path)
        return load_settings(path)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
