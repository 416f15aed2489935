"""`make health`: the state of the platform in a second, without changing anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import typer
from rich.markup import escape

from eds.base import disk, journal
from eds.base.console import AsJson, out
from eds.base.errors import UserError
from eds.base.services import running_command
from eds.base.settings import load
from eds.cluster.connections import MEMBERS, Cluster
from eds.cluster.queries import fetch_all
from eds.ops import replication
from eds.ops.replication import MOST_LAG_BYTES
from eds.ops.transactions import oldest_transaction
from eds.runtime.choice import select_runtime
from eds.runtime.member import Runtime
from eds.warehouse import backup_record, runs

app = typer.Typer()


def health(runtime: Runtime) -> dict[str, Any]:
    """Return the state in seconds, as plain data. `problems` is empty when all is well."""
    settings, cluster = runtime.settings, runtime.cluster
    problems: list[str] = []
    services = {state.name: state.status for state in runtime.states()}
    problems += [f"{name} is {status}" for name, status in services.items() if status in ("stopped", "unhealthy")]
    found: dict[str, Any] = {"healthy": False, "primary": cluster.primary_name, "services": services}

    def look(what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (UserError, psycopg.Error) as error:
            problems.append(f"{what}: {str(error).strip().splitlines()[0]}")
            return None

    up = [name for name in MEMBERS if services.get(name) == "running"]
    problems += look("networks", lambda: runtime.unreachable(*up)) or []
    if services.get(cluster.primary_name) == "running":
        stream = look("replication", lambda: replication.status(cluster))
        if stream:
            found["replicas"] = {row["application_name"]: row["lag_bytes"] for row in stream["replicas"]}
            problems += [f"{name} does not stream" for name in replication.missing(stream)]
            problems += [
                f"{row['application_name']} is {disk.size(row['lag_bytes'])} behind"
                for row in stream["replicas"]
                if (row["lag_bytes"] or 0) > MOST_LAG_BYTES
            ]
        failing = None if runtime.why_no_repository else look("WAL archive", lambda: _archive_fails(cluster))
        found["why_no_archive"] = runtime.why_no_repository
        found["archive_fails"] = failing
        if failing:
            problems.append(f"WAL is not archived: {failing}")
        oldest = look("open transactions", lambda: oldest_transaction(cluster.primary))
        found["oldest_transaction"] = str(oldest) if oldest else None
        if oldest and oldest.problem:
            problems.append(oldest.problem)
    problems += _locked_out(runtime, services)
    if running_command(settings) is None:
        problems += look("journal", lambda: journal.describe(settings)) or []
    problems += [f"the disk is nearly full: {place}" for place in disk.short_of(settings)]
    found |= {"last_run_status": None, "last_run_message": None, "test_warnings": [], "data_as_of": None}
    found |= {"data_age_minutes": None, "backup_ages": "", "warnings": []}
    last = look("warehouse", lambda: runs.last_success(cluster)) if services.get("warehouse") == "running" else None
    if last is not None and (run := look("warehouse", lambda: runs.last_finished(cluster))):
        as_of = look("warehouse", lambda: runs.data_as_of(cluster))
        found |= {
            "last_run_status": run.status,
            "last_run_message": runs.reason(run.error_message) or None,
            "test_warnings": look("warehouse", lambda: runs.test_warnings(cluster, run.run_id)),
            "data_as_of": as_of.isoformat() if as_of else None,
            "data_age_minutes": round((datetime.now(UTC) - as_of).total_seconds() / 60, 2) if as_of else None,
        }
        if (age := found["data_age_minutes"]) is not None and age < -runs.CLOCK_TOLERANCE_MINUTES:
            problems.append(f"the data are of {-age:.0f} minutes ahead of now: a server's clock is, or was, set wrong")
        if run.status == "failed":
            problems.append(f"the last run ({run.run_id}) failed: {found['last_run_message'] or 'make etl shows it'}")
    finished, minutes = last or (None, None)
    stale = runs.stale(minutes, settings.etl_fresh_minutes)
    fresh = last is not None and stale is None
    if services.get("warehouse") == "running":
        protection = look("backups", lambda: _protection(cluster)) or backup_record.Protection()
        for name, kept in (("physical_backup", protection.physical), ("dump", protection.dump)):
            found[f"last_{name}"] = kept.at.isoformat() if kept.at else None
        found["last_proven_restore"] = protection.restore.at.isoformat() if protection.restore.at else None
        found["backup_ages"] = _ages(runtime, protection)
        found["warnings"] = backup_record.warnings(settings, protection, runtime.why_no_repository)
    found |= {
        "fresh": fresh,
        "last_success": finished.isoformat() if finished else None,
        "age_minutes": round(minutes, 2) if minutes is not None else None,
        "limit_minutes": settings.etl_fresh_minutes,
    }
    if stale and last is not None:
        problems.append(stale)
    return found | {"healthy": not problems, "problems": problems}


def _locked_out(runtime: Runtime, services: dict[str, str]) -> list[str]:
    """Return a sentence for each way on which the application's role cannot log in, though the server runs."""
    cluster = runtime.cluster
    ways = {cluster.primary_name: cluster.app_conninfo(), "pgbouncer": cluster.pooled_conninfo()}
    problems = []
    for name, conninfo in ways.items():
        if services.get(name) != "running":
            continue
        try:
            with psycopg.connect(conninfo, prepare_threshold=None, connect_timeout=2) as connection:
                connection.execute("select pg_is_in_recovery()")
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[-1]
            problems.append(f"the application cannot log in at {name}: {reason}; `make up` repairs it")
    return problems


def _protection(cluster: Cluster) -> backup_record.Protection:
    with cluster.connect_as_writer() as connection:
        return backup_record.protection(connection)


def _ages(runtime: Runtime, protection: backup_record.Protection) -> str:
    """Return how old the last backups and the last proven restore are, for a person."""
    now, why = datetime.now(UTC), runtime.why_no_repository
    rows = backup_record.rows(runtime.settings, protection, why)
    return ", ".join(f"{name} {backup_record.age(last, now)}" for name, last, _ in rows)


def _archive_fails(cluster: Cluster) -> str | None:
    """Return the segment whose archiving failed last, when none was archived since."""
    row = fetch_all(
        cluster.primary,
        "select last_failed_wal from pg_stat_archiver "
        "where last_failed_time > coalesce(last_archived_time, '-infinity')",
    )
    return row[0][0] if row else None


@app.command(name="health")
def health_command(as_json: AsJson = False) -> None:
    """Check services, replication, archive and freshness in a second. Exit code 1 when one is not well."""
    settings = load()
    found = health(select_runtime(settings)[0])
    if as_json:
        print(json.dumps(found))
    else:
        show(found)
    raise typer.Exit(0 if found["healthy"] else 1)


def show(found: dict[str, Any]) -> None:
    """Print what `health` found, for a person. What others have written (names of sessions, tests) is no markup."""
    if found["healthy"]:
        out.print(f"[green]healthy[/]: last success {found['age_minutes']:.1f} minutes ago")
        if oldest := found["oldest_transaction"]:
            out.print(f"oldest transaction: {oldest}", markup=False)
        for warning in found["test_warnings"]:
            out.print(f"[yellow]warning of a test:[/] {escape(warning)}")
        out.print(found["backup_ages"], markup=False)
    else:
        for problem in found["problems"]:
            out.print(problem, style="red", markup=False)
    for warning in found["warnings"]:
        out.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
