"""The command `make bench`."""

from __future__ import annotations

import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from eds import demo
from eds.bench import peers, report
from eds.bench.cluster import Bench, Latency, RunCost, throw_away
from eds.console import err, out, step
from eds.errors import UserError
from eds.etl import RECONCILE_VARS
from eds.settings import ROOT, load

app = typer.Typer()

PAYMENTS = 20_000
REPEATS = 3
REST_SECONDS = 5.0


def _cost(cost: RunCost) -> dict[str, Any]:
    return {name: getattr(cost, name) for name in RunCost.__dataclass_fields__}


def measure(bench: Bench, payments: int, increment: int, with_peers: bool) -> dict[str, Any]:
    """Measure everything at one size of the book, on an empty cluster. increment: its new payments."""
    result: dict[str, Any] = {"payments": payments, "increment": increment}
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
    if with_peers:
        with step("full reload: first load"):
            reload = peers.Reload(bench)
            result["reload_first_seconds"] = reload.run()
    with step("increments, the first one to warm up"):
        bench.increment(increment, "warm")
        bench.run()
        result["runs"] = []
        for number in range(REPEATS):
            bench.increment(increment, str(number))
            last = number == REPEATS - 1
            if with_peers and last:
                result |= _beside(bench, reload)
            result["runs"].append(_cost(bench.run()))
    if with_peers:
        result["same_as_by_hand"] = result.pop("floor_state") == bench.ask(STATE)
    with step("readers at rest and during a run"):
        with Latency(bench.reader) as latency:
            time.sleep(REST_SECONDS)
        result["views_at_rest"] = latency.summary()
        bench.increment(increment, "read")
        with Latency(bench.reader) as latency:
            bench.run()
        result["views_during_a_run"] = latency.summary()
    with step("full reconcile"):
        result["reconcile"] = _cost(bench.run("--vars", json.dumps(RECONCILE_VARS)))
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


def _beside(bench: Bench, reload: peers.Reload | None) -> dict[str, Any]:
    """The same increment, taken in by the peers, before the platform takes it in."""
    result: dict[str, Any] = {}
    with bench.copy_of_the_warehouse("floor_peer") as conninfo:
        watermark = bench.ask("select watermark::text from audit.extraction_state")
        result["floor_seconds"] = peers.floor(bench, "floor_peer", watermark)
        result["floor_state"] = bench.ask(STATE, conninfo)
        result["copy_rows_per_second"] = peers.copy_pipe(bench, "floor_peer")
    if reload:
        result["reload_seconds"] = reload.run()
        result["reload_wrong"] = reload.wrong()
        reload.drop()
    return result


@app.command(name="bench")
def bench_command(
    sizes: Annotated[str, typer.Option(envvar="SIZES", help="Numbers of payments: 1M,5M,20M.")] = "1M",
    increment: Annotated[int, typer.Option(envvar="INCREMENT", min=1, help="New payments of an increment.")] = PAYMENTS,
    with_peers: Annotated[bool, typer.Option("--peers/--no-peers", envvar="PEERS")] = True,
    target: Annotated[Path | None, typer.Option("--out", envvar="OUT", help="Directory of the results.")] = None,
) -> None:
    """Measure what a run costs, beside other ways to do it. Example: make bench SIZES=1M,5M"""
    scales = [demo.Scale.parse(size) for size in sizes.split(",")]
    if not all(scale.payments for scale in scales):
        raise UserError(f"SIZES is {sizes}: expected numbers of payments greater than 0, such as 1M,5M.")
    settings = load()
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
    }
    measured: list[dict[str, Any]] = []
    results = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "sizes": measured,
    }
    for scale in scales:
        with throw_away(settings) as bench:
            machine["postgresql"] = bench.ask("show server_version")
            measured.append(measure(bench, scale.payments, increment, with_peers))
    folder = target or ROOT / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / "benchmarks.md").write_text(report.page(results), encoding="utf-8")
    out.print(report.table(results))
    err.print(f"written: {folder / 'benchmarks.md'} and benchmarks.json beside it")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
