"""Negative controls (support/controls.py) of what is read from the source, and of what the source keeps for it."""

from __future__ import annotations

from contextlib import suppress

import psycopg
import pytest

from eds.cluster.connections import connect
from support.book import add_customer, add_loan, pay
from support.controls import Control, assert_the_promise_breaks, on_a_small_book, run
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform
from support.story import Story

from . import (
    test_causal_order,
    test_extraction,
    test_history,
    test_one_instant,
    test_runs,
    test_source_moves,
    test_source_rules,
    test_tested_states,
    test_warehouse,
)

pytestmark = pytest.mark.proof

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


def entries_removed_unread(platform: Platform) -> None:
    """Remove entries of the trail that no run has read, as the superuser: every row is compared, then and only then."""
    with platform.app() as connection:
        loan = add_loan(connection, add_customer(connection))
        pay(connection, loan)
    run(platform)
    ((read,),) = platform.primary("select max(log_id) from operational.audit_log")
    with platform.app() as connection:
        connection.execute("update operational.payments set amount = amount + 7, penalty_portion = penalty_portion + 7")
    with connect(platform.superuser_conninfo) as connection:
        connection.execute("alter table operational.audit_log disable trigger audit_log_append_only")
        connection.execute("delete from operational.audit_log where log_id > %s", (read,))
        connection.execute("alter table operational.audit_log enable always trigger audit_log_append_only")
    run(platform)
    assert_landing_equals_source(platform)
    with platform.app() as connection:
        pay(connection, loan)
    platform.wait_for_replicas()
    result = platform.build()
    assert result.run is not None
    assert result.run["extraction_mode"] == "changes"
    assert_landing_equals_source(platform)


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


SCENARIOS = (
    deletion,
    not_a_number,
    entries_removed_unread,
    forged_entry,
)


# --- the mechanisms ---------------------------------------------------------------------------------------------------

EXTRACTION = "macros/materializations/extraction.sql"
LANDING = "macros/extraction/load_landing_table.sql"
CHOICE = "macros/extraction/choose_source.sql"
VERDICT = "macros/extraction/source_verdict.sql"

another_source = test_extraction.test_another_source_is_compared_row_by_row_and_repaired

