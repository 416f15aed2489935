"""`make failover`: a replica becomes the primary, and everything follows. `make rejoin`: the old primary follows too.

Assisted, not automatic: a person decides that the primary is gone, one command does the rest in the right order.
Nothing watches the primary and nothing promotes by itself: two servers that take writes are worse than none.

The order keeps at most one server that takes writes, at each point where it may be interrupted: the old primary is
fenced; the decision is noted where every command reads it; the replica is promoted; the others are repointed. A
`make up` after an interrupt resumes from the note. The steps of one member are in `recovery`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import psycopg
import typer
from rich.markup import escape
from rich.table import Table

from eds.base import journal
from eds.base.console import confirm, err, out, step
from eds.base.disk import size
from eds.base.errors import UserError
from eds.base.services import exclusive, running_command
from eds.base.settings import load
from eds.cluster import members, provision
from eds.cluster.connections import psycopg_notices_off
from eds.cluster.queries import answers, fetch_all, fetch_value, in_recovery, wait_for
from eds.ops import recovery, wal
from eds.runtime.choice import select_runtime
from eds.runtime.member import Runtime

app = typer.Typer()

# The journal's names of the operations; that of a rejoin is followed by the member's name.
FAILOVER, REJOIN = "failover", "rejoin "
WRITABLE_SECONDS = 60.0
# How long pg_rewind may take after a failover; a rejoin by hand has no limit.
REWIND_SECONDS = 60.0
# How much of a replica's log is searched for the end of its stream; wal_receiver_timeout of infra/postgres/oltp.conf.
LOG_LINES, RECEIVER_TIMEOUT_SECONDS = 400, 12.0
_BROKEN_STREAM = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) UTC .*"
    r"(?:could not receive data from WAL stream|replication terminated by primary server|"
    r"(terminating walreceiver due to timeout))"
)
SHOWN_COMMITS = 5


@dataclass(frozen=True)
class Switched:
    """What a failover came to when the new primary took its first write.

    timeline, position: where it left the old history. seconds: from the fault, as clients saw it, to that write;
    own_seconds: of them, those of the command. unreachable: the old primary ran, and did not answer. stray: replicas
    that do not follow.
    """

    old: str
    new: str
    timeline: int
    position: str
    seconds: float
    own_seconds: float
    unreachable: bool
    stray: list[str]


@dataclass(frozen=True)
class Failover:
    """What a failover came to.

    lost: the commits of the old primary that the new one does not have, one line each (None: its WAL cannot be read).
    seconds: from the fault, as clients saw it, to the first write that the new primary accepted.
    rejoined: how the old primary came back, or None when it was left as it is.
    """

    old: str
    new: str
    position: str
    lost: list[str] | None
    seconds: float
    rejoined: str | None


def positions(runtime: Runtime) -> dict[str, int]:
    """Return the WAL position of each replica that answers, in bytes: received or replayed, whichever is more."""
    query = (
        "select pg_wal_lsn_diff(greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'), pg_last_wal_replay_lsn()), '0/0') "
        "where pg_is_in_recovery()"
    )
    found = {}
    for server in runtime.cluster.replicas:
        if answers(server) and (rows := fetch_all(server, query, database="postgres")):
            found[server.name] = int(rows[0][0])
    return found


def choose_replica(runtime: Runtime, to: str | None, force: bool) -> str:
    """Return the replica to promote: the named one, or the one that has most. Raises UserError when none should be."""
    reach = positions(runtime)
    if to is not None and to == runtime.cluster.primary_name:
        raise UserError(f"{to} is the primary already.")
    if to is not None and to not in runtime.cluster.replica_names:
        raise UserError(f"TO is {to}: expected one of {', '.join(runtime.cluster.replica_names)}.")
    if not reach:
        raise UserError("No replica answers: there is nothing to promote. `make ps` shows what runs.")
    best = max(reach, key=lambda name: reach[name])
    if to is None:
        return best
    if to not in reach:
        raise UserError(f"{to} does not answer, or is no replica. These could be promoted: {', '.join(reach)}.")
    if reach[to] < reach[best] and not force:
        raise UserError(
            f"{to} is {size(reach[best] - reach[to])} of WAL behind {best}: what {best} has more would be lost. "
            f"TO={best} loses least; FORCE=1 does it anyway."
        )
    return to


def last_sign_of_life(runtime: Runtime) -> datetime | None:
    """Return when the replicas last had something from a primary that is gone: about when its clients lost it.

    The newest of: the last commit that arrived, and when the stream broke, by the replicas' logs. None: unknown.
    """
    found = []
    for server in runtime.cluster.replicas:
        if answers(server) and (commit := fetch_value(server, "select pg_last_xact_replay_timestamp()")):
            found.append(commit)
        for line in runtime.member(server.name).tail(LOG_LINES):
            if broken := _BROKEN_STREAM.match(line):
                at = datetime.fromisoformat(broken[1]).replace(tzinfo=UTC)
                # A timeout is noticed this long after the last message.
                found.append(at - timedelta(seconds=RECEIVER_TIMEOUT_SECONDS) if broken[2] else at)
    return max(found, default=None)


def switch(runtime: Runtime, to: str | None, force: bool = False) -> Switched:
    """Make a replica the primary, until a write is accepted. Raises UserError, where possible before any change.

    One that was interrupted after its decision is resumed.
    """
    cluster, settings = runtime.cluster, runtime.settings
    decided = interrupted(runtime)
    old = decided["old"] if decided else cluster.primary_name
    alive = answers(cluster.servers[old])
    new = decided["new"] if decided else choose_replica(runtime, to, force)
    # A primary that is shut down cleanly sends all it has to the replicas that are connected.
    if alive and not decided and not force and not members.streams(cluster, new):
        raise UserError(
            f"{new} does not stream from {old}, so it may lack a lot: `make up` repairs it. FORCE=1 goes ahead."
        )
    if not force and not decided and (unreached := runtime.unreachable(new)):
        raise UserError(
            f"{new} answers this machine, but not the services that will need it: {'; '.join(unreached)}. Nothing was "
            "changed; `make up` repairs names in the networks, TO= names the other replica, FORCE=1 goes ahead."
        )
    began = datetime.now(UTC)
    # It was running and did not answer: it is suspended, or cannot be reached.
    unreachable = not alive and runtime.member(old).is_running()
    fault = None if alive else last_sign_of_life(runtime)
    journal.enter(settings, FAILOVER, old=old, new=new)
    with step(f"{old} fenced ({'stopped' if alive else 'it did not answer' if unreachable else 'it was down'})"):
        runtime.member(old).fence(at_once=not alive)
    if not decided:
        # The other one may have received the last bytes that this one has not.
        new = choose_replica(runtime, to, force)
        journal.enter(settings, FAILOVER, old=old, new=new)
    others = [name for name in cluster.replica_names if name not in (new, old)]
    with step(f"{new} promoted"):
        cluster.set_primary(new)
        members.take_part(cluster, runtime.member(new))
    timeline, position = recovery.fork(runtime.cluster.servers[new])
    stray = []
    for name in others:
        if answers(cluster.servers[name]):
            with step(f"{name} repointed to {new}"):
                if trouble := _follow(runtime, name):
                    err.print(f"{name} has diverged ({trouble})", markup=False)
                    stray.append(name)
        else:
            err.print(f"{name} does not answer: `make up` brings it back")
    with step("PgBouncer repointed, and a write accepted"):
        pooled = runtime.start_pgbouncer() is not None
        wait_for(
            lambda: _writes(cluster.pooled_conninfo() if pooled else cluster.app_conninfo()),
            WRITABLE_SECONDS,
            f"{new} accepts a write",
        )
        accepted = datetime.now(UTC)
    journal.remove(settings, FAILOVER)
    return Switched(
        old=old,
        new=new,
        timeline=timeline,
        position=position,
        seconds=(accepted - (min(fault, began) if fault else began)).total_seconds(),
        own_seconds=(accepted - began).total_seconds(),
        unreachable=unreachable,
        stray=stray,
    )


def bring_back(runtime: Runtime, done: Switched) -> Failover:
    """Bring the members back that a failover left behind; the new primary takes writes meanwhile.

    The old primary comes back when nothing is lost by that, within a short time. Else it is left as it is.
    """
    old, new = done.old, done.new
    _repoint_extraction(runtime)
    _archive_left_behind(runtime, old)
    for name in done.stray:
        with step(f"{name} cloned"):
            runtime.member(name).clone()
    lost = recovery.commits_after(runtime.member(old), done.position, done.timeline)
    # What only the old primary has is read before it is wiped.
    rejoined = None
    if lost == [] and not done.unreachable:
        with step(f"{old} follows {new}"):
            rejoined = _rejoin(runtime, old, may_clone=False)
    return Failover(old, new, done.position, lost, done.seconds, rejoined)


def failover(runtime: Runtime, to: str | None, force: bool = False) -> Failover:
    """Make a replica the primary, and let everything follow it. Raises UserError as `switch` does."""
    return bring_back(runtime, switch(runtime, to, force))


def interrupted(runtime: Runtime) -> dict[str, str] | None:
    """Return what the journal has of a failover that was interrupted after its decision, or None."""
    entry = journal.entries(runtime.settings).get(FAILOVER)
    return entry if entry and entry["new"] == runtime.cluster.primary_name else None


def _follow(runtime: Runtime, name: str) -> str | None:
    """Let a running replica follow the present primary. Returns why it cannot, or None."""
    member = runtime.member(name)
    members.ensure_slot(runtime.cluster, name)
    members.take_part(runtime.cluster, member)
    return members.why_not_following(runtime.cluster, name, member)


def _rejoin(runtime: Runtime, name: str, *, may_clone: bool = True) -> str | None:
    """Bring a member that has left the primary's timeline back as a replica. Returns how: rewound or cloned.

    may_clone: else, when rewinding does not bring it back in a short time, it is left stopped, and None returned.
    """
    cluster, member = runtime.cluster, runtime.member(name)
    entry = f"{REJOIN}{name}"
    half_rewound = entry in journal.entries(runtime.settings)
    with journal.entered(runtime.settings, entry, name=name):
        member.stop()
        trouble: str | None = "an earlier rewinding was interrupted" if half_rewound else None
        if not recovery.has_data(member):
            trouble = "it has no data"
        if trouble is None:
            # pg_rewind reads the timeline from the source's last checkpoint.
            members.checkpoint(cluster.primary)
            try:
                recovery.rewind(runtime, name, None if may_clone else REWIND_SECONDS)
                members.ensure_slot(cluster, name, clear=True)
                trouble = recovery.start_replica(runtime, name)
            except UserError as error:
                trouble = str(error)
        if trouble is None:
            members.drop_idle_slots(cluster.servers[name])
            return "rewound"
        if not may_clone:
            err.print(f"{name} does not come back yet: `make up` clones it. Found: {trouble}", markup=False)
            member.stop()
            return None
        err.print(f"{name} is cloned. Found: {trouble}", markup=False)
        member.clone()
        return "cloned"


def _writes(conninfo: str) -> bool:
    """Return whether the application's role can commit, on its usual way."""
    with psycopg.connect(conninfo, prepare_threshold=None) as connection:
        connection.execute("select pg_current_xact_id()")
    return True


