"""Each mechanism switched off once: the promise it carries must then be seen to break.

A test of a promise is worth something only when it can fail. Every case spoils one mechanism, in a copy of the dbt
project or on the source, runs a test of the promise that the mechanism is there for, and expects it to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from eds.base.settings import ROOT
from eds.cluster.connections import connect
from support.book import add_customer, add_loan, pay
from support.lender_cases import TellingBook, add_telling_loans, change_telling_loans
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform, fill_small_book, project_copy
from support.saved_state import SavedState, begin_with
from support.story import Story

from . import (
    test_causal_order,
    test_extraction,
    test_history,
    test_lender,
    test_one_instant,
    test_runs,
    test_source_moves,
    test_tested_states,
    test_warehouse,
)

pytestmark = pytest.mark.proof


def run(platform: Platform) -> None:
    platform.wait_for_replicas()
    platform.build()


# --- scenarios that are no test by themselves -------------------------------------------------------------------------


def deletion(platform: Platform) -> None:
    """Delete a payment between two runs."""
    with platform.app() as connection:
        loan = add_loan(connection, add_customer(connection))
        first = pay(connection, loan)
        pay(connection, loan)
        pay(connection, loan)
    run(platform)
    with platform.app() as connection:
        connection.execute("delete from operational.payments where payment_id = %s", (first,))
    run(platform)
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)


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


def not_a_number(platform: Platform) -> None:
    """Try a payment of NaN, and take it back."""
    with platform.app() as connection:
        loan = add_loan(connection, add_customer(connection))
        pay(connection, loan)
    run(platform)
    with platform.app() as connection, suppress(psycopg.errors.CheckViolation):
        connection.execute(
            "insert into operational.payments (loan_id, amount, principal_portion, interest_portion, payment_method) "
            "values (%s, 'NaN', 'NaN', 0, 'cash')",
            (loan,),
        )
    run(platform)
    with platform.app() as connection:
        connection.execute("delete from operational.payments where amount = 'NaN'")
    run(platform)
    assert_views_equal_the_oltp(platform)


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


def forged_entry(platform: Platform) -> None:
    """Give a temporary table of the application the name of a table of the book, and the trail's trigger."""
    with platform.app() as connection, suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute("create temporary table payments (payment_id bigint)")
        connection.execute(
            "create trigger forge after insert on payments for each row "
            "execute function operational.write_audit('payment_id')"
        )
        connection.execute("insert into payments values (77)")
    assert platform.primary("select count(*) from operational.audit_log where record_id = 77") == [(0,)]


# What is known of the loans of the fixture telling_book.
TELLING_BOOKS: list[TellingBook] = []


@pytest.fixture
def telling_book(all_servers: Platform, saved_states: dict[str, SavedState]) -> Platform:
    """Provide loans that tell the rules of schedules, positions and months apart, and one run done."""

    def make(platform: Platform) -> None:
        with platform.app() as connection:
            TELLING_BOOKS.append(add_telling_loans(connection, datetime.now(UTC).date()))
        run(platform)

    return begin_with(all_servers, saved_states, "telling_book", make)


def lenders_figures(platform: Platform) -> None:
    """Compare the telling loans with the oracle, and again when they have changed."""
    run(platform)
    test_lender.assert_figures(platform)
    with platform.app() as connection:
        change_telling_loans(connection, TELLING_BOOKS[-1], datetime.now(UTC).date())
    run(platform)
    test_lender.assert_figures(platform)


SCENARIOS = (
    deletion,
    moved_payment,
    last_payment_taken_back,
    later_payment,
    late_version,
    late_version_of_a_former_customer,
    not_a_number,
    account_number,
    mortgage_until_2052,
    forged_entry,
)


def redefined(*numbers: int) -> Callable[[Platform], None]:
    """Change rules of the project between two builds, and expect the marts to follow them."""

    def scenario(platform: Platform) -> None:
        fill_small_book(platform)
        for _, edit, question, expected in (test_tested_states.REDEFINED[number] for number in numbers):
            with edited(platform.project, (edit,)):
                platform.build()
                assert platform.warehouse(question) == [(expected,)]

    return scenario


