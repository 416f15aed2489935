"""`make concurrency`: concurrency scenarios, run by real sessions on the same rows, with their outcomes checked.

`docs/concurrency.sql` has the same steps for two psql windows.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from threading import Barrier, Thread
from typing import Annotated

import psycopg
import typer
from psycopg import errors

from eds.base.console import out
from eds.base.errors import UserError
from eds.base.settings import load
from eds.cluster.connections import Cluster
from eds.ops.sandbox import Sandbox, Scenario, Session, open_sandbox

app = typer.Typer()

CROWD = 20
HOLD_SECONDS = 0.02
BAR = 50
READ = "select outstanding_balance from loans where loan_id = {}"
PAY = "update loans set outstanding_balance = outstanding_balance - {} where loan_id = {}"


def read_committed(sandbox: Sandbox) -> None:
    """Two reads of one transaction see two states"""
    a, b = sandbox.session("A"), sandbox.session("B")
    a.do("begin isolation level read committed")
    first = a.value(READ.format(1))
    b.do(PAY.format(100, 1))
    second = a.value(READ.format(1))
    a.do("commit")
    sandbox.check(
        "A reads another balance the second time: each statement has a snapshot of its own", second == first - 100
    )


def repeatable_read(sandbox: Sandbox) -> None:
    """One snapshot for all of a transaction, and what it may not write then"""
    a, b = sandbox.session("A"), sandbox.session("B")
    a.do("begin isolation level repeatable read")
    first = a.value(READ.format(1))
    b.do(PAY.format(100, 1))
    sandbox.check("A still reads the balance of its snapshot", a.value(READ.format(1)) == first)
    sandbox.check(
        "A may not write a row that changed after its snapshot (40001)",
        a.fails(PAY.format(50, 1), errors.SerializationFailure),
    )
    a.do("begin isolation level repeatable read")
    a.do(PAY.format(50, 1))
    a.do("commit")
    sandbox.check("the complete transaction, retried, builds on B's payment", sandbox.balance(1) == first - 150)


def write_skew(sandbox: Sandbox) -> None:
    """Write skew: a rule over two rows, kept by each transaction and broken by both together"""
    total = "select sum(outstanding_balance) from loans where loan_id in (1, 2)"
    draw = "update loans set outstanding_balance = outstanding_balance + 600 where loan_id = {}"
    a, b = sandbox.session("A"), sandbox.session("B")
    limit = a.value(total) + 1000
    sandbox.timeline.note(
        f"the rule: the two loans together may owe {limit}; each session draws 600 more on one of them"
    )

    def run_both(level: str) -> bool:
        """Both check the rule and draw. Returns whether B's transaction failed."""
        for session, loan in ((a, 1), (b, 2)):
            session.do(f"begin isolation level {level}")
            room = limit - session.value(total)
            sandbox.timeline.line(session.name, f"room for {room}, so 600 are fine")
            session.do(draw.format(loan))
        a.do("commit")
        return b.fails("commit", errors.SerializationFailure)

    failed = run_both("repeatable read")
    sum_now = sandbox.balance(1) + sandbox.balance(2)
    sandbox.check("REPEATABLE READ lets both commit, and the rule is broken", not failed and sum_now > limit)
    a.do("update loans set outstanding_balance = outstanding_balance - 600 where loan_id in (1, 2)")
    failed = run_both("serializable")
    sandbox.check("SERIALIZABLE lets one commit and ends the other (40001)", failed)
    b.do("begin isolation level serializable")
    room = limit - b.value(total)
    if room >= 600:
        b.do(draw.format(2))
    else:
        sandbox.timeline.line("B", f"room for {room}: refused")
    b.do("commit")
    sandbox.check(
        "tried again, B sees A's draw and refuses: the rule holds", sandbox.balance(1) + sandbox.balance(2) <= limit
    )


