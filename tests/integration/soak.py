"""Everything at once, for as long as one likes: make soak FOR=30m.

In each round the cluster may lag, the book changes in every way there is, and a run happens in some way. What the
warehouse shows is then compared, to the cent and to the version, with the server that was read; what the dashboards
showed meanwhile, with what was published. No round may lose what an earlier one has seen.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from eds.base.errors import UserError
from eds.book.demo import fill
from eds.book.simulate import parse_duration
from eds.cluster.connections import connect
from eds.warehouse.runs import DATA_BUILD
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import MARTS, Platform, kill_server, project_copy, use_only
from support.random_book import KINDS, Change, change_book
from support.readers import Readers, oltp_state
from support.servers import (
    REPLICAS,
    all_replicas_replay,
    cut_off,
    pause_replay,
    reconnect,
    resume_replay,
    wait_for_replica,
)
from support.story import CLOCKS, Story

ORDINARY = [kind for kind in KINDS if not kind.startswith("delete_")]
# A loan goes with all its payments, a customer with all loans: seldom, so that the book lasts.
CHANGES = (*KINDS, *ORDINARY, *ORDINARY, *ORDINARY, *CLOCKS, "late_segment", "late_status")
BULK = ("change_keys", "edit_many", "merge", "copy_in", "delete_and_insert", "roll_back", "take_back_part")
LEAST_PAYMENTS, MOST_PAYMENTS = 2000, 5000
CALM_RUNS = (
    *("killed run", "killed replica", "partial build", "empty build", "dropped mart", "changed fact"),
    *("changed rule", "failed test", "stopped source"),
)
# What somebody looks into already can be left out: SOAK_WITHOUT="dropped mart,changed rule".
WITHOUT = os.environ.get("SOAK_WITHOUT", "").split(",")
RUNS = tuple(
    what
    for what in ("run", "run", "run", "full refresh", "reconcile", "other source", *CALM_RUNS)
    if what not in WITHOUT
)
SINGULAR = "tests/sql/singular/assert_soak.sql"


@dataclass
class Soak:
    """The state of one long run."""

    platform: Platform
    chance: random.Random
    story: Story
    place: Path
    paused: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    older: list[psycopg.Connection] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 4.0
    number: int = 0

    # --- faults of the cluster ---------------------------------------------------------------------------------------

    def trouble(self) -> None:
        """Let a replica pause, be cut off, or recover."""
        replica = self.chance.choice(REPLICAS)
        if replica in self.paused:
            resume_replay(self.platform, replica)
            self.paused.discard(replica)
        elif replica in self.cut:
            reconnect(self.platform, replica)
            self.cut.discard(replica)
        elif self.chance.random() < 0.5:
            self.count("replica paused")
            pause_replay(self.platform, replica)
            self.paused.add(replica)
        else:
            self.count("replica cut off")
            cut_off(self.platform, replica)
            self.cut.add(replica)

    def heal(self) -> None:
        """Let all replicas follow again, for faults that read the source twice."""
        if self.paused or self.cut:
            all_replicas_replay(self.platform)
            self.paused.clear()
            self.cut.clear()

    def wait_for_healthy_replicas(self) -> None:
        for name in REPLICAS:
            if name not in self.paused | self.cut:
                wait_for_replica(self.platform, name)

    # --- changes -----------------------------------------------------------------------------------------------------

    def random_change(self) -> Change:
        return Change(self.chance.choice(CHANGES), self.chance.randrange(1000), self.chance.randrange(1000))

    def change(self) -> None:
        """Make one change, of whatever kind, or a step of a transaction that overlaps runs."""
        what = self.chance.random()
        if what < 0.80:
            change = self.random_change()
            self.count(change.kind)
            self.story.tell(change)
        elif what < 0.90:
            kind = self.chance.choice(BULK)
            self.count(kind)
            with self.platform.app() as connection:
                self.attempt(connection, lambda: getattr(self, kind)(connection))
        elif what < 0.94 and len(self.older) < 3:
            self.count("open transaction")
            connection = connect(self.platform.app_conninfo)
            self.attempt(connection, lambda: change_book(connection, Change("pay", self.chance.randrange(1000), 7)))
            self.older.append(connection)
        elif what < 0.96 and self.older:
            connection = self.older.pop(self.chance.randrange(len(self.older)))
            self.attempt(connection, lambda: change_book(connection, Change("pay", self.chance.randrange(1000), 9)))
            if self.chance.random() < 0.7:
                self.count("open transaction committed")
                connection.commit()
            else:
                self.count("open transaction rolled back")
                connection.rollback()
            connection.close()
        elif what < 0.98 and len(self.prepared) < 3:
            self.count("prepared transaction")
            self.number += 1
            name = f"soak_{self.number}"
            with connect(self.platform.app_conninfo, autocommit=True) as connection:
                connection.execute("begin; set local lock_timeout = '100ms'")
                try:
                    change_book(connection, Change("pay", self.chance.randrange(1000), 3))
                    connection.execute(f"prepare transaction '{name}'")
                except psycopg.errors.LockNotAvailable:
                    connection.execute("rollback")
                else:
                    self.prepared.append(name)
        elif self.prepared:
            name = self.prepared.pop(self.chance.randrange(len(self.prepared)))
            how = self.chance.choice(("commit", "commit", "rollback"))
            self.count(f"{how} prepared")
            self.platform.primary(f"{how} prepared '{name}'")

    def attempt(self, connection: psycopg.Connection, action: Callable[[], Any]) -> None:
        """Do it, unless another transaction holds a row for long."""
        connection.execute("set local lock_timeout = '100ms'")
        try:
            with connection.transaction():
                action()
        except psycopg.errors.LockNotAvailable:
            self.count("a row was locked")

    def some_payments(self, share: int) -> str:
        return (
            f"select payment_id from operational.payments where payment_id % {share} = {self.chance.randrange(share)}"
        )

    def change_keys(self, connection: psycopg.Connection) -> None:
        connection.execute(
            f"update operational.payments set payment_id = nextval('operational.payments_payment_id_seq') "
            f"where payment_id in ({self.some_payments(500)})"
        )

    def edit_many(self, connection: psycopg.Connection) -> None:
        connection.execute(
            "update operational.payments set penalty_portion = penalty_portion + 0.01, amount = amount + 0.01 "
            f"where payment_id in ({self.some_payments(10)})"
        )

    def merge(self, connection: psycopg.Connection) -> None:
        connection.execute(
            f"""
            merge into operational.payments as target
            using (select * from operational.payments where payment_id in ({self.some_payments(100)})) as source
            on target.payment_id = source.payment_id
            when matched and source.payment_id % 3 = 0 then delete
            when matched then update set payment_method = 'online', notes = 'merged'
            """
        )

    def copy_in(self, connection: psycopg.Connection) -> None:
        row = connection.execute("select max(loan_id) from operational.loans").fetchone()
        with connection.cursor().copy(
            "copy operational.payments (loan_id, amount, principal_portion, interest_portion, payment_method) "
            "from stdin"
        ) as copy:
            for _ in range(20):
                copy.write_row((row and row[0], "3.00", "2.00", "1.00", "cheque"))

    def delete_and_insert(self, connection: psycopg.Connection) -> None:
        """Delete a payment and insert it again with the same key, in one transaction."""
        connection.execute(
            f"create temporary table again on commit drop as select * from operational.payments "
            f"where payment_id in ({self.some_payments(200)})"
        )
        connection.execute("delete from operational.payments where payment_id in (select payment_id from again)")
        connection.execute("update again set amount = amount + 1, interest_portion = interest_portion + 1")
        connection.execute("insert into operational.payments select * from again")

    def roll_back(self, connection: psycopg.Connection) -> None:
        connection.execute("delete from operational.payments where payment_id % 7 = 0")
        raise psycopg.Rollback

    def take_back_part(self, connection: psycopg.Connection) -> None:
        """Undo the first half of a transaction, and go on."""
        connection.execute("savepoint half")
        connection.execute("delete from operational.payments where payment_id % 7 = 0")
        connection.execute("rollback to half")
        connection.execute("update operational.customers set phone = phone || '0' where customer_id % 50 = 0")

    def restock(self) -> None:
        """Balance deletions by insertions, and insertions by deletions."""
        [(payments, loans)] = self.platform.primary(
            "select (select count(*) from operational.payments), count(*) from operational.loans"
        )
        with self.platform.app() as connection:
            if payments < LEAST_PAYMENTS or loans < 50:
                self.count("arrivals")
                for number in range(30):
                    loan = add_loan(connection, add_customer(connection, f"Arrival {number}"))
                    for _ in range(15):
                        pay(connection, loan, "10.00", "1.00")
            elif payments > MOST_PAYMENTS:
                self.attempt(
                    connection,
                    lambda: connection.execute("delete from operational.payments where payment_id % 5 = 0"),
                )

    # --- runs --------------------------------------------------------------------------------------------------------

    def dbt(self, *arguments: str, platform: Platform | None = None) -> int:
        """Start a run of some kind before the one that is compared; it may fail."""
        return (platform or self.platform).dbt(*arguments, environment={"ETL_MAX_DELETE_SHARE": "1"}).exit_code

    def other_project(self, path: str, text: Callable[[str], str]) -> Platform:
        self.number += 1
        project = project_copy(self.place / f"project-{self.number}")
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        present = (project / path).read_text(encoding="utf-8") if (project / path).exists() else ""
        (project / path).write_text(text(present), encoding="utf-8")
        return self.platform.of_project(project)

    def before_the_run(self, what: str) -> list[str]:
        """Do something before, or to, the run at the end of a round, and return options of that run."""
        platform, chance = self.platform, self.chance
        names = ["replica1", "replica2", "primary"]
        if what == "full refresh":
            return ["--full-refresh"]
        if what == "reconcile":
            return ["--vars", "{reconcile: true, full_tests: true}"]
        if what == "other source":
            chosen = chance.sample(names, k=chance.randint(1, 3))
            # A server that can fall behind needs another one to read instead.
            use_only(platform, *dict.fromkeys([*chosen, "primary"] if self.paused | self.cut else chosen))
        elif what.startswith("killed"):
            name = chance.choice(REPLICAS)
            child = platform.start_dbt(*DATA_BUILD, environment={"ETL_MAX_DELETE_SHARE": "1"})
            time.sleep(chance.uniform(0.1, self.seconds))
            if what == "killed run":
                os.kill(child.pid, signal.SIGKILL)
            else:
                kill_server(platform, name)
            child.join()
            if what == "killed replica":
                platform.runtime.postmaster.start(name)
                platform.wait_for_replicas()
        elif what == "stopped source":
            use_only(platform, *names)
            platform.runtime.postmaster.stop("replica1")
            self.dbt(*DATA_BUILD)
            platform.runtime.postmaster.start("replica1")
            platform.wait_for_replicas()
        elif what == "partial build":
            self.dbt("build", "--exclude-resource-type", "unit_test", "--select", chance.choice(PARTS))
        elif what == "empty build":
            self.dbt("build", "--empty", "--exclude-resource-type", "unit_test")
        elif what == "dropped mart":
            platform.warehouse(f"drop table warehouse.{chance.choice(MARTS)} cascade")
        elif what == "changed fact":
            platform.warehouse(
                "update warehouse.fact_payments set payment_amount = payment_amount + 1 "
                "where payment_id = (select max(payment_id) from warehouse.fact_payments)"
            )
            return ["--vars", "{reconcile: true, full_tests: true}"]
        elif what == "changed rule":
            rule = self.other_project(
                "models/staging/stg_payments.sql",
                lambda text: text.replace("payment_method as method_code", "'cash'::text as method_code"),
            )
            self.dbt(*DATA_BUILD, platform=rule)
        elif what == "failed test":
            failing = self.other_project(
                SINGULAR, lambda _: "select payment_id from {{ ref('fact_payments') }} limit 1"
            )
            assert self.dbt(*DATA_BUILD, platform=failing) != 0
        return []

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def end(self) -> None:
        """Leave nothing open."""
        for connection in self.older:
            connection.rollback()
            connection.close()
        self.older.clear()
        for name in self.prepared:
            self.platform.primary(f"rollback prepared '{name}'")
        self.prepared.clear()
        self.story.end_late()
        self.heal()


PARTS = (
    "extraction",
    "extraction+1",
    "stg_payments+1",
    "fact_payments",
    "customers_snapshot dim_customer",
    "agg_loans+",
    "published_state",
    "+fact_loans",
)


@pytest.fixture(scope="session")
def seconds() -> float:
    """SOAK_FOR in seconds. Ends pytest, before any server is started, when it is not a duration."""
    try:
        return parse_duration(os.environ.get("SOAK_FOR") or "5m")
    except UserError as error:
        pytest.exit(f"FOR: {error}", returncode=2)


@pytest.fixture
def soak(platform: Platform, chance: random.Random, tmp_path: Path) -> Any:
    with connect(platform.superuser_conninfo) as connection:
        fill.fill(connection, fill.Scale.parse("3000"))
    platform.wait_for_replicas()
    soak = Soak(platform, chance, Story(platform), tmp_path)
    soak.story.wait = soak.wait_for_healthy_replicas
    yield soak
    soak.end()


def test_the_promises_hold_for_as_long_as_it_runs(seconds: float, soak: Soak) -> None:
    platform, chance, story = soak.platform, soak.chance, soak.story
    rounds_so_far: list[str] = []
    published = [oltp_state(story.run())]
    end, rounds = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < end:
            rounds += 1
            what = chance.choice(RUNS)
            soak.count(what)
            if what in CALM_RUNS:
                soak.heal()
            elif chance.random() < 0.5:
                soak.trouble()
            before = Counter(soak.counts)
            with Readers(platform.reader_conninfo) as readers:
                for _ in range(chance.randint(3, 40)):
                    soak.change()
                soak.restock()
                soak.wait_for_healthy_replicas()
                rounds_so_far.append(
                    f"round {rounds}, then {what}; paused {soak.paused}, cut {soak.cut}, {len(soak.older)} open, "
                    f"{len(soak.prepared)} prepared; {dict(soak.counts - before)}"
                )
                print(rounds_so_far[-1], flush=True)
                options = soak.before_the_run(what)
                started = time.monotonic()
                read = story.run(*options)
                soak.seconds = time.monotonic() - started
                # Late transactions have committed by now: what the run saw is in the history alone.
                published.append(story.state)
                if not story.ended_late:
                    assert_landing_equals_source(platform, read)
                    assert_views_equal_the_oltp(platform, read)
            readers.assert_good(*published[-2:])
    except BaseException as error:
        error.add_note("\n".join(rounds_so_far[-3:]))
        raise
    finally:
        soak.end()
    story.run()
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)
    assert rounds > 0
    print(f"{rounds} rounds: {dict(sorted(soak.counts.items()))}")
