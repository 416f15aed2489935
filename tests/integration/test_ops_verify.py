"""`make verify` and `make health`: they pass on a healthy platform, name what is not, and leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from eds.base.errors import UserError
from eds.cluster import locks, provision
from eds.cluster.connections import connect
from eds.ops import health, privileges, replication, verify, wal
from eds.ops.checks import figures
from eds.ops.checks.result import Failed
from eds.ops.transactions import OldestTransaction
from eds.runtime.local.binaries import find_pgbouncer
from support import needs
from support.book import add_customer, add_loan, pay
from support.waiting import wait_until

RELATIONS = """
    select format('%I.%I', n.nspname, c.relname)
    from pg_class as c inner join pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'S') and n.nspname in ('operational', 'etl', 'platform', 'public')
    order by 1
"""


def traces(platform):
    """Return how many rows every table of the book has, and how many runs there were."""
    names = [row[0] for row in platform.primary(RELATIONS)]
    rows = {name: platform.primary(f"select count(*) from {name}")[0][0] for name in names}
    return rows, platform.warehouse("select count(*) from audit.etl_runs")


@pytest.fixture(scope="module")
def built(all_servers):
    """Provide a small book, and a warehouse that has it. The tests put back what they break."""
    platform = all_servers
    platform.empty_book()
    platform.empty_warehouse()
    with platform.app() as connection:
        for _ in range(3):
            loan = add_loan(connection, add_customer(connection))
            pay(connection, loan, payment_date="2026-02-03T10:00:00+00")
    platform.wait_for_replicas()
    platform.build()
    return platform


def outcome(platform, wanted=None):
    """Return each check that is not a PASS, by name: (status, detail)."""
    run = verify.verify(platform.runtime, lambda result: None)
    assert len(run.results) > 50
    return {result.name: (result.status, result.detail) for result in run.results if result.status != "PASS"}


def test_all_passes_on_a_platform_that_works_and_nothing_is_left_behind(built):
    before = traces(built)
    # The tests start no scheduler and no Metabase.
    found = outcome(built)
    absent = ["Metabase is healthy", "backup-scheduler runs"]
    if not find_pgbouncer():
        absent += ["pgbouncer runs", "PgBouncer serves queries on both databases"]
    if built.runtime.why_no_repository:
        absent.append("a switched segment arrives, complete")
    assert [found.pop(name)[0] for name in absent] == ["SKIP"] * len(absent)
    assert found == {"scheduler runs": ("FAIL", "stopped: `make up` starts it")}
    assert traces(built) == before


def test_a_figure_that_differs_from_the_source_is_named_with_its_month(built):
    built.warehouse("update warehouse.fact_payments set payment_amount = payment_amount + 1 where payment_id = 1")
    try:
        status, detail = outcome(built)["customers, products, loans and payments have the OLTP's counts and sums"]
    finally:
        built.warehouse("update warehouse.fact_payments set payment_amount = payment_amount - 1 where payment_id = 1")
    assert status == "FAIL"
    assert "payments of 2026-02" in detail
    assert "fact_payments" in detail


def test_what_is_broken_is_named(built):
    with connect(built.superuser_conninfo, autocommit=True) as connection:
        connection.execute("alter table operational.payments disable trigger payments_audit")
        connection.execute("grant select on operational.audit_log to app_user")
        connection.execute("grant update (phone) on operational.customers to readonly_user")
        connection.execute("create table operational.branches (branch_code text)")
        connection.execute("create role intruder login createdb")
    try:
        found = outcome(built)
    finally:
        with connect(built.superuser_conninfo, autocommit=True) as connection:
            connection.execute("drop role intruder")
            connection.execute("drop table operational.branches")
            connection.execute("revoke update (phone) on operational.customers from readonly_user")
            connection.execute("revoke select on operational.audit_log from app_user")
            connection.execute("alter table operational.payments enable always trigger payments_audit")
    assert found["the audit trail cannot be bypassed"] == ("FAIL", "16 should be enabled always, found 15 of 16")
    # Three of the five changes in the trail are of the customer and the loan.
    assert found["the application can write, and every change is in the trail"][0] == "FAIL"
    status, detail = found["OLTP: each role may do what it should and nothing else"]
    assert status == "FAIL"
    for text in (
        "app_user may select on relation operational.audit_log, and should not",
        "readonly_user may update on relation operational.customers, and should not",
        "relation operational.branches has no rule",
        "role intruder can log in and has no rule",
    ):
        assert text in detail
    status, detail = found["customers, products, loans and payments have the OLTP's counts and sums"]
    # While the trail was off, any row may have changed.
    assert (status, "payments were reloaded since the last run" in detail) == ("FAIL", True)


def test_a_missing_privilege_is_a_difference_too(built):
    with connect(built.superuser_conninfo) as connection:
        assert privileges.differences(connection, privileges.OLTP)[0] == []
        connection.execute("revoke delete on operational.payments from app_user")
        connection.execute("revoke usage on schema etl from etl_reader")
        found, _ = privileges.differences(connection, privileges.OLTP)
        connection.rollback()
    assert "app_user should delete on relation operational.payments, and may not" in found
    assert "etl_reader should select on relation etl.payments_changes, and may not" in found
    assert "etl_reader should usage on schema etl, and may not" in found


def test_a_broken_rule_of_the_books_warns(built):
    with built.app() as connection:
        connection.execute("update operational.loans set outstanding_balance = 1 where loan_id = 1")
    status, detail = outcome(built)["the invariants of the books hold"]
    with built.app() as connection:
        connection.execute("update operational.loans set outstanding_balance = 900 where loan_id = 1")
    assert status == "WARN"
    assert "1 rows break: a disbursed loan owes its amount" in detail


def test_health_is_short_and_says_what_is_wrong(built):
    found = health.health(built.runtime)
    assert found["problems"] == ["scheduler is stopped"]
    assert found["fresh"] is True
    assert found["replicas"].keys() == {"replica1", "replica2"}
    built.warehouse("update audit.etl_runs set run_finished_at = run_finished_at - interval '50 minutes'")
    found = health.health(built.runtime)
    assert found["problems"] == ["scheduler is stopped", "the last success is 50 minutes old (limit 40)"]
    assert found["healthy"] is False
    built.warehouse("update audit.etl_runs set run_finished_at = run_finished_at + interval '50 minutes'")


def test_a_success_that_is_stamped_ahead_of_now_is_a_problem(built):
    newest = "where run_id = (select max(run_id) from audit.etl_runs where status = 'success')"
    built.warehouse(f"update audit.etl_runs set run_finished_at = run_finished_at + interval '3 days' {newest}")
    try:
        found = health.health(built.runtime)
        assert found["fresh"] is False
        assert "stamped 4320 minutes ahead of now" in found["problems"][1]
        status, detail = outcome(built)["the last success is fresh"]
        assert status == "FAIL" and "ahead of now" in detail
        # The next run, by a clock that is right, is what counts.
        built.build()
        assert health.health(built.runtime)["fresh"] is True
    finally:
        built.warehouse(
            "update audit.etl_runs set run_finished_at = run_finished_at - interval '3 days' "
            "where run_finished_at > clock_timestamp()"
        )


def test_data_of_a_time_to_come_are_a_problem(built):
    built.warehouse("update publish.published_state set data_as_of = data_as_of + interval '1 day'")
    try:
        problems = health.health(built.runtime)["problems"]
        assert [problem for problem in problems if "minutes ahead of now: a server's clock" in problem], problems
    finally:
        built.warehouse("update publish.published_state set data_as_of = data_as_of - interval '1 day'")


def test_a_month_that_was_reported_ahead_of_now_is_a_problem(built):
    trigger = "alter table publish.reported_month_ends {} trigger reported_month_ends_append_only"
    built.warehouse(
        "insert into publish.reported_month_ends values ('2200-01-31', 1, 1, 1, 1, 1, 1, 1, 1, '2200-02-05 01:00+00')"
    )
    try:
        problems = health.health(built.runtime)["problems"]
        assert [each for each in problems if "2200-01 at 2200-02-05 01:00" in each and "MONTH=2200-01" in each], (
            problems
        )
        status, detail = outcome(built)["no month was reported by a clock that was ahead"]
        assert status == "FAIL" and "2200-01 at 2200-02-05 01:00" in detail
    finally:
        built.warehouse(trigger.format("disable"))
        built.warehouse("delete from publish.reported_month_ends where month_end = '2200-01-31'")
        built.warehouse(trigger.format("enable"))


def test_a_backup_that_is_stamped_ahead_of_now_is_not_the_last_one(built):
    stamped = "clock_timestamp() + interval '3 days'"
    built.warehouse(
        "insert into audit.backups (kind, database_name, backup_type, started_by, started_at, finished_at, succeeded) "
        f"values ('physical', 'loans_db', 'full', 'manual', {stamped}, {stamped}, true)"
    )
    built.warehouse(f"insert into audit.drills (drilled_at, succeeded, findings) values ({stamped}, true, '{{}}')")
    built.warehouse(
        "insert into audit.backup_checks (checked_at, started_by, succeeded, findings) "
        f"values ({stamped}, 'manual', true, '{{}}')"
    )
    try:
        found = health.health(built.runtime)
        assert [found[f"last_{name}"] for name in ("physical_backup", "proven_restore", "backup_check")] == [None] * 3
    finally:
        built.warehouse("delete from audit.backups where finished_at > clock_timestamp()")
        built.warehouse("delete from audit.drills where drilled_at > clock_timestamp()")
        built.warehouse("delete from audit.backup_checks where checked_at > clock_timestamp()")


# --- transactions that were forgotten --------------------------------------------------------------------------------


def change_customers(platform, count):
    with platform.app() as connection:
        for number in range(count):
            connection.execute("update operational.customers set phone = %s where customer_id = 2", (str(number),))


def forget(connection, how):
    """Leave a change open, or prepared. Returns the statement that ends it."""
    connection.execute("update operational.customers set phone = 'forgotten' where customer_id = 3")
    if how == "prepared":
        connection.execute("prepare transaction 'orphan'")
        return "rollback prepared 'orphan'"
    return f"select pg_terminate_backend({connection.info.backend_pid})"


@pytest.mark.proof
@pytest.mark.parametrize("how", ["open", "prepared"])
def test_the_oldest_transaction_is_named_with_what_it_costs_and_how_to_end_it(built, how, monkeypatch):
    # Minutes are short here.
    for name in ("MOST_MINUTES", "MOST_MINUTES_WITH_MANY_CHANGES", "MOST_MINUTES_PREPARED"):
        monkeypatch.setattr(f"eds.ops.transactions.{name}", 0.0)
    connection = psycopg.connect(built.app_conninfo, autocommit=True)
    connection.execute("begin")
    remedy = forget(connection, how)
    try:
        change_customers(built, 20)
        built.wait_for_replicas()
        built.build()
        problem = next(text for text in health.health(built.runtime)["problems"] if "is open" in text)
        assert "app_user" in problem and remedy in problem
        assert "reads the 20 changes since then again" in problem
        found = outcome(built)
        status, detail = found["no transaction was forgotten open"]
        assert status == "FAIL" and remedy in detail
        # What the run saw is compared, although all of it is above the watermark.
        assert "customers, products, loans and payments have the OLTP's counts and sums" not in found
        built.warehouse("update operational.customers set created_at = created_at - interval '40 days'")
        with pytest.raises(Failed, match="customers of"):
            figures.figures(built.cluster)
        built.warehouse("update operational.customers set created_at = created_at + interval '40 days'")
    finally:
        if how == "prepared":
            built.primary(remedy)
        connection.close()
    wait_until(lambda: health.health(built.runtime)["oldest_transaction"] is None)


@pytest.mark.parametrize(
    ("minutes", "prepared", "changes", "is_problem"),
    [
        (0.05, True, 0, False),
        (0.3, True, 0, True),
        (0.9, False, 5000, False),
        (1.1, False, 5000, True),
        (9.9, False, 999, False),
        (10.1, False, 0, True),
    ],
)
def test_a_transaction_at_its_work_is_no_problem(minutes, prepared, changes, is_problem):
    oldest = OldestTransaction("process 1", "end it", minutes, prepared, changes)
    assert bool(oldest.problem) == is_problem


def test_an_idle_transaction_of_the_application_is_ended(oltp):
    for role in ("app_user", "readonly_user"):
        with connect(oltp.cluster.conninfo(oltp.cluster.primary, role)) as connection:
            assert connection.execute("show idle_in_transaction_session_timeout").fetchone() == ("10min",)
    # Nothing can be prepared, but where a test asks for it.
    static = (Path(verify.__file__).parents[3] / "infra/postgres/oltp.conf").read_text(encoding="utf-8")
    assert "max_prepared_transactions = 0" in static


# --- locks of the platform's commands --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["platform.applied_file", "platform.verify_probe", "concurrency"])
def test_an_advisory_lock_of_the_application_stops_no_command(built, name):
    with built.app() as connection:
        connection.execute("select pg_advisory_lock(hashtext(%s))", (name,))
        provision.provision_oltp(built.cluster)
        assert "replicas" in health.health(built.runtime)
        assert not [found for found in outcome(built) if "readable on every replica" in found]


def test_the_application_cannot_take_a_lock_of_the_platform(built):
    for table in ("applied_file", "lock_verify_probe", "lock_concurrency"):
        with built.app() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"lock table platform.{table} in access share mode")


def test_a_command_that_waits_for_another_one_gives_up_and_names_it(built):
    server = built.cluster.primary
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.command_lock(server, "verify_probe", "The first"):
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(10)
        # It costs the warehouse nothing.
        wait_until(lambda: health.health(built.runtime)["oldest_transaction"] is None)
        with (
            pytest.raises(UserError, match=r"holds the lock platform.lock_verify_probe: process \d+ of postgres"),
            locks.command_lock(server, "verify_probe", "The second", 0.2),
        ):
            pass
    finally:
        done.set()
        holder.join()


def test_sql_files_that_meet_a_locked_table_give_up_and_name_who_has_it(built, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.3)
    monkeypatch.setattr(locks.limit_waiting, "__defaults__", (0.3,))
    (tmp_path / "900_later.sql").write_text("alter table operational.customers add column later text")
    with built.app() as reader, connect(built.superuser_conninfo, autocommit=True) as connection:
        reader.execute("select count(*) from operational.customers")
        with pytest.raises(UserError, match=rf"process {reader.info.backend_pid} of app_user"):
            provision.apply_files(connection, tmp_path)
        assert connection.execute(
            "select count(*) from platform.applied_file where file_name = '900_later.sql'"
        ).fetchone() == (0,)


@needs.pgbackrest
def test_an_archive_that_does_not_work_is_reported(built):
    built.primary("alter system set archive_command = 'false'")
    built.primary("select pg_reload_conf()")
    try:
        with pytest.raises(UserError, match=r"is archived\. Archiving failed .* times"):
            wal.switch_and_wait(built.runtime, 3)
        problems = health.health(built.runtime)["problems"]
        assert [problem for problem in problems if problem.startswith("WAL is not archived: 0000000")]
    finally:
        built.primary("alter system reset archive_command")
        built.primary("select pg_reload_conf()")
    wal.switch_and_wait(built.runtime, 90)
    # The tests of the archive count failures from here on.
    built.primary("select pg_stat_reset_shared('archiver')")


def test_health_and_verify_end_with_an_exit_code_and_speak_json(built):
    for command, key in (("health", "problems"), ("verify", "checks"), ("replication", "slots")):
        done = subprocess.run(
            [sys.executable, "-m", "eds", command, "--json"], capture_output=True, text=True, check=False
        )
        assert json.loads(done.stdout)[key], done.stderr
        assert done.returncode == (0 if command == "replication" else 1)


@pytest.mark.proof
def test_a_replica_that_does_not_stream_is_reported(built):
    status = replication.status(built.cluster)
    assert replication.missing(status) == []
    assert {row["application_name"] for row in status["replicas"]} == {"replica1", "replica2"}
    built.runtime.postmaster.stop("replica2")
    try:
        assert replication.missing(replication.status(built.cluster)) == ["replica2"]
        found = outcome(built)
        assert found["replica2 streams and is near"] == (
            "FAIL",
            "it is not connected to the primary: `make up` repairs it",
        )
        problems = health.health(built.runtime)["problems"]
        assert {"replica2 is stopped", "replica2 does not stream"} <= set(problems)
    finally:
        built.runtime.up_replica("replica2")


def test_figures_are_compared_exactly_while_the_book_keeps_changing(built):
    built.wait_for_replicas()
    built.build()
    assert "left out" not in figures.figures(built.cluster)
    with built.app() as connection:
        pay(connection, 1, payment_date="2026-02-04T10:00:00+00")
        connection.execute("delete from operational.payments where payment_id = 2")
    # A payment, the loan it changed, and the one that went.
    assert "3 rows changed since the last run and were left out" in figures.figures(built.cluster)
    built.warehouse("update operational.payments set amount = amount + 0.01 where payment_id = 3")
    with pytest.raises(Failed, match="payments of 2026-02"):
        figures.figures(built.cluster)
