"""Which server has seen what: a snapshot may be read when it contains everything that the last one contained.

xmin and xmax cannot order two servers while an older transaction is open, nor can the newest entry of the trail.
"""

from __future__ import annotations

import math
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds.cluster import connections
from eds.cluster.connections import connect
from eds.ops import health
from eds.runtime.ports import free_ports
from eds.scheduler import Scheduler
from eds.warehouse import runs, source_watch
from eds.warehouse.runs import DATA_BUILD
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform, fill_small_book, use_only
from support.servers import (
    REPLICAS,
    all_replicas_replay,
    cut_off,
    pause_replay,
    reconnect,
    replay_paused,
    replica_cut_off,
    resume_replay,
    server_frozen,
    server_read,
    server_stopped,
    superuser,
    wait_for_replica,
)
from support.waiting import wait_until

pytestmark = pytest.mark.proof

EXAMPLES = int(os.environ.get("CAUSAL_ORDER_EXAMPLES", "2"))

NO_DELETION = "select loan_id from snapshots.loans_snapshot where is_deleted"


def port_of(platform: Platform, name: str) -> str:
    return str(platform.servers[name].port)


def foreign_server(platform: Platform) -> Any:
    """Return the options of the foreign server, which no run may change for good."""
    return platform.warehouse("select srvoptions from pg_foreign_server where srvname = 'oltp'")


# --- an older transaction is open ------------------------------------------------------------------------------------


def a_loan_is_missed(platform: Platform, stack: ExitStack) -> None:
    """S1, which began before S2, commits a loan after the replica stopped replaying."""
    older, late = (stack.enter_context(connect(platform.app_conninfo)) for _ in range(2))
    older.execute("update operational.customers set phone = '1' where customer_id = 6")
    late.execute("update operational.customers set phone = '2' where customer_id = 5")
    with platform.app() as connection:
        connection.execute("update operational.customers set city = 'Eldoret' where customer_id = 2")
    wait_for_replica(platform, "replica2")
    stack.enter_context(replay_paused(platform, "replica2"))
    pay(late, add_loan(late, 1))
    late.commit()
    wait_for_replica(platform, "replica1")
    use_only(platform, "replica1")
    platform.build()
    use_only(platform, "replica1", "replica2", "primary")
    assert_landing_equals_source(platform)
    stack.enter_context(server_stopped(platform, "replica1"))
    older.commit()


def a_balance_is_missed(platform: Platform, stack: ExitStack) -> None:
    """Do the same with one loan, updated by both, and a last transaction that both replicas have."""
    older, late = (stack.enter_context(connect(platform.app_conninfo)) for _ in range(2))
    older.execute("update operational.customers set phone = '1' where customer_id = 6")
    late.execute("update operational.customers set phone = '2' where customer_id = 5")
    with platform.app() as connection:
        connection.execute("update operational.loans set loan_officer = 'Achieng' where loan_id = 1")
    pay(late, 1, "40.00", "4.00")
    # Replica 1 replays the commit of the payment, replica 2 does not; the newest entry of the trail is on both.
    with platform.app() as connection:
        connection.execute("update operational.customers set city = 'Eldoret' where customer_id = 2")
    wait_for_replica(platform, "replica2")
    stack.enter_context(replay_paused(platform, "replica2"))
    late.commit()
    wait_for_replica(platform, "replica1")
    use_only(platform, "replica1")
    platform.build()
    use_only(platform, "replica1", "replica2", "primary")
    stack.enter_context(server_stopped(platform, "replica1"))
    older.commit()


@pytest.mark.parametrize("story", [a_loan_is_missed, a_balance_is_missed])
def test_a_replica_that_lacks_a_transaction_is_behind_though_an_older_one_is_open(small_book, story):
    platform = small_book
    with ExitStack() as stack:
        story(platform, stack)
        result = platform.build()
        assert result.run["extraction_mode"] == "changes", result.run["extraction_reason"]
        assert result.run["source_host"].endswith(port_of(platform, "primary"))
        assert_landing_equals_source(platform)
        assert_views_equal_the_oltp(platform)
        assert platform.warehouse(NO_DELETION) == []
        # With only the replica that lacks it, the run waits, fails, and says why.
        use_only(platform, "replica2")
        failed = platform.dbt(*DATA_BUILD, environment={"ETL_SOURCE_WAIT_SECONDS": "1"})
        assert failed.exit_code != 0
        assert "behind what the warehouse has seen" in failed.run["error_message"]
        assert_landing_equals_source(platform)


