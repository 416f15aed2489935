"""Negative controls (support/controls.py) of what marts take in, and of their tests."""

from __future__ import annotations

import pytest

from eds.cluster.connections import connect
from support.book import add_customer, add_loan, pay
from support.controls import Control, assert_the_promise_breaks, on_a_small_book, run
from support.oracle import assert_views_equal_the_oltp
from support.platform import Platform

from . import (
    test_changed_by_hand,
    test_proven_tests,
    test_runs,
    test_value_ranges,
)

pytestmark = pytest.mark.proof

# --- scenarios that are no test by themselves -------------------------------------------------------------------------


def moved_payment(platform: Platform) -> None:
    """Move a payment from one loan to another: the loan it left must be recomputed too."""
    with platform.app() as connection:
        customer = add_customer(connection)
        one, other = add_loan(connection, customer), add_loan(connection, customer, branch_code="MSA01")
        payment = pay(connection, one)
    run(platform)
    with platform.app() as connection:
        connection.execute("update operational.payments set loan_id = %s where payment_id = %s", (other, payment))
    run(platform)
    assert_views_equal_the_oltp(platform)


def moved_loan(platform: Platform) -> None:
    """Give a loan another branch, and its borrower another segment: the loan's payments go along, to the cent."""
    with platform.app() as connection:
        customer = add_customer(connection, segment="retail")
        one, other = add_loan(connection, customer), add_loan(connection, customer, branch_code="MSA01")
        for loan in (one, one, other):
            pay(connection, loan)
    run(platform)
    with platform.app() as connection:
        connection.execute("update operational.loans set branch_code = 'KSM01' where loan_id = %s", (one,))
        connection.execute("update operational.customers set segment = 'sme' where customer_id = %s", (customer,))
        pay(connection, one, "20.00", "2.00")
    run(platform)
    assert_views_equal_the_oltp(platform)


def last_payment_taken_back(platform: Platform) -> None:
    """Delete the latest payment of a loan: the one before it is the latest again."""
    with platform.app() as connection:
        loan = add_loan(connection, add_customer(connection))
        pay(connection, loan)
    with platform.app() as connection:
        last = pay(connection, loan, "20.00", "2.00")
    run(platform)
    with platform.app() as connection:
        connection.execute("delete from operational.payments where payment_id = %s", (last,))
    run(platform)
    assert_views_equal_the_oltp(platform)


def later_payment(platform: Platform) -> None:
    """Make an ordinary new payment after the first build."""
    with platform.app() as connection:
        loan = add_loan(connection, add_customer(connection))
        pay(connection, loan)
    run(platform)
    with platform.app() as connection:
        pay(connection, loan, "20.00", "2.00")
    run(platform)
    assert_views_equal_the_oltp(platform)


def late_version(platform: Platform, *, loan_moves: bool = False) -> None:
    """Let a customer's version begin before a payment, and arrive after it.

    loan_moves: the loan has gone to another customer by then.
    """
    with platform.app() as connection:
        customer = add_customer(connection, segment="retail")
        other = add_customer(connection, segment="corporate")
        loan = add_loan(connection, customer)
    run(platform)
    with connect(platform.app_conninfo) as late:
        late.execute("update operational.customers set segment = 'sme' where customer_id = %s", (customer,))
        with platform.app() as connection:
            pay(connection, loan)
        if loan_moves:
            with platform.app() as connection:
                connection.execute("update operational.loans set customer_id = %s where loan_id = %s", (other, loan))
        run(platform)
    run(platform)
    segments = platform.warehouse(
        "select customers.customer_segment from warehouse.fact_payments as payments "
        "join warehouse.dim_customer as customers on customers.customer_sk = payments.customer_sk"
    )
    assert segments == [("sme",)]


def late_version_of_a_former_customer(platform: Platform) -> None:
    late_version(platform, loan_moves=True)