@dataclass(frozen=True)
class Scenario:
    """A scenario that begins with the state of a fixture, built unspoiled, which is put back in a moment.

    What a control spoils acts in the runs after it: a rule that a mart is made of makes the next run compute it again.
    """

    fixture: str
    steps: Callable[..., None]
    arguments: tuple[Any, ...] = ()

    def __call__(self, platform: Platform) -> None:
        self.steps(platform, *self.arguments)


def on_a_small_book(test: Callable[..., None], *arguments: Any) -> Scenario:
    """Return a test that takes the fixture small_book, as a scenario."""
    return Scenario("small_book", test, arguments)


# --- the mechanisms ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Control:
    """A mechanism, how it is spoiled, the scenario it carries, and words of the failure that is expected.

    edits: (file of the project, text in it, what replaces it); source: SQL that spoils the OLTP side.
    with_tests: the builds run the generic tests of the project, and publish only what passed them; otherwise the tests
    might stop the spoiled build before the loss can be seen. A copy of the project has no singular tests.
    """

    mechanism: str
    scenario: Callable[[Platform], None]
    failure: str
    edits: tuple[tuple[str, str, str], ...] = ()
    source: str = ""
    with_tests: bool = False


EXTRACTION = "macros/materializations/extraction.sql"
LANDING = "macros/extraction/load_landing_table.sql"
CHOICE = "macros/extraction/choose_source.sql"
VERDICT = "macros/extraction/source_verdict.sql"
UPSERT = "macros/materializations/upsert.sql"
DIFFERENCE = "macros/materializations/upsert/difference.sql"
PUBLISH = "macros/materializations/publish.sql"

HASH = "macros/run/definition_hash.sql"
# Publish what was built, tested or not.
UNTESTED = (PUBLISH, "    {% do assert_state_is_tested(untested) %}\n", "")

