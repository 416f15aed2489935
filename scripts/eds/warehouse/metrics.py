"""The platform's figures in Prometheus' text format, as the docs service gives them at /metrics.

Everything is read from the warehouse, with dbt's role: the record of the runs is there, and the primary's own figures
come through the foreign server `oltp_primary`, so that no other way to the OLTP cluster is needed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from eds.base.errors import UserError
from eds.base.files import write_atomically
from eds.base.settings import Settings
from eds.cluster.connections import Cluster
from eds.cluster.queries import has_relation
from eds.warehouse.backup_record import protection

FILE_NAME = "metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Metric:
    """One figure: its name without the prefix, what it is, and whether it only grows."""

    name: str
    help: str
    counter: bool = False


METRICS = {
    metric.name: metric
    for metric in (
        Metric("written_timestamp_seconds", "When these figures were read"),
        Metric("warehouse_up", "1 when the warehouse answers"),
        Metric("primary_up", "1 when the primary answers the warehouse"),
        Metric("data_as_of_timestamp_seconds", "Up to when the published figures include the source's changes"),
        Metric("data_age_seconds", "How old the published figures are"),
        Metric("data_age_limit_seconds", "Age of the last success from which make health reports stale data"),
        Metric("last_success_timestamp_seconds", "When the last successful run ended"),
        Metric("last_run_success", "1 when the newest finished run succeeded"),
        Metric("last_run_timestamp_seconds", "When the newest finished run ended"),
        Metric("last_run_duration_seconds", "How long the newest finished run took"),
        Metric("last_run_rows", "Rows of the landing tables that the newest finished run changed"),
        Metric("last_run_test_warnings", "Tests of the newest finished run that warned"),
        Metric("run_in_progress", "1 while a run is recorded as running"),
        Metric("runs_total", "Runs by outcome", counter=True),
        Metric("run_duration_seconds_total", "Seconds of all finished runs", counter=True),
        Metric("refused_starts_total", "Starts that were refused because a run was running", counter=True),
        Metric("replica_streaming", "1 when a replica streams from the primary"),
        Metric("replica_lag_bytes", "WAL that a replica has not replayed"),
        Metric("replica_lag_seconds", "How long a replica takes to replay"),
        Metric("slot_active", "1 when a replication slot is in use"),
        Metric("slot_kept_bytes", "WAL that is kept for a slot"),
        Metric("wal_kept_bytes", "WAL on the primary's disk"),
        Metric("wal_archived_total", "WAL segments archived", counter=True),
        Metric("wal_archive_failures_total", "Failed attempts to archive a WAL segment", counter=True),
        Metric("wal_archive_failing", "1 when the newest attempt to archive failed"),
        Metric("wal_last_archived_timestamp_seconds", "When a WAL segment was last archived"),
        Metric(
            "last_backup_timestamp_seconds",
            "When a backup of this kind last completed; of dumps, the older one",
        ),
        Metric("last_backup_success", "1 when the newest attempt at a backup of this kind succeeded"),
        Metric("backup_age_limit_seconds", "Age of a backup from which make health warns"),
        Metric("last_proven_restore_timestamp_seconds", "When a restore drill last succeeded"),
        Metric("last_restore_drill_success", "1 when the newest restore drill succeeded"),
        Metric("last_backup_check_success", "1 when the newest check of backups and archive found nothing"),
        Metric("proven_restore_age_limit_seconds", "Age of the last proven restore from which make health warns"),
        Metric("last_proven_rto_seconds", "How long the last proven restore took"),
        Metric(
            "last_proven_rpo_seconds", "How old the newest recovered transaction was when the last proven restore began"
        ),
    )
}

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float | None]

_RUNS = """
    with ended as (
        select * from audit.etl_runs where status <> 'running' order by run_id desc limit 1
    )
    select
        extract(epoch from run_finished_at)::float,
        extract(epoch from run_finished_at - run_started_at)::float,
        (status = 'success')::integer,
        rows_inserted, rows_updated, rows_deleted,
        (
            select count(*) from audit.model_runs as nodes
            where nodes.run_id = ended.run_id and nodes.resource_type = 'test' and nodes.status = 'warn'
        )
    from ended
"""
_TOTALS = """
    select
        count(*) filter (where status = 'success'),
        count(*) filter (where status = 'failed'),
        count(*) filter (where status = 'running'),
        coalesce(sum(extract(epoch from run_finished_at - run_started_at)), 0)::float,
        -- The newest success, not the latest time: a clock may have been ahead.
        (
            select extract(epoch from run_finished_at)::float
            from audit.etl_runs where status = 'success' order by run_id desc limit 1
        ),
        (select count(*) from audit.refused_starts)
    from audit.etl_runs
