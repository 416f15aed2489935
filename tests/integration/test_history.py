"""Random histories of customers and loans against an oracle of its own: every version, without gap or overlap."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds.warehouse.runs import DATA_BUILD, RECONCILE_VARS
from support.book import add_customer, add_loan, pay
from support.oracle import assert_views_equal_the_oltp
from support.random_book import Change, changes
from support.story import CLOCKS, Story

pytestmark = pytest.mark.proof

EXAMPLES = int(os.environ.get("HISTORY_EXAMPLES", "2"))
clock_changes = st.builds(Change, st.sampled_from(sorted(CLOCKS)), st.integers(0, 999), st.integers(0, 999))
late_changes = st.builds(
    Change, st.sampled_from(("late_segment", "late_status")), st.integers(0, 999), st.integers(0, 999)
)


@pytest.fixture
def story(platform: Any) -> Any:
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


def test_the_nightly_comparison_of_all_rows_dates_a_deletion_by_the_trail(story):
    platform = story.platform
    with platform.app() as connection:
        customers = [add_customer(connection, f"Customer {number}") for number in range(3)]
    story.run()
    with platform.app() as connection:
        connection.execute("delete from operational.customers where customer_id = %s", (customers[1],))
    story.run("--vars", "{reconcile: true}")


# Sessions of the warehouse that do not think in UTC: because of the shell that starts dbt, or of the database.
TIME_ZONES = {
    "the shell": ({"PGTZ": "Africa/Nairobi", "PGDATESTYLE": "SQL, DMY"}, {}),
    "the database": ({}, {"timezone": "America/New_York", "datestyle": "SQL, DMY"}),
}


@pytest.mark.parametrize("of", TIME_ZONES)
def test_history_and_figures_do_not_depend_on_the_time_zone_of_a_session(small_book, of):
    platform = small_book
    environment, settings_of_database = TIME_ZONES[of]

    def change(city: str) -> None:
        with platform.app() as connection:
            connection.execute("update operational.customers set city = %s where customer_id <= 3", (city,))
            connection.execute("update operational.loans set loan_officer = %s where loan_id <= 3", (city,))
            # A day, and a month, that is another one in these time zones.
            for moment in ("2026-03-31T22:30:00+00", "2026-04-01T01:30:00+00"):
                loan = add_loan(connection, add_customer(connection, city), disbursed_at=moment, branch_code=city)
                pay(connection, loan, "20.00", "2.00", payment_date=moment)
        platform.wait_for_replicas()

    def build(*options: str) -> None:
        result = platform.dbt(*DATA_BUILD, *options, environment=environment)
        assert result.exit_code == 0, f"dbt build failed: {result.run and result.run['error_message']}"
        assert_views_equal_the_oltp(platform)

    database = platform.settings.warehouse_db
    for setting, value in settings_of_database.items():
        platform.warehouse(f"alter database {database} set {setting} = '{value}'")
    try:
        change("Kisii")
        build()
        change("Thika")
        build("--vars", str(RECONCILE_VARS))
    finally:
        for setting in settings_of_database:
            platform.warehouse(f"alter database {database} reset {setting}")
    environment = {}
    change("Embu")
    build()
    assert platform.dbt("test").exit_code == 0
    assert platform.warehouse("select distinct disbursement_date_sk from warehouse.fact_loans order by 1") == [
        (20260105,),
        (20260331,),
        (20260401,),
    ]