def _repoint_extraction(runtime: Runtime) -> None:
    """Give the warehouse's foreign server the new order of the servers."""
    try:
        with runtime.cluster.connect_as_writer() as connection:
            psycopg_notices_off(connection)
            provision.ensure_foreign_server(connection, runtime.inside)
    except (UserError, psycopg.Error) as error:
        err.print(f"The warehouse still reads in the old order; `make up` changes it. {error}", markup=False)


def _archive_left_behind(runtime: Runtime, old: str) -> None:
    """Archive what the old primary could not any more. A failure leaves a gap, and does not hold the failover up."""
    if runtime.why_no_repository:
        return
    try:
        if names := wal.archive_left_behind(runtime, old):
            err.print(f"archived for {old}, which had not archived them: {', '.join(names)}")
    except (UserError, psycopg.Error) as error:
        err.print(f"What {old} had not archived is still missing; `make health` names it. {error}", markup=False)


_LOST_CHANGES = """
    select
        xact_id::text, to_char(change_time, 'YYYY-MM-DD HH24:MI:SS.MS'), changed_by, operation, table_name, record_id,
        coalesce(new_values, old_values)::text
    from operational.audit_log
    where xact_id::text::numeric %% 4294967296 = any(%s)
    order by log_id
"""


def lost_changes(runtime: Runtime, name: str) -> tuple[int, list[tuple[Any, ...]]]:
    """Return the changes of the books that only a former primary has, by the trail in a copy of its data.

    The copy is left running. Returns how many of its commits the primary lacks, and for each change: transaction, time,
    role, operation, table, key and values.
    """
    if name not in runtime.cluster.replica_names:
        raise UserError(
            f"NAME is {name!r}: expected a former primary, one of {', '.join(runtime.cluster.replica_names)}."
        )
    try:
        timeline, position = recovery.fork(runtime.cluster.primary)
    except psycopg.errors.UndefinedFile as error:
        raise UserError("There was no failover: no timeline was ever left.") from error
    if runtime.is_running(name):
        raise UserError(f"{name} runs as a replica: what only it had was wiped when it rejoined.")
    commits = recovery.commits_after(runtime.member(name), position, timeline)
    if commits is None:
        raise UserError(f"The WAL of {name} from {position} on is not there, or cannot be read.")
    numbers = [int(found[1]) for line in commits if (found := re.search(r"tx: +(\d+)", line))]
    with recovery.beside(runtime):
        recovery.start_copy(runtime, name)
    return len(commits), fetch_all(runtime.cluster.recovered, _LOST_CHANGES, (numbers,))