def lost_update(sandbox: Sandbox) -> None:
    """Two payments computed in the application, one lost; and three ways to prevent it"""
    a, b = sandbox.session("A"), sandbox.session("B")
    at_first = sandbox.balance(1)

    known = {session.name: session.value(READ.format(1)) for session in (a, b)}
    for session in (a, b):
        session.do(f"update loans set outstanding_balance = {known[session.name] - 100} where loan_id = 1")
    sandbox.check("read, compute, write back: one of two payments is lost", sandbox.balance(1) == at_first - 100)

    sandbox.timeline.note("first way: select … for update")
    before = sandbox.balance(1)
    for session in (a, b):
        session.do("begin")
    known["A"] = a.value(READ.format(1) + " for update")
    reading = b.start(READ.format(1) + " for update")
    sandbox.check("B waits to read until A is done", sandbox.waits(b, a))
    a.do(f"update loans set outstanding_balance = {known['A'] - 100} where loan_id = 1")
    a.do("commit")
    known["B"] = b.finish(reading)[0][0]
    b.do(f"update loans set outstanding_balance = {known['B'] - 100} where loan_id = 1")
    b.do("commit")
    sandbox.check("both payments count", sandbox.balance(1) == before - 200)

    sandbox.timeline.note("second way: let the database compute")
    before = sandbox.balance(1)
    a.do("begin")
    a.do(PAY.format(100, 1))
    paying = b.start(PAY.format(100, 1))
    sandbox.check("B's update waits for A's", sandbox.waits(b, a))
    a.do("commit")
    b.finish(paying)
    sandbox.check("both payments count", sandbox.balance(1) == before - 200)

    sandbox.timeline.note("third way: a version that must still be the one that was read")
    before = sandbox.balance(1)
    versioned = "select outstanding_balance, version from loans where loan_id = 1"
    write = "update loans set outstanding_balance = {}, version = version + 1 where loan_id = 1 and version = {}"
    seen = {session.name: session.do(versioned)[0] for session in (a, b)}
    changed = [session.do(write.format(seen[session.name][0] - 100, seen[session.name][1])) for session in (a, b)]
    sandbox.check("A's write finds its version, B's finds it gone (0 rows)", changed == [1, 0])
    balance, version = b.do(versioned)[0]
    again = b.do(write.format(balance - 100, version))
    sandbox.check(
        "B reads again and tries again: both payments count", again == 1 and sandbox.balance(1) == before - 200
    )


def work_queue(sandbox: Sandbox) -> None:
    """Workers that share a queue without waiting for each other, and one that does not want to wait"""
    take = "select collection_id from collections where done_by is null order by collection_id limit 1 for update {}"
    workers = [sandbox.session(name) for name in ("worker 1", "worker 2", "worker 3")]
    taken = []
    for worker in workers:
        worker.do("begin")
        taken.append(worker.value(take.format("skip locked")))
    sandbox.check("SKIP LOCKED: each has another job, and nobody waited", len(set(taken)) == 3)
    impatient = sandbox.session("impatient")
    impatient.do("begin")
    sandbox.check(
        "NOWAIT: an error at once (55P03) where a row is taken",
        impatient.fails(take.format("nowait"), errors.LockNotAvailable),
    )
    workers[1].do("rollback")
    for number in (0, 2):
        workers[number].do(
            f"update collections set done_by = '{workers[number].name}' where collection_id = {taken[number]}"
        )
        workers[number].do("commit")
    impatient.do("begin")
    job = impatient.value(take.format("skip locked"))
    impatient.do("commit")
    sandbox.check("the job of a worker that gave up is free again, those done are not", job == taken[1])