another_source = test_extraction.test_another_source_is_compared_row_by_row_and_repaired

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
        "the book refuses NaN",
        not_a_number,
        r"differs|dbt build failed",
        source="alter table operational.payments drop constraint payments_amount_bounds, "
        "drop constraint payments_principal_portion_bounds",
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
        "the calendar follows the data",
        mortgage_until_2052,
        r"assert \[\(None, None\)\]",
        (("models/marts/dim_date.sql", "{{ date_sk(day) }} <> {{ unknown_sk() }}", "false"),),
    ),
    Control(
        "the trail takes entries of the book's tables alone",
        forged_entry,
        r"assert \[\(1,\)\] == \[\(0,\)\]",
        source="do $$ begin execute replace(pg_get_functiondef('operational.write_audit()'::regprocedure), "
        "'tg_table_schema <>', 'false and tg_table_schema <>'); end $$; "
        "grant execute on function operational.write_audit() to public",
    ),
    Control(
        "the watermark is the snapshot's xmin, not the newest transaction seen",
        test_warehouse.test_a_transaction_left_open_across_two_runs_loses_nothing,
        "loans differs",
        (
            (
                EXTRACTION,
                "{{ run_id }}, '{{ source['snapshot_xmin'] }}', '{{ source['snapshot_xmax'] }}',",
                "{{ run_id }}, '{{ source['snapshot_xmax'] }}', '{{ source['snapshot_xmax'] }}',",
            ),
            # What looks again at the transactions that the last snapshot saw would notice, and compare everything.
            (VERDICT, "{% if known is not none and known['proven_from'] is not none %}", "{% if false %}"),
            (VERDICT, "{% if known is not none and known['has_transactions'] %}", "{% if false %}"),
        ),
    ),
    Control(
        "all tables are read in one transaction of the source",
        on_a_small_book(
            test_one_instant.test_what_changes_while_a_run_reads_is_seen_completely_or_not_at_all, "primary"
        ),
        r"assert \[\(",
        (
            (
                EXTRACTION,
                "{% for table in tables %}\n        {% set must_read_all",
                "{% for table in tables %}\n"
                "        {% do run_statement('commit') %}{% do run_statement('begin') %}\n        {% set must_read_all",
            ),
            (EXTRACTION, "feed_events_read on commit drop as", "feed_events_read as"),
            # The entries that are read end where the run's snapshot ended, too.
            (LANDING, " and xact_id < '{{ snapshot_xmax }}'::xid8", ""),
        ),
    ),
    Control(
        "deletions are taken from the feed",
        deletion,
        "payments differs",
        ((LANDING, "'DELETE'\n                and landing", "'NOTHING'\n                and landing"),),
    ),
    Control(
        "deletions are written to the feed",
        deletion,
        "payments differs",
        source="create or replace trigger payments_audit after insert or update on operational.payments "
        "for each row execute function operational.write_audit('payment_id')",
    ),
    Control(
        "another cluster is recognised by its identifier",
        on_a_small_book(
            test_extraction.test_another_source_is_compared_row_by_row_and_repaired, *test_extraction.OTHERS[0]
        ),
        "'changes' == 'reconcile'",
        ((VERDICT, "when system_identifier <> known_identifier then 'other'", "when false then 'other'"),),
    ),
    Control(
        "another timeline is recognised",
        on_a_small_book(
            test_extraction.test_another_source_is_compared_row_by_row_and_repaired, *test_extraction.OTHERS[1]
        ),
        "'changes' == 'reconcile'",
        ((VERDICT, "when timeline > known_timeline\n                    then case", "when false\n then case"),),
    ),
    Control(
        "a source that was put back to an earlier state is recognised by its trail",
        on_a_small_book(
            test_extraction.test_another_source_is_compared_row_by_row_and_repaired, *test_extraction.OTHERS[2]
        ),
        "'changes' == 'reconcile'",
        ((VERDICT, "        ) = 0\n", "        ) < 0\n"),),
    ),
    Control(
        "a source that was put back to a time between two commits is recognised by what had ended",
        on_a_small_book(
            test_extraction.test_another_source_is_compared_row_by_row_and_repaired, *test_extraction.OTHERS[3]
        ),
        "'changes' == 'reconcile'",
        ((VERDICT, "{% if known is not none and known['proven_from'] is not none %}", "{% if false %}"),),
    ),
    Control(
        "a replica that is behind is passed over",
        on_a_small_book(test_extraction.test_a_replica_that_is_behind_is_never_read_backwards),
        "assert 0 != 0|endswith",
        ((VERDICT, "when is_standby then 'behind'", "when is_standby then 'same'"),),
    ),
    Control(
        "a replica that lacks a transaction is passed over while an older one is open",
        on_a_small_book(
            test_causal_order.test_a_replica_that_lacks_a_transaction_is_behind_though_an_older_one_is_open,
            test_causal_order.a_balance_is_missed,
        ),
        "endswith",
        ((VERDICT, "where present.xact_id is null", "where false"),),
    ),
    Control(
        "a replica without a walreceiver is passed over",
        on_a_small_book(test_causal_order.test_a_replica_that_is_cut_off_is_not_read_while_another_server_is_current),
        "endswith",
        ((CHOICE, "{% elif source['is_current'] %}", "{% elif true %}"),),
    ),
    Control(
        "a server that was promoted beside the primary is passed over",
        on_a_small_book(
            test_source_moves.test_a_replica_that_was_promoted_beside_the_primary_is_read_in_its_absence_alone
        ),
        "reconcile",
        ((CHOICE, "{% if follows_another_primary(source, candidate, candidates) %}", "{% if false %}"),),
    ),
    Control(
        "data are as old as what a standby has replayed",
        on_a_small_book(test_causal_order.test_data_of_a_replica_that_is_cut_off_are_as_old_as_what_it_has_replayed),
        "datetime",
        (
            (EXTRACTION, "{{ sql_literal(source['snapshot_time']) }}::timestamptz,", "now(),"),
            (EXTRACTION, "sql_literal(server.snapshot_time) if source['is_standby'] else 'null'", "'null'"),
        ),
    ),
    Control(
        "the chosen server is an option of the run",
        on_a_small_book(
            test_causal_order.test_a_failed_run_that_had_moved_to_another_server_leaves_the_foreign_server_as_it_was
        ),
        "target_session_attrs=any",
        ((CHOICE, "set target_session_attrs 'any'\n        )", "set target_session_attrs 'any'\n        ); commit"),),
    ),
    Control(
        "a commit that a standby shows before the primary does is waited for",
        on_a_small_book(test_causal_order.test_a_primary_that_does_not_show_a_commit_yet_was_not_put_back),
        "exit_code",
        ((VERDICT, "else 'unfinished'", "else 'other'"),),
    ),
    Control(
        "a table that lost most of its rows stops the run",
        on_a_small_book(test_runs.test_an_emptied_table_does_not_empty_the_warehouse_without_confirmation),
        "exit_code",
        ((LANDING, "{% if lost > live * max_share and", "{% if false and"),),
    ),
    Control(
        "a table that is empty without a trace in the feed stops the run",
        on_a_small_book(test_runs.test_a_table_truncated_behind_the_trail_is_noticed),
        "exit_code",
        ((EXTRACTION, "{% do guard_truncated_tables(tables) %}", ""),),
    ),
    Control(
        "a source of another shape stops the run",
        on_a_small_book(test_runs.test_a_source_of_another_shape_stops_the_run_with_what_to_do, *test_runs.SHAPES[2]),
        "exit_code",
        ((EXTRACTION, "{% do check_source_columns(tables) %}", ""),),
    ),
    Control(
        "times of versions increase strictly, whatever the clock says",
        lambda platform: test_history.test_two_changes_at_the_same_time_and_one_before_it_are_three_versions(
            Story(platform)
        ),
        "customers differs",
        (
            (
                LANDING,
                "greatest(incoming.updated_at, landing._changed_at + interval '1 microsecond') as _changed_at",
                "incoming.updated_at as _changed_at",
            ),
        ),
    ),
    Control(
        "a fact's change log has the row as it was",
        moved_payment,
        "differs",
        ((DIFFERENCE, "where not changed._is_new", "where false"),),
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
    Control(
        "all published tables change in one transaction",
        on_a_small_book(test_runs.test_the_published_tables_change_together_or_not_at_all),
        "views disagree",
        (
            (
                PUBLISH,
                "{% set counts = publish_copy(copy, present[copy], state['run_id'] if by_key else none) %}",
                "{% set counts = publish_copy(copy, present[copy], state['run_id'] if by_key else none) %}"
                "{% do run_statement('commit') %}{% do run_statement('begin') %}",
            ),
        ),
    ),
    Control(
        "marts that have not all taken in the same state are not published",
        on_a_small_book(test_runs.test_a_build_of_a_part_does_not_publish_marts_that_disagree),
        "exit_code",
        ((PUBLISH, "{% do assert_marts_are_complete() %}", ""),),
    ),
    Control(
        "marts that have not all taken in the month of the data are not published",
        on_a_small_book(test_runs.test_a_month_that_has_ended_is_published_when_every_mart_has_taken_it_in),
        "exit_code",
        (
            (
                "macros/materializations/publish/assert_marts_are_complete.sql",
                "{% do monthly.append(sql_literal(node.name)) %}",
                "",
            ),
        ),
    ),
    Control(
        "only a state whose tests have passed is published",
        on_a_small_book(test_tested_states.failed_state_stays_unpublished),
        r"\('build', '--select', 'published_state'\)",
        (UNTESTED,),
        with_tests=True,
    ),
    Control(
        "aggregates that disagree are found by a test of the dashboards' figures",
        on_a_small_book(
            test_tested_states.test_an_aggregate_that_disagrees_with_the_others_is_not_published,
            test_tested_states.WRONG_SUMS[0],
        ),
        "assert 0 != 0",
        with_tests=True,
    ),
    Control(
        "a copy is compared in full with a mart that was rebuilt",
        on_a_small_book(test_tested_states.assert_what_was_dropped_returns, test_tested_states.DROPPED[0][0]),
        "differs",
        ((PUBLISH, "increment(node) is none or var('full_tests')", "state is none"),),
    ),
    Control(
        "the nightly run computes every mart in full",
        on_a_small_book(test_tested_states.assert_the_nightly_run_repairs, test_tested_states.SEEN_BY_TESTS[0]),
        "differs",
        (("macros/run/increment.sql", " or var('reconcile')", ""),),
    ),
    Control(
        "the nightly run compares the published copies with the marts",
        on_a_small_book(test_tested_states.assert_the_nightly_run_repairs, test_tested_states.SEEN_BY_TESTS[4]),
        "differs",
        ((PUBLISH, "increment(node) is none or var('full_tests')", "false"),),
    ),
    Control(
        "what a mart is made of includes the views and seeds below it",
        redefined(0),
        r"assert \[\(6,\)\] == \[\(0,\)\]",
        ((HASH, "[compiled, parents_content,", "[compiled,"),),
    ),
    Control(
        "what a mart is made of includes the macros in its SQL",
        redefined(2),
        "assert",
        ((HASH, "render(model.raw_code)", "model.raw_code"),),
    ),
    Control(
        "what a mart is made of includes the types of its contract",
        redefined(3),
        "assert",
        ((HASH, "content.append([column.name, column.data_type, column.constraints]", "content.append([column.name]"),),
    ),
    Control(
        "tests look at rows that changed by another rule",
        on_a_small_book(test_tested_states.older_rows_are_tested_under_a_new_rule),
        "a state that fails its test was published",
        (("macros/helpers/changed_since_published.sql", " or published['has_recomputed']", ""),),
        with_tests=True,
    ),
    Control(
        "tests look at rows that changed with those of another table",
        on_a_small_book(test_tested_states.rows_that_change_with_others_are_tested),
        "a spoiled row was published",
        (("macros/overrides/get_where_subquery.sql", "marts | first if marts else none", "none"),),
        with_tests=True,
    ),
    Control(
        "a landing table that was dropped comes back with what was deleted",
        on_a_small_book(test_tested_states.test_a_landing_table_that_was_dropped_is_loaded_with_what_was_deleted),
        "differs|dbt build failed",
        ((LANDING, "{% do load_deleted_rows(table, run_id) %}", ""),),
    ),
    Control(
        "the open end of the history is the same in every time zone",
        on_a_small_book(test_history.test_history_and_figures_do_not_depend_on_the_time_zone_of_a_session, "the shell"),
        "differs|dbt build failed",
        (("dbt_project.yml", "timestamptz '9999-12-31 00:00+00'", "'9999-12-31'::timestamptz"),),
    ),
    Control(
        "branches are those of the history",
        on_a_small_book(test_runs.test_a_branch_that_only_the_history_has_seen_has_its_row),
        r"assert \[\(1, 1\)\]",
        (("models/marts/dim_branch.sql", "from {{ ref('loans_snapshot') }}", "from {{ ref('stg_loans') }}"),),
    ),
    Control(
        "a filled book is compared once",
        on_a_small_book(
            test_extraction.test_a_book_that_was_filled_is_compared_once_while_an_older_transaction_stays_open
        ),
        "assert 3 == 1",
        ((EXTRACTION, " and xact_id not in (select xact_id from audit.extraction_transactions)", ""),),
    ),
    Control(
        "a day begins with its first midnight",
        test_lender.test_a_midnight_that_comes_twice_belongs_to_the_later_day,
        r"Decimal\('800.00'\)|Decimal\('1000.00'\)|differ",
        (("macros/lending/start_of_day.sql", "    least(\n", "    greatest(\n"),),
    ),
    Control(
        "fetches are bounded by bytes",
        on_a_small_book(test_extraction.test_fetches_of_wide_rows_are_bounded_by_bytes, "changes"),
        "20000",
        ((LANDING, "widest_row(table) if watermark is none else widest_change", "0"),),
    ),
    Control(
        "whoever switches the trail off leaves a note in it",
        on_a_small_book(
            test_runs.test_what_happens_while_the_trail_is_switched_off_is_found_by_the_next_run,
            *test_runs.GAPS[0],
            False,
        ),
        "assert None == 'the source says",
        source="drop event trigger note_gap",
    ),
    Control(
        "a view of the changes reads each column under the name that it has now",
        on_a_small_book(
            test_runs.test_what_ddl_changes_without_a_trigger_is_found_by_the_next_run,
            "two columns exchange their names",
        ),
        "assert None == 'the source says",
        source="create or replace function etl.changes_view_fits(relation regclass) returns boolean "
        "language sql stable as 'select true'",
    ),
    Control(
        "whoever rewrites a table leaves a note in the trail",
        on_a_small_book(
            test_runs.test_what_ddl_changes_without_a_trigger_is_found_by_the_next_run,
            "a column is recomputed, below a view that is made again as it was",
        ),
        "assert None == 'the source says",
        source="drop event trigger note_rewrite",
    ),
    Control(
        "whoever renames a label of a type leaves a note in the trail",
        on_a_small_book(
            test_runs.test_what_ddl_changes_without_a_trigger_is_found_by_the_next_run,
            "a label of a column's type is renamed",
        ),
        "assert None == 'the source says",
        source="drop event trigger note_altered_type",
    ),
    Control(
        "a published table that gets row-level security stops the run",
        on_a_small_book(
            test_runs.test_a_table_that_the_feed_could_not_follow_any_more_stops_the_run, *test_runs.OUT_OF_THE_FEED[2]
        ),
        "assert 0 != 0",
        source="do $$ begin execute replace(pg_get_functiondef('etl.unpublishable(regclass)'::regprocedure), "
        "'elsif cls.relrowsecurity', 'elsif false and cls.relrowsecurity'); end $$",
    ),
    Control(
        "a table that was rewritten since the snapshot is not read",
        on_a_small_book(
            test_runs.test_a_table_that_is_rewritten_between_the_snapshot_and_its_reading_is_not_taken_for_empty
        ),
        "assert 0 != 0",
        (
            (
                LANDING,
                "    {% do assert_table_was_not_replaced(table) %}\n    {% do analyze_small_sample(table.read) %}\n",
                "    {% do analyze_small_sample(table.read) %}\n",
            ),
        ),
    ),
    Control(
        "a changed column waits for its lock only briefly",
        on_a_small_book(test_tested_states.readers_go_on_beside_an_idle_one),
        "readers wait",
        (("macros/helpers/run_ddl.sql", "'300ms'", "'20s'"),),
    ),
    Control(
        "a run that was taken for dead is fenced off",
        on_a_small_book(test_runs.test_a_run_that_was_taken_for_dead_writes_nothing_more),
        "assert 0 != 0",
        (("macros/run/assert_run_is_ours.sql", " and status = 'running' for share", ""),),
    ),
    Control(
        "a run says which server it reads, so that one that has frozen is found",
        on_a_small_book(
            test_causal_order.test_a_run_whose_source_freezes_is_named_and_ended_and_the_next_one_reads_another, None
        ),
        "did not come true|not within",
        ((EXTRACTION, "    {% do note_source(server) %}\n", ""),),
    ),
    Control(
        "a running run is seen to be alive",
        on_a_small_book(test_runs.test_of_two_builds_started_together_one_runs_and_one_is_refused),
        r"what was awaited: not within|did not come true|assert \[\(0,\)\] == \[\(1,\)\]",
        (("macros/run/run_is_alive.sql", "{{ return(found.alive) }}", "{{ return(false) }}"),),
    ),
]


