"""The WAL archive: what is there, what is missing, whether it works."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from eds.base.console import out, step
from eds.base.disk import size
from eds.base.errors import UserError
from eds.base.settings import load
from eds.cluster.connections import Cluster
from eds.cluster.queries import answers, fetch_all, fetch_dicts, fetch_value, wait_for
from eds.cluster.repository import (
    SEGMENT_BYTES,
    BaseBackup,
    Stretch,
    Timeline,
    chain,
    doubled,
    histories,
    is_needed,
    newest_on_history,
    ranges,
    segment_name,
    segment_position,
    stretches,
    timelines,
)
from eds.runtime.choice import select_runtime
from eds.runtime.member import Runtime
from eds.runtime.pgbackrest import Repository, archive_from

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
        problems += [each.text for number in archive.numbers for each in damage(archive, number)]
    state = archiver(runtime.cluster)
    last_time = state["last_archived_time"]
    out.print(
        f"archived {state['archived_count']}, last {state['last_archived_wal'] or 'none yet'}"
        f"{f' at {last_time:%Y-%m-%d %H:%M:%S}' if last_time else ''}; "
        f"{state['waiting']} waiting; a segment is closed after {state['archive_timeout']} at the latest"
    )
    if state["is_failing"]:
        problems.append(
            f"archiving fails: {state['failed_count']} times, last {state['last_failed_wal']} at "
            f"{state['last_failed_time']:%Y-%m-%d %H:%M:%S}; `make logs SERVICE=primary` shows why"
        )
    for problem in problems:
        out.print(f"[red]problem[/] {escape(problem)}", soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


def _show(table: Table, repository: int, found: Mapping[int, Timeline]) -> list[str]:
    """Add the timelines of a repository to the table. Returns a sentence for each gap."""
    for timeline in found.values():
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
    return missing(repository, found)


def _named(timeline: int, low: int, high: int) -> str:
    return segment_name(timeline, low) + (f" to {segment_name(timeline, high)}" if high > low else "")


def _gaps(timeline: Timeline) -> list[str]:
    return [_named(timeline.number, low, high) for low, high in timeline.gaps()]


def missing(repository: int, found: Mapping[int, Timeline]) -> list[str]:
    """Return a sentence for each gap in the timelines of a repository."""
    return [
        f"repository {repository} lacks {gap}: a recovery cannot pass it. Make a backup: make backup KIND=physical"
        for timeline in found.values()
        for gap in _gaps(timeline)
    ]


# --- whether a recovery would succeed ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Something that is wrong in a repository.

    is_current: a recovery from the newest backup to now would meet it, so that another backup has to be made. Else only
    a recovery to an earlier time would.
    """

    text: str
    is_current: bool


@dataclass(frozen=True)
class Present:
    """The primary's history: parts. waiting: what it has yet to archive. archived: the newest segment that it has."""

    parts: list[Stretch]
    waiting: frozenset[str]
    archived: str | None


_PRESENT = """
    with present as (select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as timeline)

    select
        timeline,
        pg_read_file('pg_wal/' || timeline || '.history', 0, 1000000, true),
        array(select split_part(name, '.', 1) from pg_ls_archive_statusdir() where name like '%.ready'),
        (
            select substr(last_archived_wal, 1, 24) from pg_stat_archiver
            where last_archived_wal ~ ('^' || timeline || '[0-9A-F]{16}')
        )
    from present
"""


def present(cluster: Cluster) -> Present:
    """Ask the primary for its history, which it knows itself, and for how far it has archived its WAL."""
    timeline, history, waiting, archived = fetch_all(cluster.primary, _PRESENT)[0]
    return Present(stretches(int(timeline, 16), history), frozenset(waiting), archived)


def gaps(archive: Repository, number: int, now: Present) -> list[Finding]:
    """Find what the archive of a repository lacks, by the names in it: from its newest backup on, and before."""
    info = archive.info(number)
    files = archive.files(info, number)
    found = timelines(files)
    base = newest_on_history(info.backups, now.parts)
    # What was archived a moment ago may come after a segment that is still on its way.
    absent = [
        each
        for each in _absent(found, base, now)
        if each not in now.waiting and (not now.archived or each[8:] <= now.archived[8:])
    ]
    current = [
        f"repository {number} lacks {_named(*segment_position(low), segment_position(high)[1])}: no recovery from the "
        f"newest backup ({base.label if base else 'none'}) passes it. Make a backup: make backup KIND=physical"
        for low, high in _runs(absent)
    ]
    timeline = now.parts[-1].timeline
    # A recovery that begins on the present timeline needs no history.
    begins_before = base is not None and base.timeline != timeline
    if begins_before and timeline not in histories(files) and f"{timeline:08X}" not in now.waiting:
        current.append(
            f"repository {number} lacks {timeline:08X}.history: no recovery finds its way to the present timeline. "
            "Make a backup: make backup KIND=physical TYPE=full"
        )
    older = [
        f"repository {number} lacks {_named(line.number, low, high)}: no recovery from a backup before it passes it"
        for line in found.values()
        for low, high in line.gaps()
        if not {segment_name(line.number, each) for each in range(low, high + 1)} & {*absent, *now.waiting}
        and (base is None or low < segment_position(base.start_segment)[1])
    ]
    return [*(Finding(text, True) for text in current), *(Finding(text, False) for text in older)]