CONTROLS = [
    Control(
        "the book refuses NaN",
        not_a_number,
        r"differs|dbt build failed",
        source="alter table operational.payments drop constraint payments_amount_bounds, "
        "drop constraint payments_principal_portion_bounds",
    ),
    Control(
        "entries that were removed from the trail leave a note for every table",
        entries_removed_unread,
        "payments differs",
        source="create or replace function etl.note_reload_of_all() returns void language sql as 'select'",
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
        source="do $$ begin execute replace(pg_get_functiondef('operational.write_audit()'::regprocedure), "
        "'if tg_op <> ''INSERT'' then', "
        "'if tg_op = ''DELETE'' then return null; end if; if tg_op <> ''INSERT'' then'); end $$",
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
        (
            (VERDICT, "where present.xact_id is null", "where false"),
            # When the run takes its time, the replica is passed over for its age.
            (CHOICE, "{% elif source['is_current'] %}", "{% elif true %}"),
        ),
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
        "customers differs|duplicate key value",
        (
            (
                LANDING,
                "greatest(incoming.updated_at, landing._changed_at + interval '1 microsecond') as _changed_at",
                "incoming.updated_at as _changed_at",
            ),
        ),
    ),
    Control(
        "a landing table that was dropped comes back with what was deleted",
        on_a_small_book(test_tested_states.test_a_landing_table_that_was_dropped_is_loaded_with_what_was_deleted),
        "differs|dbt build failed",
        ((LANDING, "{% do load_deleted_rows(table, run_id) %}", ""),),
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
        "whoever changes a function that the trail's triggers call leaves a note in it",
        on_a_small_book(
            test_runs.test_what_happens_while_the_trail_is_switched_off_is_found_by_the_next_run,
            *test_runs.GAPS[3],
            False,
        ),
        "assert None == 'the source says",
        source="drop event trigger note_changed_function",
    ),
    Control(
        "whoever drops a rule of the trail leaves a note in it",
        on_a_small_book(
            test_runs.test_what_happens_while_the_trail_is_switched_off_is_found_by_the_next_run,
            *test_runs.GAPS[4],
            False,
        ),
        "assert None == 'the source says",
        source="do $$ begin execute replace(pg_get_functiondef('etl.note_dropped_trigger()'::regprocedure), "
        "'in (''trigger'', ''rule'', ''policy'')', 'in (''trigger'')'); end $$",
    ),
    Control(
        "a rule that keeps entries out of the trail stops the run",
        on_a_small_book(
            test_runs.test_a_table_that_the_feed_could_not_follow_any_more_stops_the_run, *test_runs.OUT_OF_THE_FEED[4]
        ),
        "assert 0 != 0",
        source="do $$ begin execute replace(pg_get_functiondef('etl.trail_problem()'::regprocedure), "
        "'and rule.is_instead', 'and false'); end $$",
    ),
    Control(
        "a function of the feed that is not the platform's stops the run",
        on_a_small_book(
            test_runs.test_a_table_that_the_feed_could_not_follow_any_more_stops_the_run, *test_runs.OUT_OF_THE_FEED[5]
        ),
        "assert 0 != 0",
        source="create or replace function etl.changed_part() returns text language sql stable as 'select null::text'",
    ),
    Control(
        "a view of the changes is compared under the settings under which it was noted",
        on_a_small_book(test_extraction.test_tables_that_are_published_under_quoted_names_stop_no_run),
        "is not in the change feed",
        source="alter function etl.view_digest(regclass) reset quote_all_identifiers; "
        "alter function etl.publish_table(regclass) reset quote_all_identifiers",
    ),
    Control(
        "a view of the changes belongs to the owner, whoever publishes the table",
        on_a_small_book(
            test_source_rules.test_what_publishing_makes_belongs_to_the_owner_whoever_publishes, "loans_owner"
        ),
        r"etl\.t_changes",
        source="do $$ begin execute replace(pg_get_functiondef('etl.publish_table(regclass)'::regprocedure), "
        "'and cls.relowner <> ', 'and null <> '); end $$",
    ),
    Control(
        "triggers that are not what they must be stop the run",
        on_a_small_book(
            test_runs.test_a_table_that_the_feed_could_not_follow_any_more_stops_the_run, *test_runs.OUT_OF_THE_FEED[-1]
        ),
        "assert 0 != 0",
        source="create or replace function etl.records_changes(relation regclass) returns boolean "
        "language sql stable as 'select true'",
    ),
    Control(
        "a key that is not the primary key stops the run",
        on_a_small_book(test_runs.test_a_key_that_is_not_the_primary_key_stops_the_run),
        "assert 0 != 0",
        (("macros/extraction/check_source_columns.sql", " or present.is_key <> expected.is_key", ""),),
    ),
    Control(
        "a view of the changes reads each column under the name that it has now",
        on_a_small_book(
            test_runs.test_a_table_that_the_feed_could_not_follow_any_more_stops_the_run, *test_runs.OUT_OF_THE_FEED[0]
        ),
        "assert 0 != 0",
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
        # The view that is dropped leaves a note as well.
        source="drop event trigger note_rewrite; drop event trigger note_dropped_trigger",
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
        "a run says which server it reads, so that one that has frozen is found",
        on_a_small_book(
            test_causal_order.test_a_run_whose_source_freezes_is_named_and_ended_and_the_next_one_reads_another, None
        ),
        "did not come true|not within",
        ((EXTRACTION, "    {% do note_source(server) %}\n", ""),),
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_with_every_mechanism_in_place_the_scenario_holds(platform, scenario):
    scenario(platform)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.mechanism)
def test_without_the_mechanism_the_promise_breaks(request, project_to_spoil, control):
    assert_the_promise_breaks(request, project_to_spoil, control)