# --- a replica without a walreceiver ---------------------------------------------------------------------------------


def test_a_replica_that_is_cut_off_is_not_read_while_another_server_is_current(small_book):
    platform = small_book
    use_only(platform, "replica1", "replica2", "primary")
    with replica_cut_off(platform, "replica1"):
        with platform.app() as connection:
            pay(connection, 1, "5.00", "0.50")
        wait_for_replica(platform, "replica2")
        result = platform.build()
        assert result.run["source_host"].endswith(port_of(platform, "replica2"))
        assert_landing_equals_source(platform)


def test_data_of_a_replica_that_is_cut_off_are_as_old_as_what_it_has_replayed(small_book):
    """With nobody else to ask its data are used, and their age is what they say."""
    platform = small_book
    with platform.app() as connection:
        pay(connection, 1, "5.00", "0.50")
    platform.wait_for_replicas()
    with replica_cut_off(platform, "replica1"):
        cut_at = platform.primary("select clock_timestamp()")[0][0]
        with platform.app() as connection:
            pay(connection, 1, "6.00", "0.50")
        use_only(platform, "replica1")
        result = platform.build()
        assert result.run["snapshot_time"] < cut_at
        [(data_as_of,)] = platform.warehouse("select data_as_of from publish.published_state")
        assert data_as_of < cut_at
        assert platform.warehouse("select count(*) from operational.payments where amount = 5.50") == [(1,)]
        assert platform.warehouse("select count(*) from operational.payments where amount = 6.50") == [(0,)]
    wait_for_replica(platform, "replica1")
    platform.build()
    assert_landing_equals_source(platform)


# --- the choice of a server is the run's own -------------------------------------------------------------------------


def behind_replica_first(platform: Platform, stack: ExitStack) -> None:
    """Let the warehouse have seen a payment that the replica it prefers has not replayed."""
    stack.enter_context(replay_paused(platform, "replica1"))
    with platform.app() as connection:
        pay(connection, 1, "5.00", "0.50")
    wait_for_replica(platform, "replica2")
    use_only(platform, "replica2")
    platform.build()
    use_only(platform, "replica1", "replica2", "primary")
    with platform.app() as connection:
        connection.execute("update operational.customers set city = 'Eldoret' where customer_id = 2")
    wait_for_replica(platform, "replica2")


def test_a_failed_run_that_had_moved_to_another_server_leaves_the_foreign_server_as_it_was(small_book):
    platform = small_book
    with ExitStack() as stack:
        behind_replica_first(platform, stack)
        before = foreign_server(platform)
        platform.warehouse("alter table operational.customers add constraint nowhere check (city <> 'Eldoret')")
        failed = platform.dbt(*DATA_BUILD)
        assert failed.exit_code != 0
        assert "nowhere" in failed.run["error_message"]
        assert foreign_server(platform) == before
        platform.warehouse("alter table operational.customers drop constraint nowhere")
        stack.enter_context(server_stopped(platform, "replica2"))
        assert platform.build().run["source_host"].endswith(port_of(platform, "primary"))
        assert foreign_server(platform) == before
        assert_landing_equals_source(platform)


def test_a_killed_run_that_had_moved_to_another_server_leaves_the_foreign_server_as_it_was(small_book):
    platform = small_book
    with ExitStack() as stack:
        behind_replica_first(platform, stack)
        before = foreign_server(platform)
        with connect(platform.warehouse_conninfo) as lock:
            lock.execute("lock table operational.customers in access exclusive mode")
            child = platform.start_dbt(*DATA_BUILD)
            wait_until(lambda: platform.warehouse("select 1 from pg_locks where not granted and locktype = 'relation'"))
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        assert foreign_server(platform) == before
        platform.build()
        assert_landing_equals_source(platform)


# --- a server that freezes while it is read --------------------------------------------------------------------------