def deadlock(sandbox: Sandbox) -> None:
    """Two sessions that wait for each other, and two that cannot"""
    a, b = sandbox.session("A"), sandbox.session("B")
    before = sandbox.balance(1) + sandbox.balance(2)
    a.do("begin")
    b.do("begin")
    a.do(PAY.format(10, 1))
    b.do(PAY.format(10, 2))
    first = a.start(PAY.format(10, 2))
    sandbox.check("A waits for B", sandbox.waits(a, b))
    second = b.start(PAY.format(10, 1))
    sandbox.timeline.note("now B waits for A too: PostgreSQL looks for a circle after deadlock_timeout (1 s)")
    victims: list[Session] = []
    survivors: list[Session] = []
    for session, running in ((a, first), (b, second)):
        (victims if session.fails(running, errors.DeadlockDetected) else survivors).append(session)
    for session in survivors:
        session.do("commit")
    sandbox.check("one was ended with 40P01, the other continued", len(victims) == len(survivors) == 1)
    for session in victims:
        session.do("begin")
        session.do(PAY.format(10, 1))
        session.do(PAY.format(10, 2))
        session.do("commit")
    sandbox.check(
        "the victim tried again: all four payments count", sandbox.balance(1) + sandbox.balance(2) == before - 40
    )

    sandbox.timeline.note("avoided: everybody takes the rows in the order of their keys")
    for session in (a, b):
        session.do("begin")
    a.do(PAY.format(10, 1))
    running = b.start(PAY.format(10, 1))
    sandbox.check("B waits at the first row, before it holds anything", sandbox.waits(b, a))
    a.do(PAY.format(10, 2))
    a.do("commit")
    b.finish(running)
    b.do(PAY.format(10, 2))
    b.do("commit")
    sandbox.check("no deadlock, and all payments count", sandbox.balance(1) + sandbox.balance(2) == before - 80)


def rollback(sandbox: Sandbox) -> None:
    """All of a transaction, or nothing"""
    a, b = sandbox.session("A"), sandbox.session("B")
    before = (sandbox.balance(1), sandbox.balance(2))
    a.do("begin")
    a.do("update loans set outstanding_balance = outstanding_balance + 100 where loan_id = 1")
    sandbox.check("B does not see what A has not committed", b.value(READ.format(1)) == before[0])
    failed = a.fails(
        f"update loans set outstanding_balance = -{before[1]} - 1 where loan_id = 2", errors.CheckViolation
    )
    sandbox.check("the second half breaks a rule of the table (23514)", failed)
    sandbox.check("the first half is gone too", (sandbox.balance(1), sandbox.balance(2)) == before)
    a.do("begin")
    a.do(PAY.format(100, 1))
    a.do("savepoint half")
    try:
        a.do("update loans set outstanding_balance = -1 where loan_id = 2")
    except errors.CheckViolation:
        a.do("rollback to savepoint half")
    a.do("commit")
    sandbox.check("with a savepoint, only what came after it is undone", sandbox.balance(1) == before[0] - 100)


def mvcc(sandbox: Sandbox) -> None:
    """Row versions, and where to look at sessions and locks"""
    look = "select ctid, xmin, xmax, outstanding_balance from loans where loan_id = 1"
    a, b = sandbox.session("A"), sandbox.session("B")
    b.do("begin isolation level repeatable read")
    (old,) = b.do(look)
    a.do("begin")
    (number,) = a.do("select pg_current_xact_id()::xid::text")[0]
    a.do(PAY.format(100, 1))
    (new,) = a.do(look)
    (seen,) = b.do(look)
    sandbox.check(
        "A sees a new version in another place, made by its own transaction (xmin)",
        new[0] != old[0] and str(new[1]) == number,
    )
    sandbox.check(
        "B sees the old version, marked as ended by A's transaction (xmax)",
        seen[0] == old[0] and str(seen[2]) == number,
    )
    paying = sandbox.session("C").start(PAY.format(50, 1))
    c = sandbox.sessions[-1]
    sandbox.check("a third session that wants to write waits for A's transaction", sandbox.waits(c, a))
    watcher = sandbox.session("watcher")
    activity = watcher.do(
        "select application_name, state, wait_event_type from pg_stat_activity "
        "where application_name in ('concurrency A', 'concurrency C') order by 1"
    )
    sandbox.check(
        "pg_stat_activity: A idle in a transaction, C active and waiting for a lock",
        activity == [("concurrency A", "idle in transaction", "Client"), ("concurrency C", "active", "Lock")],
    )
    locks = watcher.do(f"select locktype, mode, granted from pg_locks where pid = {c.pid} and not granted")
    sandbox.check("pg_locks: what C waits for is A's transaction id", locks == [("transactionid", "ShareLock", False)])
    a.do("commit")
    c.finish(paying)
    sandbox.check("B, in its snapshot, still sees the old version", b.do(look)[0][3] == old[3])
    b.do("commit")
    sandbox.check("afterwards it sees both payments", b.do(look)[0][3] == old[3] - 150)


