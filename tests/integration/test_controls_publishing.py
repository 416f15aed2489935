"""Negative controls (support/controls.py) of publishing, of tests and rules, and of what is repaired."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.controls import PUBLISH, UNTESTED, Control, assert_the_promise_breaks, edited, on_a_small_book
from support.platform import Platform, fill_small_book

from . import test_changed_by_hand, test_history, test_lender, test_runs, test_seeds, test_tested_states

pytestmark = pytest.mark.proof

HASH = "macros/run/definition_hash.sql"


def redefined(*numbers: int) -> Callable[[Platform], None]:
    """Change rules of the project between two builds, and expect the marts to follow them."""

    def scenario(platform: Platform) -> None:
        fill_small_book(platform)
        for _, edit, question, expected in (test_tested_states.REDEFINED[number] for number in numbers):
            with edited(platform.project, (edit,)):
                platform.build()
                assert platform.warehouse(question) == [(expected,)]

    return scenario


CONTROLS = [
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


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.mechanism)
def test_without_the_mechanism_the_promise_breaks(request, project_to_spoil, control):
    assert_the_promise_breaks(request, project_to_spoil, control)
