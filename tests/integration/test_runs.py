"""The record of the runs: one at a time, failures with their message, crashes repaired by the next run."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from bench.lender import days_later
from eds.cluster.connections import connect
from eds.cluster.provision import FEED_FILE, SQL_FOLDERS
from eds.dashboards import page
from eds.warehouse import runs, source_watch
from eds.warehouse.runs import DATA_BUILD
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform, gaps_unnoted, use_only
from support.readers import Readers, oltp_state
from support.waiting import wait_until


def running(platform: Any) -> list[tuple[Any, ...]]:
    """Return the running run, if any."""
    rows: list[tuple[Any, ...]] = platform.warehouse(
        "select run_id, started_by from audit.etl_runs where status = 'running'"
    )
    return rows


def node_status(platform: Any, run_id: int, name: str) -> str:
    """Return the status of a node in a run."""
    rows = platform.warehouse(
        "select status from audit.model_runs where run_id = %s and node_name = %s", (run_id, name)
    )
    return str(rows[0][0])


def test_a_second_build_is_refused_with_who_and_since_when_and_counted(small_book):
    platform = small_book
    # Holds the first run inside a model, so that both are certainly running together.
    with connect(platform.warehouse_conninfo) as lock:
        lock.execute("lock table warehouse.fact_loans in access exclusive mode")
        first = platform.start_dbt(*DATA_BUILD, environment={"ETL_STARTED_BY": "first one"})
        wait_until(lambda: running(platform))
        second = platform.dbt(*DATA_BUILD)
        assert second.exit_code != 0
        assert second.run is None
    first.join()
    assert first.exitcode == 0
    refusals = platform.warehouse(
        "select runs.started_by, runs.status from audit.refused_starts "
        "join audit.etl_runs as runs on runs.run_id = holder_run_id"
    )
    assert refusals == [("first one", "success")]


@pytest.mark.proof
@pytest.mark.parametrize("stage", ["extraction", "customers_snapshot", "fact_payments", "agg_loans", "published_state"])
def test_a_run_that_was_killed_is_marked_and_repaired_by_the_next_one(small_book, stage):
    platform = small_book
    table = {
        "extraction": "operational.payments",
        "customers_snapshot": "snapshots.customers_snapshot",
        "fact_payments": "warehouse.fact_payments",
        "agg_loans": "warehouse.agg_loans",
        "published_state": "publish.agg_customers",
    }[stage]
    with platform.app() as connection:
        pay(connection, 1, "11.00", "1.00")
        connection.execute("update operational.customers set segment = 'sme' where customer_id = 2")
        connection.execute("delete from operational.payments where payment_id = 4")
    platform.wait_for_replicas()
    before = platform.view("vw_loan_status_distribution")
    with connect(platform.warehouse_conninfo) as lock:
        lock.execute(f"lock table {table} in access exclusive mode")
        child = platform.start_dbt(*DATA_BUILD, environment={"ETL_STARTED_BY": "the killed one"})
        wait_until(
            lambda: platform.warehouse("select 1 from pg_locks where not granted and relation = %s::regclass", (table,))
        )
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        if not stage.startswith("published"):
            assert platform.view("vw_loan_status_distribution") == before
    # The server notices within a second that its client is gone.
    result = platform.build()
    killed = platform.warehouse("select status, error_message from audit.etl_runs where started_by = 'the killed one'")
    assert killed[0][0] == "failed"
    assert "killed" in killed[0][1]
    assert result.run["status"] == "success"
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)


def mentioned_runs_are_dead(platform: Platform, application: str, query: str) -> None:
    """Leave a run dead, and a session idle whose last query names its invocation: it is found dead all the same."""
    invocation = "b3f0c1de-0000-4000-8000-000000000001"
    platform.warehouse(
        "insert into audit.etl_runs (run_trigger, started_by, command, dbt_invocation_id) "
        f"values ('manual', 'the dead one', 'dbt build', '{invocation}')"
    )
    with connect(platform.writer_conninfo, autocommit=True, application_name=application) as idle:
        idle.execute(query.format(invocation).encode())
        assert runs.live_run(platform.cluster, 0.5) is None
        assert platform.dbt(*DATA_BUILD).exit_code == 0
        assert source_watch.reading(platform.cluster) is None
        # Not ended as a session of the run, either.
        platform.warehouse(f"update audit.etl_runs set status = 'running' where dbt_invocation_id = '{invocation}'")
        runs.mark_cancelled(platform.cluster, "the dead one", "cancelled")
        assert idle.execute("select 1").fetchone() == (1,)
    assert platform.warehouse("select status from audit.etl_runs where started_by = 'the dead one'") == [("failed",)]


MENTIONED = {
    "asked by hand": ("psql", "select pid, query from pg_stat_activity where query like '%invocation {} %'"),
    "in a comment": ("dbt", "select 1 /* invocation {} node */"),
    "copied by hand": ("psql", "/* invocation {} node */ select 1"),
    "of another one that begins alike": ("dbt", "/* invocation {}f node */ select 1"),
}


@pytest.mark.parametrize("mentioned", MENTIONED)
def test_a_session_that_only_mentions_a_dead_run_does_not_keep_it_alive(small_book, mentioned):
    mentioned_runs_are_dead(small_book, *MENTIONED[mentioned])


def test_a_session_of_a_run_keeps_it_alive(small_book):
    platform = small_book
    with platform.app() as connection:
        pay(connection, 1)
    platform.wait_for_replicas()
    with platform.held_run("payments"):
        wait_until(lambda: running(platform))
        assert runs.live_run(platform.cluster) is not None


def test_a_run_that_was_taken_for_dead_writes_nothing_more(small_book):
    platform = small_book
    with platform.app() as connection:
        pay(connection, 1)
    platform.wait_for_replicas()
    with connect(platform.warehouse_conninfo) as lock:
        lock.execute("lock table operational.payments in access exclusive mode")
        child = platform.start_dbt(*DATA_BUILD)
        wait_until(lambda: running(platform))
        # Another run that found this one dead would do this before it starts itself.
        stolen = threading.Thread(
            target=lambda: platform.warehouse("update audit.etl_runs set status = 'failed' where status = 'running'")
        )
        stolen.start()
        time.sleep(0.5)
    child.join()
    stolen.join()
    assert child.exitcode != 0
    assert platform.warehouse("select count(*) from warehouse.fact_payments") == [(18,)]


def test_a_failed_test_leaves_the_last_good_figures_until_the_data_is_corrected(small_book):
    platform = small_book
    before = {name: platform.view(name) for name in ("vw_monthly_revenue", "vw_branch_performance", "vw_top_customers")}
    with platform.app() as connection:
        pay(connection, 1, "500.00", "50.00")
    platform.wait_for_replicas()
    # The marts are made wrong behind dbt's back: a test of theirs must notice.
    platform.warehouse(
        "create function public.spoil() returns trigger language plpgsql as "
        "'begin new.customer_sk := 999; return new; end'"
    )
    platform.warehouse(
        "create trigger spoil before insert on warehouse.fact_payments for each row execute function public.spoil()"
    )
    for _ in range(2):
        # The second run finds nothing new to do, and must not publish what failed before.
        failed = platform.dbt(*DATA_BUILD)
        assert failed.exit_code != 0
        assert failed.run["status"] == "failed"
        assert "relationships_fact_payments_customer_sk" in failed.run["error_message"]
        assert {name: platform.view(name) for name in before} == before
    assert node_status(platform, failed.run["run_id"], "published_state") == "skipped"
    platform.warehouse("drop trigger spoil on warehouse.fact_payments")
    platform.build("--full-refresh")
    assert_views_equal_the_oltp(platform)


# What keeps a landing row from being written, how it is taken away, and what the record says.
HARMS = [
    (
        "alter table operational.customers add constraint hm check (city is distinct from 'Mars')",
        "alter table operational.customers drop constraint hm",
        'violates check constraint "hm"\n  DETAIL:  Failing row contains (…)',
    ),
    (
        "create unique index harm on operational.customers (phone)",
        "drop index operational.harm",
        'violates unique constraint "harm"\n  DETAIL:  Key (phone)=(…) already exists.',
    ),
]


PERSONAL = ("mars (grace)@example.org", "+254700000001", "(9) 12345678\nsecond line", "1979-03-04", "grace", "12345678")


def recorded_failure(platform: Any, harm: str, remedy: str, message: str) -> dict[str, Any]:
    """Let a run fail at a row with personal data, and return its record, which has the message without them."""
    platform.warehouse(harm)
    with platform.app() as connection:
        connection.execute(
            "update operational.customers set city = 'Mars', email = customer_id || %s, phone = %s, "
            "national_id = %s || customer_id, date_of_birth = %s where customer_id <= 2",
            PERSONAL[:4],
        )
    platform.wait_for_replicas()
    failed = platform.dbt(*DATA_BUILD)
    platform.warehouse(remedy)
    assert failed.exit_code != 0
    record: dict[str, Any] = failed.run
    assert record["error_message"].startswith("extraction: ")
    assert message in record["error_message"]
    return record


@pytest.mark.proof
@pytest.mark.parametrize("harm", HARMS, ids=["row", "key"])
def test_the_personal_data_of_a_row_that_fails_is_shown_nowhere(small_book, capfd, harm):
    platform = small_book
    record = recorded_failure(platform, *harm)
    nodes = platform.warehouse("select message from audit.model_runs where run_id = %s", (record["run_id"],))
    places = {
        "the record of the run": record["error_message"],
        "the record of its nodes": str(nodes),
        "the page": page.render(platform.settings),
        "the history": str([runs.run_as_json(run) for run in runs.history(platform.cluster)]),
        "the log": capfd.readouterr().out,
    }
    for place, text in places.items():
        assert "violates" in text, place
        assert [value for value in PERSONAL if value in text] == [], place
    platform.build()
    assert_landing_equals_source(platform)


@pytest.mark.proof
def test_a_build_of_a_part_does_not_publish_marts_that_disagree(small_book):
    platform = small_book
    before = platform.view("vw_branch_performance")
    with platform.app() as connection:
        pay(connection, 1)
    platform.wait_for_replicas()
    partial = platform.dbt("build", "--select", "extraction", "fact_payments", "published_state")
    assert partial.exit_code != 0
    assert "Not published" in partial.run["error_message"]
    assert platform.view("vw_branch_performance") == before
    platform.build()
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_a_month_that_has_ended_is_published_when_every_mart_has_taken_it_in(small_book):
    """No landing row changes with it."""
    platform = small_book
    before = platform.view("vw_last_migration")
    with days_later(platform.superuser_conninfo, 31):
        partial = platform.dbt("build", "--select", "extraction", "agg_last_migration", "published_state")
        assert partial.exit_code != 0
        assert "fact_loan_month_end has not taken in the month of the data" in partial.run["error_message"]
        assert platform.view("vw_last_migration") == before
        platform.build()
        assert {row["month"] for row in before}.isdisjoint(row["month"] for row in platform.view("vw_last_migration"))


@pytest.mark.proof
def test_a_mart_that_is_built_ahead_of_its_history_takes_it_in_later(small_book):
    platform = small_book
    platform.build()
    with platform.app() as connection:
        connection.execute("update operational.customers set segment = 'corporate' where customer_id = 1")
    platform.wait_for_replicas()
    # By hand: what changed has landed, but the snapshot has not seen it when the dimension is built.
    platform.build("--select", "extraction")
    assert platform.dbt("run", "--select", "dim_customer").exit_code == 0
    platform.build()
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_a_branch_that_only_the_history_has_seen_has_its_row(small_book):
    platform = small_book
    with platform.app() as connection:
        connection.execute("update operational.loans set branch_code = 'ONCE1' where loan_id = 1")
    platform.wait_for_replicas()
    # The loan has left the branch again when dim_branch is built.
    assert platform.dbt("run", "--select", "extraction").exit_code == 0
    assert platform.dbt("snapshot").exit_code == 0
    with platform.app() as connection:
        connection.execute("update operational.loans set branch_code = 'NRB01' where loan_id = 1")
    platform.wait_for_replicas()
    platform.build()
    assert platform.warehouse(
        "select count(*) filter (where branch_code = 'ONCE1'), "
        "count(*) filter (where branch_sk not in (select branch_sk from warehouse.dim_branch)) from warehouse.dim_loan"
    ) == [(1, 0)]


def test_dbt_run_does_not_publish_because_it_does_not_test(small_book):
    platform = small_book
    before = platform.view("vw_branch_performance")
    with platform.app() as connection:
        pay(connection, 1)
    platform.wait_for_replicas()
    assert platform.dbt("run").exit_code == 0
    assert platform.view("vw_branch_performance") == before
    platform.build()
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_rows_without_the_row_they_refer_to_stop_publishing_until_they_are_deleted(small_book):
    """Foreign keys do not hold for whoever loads rows as a replica does: pg_restore --disable-triggers, for example."""
    platform = small_book
    before = platform.view("vw_branch_performance")
    with connect(platform.superuser_conninfo) as connection:
        connection.execute("set session_replication_role = replica")
        pay(connection, 999)
        add_loan(connection, 999)
        connection.execute(
            "insert into operational.loan_installments (loan_id, installment_no, due_date, principal_due) "
            "values (999, 1, '2026-01-31', 5), (1, 1, '2026-01-31', 5)"
        )
    platform.wait_for_replicas()
    failed = platform.dbt(*DATA_BUILD)
    assert failed.exit_code != 0
    assert "relationships" in failed.run["error_message"]
    assert platform.view("vw_branch_performance") == before
    for table, column in (("payments", "loan_id"), ("loan_installments", "loan_id"), ("loans", "customer_id")):
        platform.primary(f"delete from operational.{table} where {column} = 999")
    platform.wait_for_replicas()
    platform.build()
    platform.build("--vars", "{reconcile: true, full_tests: true}")
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)


# --- guards -----------------------------------------------------------------------------------------------------------


def assert_stopped_before_harm(platform: Any, *expected: str) -> None:
    """Assert that the run failed with these words, and that the warehouse and the views are as they were."""
    before = platform.view("vw_branch_performance"), platform.warehouse("select count(*) from operational.payments")
    platform.wait_for_replicas()
    result = platform.dbt(*DATA_BUILD)
    assert result.exit_code != 0
    assert result.run["status"] == "failed"
    for words in expected:
        assert words in result.run["error_message"]
    after = platform.view("vw_branch_performance"), platform.warehouse("select count(*) from operational.payments")
    assert after == before


@pytest.mark.proof
def test_an_emptied_table_does_not_empty_the_warehouse_without_confirmation(small_book):
    platform = small_book
    with platform.app() as connection:
        connection.execute("delete from operational.payments")
    assert_stopped_before_harm(platform, "lost 18 of the 18 rows of table payments", "MASS_DELETE=1")
    result = platform.dbt(*DATA_BUILD, "--vars", "{allow_mass_delete: true}")
    assert result.exit_code == 0
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_a_table_truncated_behind_the_trail_is_noticed(small_book):
    platform = small_book
    with gaps_unnoted(platform), connect(platform.superuser_conninfo) as connection:
        connection.execute("alter table operational.payments disable trigger payments_no_truncate")
        connection.execute("truncate operational.payments")
        connection.execute("alter table operational.payments enable always trigger payments_no_truncate")
    assert_stopped_before_harm(platform, "payments of the source is empty", "MASS_DELETE=1")


# A change of the source's shape, how to take it back, and what the run says.
SHAPES = [
    (
        "alter table operational.payments rename to payments_old",
        "alter table operational.payments_old rename to payments",
        "table payments is gone",
    ),
    (
        "alter table operational.customers rename column phone to telephone",
        "alter table operational.customers rename column telephone to phone",
        "column customers.phone is gone",
    ),
    (
        "alter table operational.loans alter column tenure_months type bigint",
        "alter table operational.loans alter column tenure_months type integer",
        "column loans.tenure_months is bigint, expected integer",
    ),
]


@pytest.mark.parametrize(("statement", "undo", "expected"), SHAPES)
def test_a_source_of_another_shape_stops_the_run_with_what_to_do(small_book, statement, undo, expected):
    platform = small_book

    def change(text: str) -> None:
        with connect(platform.superuser_conninfo) as connection:
            views = "drop view operational.vw_active_loans, operational.vw_customer_payment_summary"
            connection.execute(views)
            connection.execute("drop view etl.loans_changes, etl.payments_changes, etl.customers_changes")
            connection.execute(text)
            connection.execute("set role loans_owner")
            for table in ("customers", "loans", "payments"):
                if connection.execute("select to_regclass(%s)", (f"operational.{table}",)).fetchone() != (None,):
                    connection.execute("select etl.publish_table(%s)", (f"operational.{table}",))
                else:
                    connection.execute(
                        f"create view etl.{table}_changes as select xact_id from operational.audit_log where false"
                    )
            connection.execute("reset role")
            for name in ("030_reports.sql",):
                if "payments_old" not in text or text == undo:
                    from eds.base.settings import ROOT

                    connection.execute((ROOT / "infra/primary/sql" / name).read_text(encoding="utf-8"))
                else:
                    connection.execute("create view operational.vw_active_loans as select 1 as one")
                    connection.execute("create view operational.vw_customer_payment_summary as select 1 as one")

    change(statement)
    try:
        assert_stopped_before_harm(platform, expected, "__sources.yml")
    finally:
        change(undo)
    platform.wait_for_replicas()
    with platform.app() as connection:
        pay(connection, 1)
    platform.wait_for_replicas()
    platform.build()
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_a_table_whose_changes_are_not_written_down_stops_the_run_until_it_is_published_again(small_book):
    """A trigger that somebody disabled, or a table that was put in the place of another one."""
    platform = small_book
    with connect(platform.superuser_conninfo) as connection:
        connection.execute("alter table operational.payments disable trigger payments_audit")
    try:
        with platform.app() as connection:
            pay(connection, 1)
            connection.execute("delete from operational.payments where payment_id = 3")
        platform.wait_for_replicas()
        refused = platform.dbt(*DATA_BUILD)
        assert "table payments is not in the change feed" in refused.run["error_message"]
    finally:
        with connect(platform.superuser_conninfo) as connection:
            connection.execute("set role loans_owner")
            connection.execute("select etl.publish_table('operational.payments')")
    platform.wait_for_replicas()
    assert platform.build().run["extraction_reason"] == "the source says that a table was reloaded"
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)


ALL_TRIGGERS = ", ".join(f"enable always trigger payments_{kind}" for kind in ("stamp_row", "audit", "no_truncate"))
FEED = (SQL_FOLDERS["primary"] / FEED_FILE).read_text(encoding="utf-8")
WRITE_AUDIT = FEED[FEED.index("create or replace function operational.write_audit") :].partition("\n$$;")[0] + "\n$$"
# How the trail of the payments is switched off, what happens meanwhile, and how it is switched on again.
GAPS = [
    (
        "alter table operational.payments disable trigger payments_audit",
        "delete from operational.payments where payment_id = 3",
        "alter table operational.payments enable always trigger payments_audit",
    ),
    (
        "set session_replication_role = replica; alter table operational.payments disable trigger all",
        "update operational.payments set amount = amount + 1, interest_portion = interest_portion + 1",
        f"alter table operational.payments enable trigger all, {ALL_TRIGGERS}",
    ),
    (
        "alter table operational.payments disable trigger payments_no_truncate",
        "create temporary table kept as select * from operational.payments where payment_id > 4; "
        "truncate operational.payments; insert into operational.payments select * from kept",
        "alter table operational.payments enable always trigger payments_no_truncate",
    ),
    (
        "create or replace function operational.write_audit() returns trigger language plpgsql security definer "
        "as 'begin return null;end'",
        "delete from operational.payments where payment_id = 3",
        WRITE_AUDIT,
    ),
    (
        # What is noted when it is made is kept out as well.
        "create rule quiet as on insert to operational.audit_log where new.table_name = 'payments' "
        "or new.operation = 'RELOAD' do instead nothing",
        "delete from operational.payments where payment_id = 3",
        "drop rule quiet on operational.audit_log",
    ),
    (
        "drop trigger payments_audit on operational.payments",
        "insert into operational.payments (loan_id, amount, principal_portion, interest_portion, payment_method) "
        "values (1, 3, 2, 1, 'cash')",
        "create trigger payments_audit after insert or update or delete on operational.payments for each row "
        "execute function operational.write_audit('payment_id'); "
        "alter table operational.payments enable always trigger payments_audit",
    ),
]


@pytest.mark.proof
@pytest.mark.parametrize(("off", "change", "on"), GAPS)
@pytest.mark.parametrize("together", [True, False], ids=["one transaction", "three transactions"])
def test_what_happens_while_the_trail_is_switched_off_is_found_by_the_next_run(small_book, off, change, on, together):
    platform = small_book
    with connect(platform.superuser_conninfo, autocommit=not together) as connection:
        for statements in (off, change, on):
            for statement in statements.split("; "):
                connection.execute(statement)
    platform.wait_for_replicas()
    assert platform.build().run["extraction_reason"] == "the source says that a table was reloaded"
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)
    assert platform.build().run["extraction_mode"] == "changes"


# What changes rows, or the columns that are read, without firing a trigger, and how it is taken back.
PUBLISH_PAYMENTS = "select etl.publish_table('operational.payments')"
EXCHANGE_COLUMNS = (
    "alter table operational.payments rename recorded_by to kept",
    "alter table operational.payments rename notes to recorded_by",
    "alter table operational.payments rename kept to notes",
)
UNNOTED_CHANGES = {
    "a column is dropped and added again": (
        (
            "alter table operational.loans drop column restructured_on cascade",
            "alter table operational.loans add column restructured_on date",
            "select etl.publish_table('operational.loans')",
        ),
        (),
    ),
    "two columns exchange their names": (
        (*EXCHANGE_COLUMNS, PUBLISH_PAYMENTS),
        (*EXCHANGE_COLUMNS, PUBLISH_PAYMENTS),
    ),
    "a column is recomputed, below a view that is published again": (
        (
            "drop view etl.payments_changes",
            "alter table operational.payments alter column notes type text using upper(notes)",
            PUBLISH_PAYMENTS,
        ),
        (),
    ),
    "a column is recomputed, below a view that is made again as it was": (
        (
            "do $$ declare query text := pg_get_viewdef('etl.payments_changes'::regclass); begin "
            "drop view etl.payments_changes; "
            "alter table operational.payments alter column notes type text using upper(notes); "
            "execute 'create view etl.payments_changes as ' || query; end $$",
            "grant select on etl.payments_changes to etl_reader",
        ),
        (),
    ),
    "a label of a column's type is renamed": (
        (
            "create type operational.risk_grade as enum ('A', 'B')",
            "alter table operational.loans add column grade operational.risk_grade default 'A'",
            "alter type operational.risk_grade rename value 'A' to 'AAA'",
            # What the note says does not depend on whether the warehouse reads the column.
            "alter table operational.loans drop column grade",
            "drop type operational.risk_grade",
        ),
        (),
    ),
    "another published table takes the name": (
        (
            "create table operational.payments_new (like operational.payments including all)",
            "select etl.publish_table('operational.payments_new')",
            "insert into operational.payments_new select * from operational.payments where payment_id > 1",
            "alter table operational.payments rename to payments_former",
            "alter table operational.payments_new rename to payments",
            PUBLISH_PAYMENTS,
        ),
        (
            "alter table operational.payments rename to payments_new",
            "alter table operational.payments_former rename to payments",
            "drop table operational.payments_new cascade",
            "drop view if exists etl.payments_former_changes",
            PUBLISH_PAYMENTS,
        ),
    ),
}


def as_owner(platform: Any, *statements: str) -> None:
    """Run these statements on the primary, as the owner of the book, in one transaction."""
    with connect(platform.superuser_conninfo) as connection:
        connection.execute("set role loans_owner")
        for statement in statements:
            connection.execute(statement)
    platform.wait_for_replicas()


@pytest.mark.proof
@pytest.mark.parametrize("case", UNNOTED_CHANGES)
def test_what_ddl_changes_without_a_trigger_is_found_by_the_next_run(small_book, case):
    platform = small_book
    change, undo = UNNOTED_CHANGES[case]
    with platform.app() as connection:
        connection.execute("update operational.loans set restructured_on = disbursed_at::date where loan_id = 2")
        connection.execute("update operational.payments set notes = 'by phone', recorded_by = 'teller'")
    platform.wait_for_replicas()
    platform.build()
    try:
        as_owner(platform, *change)
        assert platform.build().run["extraction_reason"] == "the source says that a table was reloaded"
        assert_landing_equals_source(platform)
        assert_views_equal_the_oltp(platform)
        assert platform.build().run["extraction_mode"] == "changes"
    finally:
        as_owner(platform, *undo)


# What makes the feed or the reading of a published table incomplete, how it is taken back, and what the run says.
OUT_OF_THE_FEED = [
    (EXCHANGE_COLUMNS, EXCHANGE_COLUMNS, "columns were renamed or dropped"),
    (
        ("drop view etl.payments_changes",),
        (PUBLISH_PAYMENTS,),
        "columns were renamed or dropped",
    ),
    (
        (
            "create policy recent on operational.payments for select using (payment_id > 3)",
            "alter table operational.payments enable row level security",
        ),
        ("alter table operational.payments disable row level security", "drop policy recent on operational.payments"),
        "it has row-level security",
    ),
    (
        ("create table operational.old_payments () inherits (operational.payments)",),
        ("drop table operational.old_payments",),
        "it inherits, or is inherited",
    ),
    (
        (
            "create rule quiet as on insert to operational.audit_log where new.table_name = 'payments' "
            "do instead nothing",
        ),
        ("drop rule quiet on operational.audit_log",),
        "rule quiet of operational.audit_log keeps entries out of the audit trail: drop it",
    ),
    (
        ("alter function operational.write_audit() set search_path = public",),
        ("alter function operational.write_audit() set search_path = pg_catalog, pg_temp",),
        "function operational.write_audit() is not as the platform made it: make up puts it back",
    ),
    (
        # As pg_restore --disable-triggers leaves them: not for sessions with session_replication_role = replica.
        (
            "alter table operational.payments disable trigger user",
            "alter table operational.payments enable trigger user",
        ),
        (PUBLISH_PAYMENTS,),
        "a trigger of its audit trail is missing, not enabled always",
    ),
]


@pytest.mark.proof
@pytest.mark.parametrize(("change", "undo", "expected"), OUT_OF_THE_FEED)
def test_a_table_that_the_feed_could_not_follow_any_more_stops_the_run(small_book, change, undo, expected):
    platform = small_book
    as_owner(platform, *change)
    try:
        for options in ((), ("--vars", "{reconcile: true}")):
            failed = platform.dbt(*DATA_BUILD, *options)
            assert failed.exit_code != 0
            assert f"table payments is not in the change feed ({expected}" in failed.run["error_message"]
    finally:
        as_owner(platform, *undo)
    platform.build()
    assert_landing_equals_source(platform)


@pytest.mark.proof
def test_a_key_that_is_not_the_primary_key_stops_the_run(small_book):
    """Two rows may have it: one of them would be lost, also in the nightly run."""
    platform = small_book
    as_owner(
        platform,
        "alter table operational.payments drop constraint payments_pkey, add constraint once unique (payment_id)",
        "alter table operational.payments add column other bigint generated always as identity primary key",
        PUBLISH_PAYMENTS,
    )
    try:
        failed = platform.dbt(*DATA_BUILD)
        assert failed.exit_code != 0
        assert "column payments.payment_id is not the primary key, but the key of that" in failed.run["error_message"]
    finally:
        as_owner(
            platform,
            "drop view etl.payments_changes",
            "alter table operational.payments drop column other",
            "alter table operational.payments drop constraint once, add primary key (payment_id)",
            PUBLISH_PAYMENTS,
        )
    platform.build()
    assert_landing_equals_source(platform)


@pytest.mark.proof
def test_a_table_that_is_rewritten_between_the_snapshot_and_its_reading_is_not_taken_for_empty(small_book):
    """`alter table` makes rows invisible to older snapshots; the landing table is empty: no guard would see it."""
    platform = small_book
    use_only(platform, "primary")
    with platform.app() as connection:
        connection.execute(
            "insert into operational.loan_installments (loan_id, installment_no, due_date, principal_due) "
            "select loan_id, 1, maturity_date, amount from operational.loans where loan_id = 1"
        )
    try:
        with connect(platform.superuser_conninfo) as connection:
            connection.execute(
                "alter table operational.loan_installments add column stamped timestamptz default clock_timestamp()"
            )
            child = platform.start_dbt(*DATA_BUILD, environment={"ETL_STARTED_BY": "the early one"})
            wait_until(
                lambda: platform.primary(
                    "select 1 from pg_locks where not granted and relation = 'operational.loan_installments'::regclass"
                )
            )
        child.join()
        assert child.exitcode != 0
        assert (
            "loan_installments of the source was replaced or rewritten"
            in (platform.run_of("the early one")["error_message"])
        )
        platform.build()
    finally:
        platform.primary("alter table operational.loan_installments drop column stamped")
    assert_landing_equals_source(platform)


def test_publishing_a_table_again_leaves_no_gap_and_other_ddl_is_ignored(small_book):
    platform = small_book
    with platform.app() as connection:
        for statement in ("create temporary table own ()", "alter table own add column a integer", "drop table own"):
            connection.execute(statement)
    with connect(platform.superuser_conninfo) as connection:
        connection.execute("set role loans_owner")
        connection.execute("select etl.publish_table('operational.payments')")
    platform.wait_for_replicas()
    assert platform.build().run["extraction_mode"] == "changes"


@pytest.mark.proof
def test_a_run_does_not_wait_for_a_table_that_stays_locked(small_book):
    """The application holds the payments, on the only server that can be read."""
    platform = small_book
    database = platform.primary("select current_database()")[0][0]
    assert platform.primary(
        "select 1 from pg_db_role_setting "
        "where setrole = 'etl_reader'::regrole and 'lock_timeout=1min' = any (setconfig)"
    ) == [(1,)]
    platform.primary(f"alter role etl_reader in database {database} set lock_timeout = '500ms'")
    use_only(platform, "primary")
    try:
        with platform.app() as connection:
            pay(connection, 1)
            connection.commit()
            connection.execute("lock table operational.payments in access exclusive mode")
            failed = platform.dbt(*DATA_BUILD)
        assert failed.exit_code != 0
        assert "lock timeout" in failed.run["error_message"]
        platform.build()
        assert_views_equal_the_oltp(platform)
    finally:
        platform.primary(f"alter role etl_reader in database {database} set lock_timeout = '1min'")


def test_a_warehouse_run_survives_the_source_being_away(small_book):
    platform = small_book
    with connect(platform.writer_conninfo, autocommit=True) as connection:
        options = connection.execute("select srvoptions from pg_foreign_server where srvname = 'oltp'").fetchone()
        connection.execute("alter server oltp options (set port '1,1,1')")
        try:
            failed = platform.dbt(*DATA_BUILD)
            assert failed.exit_code != 0
            assert "could not connect to server" in failed.run["error_message"]
        finally:
            ports = dict(option.split("=", 1) for option in options[0])["port"]
            connection.execute(f"alter server oltp options (set port '{ports}')")
    platform.build()


@pytest.mark.proof
def test_readers_see_no_error_and_views_that_agree_while_runs_and_full_refreshes_go_on(small_book):
    platform = small_book
    published = [oltp_state(platform.superuser_conninfo)]
    with Readers(platform.reader_conninfo) as readers:
        for number in range(3):
            with platform.app() as connection:
                pay(connection, 1 + number, "7.77", "0.33")
                connection.execute("delete from operational.payments where payment_id = %s", (number + 1,))
            platform.wait_for_replicas()
            published.append(oltp_state(platform.superuser_conninfo))
            platform.build(*(["--full-refresh"] if number == 1 else []))
    readers.assert_good(*published)
    assert_views_equal_the_oltp(platform)


def test_the_published_tables_change_together_or_not_at_all(small_book):
    platform = small_book
    published = [oltp_state(platform.superuser_conninfo)]
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection)))
    platform.wait_for_replicas()
    published.append(oltp_state(platform.superuser_conninfo))
    with Readers(platform.reader_conninfo) as readers, connect(platform.warehouse_conninfo) as lock:
        # Writers wait here, in the middle of publishing; readers do not.
        lock.execute("lock table publish.agg_loans in exclusive mode")
        child = platform.start_dbt(*DATA_BUILD)
        wait_until(
            lambda: platform.warehouse(
                "select 1 from pg_locks where not granted and relation = 'publish.agg_loans'::regclass"
            )
        )
        time.sleep(0.5)
    child.join()
    assert child.exitcode == 0
    readers.assert_good(*published)


def test_of_two_builds_started_together_one_runs_and_one_is_refused(small_book):
    platform = small_book
    children = []
    try:
        with connect(platform.warehouse_conninfo) as lock:
            # Neither can end before the other has started.
            lock.execute("lock table publish.published_state in access exclusive mode")
            children += [platform.start_dbt(*DATA_BUILD) for _ in range(2)]
            wait_until(lambda: any(child.exitcode is not None for child in children), seconds=20)
            refused = [child.exitcode for child in children if child.exitcode is not None]
            assert len(refused) == 1 and refused[0] != 0
    finally:
        for child in children:
            child.join()
    assert sorted(child.exitcode == 0 for child in children) == [False, True]
    assert platform.warehouse("select count(*) from audit.refused_starts") == [(1,)]


@pytest.mark.proof
def test_of_many_builds_started_in_the_same_instant_exactly_one_runs(small_book):
    """They are all ready, and wait at the table that records the runs."""
    platform = small_book
    with connect(platform.warehouse_conninfo) as lock:
        lock.execute("lock table audit.etl_runs in share mode")
        children = [
            platform.start_dbt("run", "--select", "extraction", environment={"ETL_STARTED_BY": f"start {number}"})
            for number in range(4)
        ]
        wait_until(
            lambda: (
                platform.warehouse(
                    "select count(*) = 4 from pg_locks where not granted and relation = 'audit.etl_runs'::regclass"
                )
                == [(True,)]
            )
        )
    for child in children:
        child.join()
    # One at a time: a build that came after the end of another may have run, too.
    overlapping = platform.warehouse(
        "select 1 from audit.etl_runs as one inner join audit.etl_runs as other on one.run_id < other.run_id "
        "and one.run_finished_at > other.run_started_at where one.status = 'success' and other.status = 'success'"
    )
    assert overlapping == []
    [(runs, refused)] = platform.warehouse(
        "select (select count(*) from audit.etl_runs where started_by like 'start %' and status = 'success'), count(*) "
        "from audit.refused_starts"
    )
    assert runs >= 1
    assert sum(child.exitcode == 0 for child in children) == runs
    assert runs + refused <= 4
