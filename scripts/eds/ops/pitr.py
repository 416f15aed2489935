"""`make pitr`: the loan book at a point in time, recovered beside the primary from a base backup and the archive."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import psycopg
import typer
from rich.markup import escape
from rich.table import Table

from eds.base.console import confirm, err, out, step
from eds.base.errors import UserError
from eds.base.services import SIDE, exclusive
from eds.base.settings import load
from eds.book import invariants
from eds.book.tables import TABLES
from eds.cluster.connections import Cluster, Server
from eds.cluster.queries import answers, count_rows, current_position, fetch_value
from eds.cluster.repository import (
    SEGMENT_BYTES,
    BaseBackup,
    Chain,
    chain,
    lsn,
    on_history,
    segment_name,
    segment_position,
    stretches,
)
from eds.ops import recovery, restore_points
from eds.ops.wal import switch_and_wait
from eds.runtime.choice import select_runtime
from eds.runtime.member import Runtime
from eds.runtime.pgbackrest import Repository

app = typer.Typer()

ARCHIVED_SECONDS = 60.0
# Backups that were made within this time are equally good.
SAME_AGE_SECONDS = 3600.0
# A recovery to a time stops at the first transaction with a later one, also when that is due to a clock that was ahead.
# From which difference on that is looked into, and how many archived segments are read for it.
CLOCK_AHEAD = timedelta(minutes=1)
READ_SEGMENTS = 64
# Words that people use for a point in time, and that no restore point should be called.
WORDS_FOR_TIMES = ("yesterday", "today", "tomorrow", "now", "noon", "midnight", "epoch", "infinity", "last", "earlier")
# PostgreSQL's messages after which another base backup may succeed.
WRONG_BASE = ("recovery ended before configured recovery target", "not a child of this server", "could not locate")
# How the message begins when a backup itself cannot be read: an older one with more WAL leads to the same book.
DAMAGED_BASE = "the restore of a backup failed"


@dataclass(frozen=True)
class Target:
    """Where a recovery ends: before a time, at a restore point, behind a position, or at the end of the WAL (none)."""

    moment: datetime | None = None
    restore_point: str | None = None
    position: str | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Return a target from what a person writes. Raises UserError."""
        text = text.strip()
        if text == "latest":
            return cls()
        if re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", text):
            return cls(position=text.upper())
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            # A word for a time is not the name of a restore point: the whole archive would be replayed in search of it.
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}", text) and text.lower() not in WORDS_FOR_TIMES:
                return cls(restore_point=text)
            raise UserError(
                f"TO is {text!r}: expected a point in time such as '2026-01-31 14:32:05+00', the name of a "
                "restore point, a position in the WAL such as 0/3000060, or latest."
            ) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
            err.print(f"no time zone given: {moment:%Y-%m-%d %H:%M:%S} UTC")
        if moment > datetime.now(UTC):
            raise UserError(f"TO is {text!r}, which is in the future.")
        return cls(moment=moment)

    def conf(self, timeline: str) -> list[str]:
        """Return the target as PostgreSQL's settings."""
        lines = [f"recovery_target_timeline = '{timeline}'"]
        if self.moment:
            # Exclusive: a transaction that was committed at exactly this time is left out.
            lines += [f"recovery_target_time = '{self.moment.isoformat()}'", "recovery_target_inclusive = off"]
        elif self.restore_point:
            lines.append(f"recovery_target_name = '{self.restore_point}'")
        elif self.position:
            lines.append(f"recovery_target_lsn = '{self.position}'")
        return lines

    def is_behind(self, base: BaseBackup) -> bool:
        """Return whether a recovery from a backup may reach the target: it goes forward only."""
        if self.position:
            return lsn(base.stop_lsn) <= lsn(self.position)
        return self.moment is None or base.finished_at <= self.moment

    def __str__(self) -> str:
        if self.moment:
            return f"just before {self.moment.isoformat(sep=' ')}"
        if self.position:
            return f"position {self.position}"
        return f"restore point {self.restore_point}" if self.restore_point else "the end of the WAL"


