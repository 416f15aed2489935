"""`make failover`: a replica becomes the primary, and everything follows. `make rejoin`: the old primary follows too.

Assisted, not automatic: a person decides that the primary is gone, one command does the rest in the right order.
Nothing watches the primary and nothing promotes by itself: two servers that take writes are worse than none.

The order keeps at most one server that takes writes, at each point where it may be interrupted: the old primary is
fenced; the decision is noted where every command reads it; the replica is promoted; the others are turned to it. A
`make up` after an interrupt goes on from the note. What differs between the runtimes is behind `Runtime`: how a server
is stopped, how its files are read, where its configuration is.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
import typer
from rich.table import Table

from eds import up
from eds.base.console import confirm, err, out, step
from eds.base.errors import UserError
from eds.base.settings import Settings, load
from eds.cluster import members, provision
from eds.cluster.connections import (
    connect,
    pooled_conninfo,
    primary_server,
    psycopg_notices_off,
    recovered_server,
    set_primary_name,
)
from eds.cluster.queries import answers, ask, in_recovery, one, wait_for
from eds.ops.replication import size
from eds.runtime.choice import Runtime, chosen
from eds.warehouse import runs

app = typer.Typer()

WRITABLE_SECONDS = 60.0
SHOWN_COMMITS = 5


@dataclass(frozen=True)
class Failover:
    """What a failover came to.

    lost: the commits of the old primary that the new one does not have, one line each (None: its WAL cannot be read).
    seconds: from the fencing of the old primary to the first write that the new one accepted.
    rejoined: how the old primary came back, or None when it was left as it is.
    """

    old: str
    new: str
    position: str
    lost: list[str] | None
    seconds: float
    rejoined: str | None


def positions(runtime: Runtime) -> dict[str, int]:
    """How far the WAL of each replica that answers reaches, in bytes: received or replayed, whichever is more."""
    query = (
        "select pg_wal_lsn_diff(greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'), pg_last_wal_replay_lsn()), '0/0') "
        "where pg_is_in_recovery()"
    )
    found = {}
    for name in runtime.replicas:
        if answers(runtime.servers[name]) and (rows := ask(runtime.servers[name], query, database="postgres")):
            found[name] = int(rows[0][0])
    return found


def choose(runtime: Runtime, to: str | None, force: bool) -> str:
    """The replica to promote: the named one, else the one that has most. Raises UserError when it should not be."""
    reach = positions(runtime)
    if to is not None and to == runtime.primary:
        raise UserError(f"{to} is the primary already.")
    if to is not None and to not in runtime.replicas:
        raise UserError(f"TO is {to}: expected one of {', '.join(runtime.replicas)}.")
    if not reach:
        raise UserError("No replica answers: there is nobody to promote. `make ps` shows what runs.")
    best = max(reach, key=lambda name: reach[name])
    if to is None:
        return best
    if to not in reach:
        raise UserError(f"{to} does not answer, or is no replica. These could be promoted: {', '.join(reach)}.")
    if reach[to] < reach[best] and not force:
        raise UserError(
            f"{to} is {size(reach[best] - reach[to])} of WAL behind {best}: what {best} has more would be lost. "
            f"TO={best} loses least; FORCE=1 does it all the same."
        )
    return to


def failover(settings: Settings, runtime: Runtime, to: str | None, force: bool = False) -> Failover:
    """Make a replica the primary. Raises UserError, before anything is changed when it can be told before."""
    old = runtime.primary
    alive = answers(runtime.servers[old])
    new = choose(runtime, to, force)
    if alive and not force:
        # A primary that stops in order hands on all it has, to whoever is connected.
        streams = "select count(*) from pg_stat_replication where application_name = %s and state = 'streaming'"
        if not one(runtime.servers[old], streams, (new,)):
            raise UserError(
                f"{new} does not stream from {old}, so it may lack a lot: `make up` mends it. FORCE=1 goes on."
            )
    began = time.monotonic()
    with step(f"{old} fenced ({'stopped' if alive else 'it was down'})"):
        runtime.fence(old)
    # The other one may have received the last bytes that this one has not.
    new = choose(runtime, to, force)
    others = [name for name in runtime.replicas if name != new]
    with step(f"{new} promoted"):
        set_primary_name(settings, new)
        runtime.promote(new)
    timeline, position = _fork(runtime, new)
    stray = []
    for name in others:
        if answers(runtime.servers[name]):
            with step(f"{name} turned to {new}"):
                if trouble := _follow(settings, runtime, name):
                    err.print(f"{name} has gone another way ({trouble})", markup=False)
                    stray.append(name)
        else:
            err.print(f"{name} does not answer: `make up` brings it back")
    with step("PgBouncer turned to it, and a write accepted"):
        pooled = runtime.up_pgbouncer() is not None
        wait_for(lambda: _writes(settings, pooled), WRITABLE_SECONDS, f"{new} accepts a write")
        seconds = time.monotonic() - began
    _turn_extraction(settings, runtime)
    for name in stray:
        with step(f"{name} cloned anew"):
            runtime.clone_replica(name)
    lost = runtime.commits_beyond(old, position, timeline)
    # What only the old primary has is looked at before it is wiped.
    rejoined = None
    if lost == []:
        with step(f"{old} follows {new}"):
            rejoined = _rejoin(settings, runtime, old)
    return Failover(old, new, position, lost, seconds, rejoined)


def _follow(settings: Settings, runtime: Runtime, name: str) -> str | None:
    """Let a running replica follow the present primary. Returns why it cannot, or None."""
    members.ensure_slot(settings, name)
    runtime.repoint(name)
    return runtime.why_not_following(name)


def _rejoin(settings: Settings, runtime: Runtime, name: str) -> str:
    """Bring a member that has left the primary's timeline back as a replica. Returns how: rewound, cloned anew."""
    runtime.stop_server(name)
    if not runtime.has_data(name):
        runtime.clone_replica(name)
        return "cloned anew"
    # pg_rewind reads the timeline from the source's last checkpoint.
    members.checkpoint(primary_server(settings))
    try:
        runtime.rewind(name)
    except UserError as error:
        err.print(f"{name} is cloned anew. Found: {error}", markup=False)
        runtime.clone_replica(name)
        return "cloned anew"
    members.ensure_slot(settings, name, clear=True)
    if trouble := runtime.start_replica(name):
        err.print(f"{name} was rewound but does not follow, it is cloned anew. Found: {trouble}", markup=False)
        runtime.clone_replica(name)
        return "cloned anew"
    members.drop_idle_slots(runtime.servers[name])
    return "rewound"