def diverged(runtime: Runtime, name: str | None) -> list[str]:
    """Return the members that do not follow the primary; of a named one, whether it does. Raises UserError."""
    primary = runtime.cluster.primary
    if in_recovery(primary):
        raise UserError(f"{primary.name} is noted as the primary, but is a replica: `make up` finishes the failover.")
    if name is not None and name not in runtime.cluster.replica_names:
        raise UserError(f"NAME is {name}: expected one of {', '.join(runtime.cluster.replica_names)}.")
    streaming = {
        row[0]
        for row in fetch_all(primary, "select application_name from pg_stat_replication where state = 'streaming'")
    }
    return [each for each in ([name] if name else runtime.cluster.replica_names) if each not in streaming]


def rejoin(runtime: Runtime, name: str | None) -> dict[str, str]:
    """Bring the members back that do not follow the primary (or the named one). Returns how, by name."""
    result = {}
    for each in diverged(runtime, name):
        with step(f"{each} follows {runtime.cluster.primary_name}"):
            result[each] = _rejoin(runtime, each) or "left as it is"
    return result


def _report_switch(done: Switched) -> None:
    out.print(f"[green]{done.new} is the primary[/]; it left the old timeline at {done.position}")
    out.print(
        f"RTO: {done.seconds:.1f} s from the last sign of life of {done.old} to the first write accepted, "
        f"{done.own_seconds:.1f} s of them in this command"
    )
    out.print("Other commands may start now; one that does interrupts the remaining steps.")


