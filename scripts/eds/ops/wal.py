"""The WAL archive: what is there, what is missing, whether it works."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any

import typer
from rich.table import Table

from eds.base.console import out
from eds.base.disk import size
from eds.base.errors import UserError
from eds.base.settings import load
from eds.cluster.connections import MEMBERS, Cluster
from eds.cluster.queries import fetch_all, fetch_dicts, fetch_value, wait_for
from eds.runtime.choice import select_runtime
from eds.runtime.member import Member, Runtime

app = typer.Typer()

_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(\.partial)?\.gz")


@dataclass
class Timeline:
    """The archived segments of one timeline: their sizes in bytes, by their number from the beginning of WAL."""

    number: int
    segments: dict[int, int] = field(default_factory=dict)

    def gaps(self) -> list[tuple[int, int]]:
        """Return the runs of missing segments between the first and the last one: (first missing, last missing)."""
        present = sorted(self.segments)
        return [(low + 1, high - 1) for low, high in pairwise(present) if high - low > 1]


def _primary(runtime: Runtime) -> Member:
    return runtime.member(runtime.cluster.primary_name)


def archived_bytes(runtime: Runtime, segment: str) -> int | None:
    """Return the length of a WAL segment in the primary's archive, uncompressed; None when it is not there."""
    primary = _primary(runtime)
    file = primary.archive / f"{segment}.gz"
    if not primary.exists(file):
        return None
    script = 'gzip -t "$1" && gzip -dc "$1" | wc -c'
    return int(primary.run(["sh", "-c", script, "sh", file], what=f"reading {file} back").output)


def archived_files(runtime: Runtime) -> dict[str, int]:
    """Return the files of the WAL archives of all members, with their sizes in bytes."""
    places = [runtime.member(name).archive for name in MEMBERS]
    listing = _primary(runtime).run(["find", *places, "-name", "*.gz", "-exec", "ls", "-ln", "{}", "+"]).output
    return {line.rpartition("/")[2]: int(line.split()[4]) for line in listing.splitlines()}


def clean_archives(runtime: Runtime, oldest: str) -> None:
    """Remove the WAL segments before this one, of any timeline, from the archives of all members."""
    for name in MEMBERS:
        _primary(runtime).run(["pg_archivecleanup", "-x", ".gz", runtime.member(name).archive, oldest])


def segment_name(timeline: int, number: int, segment_bytes: int) -> str:
    """Return the name of a segment: 000000010000000000000003."""
    per_file = 0x100000000 // segment_bytes
    return f"{timeline:08X}{number // per_file:08X}{number % per_file:08X}"


def timelines(files: Mapping[str, int], segment_bytes: int) -> list[Timeline]:
    """Return what the archives hold together, by timeline. A segment that a promotion left half-filled does not count.

    files: the archived files with their sizes.
    """
    found: dict[int, Timeline] = {}
    for name, size_of_file in files.items():
        match = _SEGMENT.fullmatch(name)
        if match and not match[4]:
            number = int(match[2], 16) * (0x100000000 // segment_bytes) + int(match[3], 16)
            timeline = found.setdefault(int(match[1], 16), Timeline(int(match[1], 16)))
            timeline.segments[number] = size_of_file
    return [found[number] for number in sorted(found)]


def segment_bytes(cluster: Cluster) -> int:
    """Return the size of a WAL segment of the cluster."""
    return int(fetch_value(cluster.primary, "select setting from pg_settings where name = 'wal_segment_size'"))


def switch_and_wait(runtime: Runtime, seconds: float) -> tuple[str, float]:
    """Close the present WAL segment and wait until it is in the archive, complete. Returns its name and the seconds."""
    server = runtime.cluster.primary
    began = time.monotonic()
    # A switch does nothing when the segment is empty.
    fetch_all(server, "select pg_logical_emit_message(true, 'platform', 'archive')")
    name = str(fetch_value(server, "select pg_walfile_name(pg_switch_wal())"))

    def there() -> bool:
        try:
            return archived_bytes(runtime, name) is not None
        except UserError:
            # It is there, and broken: reported below.
            return True

    try:
        wait_for(there, seconds, f"segment {name} is in the archive")
    except UserError as error:
        failing = fetch_all(server, "select last_failed_wal, failed_count from pg_stat_archiver where failed_count > 0")
        reason = (
            f" Archiving failed {failing[0][1]} times, last for {failing[0][0]}: `make logs SERVICE=primary`."
            if failing
            else ""
        )
        raise UserError(f"{error}{reason}") from error
    length = archived_bytes(runtime, name)
    if length != segment_bytes(runtime.cluster):
        raise UserError(
            f"Segment {name} in the archive holds {length} bytes, expected {segment_bytes(runtime.cluster)}."
        )
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
) -> None:
    """Show the WAL archive: segments by timeline, gaps, what waits or fails. Exit code 1 when something is wrong."""
    runtime = select_runtime(load())[0]
    if switch:
        name, seconds = switch_and_wait(runtime, 30)
        out.print(f"{name} closed, in the archive after {seconds:.1f} s")
    state = archiver(runtime.cluster)
    table = Table(title="WAL archive")
    for column in ("timeline", "segments", "size", "first", "last", "gaps"):
        table.add_column(column, justify="right" if column in ("timeline", "segments", "size") else "left")
    bytes_each = segment_bytes(runtime.cluster)
    broken = False
    for timeline in timelines(archived_files(runtime), bytes_each):
        gaps = timeline.gaps()
        broken |= bool(gaps)
        first, last = min(timeline.segments), max(timeline.segments)
        table.add_row(
            str(timeline.number),
            str(len(timeline.segments)),
            size(sum(timeline.segments.values())),
            segment_name(timeline.number, first, bytes_each),
            segment_name(timeline.number, last, bytes_each),
            ", ".join(
                segment_name(timeline.number, low, bytes_each)
                + (f" … {segment_name(timeline.number, high, bytes_each)}" if high > low else "")
                for low, high in gaps
            )
            or "[green]none[/]",
        )
    out.print(table)
    last_time = state["last_archived_time"]
    out.print(
        f"archived {state['archived_count']}, last {state['last_archived_wal'] or 'none yet'}"
        f"{f' at {last_time:%Y-%m-%d %H:%M:%S}' if last_time else ''}; "
        f"{state['waiting']} waiting; a segment is closed at the latest after {state['archive_timeout']}"
    )
    if state["is_failing"]:
        out.print(
            f"[red]archiving fails[/]: {state['failed_count']} times, last {state['last_failed_wal']} at "
            f"{state['last_failed_time']:%Y-%m-%d %H:%M:%S}; `make logs SERVICE=primary` says why"
        )
    if broken:
        out.print(
            "[red]The archive has gaps[/]: a recovery cannot pass them. Make a base backup: make backup KIND=physical"
        )
    raise typer.Exit(1 if broken or state["is_failing"] else 0)