"""


def render(settings: Settings) -> str:
    """Return the figures as text. A server that is away is a figure too, and no error."""
    found: dict[tuple[str, Labels], float] = {}
    for name, labels, amount in _samples(settings):
        if amount is not None:
            found[name, labels] = float(amount)
    lines = []
    for name, metric in METRICS.items():
        samples = [(labels, amount) for (each, labels), amount in found.items() if each == name]
        if samples:
            kind = "counter" if metric.counter else "gauge"
            lines += [f"# HELP eds_{name} {metric.help}", f"# TYPE eds_{name} {kind}"]
        for labels, amount in samples:
            shown = ",".join(f'{key}="{_escape(value)}"' for key, value in labels)
            lines.append(f"eds_{name}{f'{{{shown}}}' if shown else ''} {amount:.17g}")
    return "\n".join(lines) + "\n"


def write(settings: Settings) -> Path:
    """Write the figures where the docs service finds them, in one step. Returns the file."""
    path = settings.site / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(settings))
    return path


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _samples(settings: Settings) -> Iterator[Sample]:
    yield "written_timestamp_seconds", (), time.time()
    yield "data_age_limit_seconds", (), settings.etl_fresh_minutes * 60.0
    yield "backup_age_limit_seconds", (), settings.backup_fresh_hours * 3600.0
    yield "proven_restore_age_limit_seconds", (), settings.drill_fresh_days * 86400.0
    try:
        with Cluster(settings).connect_as_writer(autocommit=True) as connection:
            yield "warehouse_up", (), 1.0
            yield from _of_runs(connection)
            yield from _of_backups(connection)
            yield from _of_primary(connection)
    except (UserError, psycopg.Error):
        yield "warehouse_up", (), 0.0


def _of_runs(connection: psycopg.Connection) -> Iterator[Sample]:
    if has_relation(connection, "warehouse.vw_data_as_of"):
        row = connection.execute(
            "select extract(epoch from data_as_of)::float, "
            "extract(epoch from clock_timestamp() - data_as_of)::float from warehouse.vw_data_as_of"
        ).fetchone()
        if row:
            yield "data_as_of_timestamp_seconds", (), row[0]
            yield "data_age_seconds", (), row[1]
    if not has_relation(connection, "audit.etl_runs"):
        return
    if row := connection.execute(_TOTALS).fetchone():
        yield "runs_total", (("status", "success"),), row[0]
        yield "runs_total", (("status", "failed"),), row[1]
        yield "run_in_progress", (), row[2]
        yield "run_duration_seconds_total", (), row[3]
        yield "last_success_timestamp_seconds", (), row[4]
        yield "refused_starts_total", (), row[5]
    if row := connection.execute(_RUNS).fetchone():
        yield "last_run_timestamp_seconds", (), row[0]
        yield "last_run_duration_seconds", (), row[1]
        yield "last_run_success", (), row[2]
        for change, amount in zip(("inserted", "updated", "deleted"), row[3:6], strict=True):
            yield "last_run_rows", (("change", change),), amount
        yield "last_run_test_warnings", (), row[6]


def _of_backups(connection: psycopg.Connection) -> Iterator[Sample]:
    found = protection(connection)
    for kind, last in (("physical", found.physical), ("dump", found.dump)):
        yield "last_backup_timestamp_seconds", (("kind", kind),), last.at.timestamp() if last.at else None
        yield "last_backup_success", (("kind", kind),), last.succeeded
    proven = found.restore
    yield "last_proven_restore_timestamp_seconds", (), proven.at.timestamp() if proven.at else None
    yield "last_restore_drill_success", (), proven.succeeded
    yield "last_backup_check_success", (), found.check.succeeded
    yield "last_proven_rto_seconds", (), found.rto
    yield "last_proven_rpo_seconds", (), found.rpo


def _of_primary(connection: psycopg.Connection) -> Iterator[Sample]:
    try:
        rows = connection.execute("select figure, member, amount from operational_fdw.server_figures").fetchall()
    except psycopg.Error:
        yield "primary_up", (), 0.0
        return
    yield "primary_up", (), 1.0
    for figure, member, amount in rows:
        label = "slot" if figure.startswith("slot_") else "replica"
        if figure in METRICS:
            yield figure, (((label, member),) if member else ()), amount