def account_number(platform: Platform) -> None:
    """Insert a loan with a number of sixteen digits, pay on it, and change it."""
    number = 1020304050607081
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection)))
    run(platform)
    for officer in ("Achieng", "Barasa"):
        with platform.app() as connection:
            if officer == "Achieng":
                add_loan(connection, 1, loan_id=number)
            connection.execute("update operational.loans set loan_officer = %s", (officer,))
            pay(connection, number)
        run(platform)
    assert_views_equal_the_oltp(platform)
    keys = platform.warehouse(
        "select loan_sk from warehouse.dim_loan where loan_id = %s order by valid_from", (number,)
    )
    assert keys == [(-(10**18) - 1,), (-(10**18) - 2,)]


def mortgage_until_2052(platform: Platform) -> None:
    """Insert a loan of 2015 and a mortgage until 2052 after the first run."""
    with platform.app() as connection:
        customer = add_customer(connection)
    run(platform)
    with platform.app() as connection:
        add_loan(connection, customer, disbursed_at="2015-06-01T00:00:00+00", maturity_date="2052-06-01")
    run(platform)
    days = platform.warehouse(
        "select opened.full_date::text, matures.full_date::text from warehouse.fact_loans as loans "
        "left join warehouse.dim_date as opened on loans.disbursement_date_sk = opened.date_sk "
        "left join warehouse.dim_date as matures on loans.maturity_date_sk = matures.date_sk"
    )
    assert days == [("2015-06-01", "2052-06-01")]


SCENARIOS = (
    moved_payment,
    last_payment_taken_back,
    later_payment,
    late_version,
    late_version_of_a_former_customer,
    account_number,
    mortgage_until_2052,
)


# --- the mechanisms ---------------------------------------------------------------------------------------------------

UPSERT = "macros/materializations/upsert.sql"
DIFFERENCE = "macros/materializations/upsert/difference.sql"