def _fork(runtime: Runtime, new: str) -> tuple[int, str]:
    """The timeline that a promoted server has left, and the position where."""
    history = one(
        runtime.servers[new],
        "select pg_read_file('pg_wal/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '.history')",
    )
    timeline, position, *_ = [line for line in history.splitlines() if line.strip()][-1].split("\t")
    return int(timeline), position


def _writes(settings: Settings, pooled: bool) -> bool:
    """Whether the application's role can commit, on its usual way."""
    primary = primary_server(settings)
    direct = primary.conninfo("app_user", settings.app_user_password.get_secret_value())
    with psycopg.connect(pooled_conninfo(settings) if pooled else direct, prepare_threshold=None) as connection:
        connection.execute("select pg_current_xact_id()")
    return True


def _turn_extraction(settings: Settings, runtime: Runtime) -> None:
    """Tell the warehouse's foreign server the new order of the servers."""
    try:
        with connect(runs.writer_conninfo(settings)) as connection:
            psycopg_notices_off(connection)
            provision.ensure_foreign_server(connection, runtime.inside)
    except (UserError, psycopg.Error) as error:
        err.print(f"The warehouse does not know yet; `make up` tells it. {error}", markup=False)


_LOST_CHANGES = """
    select
        xact_id::text, to_char(change_time, 'YYYY-MM-DD HH24:MI:SS.MS'), changed_by, operation, table_name, record_id,
        coalesce(new_values, old_values)::text
    from operational.audit_log
    where xact_id::text::numeric %% 4294967296 = any(%s)
    order by log_id
"""