@dataclass(frozen=True)
class Recovery:
    """What a recovery came to.

    newest: the commit time of the newest recovered transaction (None: none replayed). end: the position where it ended.
    shortfall: why it holds less than was asked for; None when it holds all of it. unreadable: newer backups that could
    not be restored, each with the reason.
    """

    base: BaseBackup
    newest: datetime | None
    end: str
    seconds: float
    broken: dict[str, int]
    rows: dict[str, int]
    shortfall: str | None
    unreadable: list[str]


@dataclass(frozen=True)
class Plan:
    """A backup from which a recovery may start, and the archived WAL from there along a history."""

    base: BaseBackup
    chain: Chain

    @property
    def missing(self) -> str:
        """The segments that are missing, for a person."""
        return ", ".join(low if low == high else f"{low} to {high}" for low, high in self.chain.missing)


def plans(archive: Repository, target: Target, timeline: int) -> list[Plan]:
    """Return the backups that a recovery along a timeline may start from, the best first. Raises UserError."""
    info = archive.info()
    usable = [each for each in info.backups if not each.error]
    if not usable:
        raise UserError("There is no physical backup: make backup KIND=physical")
    in_time = [each for each in usable if target.is_behind(each)]
    if not in_time:
        oldest = min(usable, key=lambda each: each.finished_at)
        raise UserError(
            f"Every physical backup is younger than {target.moment or target.position}: the oldest was complete at "
            f"{oldest.finished_at}, {oldest.stop_lsn}. "
            "A recovery goes forward only."
        )
    result = []
    for number in archive.numbers:
        parts = stretches(timeline, archive.history(info, timeline, number))
        found = archive.timelines(info, number)
        result += [
            Plan(base, chain(found, parts, base.start_lsn))
            for base in in_time
            if base.repository == number and on_history(base, parts)
        ]
    if not result:
        raise UserError(f"No physical backup is on the history of timeline {timeline}.")
    return sorted(result, key=preference)