def archive_left_behind(runtime: Runtime, former: str) -> list[str]:
    """Archive what a former primary had not archived when it went, of the history that goes on. Returns the names.

    Its successor has these segments, and takes them for archived: whatever arrives by the stream is the primary's to
    archive. What it has no more the former primary may have. The rest stays a gap, which `make health` names.
    """
    archive = Repository(runtime)
    now = present(runtime.cluster)
    own = f"{now.parts[-1].timeline:08X}"
    lacking: set[str] = set()
    for number in archive.numbers:
        info = archive.info(number)
        base = newest_on_history(info.backups, now.parts)
        lacking |= {each for each in _absent(archive.timelines(info, number), base, now) if each[:8] != own}
    archived = []
    for member in (archive.member, runtime.member(former)):
        if lacking:
            there = set(member.run(["ls", member.data / "pg_wal"], check=False).output.split())
            for name in sorted(lacking & there):
                archive_from(member, name)
                archived.append(name)
            lacking -= there
    return archived


def _absent(found: Mapping[int, Timeline], base: BaseBackup | None, now: Present) -> list[str]:
    """Return the names of the segments that a recovery from a backup to the newest archived segment lacks."""
    if base is None:
        return []
    # Where the newest segment itself is gone, no name comes after the gap.
    end = (segment_position(now.archived)[1]) * SEGMENT_BYTES if now.archived else None
    needed = chain(found, now.parts, base.start_lsn, end)
    return [
        segment_name(segment_position(low)[0], number)
        for low, high in needed.missing
        for number in range(segment_position(low)[1], segment_position(high)[1] + 1)
    ]


def _runs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first and the last name of each run of consecutive segments."""
    by_timeline: dict[int, list[int]] = {}
    for timeline, number in map(segment_position, names):
        by_timeline.setdefault(timeline, []).append(number)
    return [
        (segment_name(timeline, low), segment_name(timeline, high))
        for timeline, numbers in by_timeline.items()
        for low, high in ranges(numbers)
    ]


def damage(archive: Repository, number: int, now: Present | None = None) -> list[Finding]:
    """Read a repository again: find each damaged file, and segments that have the content of another one.

    now: without it, whatever is damaged counts as needed.
    """
    info = archive.info(number)
    base = newest_on_history(info.backups, now.parts) if now else None
    with step(f"repository {number} read again"):
        verdict = archive.verify(number)
        if not verdict.ok:
            # A backup that was made meanwhile has removed what was about to be read.
            verdict = archive.verify(number)
    found = [
        (
            f"repository {number}: {', '.join(names)} have the same content, which can belong to one segment only",
            base is None or any(segment_position(name)[1] >= segment_position(base.start_segment)[1] for name in names),
        )
        for names in doubled(archive.files(info, number))
    ]
    damaged = verdict.damaged
    if not verdict.ok and not damaged:
        damaged = archive.damaged_segments(info, number)
    found += [(f"repository {number}: {file} is damaged", base is None or is_needed(file, base)) for file in damaged]
    remedy = ". Make a backup: make backup KIND=physical TYPE=full"
    result = [Finding(text + (remedy if is_current else ""), is_current) for text, is_current in found]
    if not verdict.ok and not verdict.damaged:
        text = " ".join(verdict.text.split())[-300:]
        after = (
            f"it stops at {damaged[0]}. Once there is a newer full backup, remove that file"
            if damaged
            else f"it said: {text}"
        )
        result.append(Finding(f"repository {number} was not read to its end by `pgbackrest verify`: {after}", True))
    return result


def _without_backup(archive: Repository, now: Present) -> list[Finding]:
    """Find repositories from which no recovery can start while one can from another: one that was lost, say.

    `make up` makes what archiving needs in a directory that has become empty.
    """
    backups = archive.info().backups
    empty = [
        number
        for number in archive.numbers
        if newest_on_history([each for each in backups if each.repository == number], now.parts) is None
    ]
    return [
        Finding(
            f"repository {number} holds no backup that leads to the present, as another one does: was it replaced, or "
            "is it not mounted? Make a backup: make backup KIND=physical TYPE=full",
            is_current=True,
        )
        for number in empty
        if len(empty) < len(archive.numbers)
    ]


def check(archive: Repository) -> list[Finding]:
    """Check all repositories for gaps and damage. What a recovery from the newest backup needs comes first."""
    now = present(archive.cluster) if answers(archive.cluster.primary) else None
    found = _without_backup(archive, now) if now else []
    for number in archive.numbers:
        if now:
            found += gaps(archive, number, now)
        found += damage(archive, number, now)
    return sorted(found, key=lambda each: not each.is_current)
