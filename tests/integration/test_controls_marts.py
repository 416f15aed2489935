"""Negative controls (support/controls.py) of the marts, of their tests and of publishing them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eds.cluster.connections import connect
from support.book import add_customer, add_loan, pay
from support.controls import PUBLISH, UNTESTED, Control, assert_the_promise_breaks, edited, on_a_small_book, run
from support.oracle import assert_views_equal_the_oltp
from support.platform import Platform, fill_small_book

from . import (
    test_changed_by_hand,
    test_history,
    test_lender,
    test_proven_tests,
    test_runs,
    test_seeds,
    test_tested_states,
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


def redefined(*numbers: int) -> Callable[[Platform], None]:
    """Change rules of the project between two builds, and expect the marts to follow them."""

    def scenario(platform: Platform) -> None:
        fill_small_book(platform)
        for _, edit, question, expected in (test_tested_states.REDEFINED[number] for number in numbers):
            with edited(platform.project, (edit,)):
                platform.build()
                assert platform.warehouse(question) == [(expected,)]

    return scenario


# --- the mechanisms ---------------------------------------------------------------------------------------------------

UPSERT = "macros/materializations/upsert.sql"
DIFFERENCE = "macros/materializations/upsert/difference.sql"
HASH = "macros/run/definition_hash.sql"

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
        "tests that may look at another target's relations are no evidence",
        on_a_small_book(test_tested_states.deferred_tests_publish_nothing),
        "a state was published that was not tested",
        (("macros/run/begin_run.sql", "{% if may_read_other_relations() %}", "{% if false %}"),),
        with_tests=True,
    ),
    Control(
        "a view that somebody replaced is made again, and what reads it follows",
        on_a_small_book(test_tested_states.replaced_views_return),
        "differ",
        (("macros/run/node_state.sql", "'is_as_made': row['as_made'],", "'is_as_made': true,"),),
    ),
    Control(
        "what reads a view that was put right is computed anew, in a later run too",
        on_a_small_book(test_tested_states.test_marts_that_were_computed_from_a_replaced_view_are_put_right),
        "differ",
        (("macros/run/model_state.sql", "        repaired_run_id = excluded.run_id,\n", ""),),
    ),
    Control(
        "a function that somebody replaced is made again",
        on_a_small_book(test_tested_states.replaced_functions_return),
        "assert .* == ",
        (("macros/materializations/stored_function.sql", "known == present and ", ""),),
    ),
    Control(
        "a reconcile compares the rows of the seeds",
        on_a_small_book(test_seeds.test_rows_that_were_changed_by_hand_are_loaded_again_by_a_reconcile),
        "update staging.payment_methods",
        (("macros/overrides/seed.sql", " and seed_rows_differ(rows)", " and false"),),
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
        ((PUBLISH, "increment() is none or var('full_tests')", "state is none"),),
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
        ((PUBLISH, "increment() is none or var('full_tests')", "false"),),
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
        (
            (
                "macros/overrides/get_where_subquery.sql",
                "relation.identifier if node and node.config.get('log_changes') else none",
                "none",
            ),
        ),
        with_tests=True,
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
        "a day begins with its first midnight",
        test_lender.test_a_midnight_that_comes_twice_belongs_to_the_later_day,
        r"Decimal\('800.00'\)|Decimal\('1000.00'\)|differ",
        (("macros/lending/start_of_day.sql", "    least(\n", "    greatest(\n"),),
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
        "a running run is seen to be alive",
        on_a_small_book(test_runs.test_of_two_builds_started_together_one_runs_and_one_is_refused),
        r"what was awaited: not within|did not come true|assert \[\(0,\)\] == \[\(1,\)\]",
        (("macros/run/run_is_alive.sql", "{{ return(found.alive) }}", "{{ return(false) }}"),),
    ),
    Control(
        "a session that only mentions a run is none of it",
        on_a_small_book(test_runs.mentioned_runs_are_dead, *test_runs.MENTIONED["asked by hand"]),
        "assert 1 == 0",
        (
            (
                "macros/run/run_is_alive.sql",
                "starts_with(query, {{ sql_literal('/* invocation ' ~ invocation ~ ' ') }})",
                "query like {{ sql_literal('%invocation ' ~ invocation ~ '%') }}",
            ),
            ("macros/run/run_is_alive.sql", "and application_name = 'dbt'", ""),
        ),
    ),
    Control(
        "a seed waits for its lock only briefly",
        on_a_small_book(test_tested_states.nobody_holds_a_run, "a seed with another column"),
        "readers wait",
        (
            (
                "macros/helpers/assert_seed_is_sound.sql",
                'run_ddl(this, "truncate table "',
                'run_statement("truncate table "',
            ),
        ),
    ),
    Control(
        "a landing table waits for its lock only briefly",
        on_a_small_book(test_tested_states.nobody_holds_a_run, "a landing table with a column more"),
        "readers wait",
        (
            (
                "macros/extraction/load_landing_table.sql",
                "run_ddl(table.landing, change['change'])",
                "run_statement(change['change'])",
            ),
        ),
    ),
    Control(
        "a change log waits for its lock only briefly",
        on_a_small_book(test_tested_states.nobody_holds_a_run, "a change log without a column"),
        "readers wait",
        (
            (
                "macros/materializations/upsert/change_log.sql",
                "run_ddl(changes_of(model.name) | trim, ",
                "run_statement(",
            ),
        ),
    ),
    Control(
        "the grants and options of a view are those of the project",
        on_a_small_book(test_tested_states.views_are_readable_again),
        "grants, options or owners",
        (("macros/materializations/stable_view.sql", "node.is_as_left)) %}", "node.is_as_made)) %}"),),
    ),
    Control(
        "a landing table has the columns that runs use themselves",
        on_a_small_book(test_changed_by_hand.damage_below_the_marts, "a landing table without the ids of runs"),
        "dbt build failed",
        (("macros/extraction/load_landing_table.sql", " or not present['has_own_columns'] %}", " %}"),),
    ),
    Control(
        "a history that was altered is put right",
        on_a_small_book(test_changed_by_hand.damage_below_the_marts, "a history with a required column"),
        "dbt build failed",
        (("macros/overrides/snapshot.sql", "put_history_right() if is_suspect", "0 if is_suspect"),),
    ),
    Control(
        "a version of a history is there once",
        on_a_small_book(
            test_changed_by_hand.test_a_version_that_is_there_twice_is_removed_once, "all rows once more", False
        ),
        "dbt build failed",
        (("macros/overrides/snapshot.sql", "numbered.number > 1", "false"),),
    ),
    Control(
        "the schema of the foreign tables is made again",
        on_a_small_book(test_changed_by_hand.damage_below_the_marts, "no schema of foreign tables"),
        "dbt build failed",
        (("macros/extraction/sync_foreign_tables.sql", '"create schema operational_fdw"', '"select 1"'),),
    ),
    Control(
        "views keep their options when a column below them is altered",
        on_a_small_book(
            test_changed_by_hand.test_views_of_others_stay_as_they_are_when_a_column_below_them_is_put_right
        ),
        "security_barrier",
        (("macros/helpers/alter_below_views.sql", " {{ view['options'] or '' }} as ", " as "),),
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_with_every_mechanism_in_place_the_scenario_holds(platform, scenario):
    scenario(platform)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.mechanism)
def test_without_the_mechanism_the_promise_breaks(request, project_to_spoil, control):
    assert_the_promise_breaks(request, project_to_spoil, control)
