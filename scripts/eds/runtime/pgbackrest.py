"""pgBackRest, run beside a member of the OLTP cluster: its repositories hold the WAL archive and physical backups."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from eds.base.errors import UserError
from eds.base.programs import Finished, failure
from eds.base.settings import Settings, from_root
from eds.cluster import repository
from eds.cluster.connections import Cluster
from eds.cluster.repository import Info, Timeline, Verdict
from eds.cluster.server_conf import STANZA
from eds.runtime.member import Member, Runtime

# pgBackRest's exit code when another process holds its lock, and how long to wait for that.
LOCKED = 50
LOCK_SECONDS = 30.0
# The full backup on which the newest one builds, where pgBackRest refuses another one with an earlier time.
_NOT_LATER = re.compile(r"is not later than latest backup label '(\d{8}-\d{6}F)")
# Reads the names of archived segments, and prints those that are missing or whose content has another checksum.
_READ_SEGMENTS = """
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
while read -r file; do
    segment=${file##*/}
    "$@" archive-get "${segment%%-*}" "$place/segment" 2>/dev/null </dev/null || : >"$place/segment"
    sum=$(sha1sum "$place/segment" 2>/dev/null || shasum "$place/segment")
    case $segment in
        "${segment%%-*}-${sum%% *}"*) ;;
        *) echo "$file" ;;
    esac