def crowd(sandbox: Sandbox) -> None:
    """Twenty sessions that pay on one loan at once"""
    sessions = [sandbox.session(f"{number + 1:2}", silent=True) for number in range(CROWD)]
    before = sandbox.balance(1)
    together = Barrier(CROWD)
    waited: dict[str, float] = {}
    held: list[tuple[float, float]] = []
    trouble: list[BaseException] = []

    def pay(session: Session) -> None:
        try:
            together.wait()
            session.do("begin")
            began = time.monotonic()
            session.do(PAY.format(1, 1))
            got = time.monotonic()
            waited[session.name] = got - began
            # What the application does while it holds the row.
            session.do(f"select pg_sleep({HOLD_SECONDS})")
            held.append((got, time.monotonic()))
            session.do("commit")
        except (psycopg.Error, UserError) as error:
            trouble.append(error)

    threads = [Thread(target=pay, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    longest = max(waited.values(), default=0.0)
    for name, seconds in sorted(waited.items(), key=lambda item: item[1]):
        bar = "█" * max(1, round(BAR * seconds / longest)) if longest else ""
        sandbox.timeline.note(f"session {name} waited {seconds * 1000:7.1f} ms {bar}")
    sandbox.check("no session failed", not trouble)
    sandbox.check(f"all {CROWD} payments count", sandbox.balance(1) == before - CROWD)
    in_order = sorted(held)
    apart = all(earlier[1] <= later[0] for earlier, later in pairwise(in_order))
    sandbox.check("no two of them held the row at the same time", apart and len(held) == CROWD)


SCENARIOS: dict[str, Scenario] = {
    "read-committed": read_committed,
    "repeatable-read": repeatable_read,
    "write-skew": write_skew,
    "lost-update": lost_update,
    "work-queue": work_queue,
    "deadlock": deadlock,
    "rollback": rollback,
    "mvcc": mvcc,
    "crowd": crowd,
}


def select_scenarios(only: str | None) -> list[str]:
    """Return the names of the scenarios to run. Raises UserError for one that does not exist."""
    names = [name.strip() for name in (only or "").replace(",", " ").split()] or list(SCENARIOS)
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise UserError(f"There is no scenario {', '.join(unknown)}. Choose of: {', '.join(SCENARIOS)}.")
    return names


def run_scenarios(cluster: Cluster, names: list[str], *, plain: bool) -> list[tuple[str, str, bool]]:
    """Run scenarios. Returns each outcome: scenario, what should be so, whether it is."""
    result = []
    with open_sandbox(cluster, plain=plain) as sandbox:
        for name in names:
            sandbox.reset()
            sandbox.outcomes.clear()
            sandbox.timeline.begin(name, (SCENARIOS[name].__doc__ or "").strip())
            try:
                SCENARIOS[name](sandbox)
            except (psycopg.Error, UserError, IndexError) as error:
                sandbox.check(f"ran to its end ({error})".replace("\n", " "), False)
            result += [(name, what, holds) for what, holds in sandbox.outcomes]
    return result


@app.command(name="concurrency")
def concurrency_command(
    only: Annotated[str | None, typer.Option("--only", metavar="deadlock,mvcc", help="Names of scenarios.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines for a log, no columns.")] = False,
) -> None:
    """Run concurrency scenarios: what happens when sessions meet on the same rows.

    Example: make concurrency ONLY=deadlock,lost-update
    """
    names = select_scenarios(only)
    outcomes = run_scenarios(Cluster(load()), names, plain=plain or not sys.stdout.isatty())
    failed = [f"{name}: {what}" for name, what, holds in outcomes if not holds]
    out.print()
    out.print(f"{len(names)} scenarios, {len(outcomes) - len(failed)} outcomes as expected, {len(failed)} not")
    for line in failed:
        out.print(f"[bold red]✗[/] {line}")
    raise typer.Exit(1 if failed else 0)
