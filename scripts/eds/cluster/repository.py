"""What pgBackRest says of a repository, read into Python: backups, archived WAL, gaps, damage.

Tried with pgBackRest 2.45: `verify` ends with exit code 0 when it finds damage and names no gap, and `archive-get`
hands out a segment with the content of another one. So the chain of segments that a recovery needs is checked here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from eds.base.errors import UserError
from eds.cluster.server_conf import STANZA

SEGMENT_BYTES = 16 * 1024 * 1024
# The names of segments count them in groups of 4 GiB.
_IN_GROUP = 0x100000000 // SEGMENT_BYTES

# A segment in the archive: its name, the SHA-1 of its content, the compression.
_ARCHIVED = re.compile(r"(?:.*/)?([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(\.partial)?-([0-9a-f]{40})(?:\.\w+)?")
_HISTORY = re.compile(r"(?:.*/)?([0-9A-F]{8})\.history")
_INVALID = re.compile(
    r"(?:invalid checksum|invalid size|file missing|unable to \w+)[^']*'([^']+)'|invalid result '?([^\s':]+)"
)
_STATUS = re.compile(r"^\s*status: (\w+)", re.MULTILINE)


def lsn(text: str) -> int:
    """Return a position in the WAL, such as 0/3000050, as a number of bytes from its beginning."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def segment_name(timeline: int, number: int) -> str:
    """Return the name of a segment: 000000010000000000000003."""
    return f"{timeline:08X}{number // _IN_GROUP:08X}{number % _IN_GROUP:08X}"


def segment_position(name: str) -> tuple[int, int]:
    """Return the timeline of a segment, and its number from the beginning of WAL, by its name."""
    return int(name[:8], 16), int(name[8:16], 16) * _IN_GROUP + int(name[16:24], 16)


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, last)."""
    result: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if result and result[-1][1] + 1 == number:
            result[-1] = (result[-1][0], number)
        else:
            result.append((number, number))
    return result


@dataclass
class Timeline:
    """The archived segments of one timeline: their sizes in bytes, by their number from the beginning of WAL."""

    number: int
    segments: dict[int, int] = field(default_factory=dict)

    def gaps(self) -> list[tuple[int, int]]:
        """Return the runs of missing segments between the first and the last one: (first missing, last missing)."""
        present = sorted(self.segments)
        return [(low + 1, high - 1) for low, high in pairwise(present) if high - low > 1]


def timelines(files: Mapping[str, int]) -> dict[int, Timeline]:
    """Return what an archive holds, by timeline. A segment that a promotion left incomplete (.partial) does not count.

    files: the names in the archive, with their sizes in bytes.
    """
    found: dict[int, Timeline] = {}
    for name, size in files.items():
        if (match := _ARCHIVED.fullmatch(name)) and not match[4]:
            timeline, number = segment_position("".join(match.group(1, 2, 3)))
            found.setdefault(timeline, Timeline(timeline)).segments[number] = size
    return dict(sorted(found.items()))


def doubled(files: Iterable[str]) -> list[list[str]]:
    """Return the groups of segments that have the same content: all but one of a group hold another one's.

    No two segments are alike, since each page of WAL has its position in it. `verify` compares a content with the
    checksum in its own name only.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(files):
        if (match := _ARCHIVED.fullmatch(name)) and not match[4]:
            found.setdefault(match[5], []).append("".join(match.group(1, 2, 3)))
    return [names for names in found.values() if len(names) > 1]


def is_segment(file: str) -> bool:
    """Return whether a file of an archive is a complete segment."""
    match = _ARCHIVED.fullmatch(file)
    return match is not None and not match[4]


def archived_files(listing: str) -> dict[str, int]:
    """Return the files in the output of `repo-ls --recurse --output=json`, with their sizes in bytes."""
    return {
        name: int(entry.get("size", 0))
        for name, entry in json.loads(listing or "{}").items()
        if entry["type"] == "file"
    }


def histories(files: Iterable[str]) -> dict[int, str]:
    """Return the history files of an archive: the path of each timeline's."""
    return {int(match[1], 16): name for name in files if (match := _HISTORY.fullmatch(name))}


@dataclass(frozen=True)
class Stretch:
    """A part of a history: a timeline, from a position to the one where the next timeline begins (None: its end)."""

    timeline: int
    start: int
    end: int | None


def stretches(timeline: int, history: str | None) -> list[Stretch]:
    """Return the timelines that lead to this one, the oldest first.

    history: the content of its history file; None for a timeline without parents. Raises UserError when it is damaged.
    """
    result: list[Stretch] = []
    start = 0
    for line in (history or "").splitlines():
        if not line.strip():
            continue
        try:
            parent, switch = line.split(maxsplit=2)[:2]
            result.append(Stretch(int(parent), start, lsn(switch)))
        except ValueError as error:
            raise UserError(f"The history of timeline {timeline} is damaged: {line!r} is no line of one.") from error
        start = result[-1].end or 0
    return [*result, Stretch(timeline, start, None)]


@dataclass(frozen=True)
class Chain:
    """The segments from a backup's start along a history. last: the newest one, by timeline and number.

    missing: the names of the first and the last segment of each gap.
    """

    last: tuple[int, int]
    missing: list[tuple[str, str]]
    needed: list[str]


