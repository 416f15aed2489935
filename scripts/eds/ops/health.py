"""`make health`: the state of the platform in a second, without changing anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
import typer
from rich.markup import escape

from eds.base import disk, journal
from eds.base.console import AsJson, age, out
from eds.base.errors import UserError
from eds.base.services import running_command
from eds.base.settings import load
from eds.cluster.connections import MEMBERS, Cluster
from eds.cluster.queries import fetch_all
from eds.ops import replication, wal
from eds.ops.replication import MOST_LAG_BYTES
from eds.ops.transactions import accepts_prepared, oldest_transaction
from eds.runtime.choice import select_runtime
from eds.runtime.member import Runtime
from eds.runtime.pgbackrest import Repository
from eds.warehouse import backup_record, closing, runs, source_watch

app = typer.Typer()


@dataclass
class Findings:
    """What was found so far: values for programs, and sentences about what is not well."""

    values: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    def look(self, what: str, action: Callable[[], Any]) -> Any:
        """Return what `action` finds; when it fails, that is a problem, and None is returned."""
        try:
            return action()
        except (UserError, psycopg.Error) as error:
            self.problems.append(f"{what}: {str(error).strip().splitlines()[0]}")
            return None


def health(runtime: Runtime) -> dict[str, Any]:
    """Return the state in seconds, as plain data. `problems` is empty when all is well."""
    settings, primary = runtime.settings, runtime.cluster.primary_name
    services = {state.name: state.status for state in runtime.states()}
    found = Findings({"healthy": False, "primary": primary, "services": services})
    found.problems += [f"{name} is {status}" for name, status in services.items() if status in ("stopped", "unhealthy")]
    up = [name for name in MEMBERS if services.get(name) == "running"]
    found.problems += found.look("networks", lambda: runtime.unreachable(*up)) or []
    if services.get(primary) == "running":
        _look_at_primary(runtime, found)
    found.problems += _locked_out(runtime, services)
    if running_command(settings) is None:
        found.problems += found.look("journal", lambda: journal.describe(settings)) or []
    found.problems += [f"the disk is nearly full: {place}" for place in disk.short_of(settings, archives=True)]
    has_warehouse = services.get("warehouse") == "running"
    last = found.look("warehouse", lambda: runs.last_success(runtime.cluster)) if has_warehouse else None
    _look_at_last_run(runtime.cluster, found, answers=last is not None)
    if last is not None and (waits := source_watch.silent_source(runtime.cluster)):
        found.problems.append(
            f"run {waits.run_id} by {waits.started_by} waits for {waits.member}, which does not answer: end that "
            "server or let it resume (is its container paused, its machine suspended?)"
        )
    found.values |= {"backup_ages": "", "warnings": []}
    if has_warehouse:
        _look_at_backups(runtime, found)
    finished, minutes = last or (None, None)
    stale = runs.stale(minutes, settings.etl_fresh_minutes)
    if stale and last is not None:
        found.problems.append(stale)
    return found.values | {
        "fresh": last is not None and stale is None,
        "last_success": finished.isoformat() if finished else None,
        "age_minutes": round(minutes, 2) if minutes is not None else None,
        "limit_minutes": settings.etl_fresh_minutes,
        "healthy": not found.problems,
        "problems": found.problems,
    }


def _look_at_primary(runtime: Runtime, found: Findings) -> None:
    """Find out whether the replicas follow, WAL is archived, and no transaction has been open for long."""
    cluster = runtime.cluster
    stream = found.look("replication", lambda: replication.status(cluster))
    if stream:
        found.values["replicas"] = {row["application_name"]: row["lag_bytes"] for row in stream["replicas"]}
        found.problems += [f"{name} does not stream" for name in replication.missing(stream)]
        found.problems += [
            f"{row['application_name']} is {disk.size(row['lag_bytes'])} behind"
            for row in stream["replicas"]
            if (row["lag_bytes"] or 0) > MOST_LAG_BYTES
        ]
    failing = None if runtime.why_no_repository else found.look("WAL archive", lambda: _archive_fails(cluster))
    found.values |= {"why_no_archive": runtime.why_no_repository, "archive_fails": failing}
    if failing:
        found.problems.append(f"WAL is not archived: {failing}")
    lacking = None if runtime.why_no_repository else found.look("WAL archive", lambda: _gaps(runtime))
    found.problems += [each.text for each in lacking or [] if each.is_current]
    oldest = found.look("open transactions", lambda: oldest_transaction(cluster.primary))
    found.values["oldest_transaction"] = str(oldest) if oldest else None
    if oldest and oldest.problem:
        found.problems.append(oldest.problem)
    if accepts := found.look("prepared transactions", lambda: accepts_prepared(cluster.primary)):
        found.problems.append(accepts)


def _look_at_last_run(cluster: Cluster, found: Findings, *, answers: bool) -> None:
    """Find out how the last run ended and of when the figures are. answers: whether the warehouse was just read."""
    found.values |= {"last_run_status": None, "last_run_message": None, "test_warnings": []}
    found.values |= {"data_as_of": None, "data_age_minutes": None}
    run = found.look("warehouse", lambda: runs.last_finished(cluster)) if answers else None
    if run is None:
        return
    as_of = found.look("warehouse", lambda: runs.data_as_of(cluster))
    message = runs.reason(run.error_message) or None
    age = round((datetime.now(UTC) - as_of).total_seconds() / 60, 2) if as_of else None
    found.values |= {
        "last_run_status": run.status,
        "last_run_message": message,
        "test_warnings": found.look("warehouse", lambda: runs.test_warnings(cluster, run.run_id)),
        "data_as_of": as_of.isoformat() if as_of else None,
        "data_age_minutes": age,
    }
    if age is not None and age < -runs.CLOCK_TOLERANCE_MINUTES:
        found.problems.append(
            f"the data is stamped {-age:.0f} minutes ahead of now: a server's clock is, or was, wrong"
        )
    if ahead := found.look("warehouse", lambda: closing.reported_ahead(cluster)):
        found.problems.append(ahead)
    if run.status == "failed":
        found.problems.append(f"the last run ({run.run_id}) failed: {message or 'make etl shows it'}")


def _gaps(runtime: Runtime) -> list[wal.Finding]:
    """Find what the archive on this machine lacks. A second repository may be far: the check of backups looks there."""
    return wal.gaps(Repository(runtime), 1, wal.present(runtime.cluster))


def _look_at_backups(runtime: Runtime, found: Findings) -> None:
    """Find out how old the last backups and the last proven restore are, and what the last check of them found."""
    protection = found.look("backups", lambda: _protection(runtime.cluster)) or backup_record.Protection()
    kept = {
        "physical_backup": protection.physical,
        "dump": protection.dump,
        "proven_restore": protection.restore,
        "backup_check": protection.check,
    }
    # What the check of the archive has named already is not named again.
    found.problems += [each for each in backup_record.damage(protection) if not each.startswith(tuple(found.problems))]
    found.values |= {f"last_{name}": last.at.isoformat() if last.at else None for name, last in kept.items()}
    found.values |= {
        "backup_ages": _ages(runtime, protection),
        "warnings": backup_record.warnings(runtime.settings, protection, runtime.why_no_repository),
    }


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
    rows = backup_record.rows(runtime.settings, protection, runtime.why_no_repository)
    return ", ".join(f"{name} {age(last.at)}" for name, last, _ in rows)


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
        if "stopped" in found.get("services", {}).values():
            out.print("make up starts what is stopped.")
    for warning in found["warnings"]:
        out.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
