"""Random histories of customers and loans against an oracle of its own: every version, without gap or overlap."""

from __future__ import annotations

import os
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds.db import connect
from eds.etl import SCHEDULED_BUILD

from .book import add_customer, add_loan, pay
from .conftest import Platform
from .history_oracle import History
from .random_book import Change, change_book, changes

EXAMPLES = int(os.environ.get("HISTORY_EXAMPLES", "3"))
# What the clock of the server shows at a change, against the time of the change before it.
CLOCKS = {"same_time": "interval '0'", "backwards_clock": "interval '-1 hour'", "ahead": "interval '1 hour'"}

clock_changes = st.builds(Change, st.sampled_from(sorted(CLOCKS)), st.integers(0, 999), st.integers(0, 999))
late_changes = st.builds(
    Change, st.sampled_from(("late_segment", "late_status")), st.integers(0, 999), st.integers(0, 999)
)


def change_by_the_clock(platform: Platform, change: Change) -> None:
    """Change a customer and a loan with a time that the trigger would not give."""
    with connect(platform.superuser_conninfo) as connection:
        for table, key, value in (
            ("customers", "customer_id", f"city = 'City {change.value % 3}'"),
            ("loans", "loan_id", f"loan_officer = 'Officer {change.value % 3}'"),
        ):
            connection.execute(f"alter table operational.{table} disable trigger {table}_stamp_row")
            connection.execute(
                f"update operational.{table} set {value}, updated_at = updated_at + {CLOCKS[change.kind]} "
                f"where {key} = (select {key} from operational.{table} order by {key} "
                f"offset %s %% greatest((select count(*) from operational.{table}), 1) limit 1)",
                (change.row,),
            )
            connection.execute(f"alter table operational.{table} enable always trigger {table}_stamp_row")


class Story:
    """Changes between runs, and the transactions that commit only after the next run."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.history = History(platform.superuser_conninfo)
        self.late: list[psycopg.Connection] = []

    def tell(self, change: Change) -> None:
        if change.kind in CLOCKS:
            try:
                change_by_the_clock(self.platform, change)
            except psycopg.errors.LockNotAvailable:
                return
        elif change.kind.startswith("late"):
            connection = connect(self.platform.app_conninfo)
            self.late.append(connection)
            # Its time is that of the statement; others go on, a run passes, then it commits.
            self.attempt(connection, Change(f"change_{change.kind[5:]}", change.row, change.value))
        else:
            with connect(self.platform.app_conninfo) as connection:
                self.attempt(connection, change)

    def attempt(self, connection: psycopg.Connection, change: Change) -> None:
        connection.execute("set local lock_timeout = '100ms'")
        try:
            with connection.transaction():
                change_book(connection, change)
        except psycopg.errors.LockNotAvailable:
            pass  # the row is a late transaction's

    def run(self) -> None:
        """Run, and compare. Transactions that were late commit afterwards."""
        self.platform.wait_for_replicas()
        result = self.platform.dbt(*SCHEDULED_BUILD, environment={"ETL_MAX_DELETE_SHARE": "1"})
        assert result.exit_code == 0, result.run
        self.history.observe()
        self.history.compare(self.platform)
        self.end_late()

    def end_late(self) -> None:
        for connection in self.late:
            connection.commit()
            connection.close()
        self.late.clear()


@pytest.fixture
def story(platform: Platform) -> Any:
    return Story(platform)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    rounds=st.lists(
        st.lists(st.one_of(changes, changes, clock_changes, late_changes), min_size=6, max_size=25),
        min_size=2,
        max_size=3,
    )
)
def test_random_histories_equal_those_of_the_oracle(all_servers, rounds):
    platform = all_servers
    platform.empty_book()
    platform.empty_warehouse()
    # The DDL of the clock must not wait for late transactions.
    with connect(platform.superuser_conninfo) as connection:
        connection.execute("alter role postgres set lock_timeout = '300ms'")
    story = Story(platform)
    try:
        with platform.app() as connection:
            for number in range(6):
                loan = add_loan(connection, add_customer(connection, f"Customer {number}"))
                pay(connection, loan)
        story.run()
        for each in rounds:
            for change in each:
                story.tell(change)
            story.run()
        story.run()
    finally:
        story.end_late()
        with connect(platform.superuser_conninfo) as connection:
            connection.execute("alter role postgres reset lock_timeout")


def test_two_changes_at_the_same_time_and_one_before_it_are_three_versions(story):
    platform = story.platform
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection)))
    story.run()
    for kind, value in (("same_time", 1), ("backwards_clock", 2), ("same_time", 0)):
        story.tell(Change(kind, 0, value))
        story.run()
    versions = platform.warehouse(
        "select city, valid_from < valid_to, lead(valid_from) over (order by valid_from) is not distinct from "
        "nullif(valid_to, '9999-12-31 00:00+00') from warehouse.dim_customer where customer_id = 1 order by valid_from"
    )
    assert versions == [(city, True, True) for city in ("Nairobi", "City 1", "City 2", "City 0")]


def test_a_change_taken_back_before_the_next_run_is_no_version(story):
    platform = story.platform
    with platform.app() as connection:
        customer = add_customer(connection)
    story.run()
    for city in ("Elsewhere", "Nairobi"):
        with platform.app() as connection:
            connection.execute("update operational.customers set city = %s where customer_id = %s", (city, customer))
    story.run()
    assert platform.warehouse("select count(*) from warehouse.dim_customer where customer_id = 1") == [(1,)]


@pytest.mark.parametrize("together", [True, False], ids=["in one transaction", "in two transactions"])
def test_a_key_that_is_deleted_and_inserted_again_between_two_runs_has_no_gap(story, together):
    platform = story.platform
    with platform.app() as connection:
        customer = add_customer(connection, segment="retail")
    story.run()
    with platform.app() as connection:
        connection.execute("delete from operational.customers where customer_id = %s", (customer,))
        if not together:
            connection.commit()
        add_customer(connection, "Another person", customer_id=customer, segment="sme")
    story.run()
    assert platform.warehouse(
        "select customer_segment, is_current from warehouse.dim_customer where customer_id = 1 order by valid_from"
    ) == [("retail", False), ("sme", True)]