def chain(found: Mapping[int, Timeline], parts: Iterable[Stretch], start: str, end: int | None = None) -> Chain:
    """Follow the archived segments from a position to the newest one of a history, or to `end`.

    found: the archive's timelines. parts: the history. start: the position where the backup begins. end: a
    position that is to be reached (None: whatever the archive has).
    """
    begin = lsn(start)
    missing: list[tuple[str, str]] = []
    needed: list[str] = []
    last = (0, begin // SEGMENT_BYTES)
    for part in parts:
        if part.end is not None and part.end <= begin:
            continue
        present = found.get(part.timeline, Timeline(part.timeline)).segments
        first = max(begin, part.start) // SEGMENT_BYTES
        if part.end is not None:
            # The segment with the switch is complete on the next timeline only.
            stop = part.end // SEGMENT_BYTES - 1
        else:
            stop = max(present, default=first - 1)
            if end is not None:
                stop = max(stop, end // SEGMENT_BYTES) if end > begin else stop
        wanted = range(first, stop + 1)
        needed += [segment_name(part.timeline, number) for number in wanted if number in present]
        missing += [
            (segment_name(part.timeline, low), segment_name(part.timeline, high))
            for low, high in ranges(number for number in wanted if number not in present)
        ]
        last = (part.timeline, stop)
    return Chain(last, missing, needed)


@dataclass(frozen=True)
class BaseBackup:
    """A backup in a repository. type: full, diff or incr. error: whether it holds pages with wrong checksums."""

    label: str
    type: str
    repository: int
    finished_at: datetime
    start_lsn: str
    stop_lsn: str
    start_segment: str
    database_bytes: int
    repository_bytes: int
    error: bool

    @property
    def timeline(self) -> int:
        """The timeline on which it was made."""
        return int(self.start_segment[:8], 16)


def on_history(base: BaseBackup, parts: Iterable[Stretch]) -> bool:
    """Return whether a history leads on from a backup: one made after the history left its timeline is on a branch."""
    left_at = {part.timeline: part.end for part in parts}
    end = left_at.get(base.timeline, -1)
    return end is None or lsn(base.stop_lsn) <= end


def newest_on_history(backups: Iterable[BaseBackup], parts: Sequence[Stretch]) -> BaseBackup | None:
    """Return the newest sound backup from which a history leads on, or None."""
    usable = [each for each in backups if not each.error and on_history(each, parts)]
    return max(usable, key=lambda each: each.finished_at, default=None)


def is_needed(file: str, base: BaseBackup) -> bool:
    """Return whether a recovery from a backup to the end of the WAL needs a file of its repository.

    file: of the archive, or of a backup: then that backup or one that it is based on.
    """
    if match := _ARCHIVED.fullmatch(file):
        return segment_position("".join(match.group(1, 2, 3)))[1] >= segment_position(base.start_segment)[1]
    label = re.search(r"(\d{8}-\d{6}F)(_\d{8}-\d{6}[DI])?", file)
    # A differential or incremental one has the label of its full one before its own.
    return label is None or (label[1] == base.label[: len(label[1])] and (not label[2] or label[0] <= base.label))


@dataclass(frozen=True)
class Info:
    """What `info --output=json` says of the stanza. problems: a sentence for each repository that is not well."""

    backups: list[BaseBackup]
    archive_ids: dict[int, str]
    problems: list[str]


def parse_info(text: str) -> Info:
    """Read the output of `pgbackrest info --output=json`. Raises UserError when it is none."""
    try:
        # What it could not decrypt is in its messages as it is, with control characters.
        stanzas = {entry["name"]: entry for entry in json.loads(text, strict=False)}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"pgbackrest info gave unexpected output: {text[:200]!r}") from error
    stanza = stanzas.get(STANZA)
    if stanza is None:
        return Info([], {}, [f"there is no stanza {STANZA} in the repository: make up creates it"])
    problems = [
        f"repository {repository['key']}: {repository['status']['message'].splitlines()[0]}"
        for repository in stanza.get("repo", [])
        # 2: no backup yet.
        if repository["status"]["code"] not in (0, 2)
    ]
    return Info(
        backups=sorted((_backup(each) for each in stanza.get("backup", [])), key=lambda each: each.finished_at),
        # The newest archive of each repository comes last.
        archive_ids={each["database"]["repo-key"]: each["id"] for each in stanza.get("archive", [])},
        problems=problems,
    )


def _backup(entry: Mapping[str, Any]) -> BaseBackup:
    return BaseBackup(
        label=entry["label"],
        type=entry["type"],
        repository=entry["database"]["repo-key"],
        finished_at=datetime.fromtimestamp(entry["timestamp"]["stop"], UTC),
        start_lsn=entry["lsn"]["start"],
        stop_lsn=entry["lsn"]["stop"],
        start_segment=entry["archive"]["start"],
        database_bytes=entry["info"]["size"],
        repository_bytes=entry["info"]["repository"]["delta"],
        error=bool(entry.get("error")),
    )


@dataclass(frozen=True)
class Verdict:
    """What `verify` found. damaged: the files that it named."""

    ok: bool
    damaged: list[str]
    text: str


def parse_verify(output: str) -> Verdict:
    """Read the output of `pgbackrest verify --output=text --log-level-console=info`, whatever its exit code.

    No status at all counts as not ok: a check that did not happen proves nothing.
    """
    statuses = _STATUS.findall(output)
    damaged = sorted({match[1] or match[2] for match in _INVALID.finditer(output)})
    return Verdict(bool(statuses) and all(status == "ok" for status in statuses) and not damaged, damaged, output)
