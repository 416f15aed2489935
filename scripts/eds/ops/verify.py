"""`make verify`: whether everything does what it should, shown by doing it."""

from __future__ import annotations

import json
from collections.abc import Callable

import typer

from eds.base.console import AsJson, out
from eds.base.settings import load
from eds.ops.checks import backup, oltp, replication, roles, services, warehouse
from eds.ops.checks.result import Result, Verification
from eds.runtime.choice import select_runtime
from eds.runtime.member import Runtime

app = typer.Typer()

COLOURS = {"PASS": "green", "WARN": "yellow", "SKIP": "yellow", "FAIL": "bold red"}


def verify(runtime: Runtime, report: Callable[[Result], None]) -> Verification:
    """Check everything, and report each result as it comes. No check leaves a row behind."""
    run, cluster = Verification(runtime, report), runtime.cluster
    services.check(run)
    if run.check("OLTP", "the primary answers", lambda: oltp.primary_answers(cluster)):
        oltp.check(run)
        replication.check(run)
        backup.check_archive(run)
        backup.check_dump(run)
    if run.check("warehouse", "the warehouse answers", lambda: warehouse.warehouse_answers(cluster)):
        warehouse.check(run)
    roles.check(run)
    return run


@app.command(name="verify")
def verify_command(as_json: AsJson = False) -> None:
    """Check everything by using it, one line per check. Exit code 1 when one fails. Leaves no row behind."""
    settings = load()
    group = ""

    def report(result: Result) -> None:
        nonlocal group
        if result.group != group:
            group = result.group
            out.print(f"[bold]{group}[/]")
        out.print(f"  [{COLOURS[result.status]}]{result.status}[/]  {result.name}", end="")
        out.print(f"  {result.detail}", style="dim", markup=False)

    run = verify(select_runtime(settings)[0], (lambda result: None) if as_json else report)
    counts = {status: run.count(status) for status in COLOURS}
    if as_json:
        print(json.dumps({"counts": counts, "checks": [vars(result) for result in run.results]}))
    else:
        out.print(
            f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['WARN']} warnings, {counts['SKIP']} skipped"
        )
    raise typer.Exit(1 if counts["FAIL"] else 0)