def preference(plan: Plan) -> tuple[bool, int, int, float]:
    """Return a plan's sort key: without gaps first, then the youngest, and of the same age the one on this machine.

    One command makes the backup of the second repository after that of the first.
    """
    made = plan.base.finished_at.timestamp()
    return bool(plan.chain.missing), -int(made // SAME_AGE_SECONDS), plan.base.repository, -made


def leading_to_point(archive: Repository, name: str, candidates: Sequence[Plan]) -> list[Plan]:
    """Return the candidates from which a recovery comes to a restore point. Raises UserError when there is none.

    Without the search, each backup in turn would be restored and all WAL after it replayed to find out.
    """
    segments = max((plan.chain.needed for plan in candidates), key=len)
    with step(f"restore point {name} looked for in {len(segments)} archived segments"):
        found = restore_points.search(archive.member, segments, name)
    if found.position is not None:
        position = lsn(found.position)
        if leading := [plan for plan in candidates if lsn(plan.base.stop_lsn) <= position]:
            return leading
        raise UserError(
            f"Restore point {name} is at {found.position}, before the end of the oldest backup that leads there: a "
            "recovery goes forward only."
        )
    primary = archive.cluster.primary
    if not answers(primary):
        # Its last WAL was not archived: only a recovery that reads it finds out.
        return list(candidates[:1])
    others = f"there are {', '.join(found.others)}" if found.others else "there is none"
    raise UserError(
        f"No WAL from the oldest backup on holds a restore point {name!r}: {others}. MARK=<name> makes one; TO= also "
        "takes a time or a position."
        + (f" Not readable: {', '.join(found.unreadable)} (make backups VERIFY=1)." if found.unreadable else "")
    )


def present_timeline(runtime: Runtime) -> int:
    """Return the timeline of the primary, from the server or, when it is down, from its data."""
    primary = runtime.cluster.primary
    if answers(primary):
        return int(str(fetch_value(primary, "select pg_walfile_name(pg_current_wal_lsn())"))[:8], 16)
    member = runtime.member(primary.name)
    control = member.run(["pg_controldata", member.data], check=False).output
    if found := re.search(r"Latest checkpoint's TimeLineID:\s+(\d+)", control):
        return int(found[1])
    archive = Repository(runtime)
    return max(archive.timelines(archive.info()), default=1)


def recover(runtime: Runtime, target: Target, timeline: int | None = None) -> Recovery:
    """Recover to a target beside the primary, and check the books there. Raises UserError.

    timeline: the number of the timeline to follow (default: the primary's).
    """
    archive, primary = Repository(runtime), runtime.cluster.primary
    archive.check_available()
    if answers(primary):
        # The archive then reaches beyond the target, with a commit after it.
        with step("the WAL written up to now is archived"):
            switch_and_wait(runtime, ARCHIVED_SECONDS)
        present = current_position(primary)
        if target.position and lsn(target.position) > lsn(present):
            raise UserError(f"TO is {target.position}, and the WAL of {primary.name} ends at {present}.")
    timeline = timeline or present_timeline(runtime)
    candidates = plans(archive, target, timeline)
    if target.restore_point:
        candidates = leading_to_point(archive, target.restore_point, candidates)
    return recover_from(runtime, candidates, target, timeline)


def recover_from(runtime: Runtime, candidates: Sequence[Plan], target: Target, timeline: int) -> Recovery:
    """Recover beside the primary from the first of the candidates that leads to the target, and check the books."""
    began = time.monotonic()
    side, server = runtime.member(SIDE), runtime.cluster.recovered

    def attempt(plan: Plan) -> None:
        with step(f"recovered from backup {plan.base.label} (repository {plan.base.repository}) to {target}"):
            recovery.start_recovery(runtime, plan.base, target.conf(str(timeline)))
            recovery.wait_until_promoted(runtime)

    with recovery.beside(runtime):
        plan, unreadable = first_that_leads(candidates, attempt, target)
        newest, stop = recovery.newest_commit(side), recovery.stopped_before(side)
        recovery.let_in(runtime)
        _, end = recovery.fork(server)
        lacks = shortfall(plan, end) if target == Target() else None
        if target.moment and stop and is_suspect(newest, stop, datetime.now(UTC)):
            with step("commits before that time looked for in the WAL that follows"):
                later = later_commits(runtime, plan, end, target.moment)
            lacks = stopped_early(stop, datetime.now(UTC), later)
        return Recovery(
            base=plan.base,
            newest=newest,
            end=end,
            seconds=time.monotonic() - began,
            broken=invariants.violations(server),
            rows=rows_of_the_book_on(server),
            shortfall=lacks,
            unreadable=unreadable,
        )


def first_that_leads(
    candidates: Sequence[Plan], attempt: Callable[[Plan], None], target: Target
) -> tuple[Plan, list[str]]:
    """Recover from the first of the candidates, the best first, that can be read and leads to the target.

    attempt: recovers from one; raises UserError. Returns the candidate and, for each that could not be read, why.
    """
    unreadable: list[str] = []
    for number, plan in enumerate(candidates):
        try:
            attempt(plan)
        except UserError as error:
            damaged = str(error).startswith(DAMAGED_BASE)
            if damaged:
                unreadable.append(f"backup {plan.base.label} of repository {plan.base.repository}: {error}")
            if number + 1 == len(candidates) or not (damaged or any(text in str(error) for text in WRONG_BASE)):
                raise UserError(_explained(str(error), target, plan)) from error
            why = "cannot be restored (make backups VERIFY=1)" if damaged else "does not lead there"
            err.print(f"{plan.base.label} {why}, trying another one")
        else:
            return plan, unreadable
    raise AssertionError("plans() returns at least one candidate")


def shortfall(plan: Plan, end: str) -> str | None:
    """Return why a recovery to the end of the WAL ended before the newest archived segment; None when it did not."""
    timeline, newest = plan.chain.last
    if lsn(end) // SEGMENT_BYTES >= newest:
        return None
    reason = f"missing: {plan.missing}" if plan.missing else "a segment is damaged: make backups VERIFY=1 names it"
    return f"it ended at {end}, and the archive has WAL up to segment {segment_name(timeline, newest)}; {reason}"


def is_suspect(newest: datetime | None, stop: datetime, now: datetime) -> bool:
    """Return whether a clock that was ahead may have ended a recovery to a time too early.

    newest: the time of the newest recovered transaction. stop: of the one before which the recovery stopped. Where they
    are close to each other, no clock has jumped between them.
    """
    return newest is None or stop - newest > CLOCK_AHEAD or stop - now > CLOCK_AHEAD


def later_commits(runtime: Runtime, plan: Plan, end: str, moment: datetime) -> list[tuple[str, datetime]]:
    """Return the commits that follow the end of a recovery and are stamped before its target, with their positions."""
    number = lsn(end) // SEGMENT_BYTES
    segments = [name for name in plan.chain.needed if segment_position(name)[1] >= number][:READ_SEGMENTS]
    member = Repository(runtime).member
    return restore_points.commits_before(member, segments, end, moment)


def stopped_early(stop: datetime, now: datetime, later: Sequence[tuple[str, datetime]]) -> str | None:
    """Return why a recovery to a time holds less than was asked for, because a clock was ahead; None when it does not.

    stop: the time of the transaction before which it stopped. later: the commits after it with times before the target,
    with their positions. Each that is hardly older than the stop is no sign of a clock: two sessions may commit so.
    """
    missing = [(at, when) for at, when in later if stop - when > CLOCK_AHEAD]
    if not missing and stop - now <= CLOCK_AHEAD:
        return None
    # Of a stop that is not ahead of now it is not known which of the two times was wrong.
    either = "was ahead then" if stop - now > CLOCK_AHEAD else "was ahead then, or was set back later"
    clock = (
        f"it stopped before a transaction that is stamped {stop:%Y-%m-%d %H:%M:%S %Z}: the clock of the server {either}"
    )
    if not missing:
        return (
            f"{clock}. What was committed from there on is not recovered, whatever its time. Name a time before it, or "
            "what does not depend on a clock: a restore point, or a position in the WAL"
        )
    position, when = missing[-1]
    return (
        f"{clock}. {len(missing)} commits after it with times before the target are not recovered, the last one of "
        f"{when:%Y-%m-%d %H:%M:%S %Z}. TO={position} recovers up to that one, with all that is before it in the WAL; "
        "or name a restore point, or a time before the clock was wrong"
    )


def _explained(message: str, target: Target, plan: Plan) -> str:
    if "recovery ended before configured recovery target" in message:
        missing = f"; missing: {plan.missing}" if plan.missing else ""
        return (
            f"The WAL that is left ends before {target} is reached{missing}. TO=latest recovers what there is; "
            f"`make wal` shows the archive.\n{message}"
        )
    if "could not restore file" in message:
        return f"A segment in the archive cannot be read: `make backups VERIFY=1` names what is damaged.\n{message}"
    return message


def rows_of_the_book(connection: psycopg.Connection) -> dict[str, int]:
    """Count the rows of the loan book's tables, in the connection's transaction."""
    counts = count_rows(connection, [f"operational.{table}" for table in (*TABLES, "audit_log")])
    return {name.partition(".")[2]: count for name, count in counts.items()}


def rows_of_the_book_on(server: Server) -> dict[str, int]:
    """Count the rows of the loan book's tables on a server, in one snapshot."""
    with server.connect() as connection:
        connection.execute("set transaction isolation level repeatable read, read only")
        return rows_of_the_book(connection)


def restore_point(cluster: Cluster, name: str) -> str:
    """Mark the present position under a name that a recovery can end at. Returns the position."""
    Target.parse(name)
    return str(fetch_value(cluster.primary, "select pg_create_restore_point(%s)", (name,)))


def _report(cluster: Cluster, found: Recovery) -> None:
    present = rows_of_the_book_on(cluster.primary) if answers(cluster.primary) else {}
    table = Table(title="The loan book")
    for column in ("table", "recovered", "primary now"):
        table.add_column(column, justify="left" if column == "table" else "right")
    for name, count in found.rows.items():
        table.add_row(name, str(count), str(present.get(name, "does not answer")))
    out.print(table)
    if found.newest:
        age = timedelta(seconds=round((datetime.now(UTC) - found.newest).total_seconds()))
        out.print(f"newest recovered transaction: {found.newest:%Y-%m-%d %H:%M:%S.%f %Z}, {age} ago")
    else:
        out.print(f"no transaction was replayed: the books are those of the base backup ({found.base.label})")
    out.print(f"recovery took {found.seconds:.1f} s and ended at {found.end}")
    report_trouble(found)


def report_trouble(found: Recovery) -> None:
    """Print what is wrong with what was recovered, or that all invariants hold."""
    for unreadable in found.unreadable:
        out.print(f"[yellow]could not be restored:[/] {escape(unreadable)}")
    if found.shortfall:
        out.print(f"[bold red]It holds less than was asked for:[/] {escape(found.shortfall)}")
    for name, count in found.broken.items():
        out.print(f"[yellow]{count} rows break: {name}[/]")
    if not found.broken:
        out.print("[green]all invariants hold[/]")


def confirm_shortfall(found: Recovery) -> None:
    """Ask before an incomplete book is put in the place of a full one. Raises UserError when the answer is no."""
    if found.shortfall:
        # Not even FORCE confirms this: a script must not decide it.
        confirm(
            f"What was recovered is incomplete: {found.shortfall}.\nEverything committed after that is not in it.",
            "incomplete",
            force=False,
            otherwise="Neither FORCE=1 nor a script can answer this.",
        )


@app.command(name="pitr")
def pitr_command(
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="'2026-01-31 14:32:05+00'|latest|NAME|0/3000060",
            help="A point in time, the end of the archive, the name of a restore point, or a position in the WAL.",
        ),
    ] = "",
    promote: Annotated[bool, typer.Option("--promote", help="Put what was recovered in place of the primary.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what an earlier one left.")] = False,
    timeline: Annotated[
        int | None,
        typer.Option("--timeline", metavar="2", min=1, max=2**32 - 1, help="Follow this one, not the primary's."),
    ] = None,
    mark: Annotated[
        str, typer.Option("--mark", metavar="before_import", help="Create a restore point of this name.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Do not ask.")] = False,
) -> None:
    """Recover the loan book to a point in time, beside the primary or in its place.

    Example: make pitr TO='2026-01-31 14:32:05+00'
    """
    settings = load()
    runtime = select_runtime(settings)[0]
    if mark:
        out.print(f"restore point {mark} at {restore_point(runtime.cluster, mark)}: make pitr TO={mark} recovers to it")
        return
    with exclusive(settings, "pitr"):
        if remove:
            out.print("removed" if runtime.member(SIDE).remove() else "there is no recovered cluster")
            return
        if not to:
            raise UserError(
                "Recover to what? Example: make pitr TO='2026-01-31 14:32:05+00', TO=latest, or TO=<restore point>; "
                "MARK=<name> makes a restore point."
            )
        found = recover(runtime, Target.parse(to), timeline)
        _report(runtime.cluster, found)
        if not promote:
            out.print(
                "It is left for inspection, on a timeline of its own that nothing follows: make psql-recovered\n"
                "make pitr REMOVE=1 removes it; make pitr TO=… PROMOTE=1 puts it in place of the primary."
            )
            raise typer.Exit(1 if found.shortfall else 0)
        confirm_shortfall(found)
        confirm(
            f"This puts the recovered cluster in place of the primary ({runtime.cluster.primary_name}). What was\n"
            "written to the primary since is lost to the applications; its data is kept. The replicas are cloned.",
            "promote",
            force,
        )
        aside = recovery.install_recovered(runtime)
    out.print(f"The primary is the recovered cluster now. The old data: {aside}", soft_wrap=True)
    out.print("The next run of the warehouse compares everything. Make a base backup now: make backup KIND=physical")