def _report(found: Failover) -> None:
    if found.lost is None:
        out.print(f"RPO: unknown, the WAL of {found.old} cannot be read")
    elif not found.lost:
        out.print(f"RPO: 0, every commit of {found.old} is on {found.new}")
    else:
        out.print(f"[bold red]RPO: {len(found.lost)} commits of {found.old} are not on {found.new}[/]:")
        for line in found.lost[:SHOWN_COMMITS]:
            out.print("  " + line.partition("lsn: ")[2], markup=False)
        if len(found.lost) > SHOWN_COMMITS:
            out.print(f"  and {len(found.lost) - SHOWN_COMMITS} more")
    if found.rejoined:
        out.print(f"{found.old} follows as a replica ({found.rejoined})")
    else:
        out.print(
            f"{found.old} was left as it is, stopped, with what only it has: make failover-diff NAME={found.old} shows "
            "it; make rejoin wipes it and brings the server back as a replica."
        )
    out.print("The next run of the warehouse compares everything.")


@app.command(name="failover")
def failover_command(
    to: Annotated[
        str | None, typer.Option("--to", metavar="replica1", help="Which replica (default: the most advanced one).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do not ask; accept a loss.")] = False,
) -> None:
    """Make a replica the primary, after asking; the old primary becomes a replica.

    Example: make failover TO=replica1
    """
    settings = load()
    runtime = select_runtime(settings)[0]
    with exclusive(settings, "failover"):
        decided = interrupted(runtime)
        old = decided["old"] if decided else runtime.cluster.primary_name
        new = decided["new"] if decided else choose_replica(runtime, to, force)
        state = "it is up and will be stopped" if answers(runtime.cluster.servers[old]) else "it does not answer"
        synchronous = (
            "on: no acknowledged commit is lost"
            if settings.synchronous == "on"
            else "off: the last commits may be lost"
        )
        confirm(
            f"This makes {new} the primary in place of {old} ({state}). Sessions of the application are cut.\n"
            f"Synchronous commit is {synchronous} if {old} has crashed.",
            "failover",
            force,
        )
        done = switch(runtime, new, force)
    _report_switch(done)
    if other := running_command(settings):
        out.print(f"make {other} is running now: what is left to do is `make up`'s or `make rejoin`'s.")
        return
    with exclusive(settings, "failover", gives_way=True):
        found = bring_back(runtime, done)
    _report(found)