def lost_changes(settings: Settings, runtime: Runtime, name: str) -> tuple[int, list[tuple[Any, ...]]]:
    """The changes of the books that only a former primary has, by the trail in a copy of its data.

    The copy is left running. Returns how many of its commits the primary lacks, and for each change: transaction, time,
    role, operation, table, key and values.
    """
    if name not in runtime.replicas:
        raise UserError(f"NAME is {name!r}: expected a former primary, one of {', '.join(runtime.replicas)}.")
    try:
        timeline, position = _fork(runtime, runtime.primary)
    except psycopg.errors.UndefinedFile as error:
        raise UserError("There was no failover: no timeline was ever left.") from error
    if runtime.is_running(name):
        raise UserError(f"{name} runs as a replica: what only it had was wiped when it rejoined.")
    commits = runtime.commits_beyond(name, position, timeline)
    if commits is None:
        raise UserError(f"The WAL of {name} from {position} on is not there, or cannot be read.")
    numbers = [int(found[1]) for line in commits if (found := re.search(r"tx: +(\d+)", line))]
    runtime.start_copy(name, settings.pitr_port)
    return len(commits), ask(recovered_server(settings), _LOST_CHANGES, (numbers,))


def rejoin(runtime: Runtime, name: str | None) -> dict[str, str]:
    """Bring the members back that do not follow the primary (or the named one). Returns how, by name."""
    settings = runtime.settings
    primary = runtime.servers[runtime.primary]
    if in_recovery(primary):
        raise UserError(f"{primary.name} is noted as the primary, but is a replica: `make up` finishes the failover.")
    if name is not None and name not in runtime.replicas:
        raise UserError(f"NAME is {name}: expected one of {', '.join(runtime.replicas)}.")
    streaming = {
        row[0] for row in ask(primary, "select application_name from pg_stat_replication where state = 'streaming'")
    }
    result = {}
    for each in [name] if name else runtime.replicas:
        if each in streaming:
            continue
        with step(f"{each} follows {runtime.primary}"):
            result[each] = _rejoin(settings, runtime, each)
    return result


def _report(found: Failover) -> None:
    out.print(f"[green]{found.new} is the primary[/]; it left the old timeline at {found.position}")
    out.print(f"RTO: {found.seconds:.1f} s from the fencing of {found.old} to the first write accepted")
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
    runtime = chosen(settings)[0]
    with up.exclusive(settings):
        old = runtime.primary
        new = choose(runtime, to, force)
        state = "it is up and will be stopped" if answers(runtime.servers[old]) else "it does not answer"
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
        found = failover(settings, runtime, new, force)
    _report(found)


@app.command(name="failover-diff")
def failover_diff_command(
    name: Annotated[str, typer.Option("--name", metavar="primary", help="The former primary.")] = "",
) -> None:
    """Show the changes that only a former primary has. Example: make failover-diff NAME=primary"""
    settings = load()
    if not name:
        raise UserError("Of which former primary? Example: make failover-diff NAME=primary")
    with up.exclusive(settings):
        commits, changes = lost_changes(settings, chosen(settings)[0], name)
    table = Table(title=f"{commits} commits are only on {name}; their changes of the books")
    for column in ("transaction", "time (UTC)", "by", "change", "table", "key", "values"):
        table.add_column(column, overflow="fold")
    for change in changes:
        table.add_row(*map(str, change))
    out.print(table)
    out.print("A copy of it takes questions: make psql-recovered; make pitr REMOVE=1 removes the copy.")


@app.command(name="rejoin")
def rejoin_command(
    name: Annotated[
        str | None, typer.Option("--name", metavar="primary", help="One member (default: all that have diverged).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do not ask.")] = False,
) -> None:
    """Bring a former primary back as a replica, by pg_rewind. What only it has is lost."""
    settings = load()
    runtime = chosen(settings)[0]
    with up.exclusive(settings):
        confirm("Commits that only a former primary has are wiped from it.", "rejoin", force)
        done = rejoin(runtime, name)
    for each, how in done.items():
        out.print(f"{each} follows {runtime.primary} ({how})")
    if not done:
        out.print("Every replica follows the primary; nothing to do.")
