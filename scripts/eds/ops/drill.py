"""`make drill`: prove that the newest backup can be restored, by restoring it beside the primary."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape

from eds.base import journal
from eds.base.console import AsJson, out
from eds.base.errors import UserError
from eds.base.services import SIDE, exclusive
from eds.base.settings import load
from eds.book import invariants
from eds.cluster.connections import Cluster, Server
from eds.cluster.queries import answers, fetch_all
from eds.ops import pitr, recovery
from eds.runtime.choice import select_runtime
from eds.runtime.member import Runtime

app = typer.Typer()

_NET_CHANGES = """
    select table_name, sum(case operation when 'INSERT' then 1 when 'DELETE' then -1 else 0 end)
    from operational.audit_log
    where log_id > %s
    group by table_name
"""


@dataclass
class Drill:
    """What a drill came to. rpo, rto: in seconds. findings: what was wrong; empty when the backup is good."""

    backup: str | None = None
    rpo: float | None = None
    rto: float | None = None
    end: str | None = None
    findings: list[str] = field(default_factory=list)


def drill(runtime: Runtime) -> Drill:
    """Restore the newest backup beside the primary, replay all WAL, compare with the primary, and remove it again.

    A backup that cannot be restored is a finding, not an error.
    """
    primary = runtime.cluster.primary
    if not answers(primary):
        raise UserError(f"{primary.name} does not answer: a drill compares with it. `make pitr` recovers without it.")
    found, began = Drill(), datetime.now(UTC)
    rows, newest_entry = _book(primary)
    broken = invariants.violations(primary)
    try:
        recovered = pitr.recover(runtime, pitr.Target())
    except UserError as error:
        found.findings.append(str(error))
        return found
    try:
        journal.enter(runtime.settings, recovery.BESIDE)
        found.backup, found.rto, found.end = recovered.base.label, recovered.seconds, recovered.end
        if recovered.newest:
            # A commit during the drill makes it negative: nothing was lost then.
            found.rpo = max((began - recovered.newest).total_seconds(), 0.0)
        found.findings += recovered.unreadable
        if recovered.shortfall:
            found.findings.append(f"the recovery is incomplete: {recovered.shortfall}")
        found.findings += _broken_by_recovery(recovered.broken, broken, primary)
        found.findings += _missing(runtime.cluster.recovered, recovered.rows, rows, newest_entry)
    finally:
        runtime.member(SIDE).remove()
        journal.remove(runtime.settings, recovery.BESIDE)
    return found


def _book(server: Server) -> tuple[dict[str, int], int]:
    """Return the rows of each table, and the newest entry of the trail, in one snapshot."""
    with server.connect() as connection:
        connection.execute("set transaction isolation level repeatable read, read only")
        rows = pitr.rows_of_the_book(connection)
        newest = connection.execute("select coalesce(max(log_id), 0) from operational.audit_log").fetchone()
    assert newest is not None
    return rows, int(newest[0])


def _broken_by_recovery(recovered: dict[str, int], before: dict[str, int], primary: Server) -> list[str]:
    """Return the rules that more rows of the recovered book break than of the primary's, before and after the drill.

    A book that breaks a rule (`make verify` warns of it) has a true copy in one that does so as well.
    """
    if not recovered:
        return []
    after = invariants.violations(primary)
    return [
        f"{count} rows break: {rule}"
        for rule, count in recovered.items()
        if count > max(before.get(rule, 0), after.get(rule, 0))
    ]


def _missing(recovered: Server, found: dict[str, int], before: dict[str, int], newest_entry: int) -> list[str]:
    """Return what a recovered book lacks of the one before the drill, with the changes that its trail records since."""
    since = {table: int(change) for table, change in fetch_all(recovered, _NET_CHANGES, (newest_entry,))}
    there = fetch_all(recovered, "select max(log_id) >= %s from operational.audit_log", (newest_entry,))[0][0]
    problems = [] if there or not newest_entry else [f"entry {newest_entry} of the audit trail is missing"]
    for table, count in before.items():
        expected = count + since.get(table, 0)
        if table != "audit_log" and found[table] != expected:
            problems.append(f"{table}: {found[table]} rows recovered, expected {expected}")
    return problems


def record(cluster: Cluster, found: Drill) -> None:
    """Write a drill into audit.drills of the warehouse."""
    # As the owner of the table: the superuser does not write where a lesser role may have put a trigger.
    with cluster.connect_as_writer() as connection:
        connection.execute(
            "insert into audit.drills (succeeded, backup_label, rpo_seconds, rto_seconds, ended_at_position, findings) "
            "values (%s, %s, %s, %s, %s, %s)",
            (not found.findings, found.backup, found.rpo, found.rto, found.end, found.findings),
        )


@app.command(name="drill")
def drill_command(
    as_json: AsJson = False,
    scheduled: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Restore the newest physical backup beside the primary, compare, record RPO and RTO. Exit code 1 on a finding."""
    settings = load()
    runtime = select_runtime(settings)[0]
    began = time.monotonic()
    # A command given by a person does not wait for a scheduled one.
    with exclusive(settings, "drill", gives_way=scheduled):
        if runtime.member(SIDE).is_running():
            raise UserError("A recovered cluster is there for inspection: make pitr REMOVE=1 removes it.")
        found = drill(runtime)
        record(runtime.cluster, found)
    if as_json:
        result: dict[str, Any] = vars(found) | {"succeeded": not found.findings}
        print(json.dumps(result))
    else:
        if found.backup:
            rpo = "unknown" if found.rpo is None else f"{found.rpo:.1f} s"
            out.print(f"backup {found.backup}: RTO {found.rto:.1f} s, RPO {rpo}, recovered to {found.end}")
        for finding in found.findings:
            out.print(f"[red]finding[/] {escape(finding)}", soft_wrap=True)
        if not found.findings:
            out.print(f"[green]the backup is proven[/] ({time.monotonic() - began:.0f} s in all)")
    raise typer.Exit(1 if found.findings else 0)
