"""Killed at random moments: the next run repairs everything, and whoever reads meanwhile notices nothing."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from eds.cluster.connections import connect
from eds.warehouse.runs import DATA_BUILD
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import MARTS, Platform, changed_nodes, kill_server
from support.readers import Readers, State, oltp_state

pytestmark = pytest.mark.proof

KILLS = int(os.environ.get("CRASH_KILLS", "5"))


def change_everything(platform: Platform, chance: random.Random) -> State:
    """Write rows that make every kind of model work. Returns what the views should add up to afterwards."""
    with platform.app() as connection:
        for _ in range(20):
            loan = add_loan(connection, add_customer(connection), branch_code=chance.choice(["NRB01", "MSA01", None]))
            pay(connection, loan, f"{chance.randint(1, 900)}.{chance.randint(10, 99)}", "1.00")
        connection.execute(
            "update operational.customers set segment = %s where customer_id %% 3 = %s",
            (chance.choice(["retail", "sme", "corporate"]), chance.randint(0, 2)),
        )
        connection.execute(
            "delete from operational.payments where payment_id = "
            "(select payment_id from operational.payments order by payment_id offset %s limit 1)",
            (chance.randint(0, 10),),
        )
    platform.wait_for_replicas()
    return oltp_state(platform.superuser_conninfo)


def seconds_of_a_build(platform: Platform) -> float:
    started = time.monotonic()
    platform.build()
    return time.monotonic() - started


def test_runs_killed_at_random_moments_are_repaired_while_dashboards_are_read(small_book, chance):
    platform = small_book
    published = [oltp_state(platform.superuser_conninfo)]
    with Readers(platform.reader_conninfo) as readers:
        published.append(change_everything(platform, chance))
        seconds = seconds_of_a_build(platform)
        for _ in range(KILLS):
            published.append(change_everything(platform, chance))
            extra = ["--full-refresh"] if chance.random() < 0.25 else []
            child = platform.start_dbt(*DATA_BUILD, *extra)
            delay = chance.uniform(0.1, seconds)
            time.sleep(delay)
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            print(f"killed after {delay:.2f} of about {seconds:.2f} s {extra}")
            if chance.random() < 0.5:
                platform.build()
                assert_views_equal_the_oltp(platform)
        platform.build()
    readers.assert_good(*published)
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)
    # The increments give what a full computation gives.
    full = platform.build("--full-refresh", "--vars", "{full_tests: true}")
    assert changed_nodes(platform, full.run["run_id"]) == []


def killed_in(platform: Platform, node: str) -> bool:
    """Start a run and kill it while it carries out a node. False when it was through before it could be seen there."""
    child = platform.start_dbt(*DATA_BUILD)
    with connect(platform.warehouse_conninfo, autocommit=True) as connection:
        while child.is_alive():
            # dbt puts the node's name in front of each statement.
            if connection.execute(
                "select from pg_stat_activity where query like %s and usename = 'etl_writer' limit 1",
                (f"/* invocation %.{node} */%",),
            ).fetchall():
                os.kill(child.pid, signal.SIGKILL)
                child.join()
                return True
            time.sleep(0.001)
    child.join()
    return False


def test_runs_killed_in_every_node_are_repaired(small_book, chance):
    """Some nodes, chosen by chance, or all of them with CRASH_NODES=all."""
    platform = small_book
    names = [*MARTS, "extraction", "loans_snapshot", "customers_snapshot", "published_state"]
    if os.environ.get("CRASH_NODES") != "all":
        names = chance.sample(names, 4)
    killed = []
    with Readers(platform.reader_conninfo) as readers:
        published = [oltp_state(platform.superuser_conninfo)]
        for name in names:
            published.append(change_everything(platform, chance))
            if killed_in(platform, name):
                killed.append(name)
                platform.build()
            assert_views_equal_the_oltp(platform)
    print(f"killed in {', '.join(killed)}")
    assert killed
    readers.assert_good(*published)
    assert_landing_equals_source(platform)
    full = platform.build("--full-refresh", "--vars", "{full_tests: true}")
    assert changed_nodes(platform, full.run["run_id"]) == []


@pytest.mark.parametrize("name", ["warehouse", "replica1"])
def test_a_database_server_killed_at_a_random_moment_of_a_run(small_book, chance, name):
    platform = small_book
    published = [oltp_state(platform.superuser_conninfo)]
    seconds = 4.0
    for _ in range(2):
        published.append(change_everything(platform, chance))
        child = platform.start_dbt(*DATA_BUILD)
        delay = chance.uniform(0.1, seconds)
        time.sleep(delay)
        kill_server(platform, name)
        print(f"{name} killed after {delay:.2f} s")
        child.join()
        platform.runtime.postmaster.start(name)
        with Readers(platform.reader_conninfo) as readers:
            seconds = seconds_of_a_build(platform)
        readers.assert_good(*published)
        assert_landing_equals_source(platform)
        assert_views_equal_the_oltp(platform)
