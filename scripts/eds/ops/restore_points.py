"""The restore points and the commits in archived WAL: where each is, by reading the segments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from eds.base.errors import UserError
from eds.cluster import server_conf
from eds.cluster.repository import lsn, segment_name, segment_position
from eds.runtime.member import Member

# How many segments are fetched and read at a time, with the one after them: a record may continue in it.
AT_A_TIME = 4
# The restore point that pgBackRest itself makes with each backup.
OF_PGBACKREST = "pgBackRest Archive Check"
_POINT = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: RESTORE_POINT (.+)$", re.MULTILINE)
_UNREADABLE = re.compile(r"^unreadable: (\w+)$", re.MULTILINE)
_COMMIT = re.compile(
    r"lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: COMMIT(?:_PREPARED \d+:)? (\d{4,}-\S+ [\d:.]+) UTC", re.MULTILINE
)
# Fetches the segments into a directory of its own, and prints what pg_waldump says of each run of them: of the records
# of one resource manager, the lines with a word.
_READ = """
set -u
fetch=$1 rmgr=$2 word=$3
shift 3
export TZ=UTC
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
first= last=
waldump() {
    [ -z "$first" ] || (cd "$place" && pg_waldump --rmgr="$rmgr" "$first" "$last" 2>/dev/null) | grep "$word"
}
for name; do
    if sh -c "$fetch" fetch "$name" "$place/$name" 2>/dev/null; then
        [ -n "$first" ] || first=$name
        last=$name
    else
        echo "unreadable: $name"
        waldump
        first=
    fi
done
waldump
true
"""


@dataclass
class Search:
    """What a search came to. position: of the newest point of the name; None: it was not found.

    others: the points of other names that it met. unreadable: segments that could not be read.
    """

    position: str | None = None
    others: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def search(member: Member, segments: Sequence[str], name: str) -> Search:
    """Look for a restore point in archived segments, the newest first. segments: their names, the oldest first."""
    found = Search()
    for run in _runs(segments):
        output = _read(member, run, "XLOG", "RESTORE_POINT")
        found.unreadable += _UNREADABLE.findall(output)
        for position, point in reversed(_POINT.findall(output)):
            if point == name:
                found.position = position
                return found
            if point not in (*found.others, OF_PGBACKREST):
                found.others.append(point)
    return found


def commits_before(
    member: Member, segments: Sequence[str], position: str, moment: datetime
) -> list[tuple[str, datetime]]:
    """Return the commits from a position on that are stamped before a time, each with its position, the oldest first.

    segments: the names of archived segments, the oldest first.
    """
    found: dict[str, datetime] = {}
    for run in reversed(list(_runs(segments))):
        found.update(parse_commits(_read(member, run, "Transaction", "desc: COMMIT")))
    return [(at, when) for at, when in found.items() if lsn(at) >= lsn(position) and when < moment]


def parse_commits(output: str) -> list[tuple[str, datetime]]:
    """Return the commits in what pg_waldump says in UTC: the position and the time of each."""
    return [(at, datetime.fromisoformat(when).replace(tzinfo=UTC)) for at, when in _COMMIT.findall(output)]


def _read(member: Member, segments: Sequence[str], rmgr: str, word: str) -> str:
    """Return pg_waldump's lines with a word, of the records of a resource manager. Raises UserError."""
    if member.places.repository_conf is None:
        raise UserError("There is no pgBackRest that fits these servers, and so no WAL archive.")
    fetch = server_conf.restore_command(member.places, "recovery").replace('%f "%p"', '"$1" "$2"').replace("%%", "%")
    return member.run(["sh", "-c", _READ, "read", fetch, rmgr, word, *segments], what="reading the archived WAL").output


def _runs(segments: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield runs of consecutive segments, the newest run first, each with the segment that follows it."""

    def is_followed(at: int) -> bool:
        timeline, number = segment_position(segments[at])
        return segments[at + 1 : at + 2] == [segment_name(timeline, number + 1)]

    end = len(segments)
    while end:
        start = end - 1
        while start and end - start < AT_A_TIME and is_followed(start - 1):
            start -= 1
        yield segments[start : end + is_followed(end - 1)]
        end = start