def changes_table(title: str, changes: Sequence[Sequence[object]]) -> Table:
    """Return changes of the trail as a table for the terminal, each value as it is."""
    table = Table(title=title)
    for column in ("transaction", "time (UTC)", "by", "change", "table", "key", "values"):
        table.add_column(column, overflow="fold")
    for change in changes:
        table.add_row(*(escape(str(value)) for value in change))
    return table


@app.command(name="failover-diff")
def failover_diff_command(
    name: Annotated[str, typer.Option("--name", metavar="primary", help="The former primary.")] = "",
) -> None:
    """Show the changes that only a former primary has. Example: make failover-diff NAME=primary"""
    settings = load()
    if not name:
        raise UserError("Of which former primary? Example: make failover-diff NAME=primary")
    with exclusive(settings, "failover-diff"):
        commits, changes = lost_changes(select_runtime(settings)[0], name)
    out.print(changes_table(f"{commits} commits are only on {name}; their changes of the books", changes))
    out.print("A read-only copy of it is running: make psql-recovered queries it; make pitr REMOVE=1 removes the copy.")


@app.command(name="rejoin")
def rejoin_command(
    name: Annotated[
        str | None, typer.Option("--name", metavar="primary", help="One member (default: all that have diverged).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do not ask.")] = False,
) -> None:
    """Bring a former primary back as a replica, by pg_rewind. What only it has is lost."""
    settings = load()
    runtime = select_runtime(settings)[0]
    with exclusive(settings, "rejoin"):
        if not (names := diverged(runtime, name)):
            out.print(f"{name or 'Every replica'} follows the primary; nothing to do.")
            return
        confirm(
            f"{', '.join(names)} will follow {runtime.cluster.primary_name}. Commits that only a former primary has "
            "are removed from it.",
            "rejoin",
            force,
        )
        done = rejoin(runtime, name)
    for each, how in done.items():
        out.print(f"{each} follows {runtime.cluster.primary_name} ({how})")