LENDERS_FIGURES = Scenario("telling_book", lenders_figures)
PAID = "macros/lending/installments_paid.sql"
MONTHS = "models/marts/lending/fact_loan_month_end.sql"
ANNUITY = "models/intermediate/annuity_schedule.sql"


def lender(mechanism: str, file: str, text: str, spoiled: str, failure: str = "differs from the oracle") -> Control:
    """Return the control of a rule of the lender's figures, whose loss the oracle finds."""
    return Control(mechanism, LENDERS_FIGURES, failure, ((file, text, spoiled),))


CONTROLS += [
    lender(
        "an instalment is not late on its due day",
        MONTHS,
        "positions.month_end - positions.due_dates[positions.installments_paid + 1]",
        "positions.month_end + 1 - positions.due_dates[positions.installments_paid + 1]",
    ),
    lender(
        "a loan of exactly 30 days is in the band of 1 to 30",
        "macros/lending/arrears_band.sql",
        "when {{ days }} <= 30 then",
        "when {{ days }} < 30 then",
    ),
    lender(
        "a loan more than 90 days past due is in stage 3 whatever its status",
        "macros/lending/ifrs9_stage.sql",
        "when {{ defaulted }} or {{ days }} > 90 then 3",
        "when {{ defaulted }} then 3",
        "vw_ifrs9_stages",
    ),
    lender(
        "principal settles instalments that the money does not reach",
        PAID,
        "greatest({{ principal }}, 0), coalesce",
        "0, coalesce",
    ),
    lender(
        "the last instalment is not paid while principal is owed",
        PAID,
        "{{ schedule }}.installment_count - ({{ owed }} > 0)::integer",
        "{{ schedule }}.installment_count",
    ),
    lender(
        "an instalment of interest alone is settled with the next that has principal",
        PAID,
        "coalesce({{ schedule }}.principal_steps, {{ schedule }}.cum_principal)",
        "{{ schedule }}.cum_principal",
    ),
    lender(
        "instalments that principal has settled are not overdue",
        "macros/lending/overdue_by.sql",
        "- greatest({{ money }}, coalesce({{ schedule }}.cum_due[{{ installments_paid }}], 0))",
        "- {{ money }}",
    ),
    lender(
        "due dates are counted from the first day and do not drift",
        ANNUITY,
        "(start_day + series.number * interval '1 month')::date",
        "((start_day + interval '1 month')::date + (series.number - 1) * interval '1 month')::date",
    ),
    lender(
        "the last instalment takes the rest",
        ANNUITY,
        "case when number = tenure then balance else least(balance, greatest(level - interest, 0)) end",
        "least(balance, greatest(level - interest, 0))",
    ),
    lender(
        "interest is rounded half up",
        ANNUITY,
        "interest := (balance * rate_units + 6000000) / 12000000;",
        "interest := (balance * rate_units) / 12000000;",
    ),
    lender(
        "a written-off loan is not in the portfolio",
        "models/marts/fact_loans.sql",
        "loans.loan_status <> 'written_off' and loans.outstanding_balance > 0 as is_in_portfolio",
        "loans.outstanding_balance > 0 as is_in_portfolio",
    ),
    lender(
        "past balances are counted back from today's",
        MONTHS,
        "loans.owed_today + coalesce(loans.principal_so_far[loans.payment_count], 0) as owed_before",
        "loans.amount as owed_before",
    ),
    lender(
        "a month keeps the segment that the borrower was in",
        MONTHS,
        "coalesce(customers.customer_segment, 'unknown') as customer_segment",
        "(select present.customer_segment from {{ ref('dim_customer') }} as present where present.is_current "
        "and present.customer_id = poured.customer_id) as customer_segment",
    ),
    lender(
        "a month keeps the officer who looked after the loan",
        MONTHS,
        "else {{ officer_of('versions') }}",
        "else poured.loan_officer",
    ),
    lender(
        "a month's dues are summed up by all that a filter acts on",
        "models/marts/dashboards/lending/vw_expected_dues.sql",
        "        loans.loan_officer,\n",
        "        'unassigned'::text as loan_officer,\n",
    ),
    lender(
        "payments of a day come before what falls due on it",
        "macros/lending/paid_by_due_day.sql",
        "width_bucket({{ book }}.due_dates[{{ position }}], ",
        "width_bucket({{ book }}.due_dates[{{ position }}] - 1, ",
    ),
    lender(
        "a payment that moves restates the month that it leaves",
        MONTHS,
        "where _run_id > {{ since.run_id }}\n    group by loan_id, {{ business_day('payment_date') }}",
        "where _run_id > {{ since.run_id }} and _sign > 0\n    group by loan_id, {{ business_day('payment_date') }}",
    ),
    lender(
        "a month's figures stay at the branch of the time",
        MONTHS,
        "coalesce(versions.branch_sk, poured.branch_sk) as branch_sk",
        "poured.branch_sk as branch_sk",
        "(?s)'MSA01'.*expected.*'NRB01'",
    ),
    Control(
        "a month that has ended is news although no row changed",
        lambda platform: test_lender.test_midnight_writes_no_row_and_a_quiet_first_of_the_month_appends_the_month(
            platform, Random(1)
        ),
        "fact_loan_month_end",
        (
            (
                "macros/run/node_state.sql",
                "{% if config.get('follows_calendar') or config.get('recomputed_monthly') %}",
                "{% if false %}",
            ),
        ),
    ),
    Control(
        "a reported month is never overwritten",
        test_lender.test_a_reported_month_stays_as_it_was_when_a_payment_of_it_comes_later,
        "assert",
        (
            (
                "macros/lending/keep_reported_months.sql",
                "    insert into {{ reports }} (month_end",
                "    alter table {{ reports }} disable trigger user; delete from {{ reports }};\n"
                "    insert into {{ reports }} (month_end",
            ),
        ),
    ),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a copy of the project, which dbt parses completely only once."""
    return project_copy(tmp_path_factory.mktemp("spoiled") / "project")


@contextmanager
def edited(project: Path, edits: tuple[tuple[str, str, str], ...]) -> Iterator[None]:
    """Yield the project with some texts replaced, for a while."""
    originals = {name: (project / name).read_text(encoding="utf-8") for name, _, _ in edits}
    try:
        for name, text, spoiled in edits:
            present = (project / name).read_text(encoding="utf-8")
            assert present.count(text) == 1, f"{name} no longer holds the text that this control spoils: {text}"
            (project / name).write_text(present.replace(text, spoiled), encoding="utf-8")
        yield
    finally:
        for name, original in originals.items():
            (project / name).write_text(original, encoding="utf-8")


@contextmanager
def spoiled_source(platform: Platform, statement: str) -> Iterator[None]:
    """Yield the OLTP side with something spoiled, for a while."""
    platform.primary(statement)
    try:
        yield
    finally:
        with connect(platform.superuser_conninfo) as connection:
            # What the spoiled book accepted would keep its bounds from coming back.
            connection.execute("delete from operational.payments where amount = 'NaN'")
            connection.execute((ROOT / "infra/primary/sql/020_change_feed.sql").read_text(encoding="utf-8"))


def test_the_texts_that_the_controls_spoil_are_there_once():
    gone = [
        (control.mechanism, name, text)
        for control in CONTROLS
        for name, text, _ in control.edits
        if (ROOT / name).read_text(encoding="utf-8").count(text) != 1
    ]
    assert gone == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_with_every_mechanism_in_place_the_scenario_holds(platform, scenario):
    scenario(platform)


def test_with_every_mechanism_in_place_the_lenders_figures_hold(telling_book):
    lenders_figures(telling_book)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.mechanism)
def test_without_the_mechanism_the_promise_breaks(request, project, control):
    begins_with = control.scenario.fixture if isinstance(control.scenario, Scenario) else "platform"
    platform = request.getfixturevalue(begins_with)
    spoiled = platform.of_project(project, *(() if control.with_tests else ("--exclude-resource-type", "test")))
    edits = control.edits if control.with_tests else (*control.edits, UNTESTED)
    source = spoiled_source(platform, control.source) if control.source else nullcontext()
    with edited(project, edits), source, pytest.raises(AssertionError, match=control.failure):
        control.scenario(spoiled)
