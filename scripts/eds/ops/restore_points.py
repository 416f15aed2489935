"""The restore points in archived WAL: where each is, by reading the segments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from eds.base.errors import UserError
from eds.cluster import server_conf
from eds.cluster.repository import segment_name, segment_position
from eds.runtime.member import Member

# How many segments are fetched and read at a time, with the one after them: a record may continue in it.
AT_A_TIME = 4
# The restore point that pgBackRest itself makes with each backup.
OF_PGBACKREST = "pgBackRest Archive Check"
_POINT = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: RESTORE_POINT (.+)$", re.MULTILINE)
_UNREADABLE = re.compile(r"^unreadable: (\w+)$", re.MULTILINE)
# Fetches the segments into a directory of its own, and prints what pg_waldump says of each run of them.
_READ = """
set -u
fetch=$1
shift
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
first= last=
waldump() {
    [ -z "$first" ] || (cd "$place" && pg_waldump --rmgr=XLOG "$first" "$last" 2>/dev/null) | grep RESTORE_POINT
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
    if member.places.repository_conf is None:
        raise UserError("There is no pgBackRest that fits these servers, and so no WAL archive.")
    fetch = server_conf.restore_command(member.places, "recovery").replace('%f "%p"', '"$1" "$2"').replace("%%", "%")
    found = Search()
    for run in _runs(segments):
        output = member.run(["sh", "-c", _READ, "read", fetch, *run], what="reading the archived WAL").output
        found.unreadable += _UNREADABLE.findall(output)
        for position, point in reversed(_POINT.findall(output)):
            if point == name:
                found.position = position
                return found
            if point not in (*found.others, OF_PGBACKREST):
                found.others.append(point)
    return found


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