done
"""


def command(member: Member, *arguments: str | Path) -> list[str | Path]:
    """Return the command line of pgBackRest beside a member. Raises UserError where there is none."""
    if member.places.repository_conf is None:
        raise UserError("There is no pgBackRest that fits these servers, and so neither a WAL archive nor a recovery.")
    return ["pgbackrest", f"--config={member.places.repository_conf}", f"--stanza={STANZA}", *arguments]


def ensure_stanza(member: Member) -> None:
    """Create what the repositories need for this cluster; does nothing when it is there.

    Raises UserError when a repository is another cluster's.
    """

    def create() -> Finished:
        return member.run(command(member, "stanza-create", "--no-online"), check=False)

    # The archiver holds pgBackRest's lock briefly.
    retrying = Retrying(
        stop=stop_after_delay(LOCK_SECONDS),
        wait=wait_fixed(0.5),
        retry=retry_if_result(lambda done: done.code == LOCKED),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    done: Finished = retrying(create)
    if not done.ok:
        # What could not be decrypted is in its message as it is.
        tail = "\n".join(line for line in done.tail.splitlines() if line.isprintable() and "\ufffd" not in line)
        raise failure("preparing the repository of WAL and backups", done.code, tail)


def check_directory(settings: Settings) -> None:
    """Raise UserError when the directory of the second repository is not there: a mount that is missing, say.

    pgBackRest would make it, and fill this machine's own disk.
    """
    if settings.backup_repo2 == "posix" and not (path := from_root(Path(settings.backup_repo2_path))).is_dir():
        raise UserError(
            f"BACKUP_REPO2_PATH is {path}, which is no directory. Mount it, or make it and let the servers' account "
            "(postgres) write there."
        )


@dataclass(frozen=True)
class Repository:
    """The repositories, as seen from the member that is the primary."""

    runtime: Runtime

    def check_available(self) -> None:
        """Raise UserError where there is no pgBackRest."""
        if why := self.runtime.why_no_repository:
            raise UserError(
                f"WAL archive, physical backups and recovery to a point in time need pgBackRest: {why}, then make up. "
                "Dumps (make backup) work without it."
            )

    @property
    def cluster(self) -> Cluster:
        """The servers."""
        return self.runtime.cluster

    @property
    def member(self) -> Member:
        """The primary: beside it, pgBackRest reads and writes the repositories."""
        return self.runtime.member(self.cluster.primary_name)

    def run(self, name: str, *options: str, check: bool = True, what: str = "") -> Finished:
        """Run a command of pgBackRest. Raises UserError with its last lines when it fails."""
        self.check_available()
        member = self.member
        # Without a host in its own options pgBackRest uses libpq's; there is no socket.
        env = {"PGHOST": "127.0.0.1", "PGPASSWORD": self.cluster.primary.superuser_password}
        return member.run(command(member, name, *options), env=env, what=what or f"pgbackrest {name}", check=check)

    def info(self, number: int | None = None) -> Info:
        """Return the backups and the archives of all repositories, or of one."""
        only = [f"--repo={number}"] if number else []
        return repository.parse_info(self.run("info", "--output=json", *only).output)

    def archive_path(self, info: Info, number: int = 1) -> str | None:
        """Return the path of a repository's archive, or None while nothing was archived."""
        archive_id = info.archive_ids.get(number)
        return f"archive/{STANZA}/{archive_id}" if archive_id else None

    def files(self, info: Info, number: int = 1) -> dict[str, int]:
        """Return the files of an archive, with their sizes in bytes."""
        path = self.archive_path(info, number)
        if path is None:
            return {}
        listing = self.run("repo-ls", f"--repo={number}", "--recurse", "--output=json", path)
        return repository.archived_files(listing.output)

    def timelines(self, info: Info, number: int = 1) -> dict[int, Timeline]:
        """Return the archived segments of a repository, by timeline."""
        return repository.timelines(self.files(info, number))

    def history(self, info: Info, timeline: int, number: int = 1) -> str | None:
        """Return the content of a timeline's history file; None when the archive has none."""
        path = repository.histories(self.files(info, number)).get(timeline)
        if path is None:
            return None
        return self.run("repo-get", f"--repo={number}", f"{self.archive_path(info, number)}/{path}").output

    def verify(self, number: int = 1) -> Verdict:
        """Read every backup and every archived segment of a repository, and compare their checksums."""
        # A second retry of each damaged file would wait for 15 seconds.
        options = ("--output=text", "--verbose", "--log-level-console=info", "--job-retry=1")
        done = self.run("verify", f"--repo={number}", *options, check=False)
        return repository.parse_verify(done.output + done.errors)

    def damaged_segments(self, info: Info, number: int = 1) -> list[str]:
        """Read every archived segment of a repository by itself. Returns the files that are not what their names say.

        `verify` ends at the first one that is cut off, without its name.
        """
        names = [name for name in self.files(info, number) if repository.is_segment(name)]
        place, member = self.archive_path(info, number), self.member
        read = member.run(
            ["sh", "-c", _READ_SEGMENTS, "read", *command(member, f"--repo={number}")],
            stdin="".join(f"{name}\n" for name in names),
            what="reading the archived WAL",
        )
        return [f"{place}/{name}" for name in read.output.split()]

    def backup(self, kind: str, number: int = 1) -> None:
        """Make a physical backup (full, diff or incr), and remove what the retention no longer keeps."""
        try:
            self.run("backup", f"--type={kind}", f"--repo={number}", what=f"the {kind} backup")
        except UserError as error:
            # Its words ask for a time zone, and say nothing of what is still possible.
            if (found := _NOT_LATER.search(str(error))) is None:
                raise
            raise UserError(
                f"{error}\nThe clock is behind now, or was ahead when backup {found[1]} was made. Correct it if it is "
                "wrong. If it is right, full backups are possible again from the time in that name on (UTC): until "
                "then make differential ones, make backup KIND=physical TYPE=diff. Recoveries work as ever."
            ) from error

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the repositories: 1 on the platform's disk, 2 where the settings say."""
        return (1, 2) if self.runtime.settings.backup_repo2 else (1,)


def archive_new_timeline(side: Member) -> None:
    """Archive what a stopped, recovered cluster wrote on its own timeline, which it could not archive itself.

    The segment that it was writing is archived by its successor; what is beyond that one was recycled.
    """
    control = side.run(["pg_controldata", side.data], what="reading pg_control").output
    found = re.search(r"REDO WAL file:\s+([0-9A-F]{24})", control)
    if found is None:
        raise UserError(f"pg_controldata names no WAL file of {side.data}.")
    present = found[1]
    for name in side.run(["ls", side.data / "pg_wal"]).output.split():
        own = name.startswith(present[:8])
        if own and (name.endswith(".history") or (re.fullmatch("[0-9A-F]{24}", name) and name < present)):
            archive_from(side, name)


def archive_from(member: Member, name: str) -> None:
    """Archive a file of a member's pg_wal that its archiver does not, or no longer, take for its own."""
    path = member.data / "pg_wal" / name
    member.run(command(member, "--no-archive-async", "archive-push", path), what=f"archiving {name}")