CONTROLS = [
    Control(
        "a loan that gets another branch or segment takes its payments along",
        moved_loan,
        "vw_collections differs",
        (("models/marts/agg_collections.sql", "having sum(_sign) <> 0", "having false"),),
    ),
    Control(
        "what a loan had before leaves its former group",
        moved_loan,
        "vw_monthly_revenue differs",
        (("models/marts/agg_collections.sql", "cross join (values (-1), (1)) as", "cross join (values (1)) as"),),
    ),
    Control(
        "loans whose number leaves no room for versions have numbered keys",
        account_number,
        "dbt build failed",
        (
            (
                "macros/helpers/loan_sk.sql",
                "{{ loan_id }} between -1000000000000 and 9223372036853",
                "{{ loan_id }} between -1000000000000 and 9223372036854775807",
            ),
        ),
    ),
    Control(
        "numbered keys continue behind those that are there",
        account_number,
        "dbt build failed|assert",
        (
            (
                "macros/helpers/loan_sk.sql",
                "least({{ loan_sk_floor() }}, (select min(loan_sk) from {{ dimension }}))",
                "{{ loan_sk_floor() }}",
            ),
        ),
    ),
    Control(
        "the values of rows are left out of recorded messages",
        on_a_small_book(test_runs.recorded_failure, *test_runs.HARMS[0]),
        "violates check constraint",
        (("macros/run/without_row_values.sql", "in modules.re.finditer(value, text, modules.re.VERBOSE)", "in []"),),
    ),
    Control(
        "cents are counted up to what a bigint holds",
        test_value_ranges.test_sums_of_payments_beyond_a_bigint_of_cents_are_published_and_go_again,
        "bigint out of range",
        (
            (
                "macros/lending/whole_cents.sql",
                "greatest(least({{ cents }}, 1000000000000000000), -1000000000000000000)::bigint",
                "({{ cents }})::bigint",
            ),
        ),
    ),
    Control(
        "the calendar follows the data",
        mortgage_until_2052,
        r"assert \[\(None, None\)\]",
        (("models/marts/dim_date.sql", "{{ date_sk(day) }} <> {{ unknown_sk() }}", "false"),),
    ),
    Control(
        "a fact's change log has the row as it was",
        moved_payment,
        "differs",
        ((DIFFERENCE, "where not changed._is_new", "where false"),),
    ),
    Control(
        "ids of runs go on behind those that rows already have",
        on_a_small_book(test_changed_by_hand.lose_the_record, test_changed_by_hand.LOST["emptied with its counter"]),
        "differ|dbt build failed",
        (
            ("macros/run/begin_run.sql", "    {% do continue_run_ids(ids_of_record()) %}\n", ""),
            ("macros/run/begin_run.sql", "    {% do continue_run_ids(ids_of_changes()) %}\n", ""),
        ),
    ),
    Control(
        "what models had taken in by a record that was put back is not relied on",
        on_a_small_book(test_changed_by_hand.lose_the_record, None),
        "differ|dbt build failed",
        (("macros/run/continue_run_ids.sql", "delete from {{ audit }}.model_states;", ""),),
    ),
    Control(
        "an entity that no landing row tells of is deleted",
        on_a_small_book(test_changed_by_hand.landing_rows_of_an_older_copy),
        "dim_loan",
        (("macros/overrides/snapshot_staging_table.sql", "not since and landing_was_compared()", "false"),),
    ),
    Control(
        "a test that is new looks at all rows",
        on_a_small_book(test_proven_tests.new_test),
        "assert 0 != 0",
        (("macros/helpers/tests_look_at_everything.sql", " or not is_proven(model.unique_id)", ""),),
        with_tests=True,
    ),
    Control(
        "a test that failed over all rows looks at all of them until it passes",
        on_a_small_book(test_proven_tests.failure_over_all_rows),
        "assert 0 != 0",
        (
            (
                "macros/run/finish_run.sql",
                "where looked_at_everything and status in ('fail'",
                "where false and status in ('fail'",
            ),
        ),
        with_tests=True,
    ),
    Control(
        "a mart has the shape that a run gave it",
        on_a_small_book(test_changed_by_hand.reshape, "a column that is gone", "no key, and a row twice"),
        "differ|dbt build failed",
        (("macros/materializations/upsert.sql", "not node.is_as_made or ", ""),),
    ),
    Control(
        "a column that only a published copy has may be missing",
        on_a_small_book(test_changed_by_hand.reshape, "a copy with a column more"),
        "dbt build failed",
        (
            (
                "macros/materializations/publish/publish_copy.sql",
                "for column in present[copy].required if",
                "for column in [] if",
            ),
        ),
    ),
    Control(
        "a loan that lost a payment is summed up again",
        last_payment_taken_back,
        "differ",
        (("models/marts/fact_loans.sql", "bool_and(_sign > 0) as only_added", "true as only_added"),),
    ),
    Control(
        "a model's state is saved with what it has taken in, not ahead of it",
        later_payment,
        "differs",
        (
            (
                "macros/run/increment.sql",
                "'landing_run_id': state['landing_run_id'] | int,",
                "'landing_run_id': landing_run_id(),",
            ),
        ),
    ),
    Control(
        "payments of a customer with another version are looked at again",
        late_version,
        "retail",
        (
            (
                "models/marts/fact_payments.sql",
                "    from versions\n",
                "    from versions where false\n",
            ),
        ),
    ),
    Control(
        "payments are looked for in every loan that the customer ever had",
        late_version_of_a_former_customer,
        "retail",
        (
            (
                "models/marts/fact_payments.sql",
                "on touched_customers.customer_id = loans.customer_id\n",
                "on touched_customers.customer_id = loans.customer_id and loans.is_current\n",
            ),
        ),
    ),
    Control(
        "a model looks whether something new has come to it",
        later_payment,
        "differ",
        ((UPSERT, "{% elif not reads_everything() or (since and not node.has_changes) %}", "{% elif since %}"),),
    ),
    Control(
        "a snapshot looks whether something new has come to it",
        late_version,
        # The models behind it know that they have less than there is, and nothing is published.
        "has not taken in the last extraction",
        (("macros/overrides/snapshot.sql", "not node.has_changes", "true"),),
    ),
    Control(
        "a model has taken in no more than its parents have",
        on_a_small_book(test_runs.test_a_mart_that_is_built_ahead_of_its_history_takes_it_in_later),
        "differ",
        (("macros/run/node_state.sql", "'landing_run_id': row['can_take_in'] | int", "'landing_run_id': none"),),
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_with_every_mechanism_in_place_the_scenario_holds(platform, scenario):
    scenario(platform)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.mechanism)
def test_without_the_mechanism_the_promise_breaks(request, project_to_spoil, control):
    assert_the_promise_breaks(request, project_to_spoil, control)
