"""Transactions that overlap runs in every way: nothing is missed, and nothing unfinished is seen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds.cluster.connections import connect
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source
from support.platform import Platform, use_only

pytestmark = pytest.mark.proof

EXAMPLES = int(os.environ.get("LATE_COMMIT_EXAMPLES", "3"))
SESSIONS = 3
SOURCES = ("replica1", "replica2", "primary")

WRITES = ("add_customer", "pay", "move_customer", "edit_payment", "delete_payment", "replace_customer")
KINDS = (
    *WRITES,
    *WRITES,
    *("savepoint", "rollback_to_savepoint", "release_savepoint"),
    *("commit", "rollback", "prepare", "prepare", "commit_prepared", "rollback_prepared"),
    *("run", "run", "run"),
)


@dataclass(frozen=True)
class Step:
    """One step of one session; `number` chooses rows and, for a run, the source."""

    kind: str
    session: int
    number: int


steps = st.builds(Step, st.sampled_from(KINDS), st.integers(0, SESSIONS - 1), st.integers(0, 999))


@dataclass
class Session:
    """A client with at most one open transaction, and its savepoints."""

    connection: psycopg.Connection
    is_open: bool = False
    savepoints: list[str] = field(default_factory=list)

    def execute(self, statement: str) -> None:
        if not self.is_open:
            self.connection.execute("begin")
            self.is_open = True
        self.connection.execute(statement)

    def end(self, how: str) -> None:
        if self.is_open:
            self.connection.execute(how)
        self.is_open = False
        self.savepoints.clear()


@dataclass
class Scenario:
    """Steps of several sessions on the platform's primary."""

    platform: Platform
    sessions: list[Session]
    prepared: list[str] = field(default_factory=list)
    counter: int = 0

    def step(self, step: Step) -> None:
        """Do one step. A step that waits for another session's lock, or hits a constraint, ends its transaction."""
        session = self.sessions[step.session]
        try:
            self._do(session, step)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.IntegrityError):
            session.end("rollback")

    def _do(self, session: Session, step: Step) -> None:
        self.counter += 1
        if step.kind in WRITES:
            session.execute("select 1")
            self._write(session.connection, step)
        elif step.kind == "savepoint":
            name = f"point_{self.counter}"
            session.execute(f"savepoint {name}")
            session.savepoints.append(name)
        elif step.kind in ("rollback_to_savepoint", "release_savepoint"):
            if session.savepoints:
                kept = step.number % len(session.savepoints)
                how = "rollback to" if step.kind.startswith("rollback") else "release"
                session.execute(f"{how} savepoint {session.savepoints[kept]}")
                # Both end the savepoints set after it; a release ends the one it names, too.
                del session.savepoints[kept + (1 if how == "rollback to" else 0) :]
        elif step.kind in ("commit", "rollback"):
            session.end(step.kind)
        elif step.kind == "prepare":
            if session.is_open and len(self.prepared) < 5:
                name = f"late_{self.counter}"
                session.end(f"prepare transaction '{name}'")
                self.prepared.append(name)
        elif step.kind in ("commit_prepared", "rollback_prepared"):
            if self.prepared:
                name = self.prepared.pop(step.number % len(self.prepared))
                self.platform.primary(f"{step.kind.replace('_', ' ')} '{name}'")
        else:
            self.run(SOURCES[step.number % len(SOURCES)])

    def _write(self, connection: psycopg.Connection, step: Step) -> None:
        def one(query: str) -> int:
            keys = [row[0] for row in connection.execute(query).fetchall()]
            return keys[step.number % len(keys)] if keys else 0

        customer = one("select customer_id from operational.customers order by 1")
        payment = one("select payment_id from operational.payments order by 1")
        if step.kind == "add_customer":
            add_customer(connection, f"Customer {step.number}")
        elif step.kind == "pay":
            pay(connection, one("select loan_id from operational.loans order by 1"), "1.00", "0.25")
        elif step.kind == "move_customer":
            connection.execute(
                "update operational.customers set city = %s where customer_id = %s", (f"City {step.number}", customer)
            )
        elif step.kind == "edit_payment":
            connection.execute(
                "update operational.payments set notes = %s where payment_id = %s", (f"note {step.number}", payment)
            )
        elif step.kind == "delete_payment":
            connection.execute("delete from operational.payments where payment_id = %s", (payment,))
        else:
            # Only those without loans go; the key comes back in the same transaction.
            connection.execute("delete from operational.customers where customer_id = %s", (customer,))
            add_customer(connection, f"Again {step.number}", customer_id=customer)

    def run(self, source: str) -> None:
        """Extract from one server, and compare with what is committed now: all of it, and nothing else."""
        self.platform.wait_for_replicas()
        use_only(self.platform, source)
        result = self.platform.dbt(
            "run", "--select", "extraction", environment={"ETL_MAX_DELETE_SHARE": "1", "ETL_SOURCE_WAIT_SECONDS": "2"}
        )
        assert result.exit_code == 0 and result.run is not None, result.run
        # Never by comparing all rows: that would hide what the changes alone had missed.
        assert result.run["extraction_mode"] in ("first load", "changes"), result.run["extraction_reason"]
        assert_landing_equals_source(self.platform)


@contextlib.contextmanager
def scenario_on(platform: Platform) -> Iterator[Scenario]:
    """Run sessions of the application on an almost empty book; whatever is left open in the end is rolled back."""
    platform.empty_book()
    platform.empty_warehouse()
    with platform.app() as connection:
        for _ in range(3):
            loan = add_loan(connection, add_customer(connection))
            pay(connection, loan)
    with contextlib.ExitStack() as stack:
        sessions = []
        for _ in range(SESSIONS):
            connection = stack.enter_context(connect(platform.app_conninfo, autocommit=True))
            connection.execute("set lock_timeout = '50ms'")
            sessions.append(Session(connection))
        scenario = Scenario(platform, sessions)
        try:
            yield scenario
        finally:
            for session in sessions:
                with contextlib.suppress(psycopg.Error):
                    session.end("rollback")
            for name in scenario.prepared:
                platform.primary(f"rollback prepared '{name}'")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(script=st.lists(steps, min_size=20, max_size=45))
def test_whatever_the_order_of_commits_every_run_shows_what_is_committed(all_servers, script):
    with scenario_on(all_servers) as scenario:
        scenario.run("primary")
        for step in script:
            scenario.step(step)
        # The late ones commit last, with a run between each two.
        for session in scenario.sessions:
            session.end("commit")
        scenario.run("replica1")
        while scenario.prepared:
            all_servers.primary(f"commit prepared '{scenario.prepared.pop()}'")
        scenario.run("replica2")


@pytest.mark.parametrize("source", SOURCES)
def test_a_prepared_transaction_that_outlives_sessions_and_runs_arrives_when_it_commits(all_servers, source):
    with scenario_on(all_servers) as scenario:
        scenario.run(source)
        scenario.step(Step("pay", 0, 0))
        scenario.step(Step("savepoint", 0, 0))
        scenario.step(Step("add_customer", 0, 1))
        scenario.step(Step("rollback_to_savepoint", 0, 0))
        scenario.step(Step("prepare", 0, 0))
        for _ in range(2):
            scenario.step(Step("add_customer", 1, 2))
            scenario.step(Step("commit", 1, 0))
            scenario.run(source)
        scenario.step(Step("commit_prepared", 2, 0))
        scenario.run(source)