@contextmanager
def source_that_freezes(platform: Platform) -> Iterator[Callable[[], None]]:
    """Make a payment, and yield what freezes a server as soon as a run is in the middle of reading it."""
    with platform.app() as connection:
        pay(connection, 1, "5.00", "0.50")
    platform.wait_for_replicas()
    use_only(platform, "replica1", "replica2", "primary")
    with ExitStack() as stack:
        lock = stack.enter_context(connect(platform.warehouse_conninfo))
        lock.execute("lock table operational.loans in exclusive mode")

        def freeze() -> None:
            waiting = "select 1 from pg_locks where not granted and relation = 'operational.loans'::regclass"
            wait_until(lambda: platform.warehouse(waiting))
            stack.enter_context(server_frozen(platform, "replica1"))
            lock.rollback()

        yield freeze


@pytest.fixture
def impatient(monkeypatch):
    """Let a run be ended as soon as its source has not answered once."""
    monkeypatch.setattr(source_watch, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(source_watch, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(source_watch, "PING_SECONDS", 2)


def test_a_run_whose_source_freezes_is_named_and_ended_and_the_next_one_reads_another(small_book, impatient):
    platform = small_book
    with source_that_freezes(platform) as freeze:
        child = platform.start_dbt(*DATA_BUILD, environment={"ETL_STARTED_BY": "reader of what freezes"})
        with (
            pytest.MonkeyPatch.context() as patch,
            runs.ending_when_silent(platform.cluster, "reader of what freezes", child.kill),
        ):
            patch.setattr(source_watch, "SILENT_SECONDS", math.inf)
            freeze()
            wait_until(lambda: source_watch.reading(platform.cluster))
            problems = health.health(platform.runtime)["problems"]
            named = r"run \d+ by reader of what freezes waits for replica1, which does not answer"
            assert any(re.search(named, text) for text in problems), problems
            patch.setattr(source_watch, "SILENT_SECONDS", 0.0)
            child.join(20)
        ended = not child.is_alive()
        child.kill()
        child.join()
        assert ended, "the run went on waiting"
        run = platform.run_of("reader of what freezes")
        assert run is not None and "replica1 has stopped answering" in run["error_message"]
        assert runs.failed_transiently(platform.cluster, "reader of what freezes")
        assert platform.build().run["source_host"].endswith(port_of(platform, "replica2"))
        assert_landing_equals_source(platform)
        # The same when nobody watched, and the run was killed: its session still hangs on a frozen server (PostgreSQL
        # before version 17), and is not taken for a run that is alive.
        platform.warehouse(f"update audit.etl_runs set status = 'running' where run_id = {run['run_id']}")
        hanging = "select count(*) from pg_stat_activity where query like %s and pid <> pg_backend_pid()"
        recent = f"{hanging} and state_change > clock_timestamp() - interval '31 seconds'"
        sessions = (f"/* invocation {run['dbt_invocation_id']}%",)
        wait_until(lambda: platform.warehouse(recent, sessions) == [(0,)], 60)
        assert runs.live_run(platform.cluster, 0) is None
        assert platform.dbt("run", "--select", "extraction").exit_code == 0
    platform.wait_for_replicas()
    platform.build()
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)


def test_a_run_is_not_ended_because_its_source_is_out_of_reach_of_whoever_started_it(small_book, impatient):
    """The scheduler's container reaches the warehouse alone."""
    platform = small_book
    elsewhere = dict(zip(("primary_port", "replica1_port", "replica2_port"), free_ports(3), strict=True))
    out_of_reach = connections.Cluster(platform.settings.model_copy(update=elsewhere))
    ended = []
    with source_that_freezes(platform) as freeze:
        child = platform.start_dbt(*DATA_BUILD, environment={"ETL_STARTED_BY": "out of reach"})
        with runs.ending_when_silent(out_of_reach, "out of reach", lambda: ended.append(child.kill())):
            freeze()
            wait_until(lambda: source_watch.reading(platform.cluster))
            child.join(4)
    child.join()
    assert (ended, child.exitcode) == ([], 0)


def test_a_run_is_marked_when_the_update_came_before_its_session_gave_up(small_book):
    """What already waits for the session's lock on the run's row waits for as long as the session hangs."""
    platform = small_book
    with source_that_freezes(platform) as freeze:
        child = platform.start_dbt(*DATA_BUILD, environment={"ETL_STARTED_BY": "slow to end"})
        freeze()
        wait_until(lambda: source_watch.reading(platform.cluster))
        [(session,)] = platform.warehouse(
            "select pid from pg_stat_activity where query like '/* invocation %' and wait_event_type = 'Extension'"
        )
        waiting = (
            "select 1 from pg_stat_activity where query like 'update audit.etl_runs%' and wait_event_type = 'Lock'"
        )
        marking = threading.Thread(target=runs.mark_cancelled, args=(platform.cluster, "slow to end", "has frozen"))
        os.kill(session, signal.SIGSTOP)
        try:
            marking.start()
            wait_until(lambda: platform.warehouse(waiting))
        finally:
            os.kill(session, signal.SIGCONT)
        marking.join()
        child.kill()
        child.join()
        run = platform.run_of("slow to end")
        assert run is not None and (run["status"], run["error_message"]) == ("failed", "has frozen")
    platform.build()
    assert_landing_equals_source(platform)


@pytest.mark.parametrize("way", ["scheduler", "make etl"])
def test_whoever_starts_a_run_tries_again_when_its_source_freezes(small_book, impatient, way, tmp_path):
    platform = small_book
    succeeded = []

    def start() -> None:
        if way == "scheduler":
            succeeded.append(Scheduler(platform.settings).run_once(full=False))
        else:
            succeeded.append(runs.build(platform.cluster, unit_tests=False, log=tmp_path / "dbt.log") == 0)

    with source_that_freezes(platform) as freeze:
        thread = threading.Thread(target=start)
        thread.start()
        freeze()
        thread.join(180)
        ended = not thread.is_alive()
    thread.join()
    assert ended and succeeded == [True]
    assert_landing_equals_source(platform)


# --- a standby that is ahead of its primary --------------------------------------------------------------------------


@contextmanager
def commit_that_waits_for_a_standby(platform: Platform) -> Iterator[threading.Event]:
    """Keep the commit of a payment waiting for a synchronous standby that is not there; the event releases it."""

    def let_wait(value: str) -> None:
        with superuser(platform, "primary") as primary:
            primary.execute(f"alter system set synchronous_standby_names = '{value}'")
            primary.execute("select pg_reload_conf()")

    def commit() -> None:
        with platform.app() as connection:
            pay(connection, 1, "5.00", "0.50")

    def release() -> None:
        released.wait()
        let_wait("")

    released = threading.Event()
    let_wait("nobody")
    threads = [threading.Thread(target=target) for target in (commit, release)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: platform.primary("select 1 from pg_stat_activity where wait_event = 'SyncRep'"))
        yield released
    finally:
        released.set()
        for thread in threads:
            thread.join()
        with superuser(platform, "primary") as primary:
            primary.execute("alter system reset synchronous_standby_names")
            primary.execute("select pg_reload_conf()")


def see_it_on_a_standby(platform: Platform) -> None:
    wait_for_replica(platform, "replica1")
    use_only(platform, "replica1")
    platform.build()
    assert platform.warehouse("select count(*) from operational.payments where amount = 5.50") == [(1,)]
    assert platform.primary("select count(*) from operational.payments where amount = 5.50") == [(0,)]


def test_a_primary_that_does_not_show_a_commit_yet_was_not_put_back(small_book):
    platform = small_book
    with commit_that_waits_for_a_standby(platform):
        see_it_on_a_standby(platform)
        use_only(platform, "primary")
        failed = platform.dbt(*DATA_BUILD, environment={"ETL_SOURCE_WAIT_SECONDS": "3"})
        assert failed.exit_code != 0
        assert "waits there for synchronous replication" in failed.run["error_message"]
        assert platform.warehouse("select count(*) from operational.payments where amount = 5.50") == [(1,)]
    assert platform.build().run["extraction_mode"] == "changes"
    assert_landing_equals_source(platform)


def test_a_run_waits_for_a_commit_that_a_standby_has_shown(small_book):
    platform = small_book
    with commit_that_waits_for_a_standby(platform) as released:
        see_it_on_a_standby(platform)
        use_only(platform, "primary")
        child = platform.start_dbt(
            *DATA_BUILD, environment={"ETL_STARTED_BY": "patient", "ETL_SOURCE_WAIT_SECONDS": "30"}
        )
        wait_until(lambda: platform.warehouse("select 1 from pg_stat_activity where query like '%pg_sleep(0.5)%'"))
        released.set()
        child.join()
        assert child.exitcode == 0
        run = platform.run_of("patient")
        assert run is not None and run["extraction_mode"] == "changes"
    assert_landing_equals_source(platform)


# --- what is noted down of the last snapshot -------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [200000, 3])
def test_a_lagging_replica_is_never_read_however_many_transactions_overlapped(small_book, limit):
    """Behind a limit no list is kept: the servers are distinguished by xmin alone, which is stricter."""
    platform = small_book
    options = ("--vars", f"{{max_seen_transactions: {limit}}}")
    with ExitStack() as stack:
        older = stack.enter_context(connect(platform.app_conninfo))
        older.execute("update operational.customers set phone = '1' where customer_id = 6")
        for number in range(5):
            with platform.app() as connection:
                add_customer(connection, f"Newcomer {number}")
        platform.wait_for_replicas()
        use_only(platform, "replica1")
        platform.build(*options)
        [(noted, complete)] = platform.warehouse(
            "select (select count(*) from audit.extraction_transactions), trail_is_complete from audit.extraction_state"
        )
        assert (noted, complete) == ((5, True) if limit > 5 else (0, False))
        use_only(platform, "replica2")
        if complete:
            assert platform.build(*options).run["extraction_mode"] == "changes"
        else:
            failed = platform.dbt(*DATA_BUILD, environment={"ETL_SOURCE_WAIT_SECONDS": "1"})
            assert failed.exit_code != 0 and "is behind" in failed.run["error_message"]
            # The primary cannot be behind; what cannot be distinguished is compared.
            use_only(platform, "primary")
            result = platform.build()
            assert result.run["extraction_mode"] == "reconcile"
            assert "more transactions overlapped" in result.run["extraction_reason"]
            use_only(platform, "replica2")
        assert_landing_equals_source(platform)
        older.commit()
    platform.wait_for_replicas()
    assert platform.build().run["extraction_mode"] == "changes"
    assert_landing_equals_source(platform)


def test_what_was_seen_is_asked_of_the_source_by_its_index(small_book):
    """Neither the whole trail travels, nor is it read, to find out whether a server is behind."""
    platform = small_book
    query = "select * from {}.trail_transactions where xact_id >= '700'::xid8 and xact_id < '800'::xid8"
    with connect(platform.writer_conninfo) as connection:
        plan = "\n".join(row[0] for row in connection.execute(f"explain (verbose) {query.format('operational_fdw')}"))
        assert "xact_id >= '700'" in plan and "xact_id < '800'" in plan.split("Remote SQL")[1], plan
        plan = "\n".join(
            row[0]
            for row in connection.execute(
                "explain (verbose) select count(*), sum(log_id), min(change_time), max(change_time) "
                "from operational_fdw.trail where xact_id >= '700'::xid8 and xact_id < '800'::xid8"
            )
        )
        assert "SELECT count(*), sum(log_id)" in plan.split("Remote SQL")[1], plan
    with connect(platform.superuser_conninfo) as connection:
        connection.execute("set enable_seqscan = off")
        plan = "\n".join(row[0] for row in connection.execute(f"explain {query.format('etl')}"))
    assert "audit_log_xact_id_idx" in plan, plan


# --- any order of events ---------------------------------------------------------------------------------------------

SESSIONS = 3
EVENTS = (
    *("write", "write", "write", "delete", "open", "open", "commit", "commit", "rollback"),
    *("pause", "pause", "resume", "cut", "connect", "restart", "run", "run", "run"),
)


@dataclass(frozen=True)
class Event:
    """Something that happens; `number` chooses who and what."""

    kind: str
    number: int


events = st.builds(Event, st.sampled_from(EVENTS), st.integers(0, 999))


@dataclass
class Cluster:
    """A cluster with open transactions and lagging replicas, and what is known to be committed.

    Each transaction adds a customer of its own name, which is never deleted, beside a payment with its balance.
    """

    platform: Platform
    sessions: list[psycopg.Connection]
    # When the commit of each transaction had returned, by the name of its customer.
    committed: dict[str, datetime] = field(default_factory=dict)
    opened: dict[int, str] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    counter: int = 0

    def happen(self, event: Event) -> None:
        replica = REPLICAS[event.number % 2]
        number = event.number % SESSIONS
        session = self.sessions[number]
        if event.kind in ("write", "delete"):
            with self.platform.app() as connection:
                name = self.change(connection, 5 + event.number % 2)
                if event.kind == "delete":
                    connection.execute(
                        "delete from operational.payments where payment_id = "
                        "(select min(payment_id) from operational.payments where loan_id in (5, 6))"
                    )
            self.note(name)
        elif event.kind == "open" and number not in self.opened:
            self.opened[number] = self.change(session, 1 + number)
        elif event.kind in ("commit", "rollback") and number in self.opened:
            name = self.opened.pop(number)
            if event.kind == "commit":
                # Its last entries in the trail come after those of transactions that began later.
                later = self.change(session, 1 + number)
                session.commit()
                self.note(name, later)
            else:
                session.rollback()
        elif event.kind == "pause":
            pause_replay(self.platform, replica)
            self.paused.add(replica)
        elif event.kind == "resume":
            resume_replay(self.platform, replica)
            self.paused.discard(replica)
        elif event.kind == "cut" and replica not in self.cut | self.paused:
            cut_off(self.platform, replica)
            self.cut.add(replica)
        elif event.kind == "connect" and replica in self.cut and replica not in self.paused:
            reconnect(self.platform, replica)
            self.cut.discard(replica)
        elif event.kind == "restart":
            self.platform.runtime.postmaster.stop(replica)
            self.platform.runtime.postmaster.start(replica)
            self.paused.discard(replica)
        elif event.kind == "run":
            names = sorted((*REPLICAS, "primary"), key=lambda name: (event.number * sum(map(ord, name))) % 101)
            self.run(names[: 1 + event.number % 3])

    def change(self, connection: psycopg.Connection, loan: int) -> str:
        self.counter += 1
        name = f"T{self.counter}"
        add_customer(connection, name)
        pay(connection, loan, "1.00", "0.25")
        return name

    def note(self, *names: str) -> None:
        [(now,)] = self.platform.primary("select clock_timestamp()")
        self.committed |= dict.fromkeys(names, now)

    def run(self, names: list[str]) -> None:
        """Extract, and compare: with the server that was read, with what was seen before, with what data_as_of says."""
        for name in REPLICAS:
            if name not in self.paused | self.cut:
                wait_for_replica(self.platform, name)
        use_only(self.platform, *names)
        result = self.platform.dbt(
            "run", "--select", "extraction", environment={"ETL_MAX_DELETE_SHARE": "1", "ETL_SOURCE_WAIT_SECONDS": "2"}
        )
        assert result.run is not None
        landed = {row[0] for row in self.platform.warehouse("select full_name from operational.customers")}
        if result.exit_code != 0:
            assert "behind what the warehouse has seen" in result.run["error_message"], result.run["error_message"]
            assert "primary" not in names, "the primary has seen everything"
            return
        # Comparing all rows would hide what the changes alone had missed.
        assert result.run["extraction_mode"] in ("first load", "changes"), result.run["extraction_reason"]
        read = server_read(self.platform, result.run)
        assert_landing_equals_source(self.platform, self.platform.servers[read].superuser_conninfo())
        assert self.seen <= landed, f"gone again: {self.seen - landed}"
        assert not {name for name in landed if name.startswith("T")} - self.committed.keys()
        as_of = result.run["snapshot_time"]
        missing = {name for name, at in self.committed.items() if at < as_of} - landed
        assert not missing, f"data_as_of says {as_of}, but {missing} are missing, read from {read}"
        self.seen = landed


@contextmanager
def cluster_of(platform: Platform) -> Iterator[Cluster]:
    platform.empty_book()
    platform.empty_warehouse()
    fill_small_book(platform)
    with ExitStack() as stack:
        sessions = [stack.enter_context(connect(platform.app_conninfo)) for _ in range(SESSIONS)]
        try:
            yield Cluster(platform, sessions)
        finally:
            for session in sessions:
                with suppress(psycopg.Error):
                    session.rollback()
            all_replicas_replay(platform)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(script=st.lists(events, min_size=15, max_size=40))
def test_whichever_server_answers_nothing_goes_backwards_and_data_as_of_is_true(all_servers, script):
    with cluster_of(all_servers) as cluster:
        for event in script:
            cluster.happen(event)
        all_replicas_replay(all_servers)
        cluster.paused.clear()
        cluster.cut.clear()
        cluster.run(["replica2", "primary"])
        for number in list(cluster.opened):
            cluster.happen(Event("commit", number))
        cluster.run(["replica1", "replica2", "primary"])
        assert cluster.committed.keys() <= cluster.seen
