"""The WAL archive: what is there, what is missing, whether it works."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from eds.base.console import out, step
from eds.base.disk import size
from eds.base.errors import UserError
from eds.base.settings import load
from eds.cluster.connections import Cluster
from eds.cluster.queries import fetch_all, fetch_dicts, fetch_value, wait_for
from eds.cluster.repository import Timeline, doubled, segment_name, segment_position
from eds.runtime.choice import select_runtime
from eds.runtime.member import Runtime
from eds.runtime.pgbackrest import Repository

app = typer.Typer()


def switch_and_wait(runtime: Runtime, seconds: float) -> tuple[str, float]:
    """Close the present WAL segment and wait until it is in the archive. Returns its name and the seconds."""
    server, archive = runtime.cluster.primary, Repository(runtime)
    archive.check_available()
    began = time.monotonic()
    # A switch does nothing when the segment is empty.
    fetch_all(server, "select pg_logical_emit_message(true, 'platform', 'archive')")
    name = str(fetch_value(server, "select pg_walfile_name(pg_switch_wal())"))
    archived = "select last_archived_wal >= %s from pg_stat_archiver"
    try:
        wait_for(lambda: bool(fetch_all(server, archived, (name,))[0][0]), seconds, f"segment {name} is archived")
    except UserError as error:
        failing = fetch_all(server, "select last_failed_wal, failed_count from pg_stat_archiver where failed_count > 0")
        reason = (
            f" Archiving failed {failing[0][1]} times, last for {failing[0][0]}: `make logs SERVICE=primary`."
            if failing
            else ""
        )
        raise UserError(f"{error}{reason}") from error
    timeline, number = segment_position(name)
    found = archive.timelines(archive.info()).get(timeline, Timeline(timeline))
    if number not in found.segments:
        raise UserError(f"PostgreSQL reports segment {name} as archived, but the repository does not have it.")
    return name, time.monotonic() - began


def archiver(cluster: Cluster) -> dict[str, Any]:
    """Return what the primary says of its archiver."""
    return fetch_dicts(
        cluster.primary,
        "select archived_count, last_archived_wal, last_archived_time, failed_count, last_failed_wal, "
        "last_failed_time, "
        "last_failed_time > coalesce(last_archived_time, '-infinity') as is_failing, "
        "(select count(*) from pg_ls_archive_statusdir() where name like '%.ready') as waiting, "
        "current_setting('archive_timeout') as archive_timeout from pg_stat_archiver",
    )[0]


@app.command(name="wal")
def wal_command(
    switch: Annotated[bool, typer.Option("--switch", help="Close the present segment first.")] = False,
    again: Annotated[bool, typer.Option("--verify", help="Read every archived segment and backup again.")] = False,
) -> None:
    """Show the WAL archive: segments by timeline, gaps, what waits or fails. Exit code 1 when something is wrong."""
    runtime = select_runtime(load())[0]
    archive = Repository(runtime)
    archive.check_available()
    if switch:
        name, seconds = switch_and_wait(runtime, 30)
        out.print(f"{name} closed, in the archive after {seconds:.1f} s")
    info = archive.info()
    table = Table(title="WAL archive")
    for column in ("repository", "timeline", "segments", "size", "first", "last", "missing"):
        table.add_column(column, justify="right" if column in ("timeline", "segments", "size") else "left")
    problems = list(info.problems)
    for number in archive.numbers:
        problems += _show(table, number, archive.timelines(info, number))
    out.print(table)
    if again:
        problems += damage(archive)
    state = archiver(runtime.cluster)
    last_time = state["last_archived_time"]
    out.print(
        f"archived {state['archived_count']}, last {state['last_archived_wal'] or 'none yet'}"
        f"{f' at {last_time:%Y-%m-%d %H:%M:%S}' if last_time else ''}; "
        f"{state['waiting']} waiting; a segment is closed at the latest after {state['archive_timeout']}"
    )
    if state["is_failing"]:
        problems.append(
            f"archiving fails: {state['failed_count']} times, last {state['last_failed_wal']} at "
            f"{state['last_failed_time']:%Y-%m-%d %H:%M:%S}; `make logs SERVICE=primary` shows why"
        )
    for problem in problems:
        out.print(f"[red]problem[/] {escape(problem)}", soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


def _show(table: Table, repository: int, timelines: Mapping[int, Timeline]) -> list[str]:
    """Add the timelines of a repository to the table. Returns a sentence for each gap."""
    for timeline in timelines.values():
        first, last = min(timeline.segments), max(timeline.segments)
        table.add_row(
            str(repository),
            str(timeline.number),
            str(len(timeline.segments)),
            size(sum(timeline.segments.values())),
            segment_name(timeline.number, first),
            segment_name(timeline.number, last),
            ", ".join(_gaps(timeline)) or "[green]none[/]",
        )
    return missing(repository, timelines)


def _gaps(timeline: Timeline) -> list[str]:
    return [
        segment_name(timeline.number, low) + (f" to {segment_name(timeline.number, high)}" if high > low else "")
        for low, high in timeline.gaps()
    ]


def missing(repository: int, timelines: Mapping[int, Timeline]) -> list[str]:
    """Return a sentence for each gap in the timelines of a repository."""
    return [
        f"repository {repository} lacks {gap}: a recovery cannot pass it. Make a backup: make backup KIND=physical"
        for timeline in timelines.values()
        for gap in _gaps(timeline)
    ]


def gaps(archive: Repository) -> list[str]:
    """Return a sentence for each gap in the timelines of the repositories."""
    info = archive.info()
    return [each for number in archive.numbers for each in missing(number, archive.timelines(info, number))]


def damage(archive: Repository) -> list[str]:
    """Read the repositories again. Returns a sentence for each damaged file, and for segments that are one."""
    problems = []
    info = archive.info()
    for number in archive.numbers:
        with step(f"repository {number} read again"):
            verdict = archive.verify(number)
        problems += [
            f"repository {number}: {', '.join(names)} have the same content, which is one segment's alone"
            for names in doubled(archive.files(info, number))
        ]
        if verdict.ok:
            continue
        problems += [f"repository {number}: {file} is damaged" for file in verdict.damaged] or [
            f"repository {number} did not pass `pgbackrest verify`: {verdict.text.strip()[-500:]}"
        ]
    return problems
