"""Backups that are read back, restores that cost nothing when they fail, and a warehouse that continues afterwards."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from eds.backup_scheduler import BackupScheduler
from eds.base.errors import UserError
from eds.base.services import exclusive, running_command
from eds.cluster.connections import Cluster, connect
from eds.ops import backup, health, restore
from eds.warehouse import alerts, backup_record, metrics
from eds.warehouse.runs import DATA_BUILD
from support import needs
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp

DATABASES = "select datname from pg_database where datname like 'loans_db%' or datname like 'warehouse_db%' order by 1"
BOOK = """
    select 'customers', count(*), md5(string_agg(t::text, ',' order by customer_id)) from operational.customers as t
    union all
    select 'payments', count(*), md5(string_agg(t::text, ',' order by payment_id)) from operational.payments as t
    union all
    select 'audit_log', count(*), md5(string_agg(t::text, ',' order by log_id)) from operational.audit_log as t
    where operation <> 'RELOAD'
"""


@pytest.fixture
def small(platform, tmp_path, monkeypatch):
    """Yield a small book, and a backup directory of the test's own. Databases that restores kept are dropped."""
    settings, cluster = platform.settings, platform.cluster
    platform.settings = settings.model_copy(update={"backup_dir": tmp_path / "backups"})
    platform.cluster = Cluster(platform.settings)
    with platform.app() as connection:
        for name in ("Amina Otieno", 'Wanjiru\tKamau\\n, "x"', "Ünï 名"):
            pay(connection, add_loan(connection, add_customer(connection, name)))
    platform.wait_for_replicas()
    yield platform
    platform.settings, platform.cluster = settings, cluster
    for server in ("primary", "warehouse"):
        with connect(platform.servers[server].superuser_conninfo("postgres"), autocommit=True) as connection:
            for (name,) in connection.execute(DATABASES).fetchall():
                if "_re" in name:
                    connection.execute(f"drop database {name} with (force)")


def change_everything(platform):
    with platform.app() as connection:
        connection.execute("update operational.customers set city = 'Kisumu' where customer_id = 1")
        connection.execute("delete from operational.payments where payment_id = 2")
        pay(connection, add_loan(connection, add_customer(connection, "Later")))
    platform.wait_for_replicas()


def databases(platform):
    with connect(platform.servers["primary"].superuser_conninfo("postgres")) as connection:
        return [row[0] for row in connection.execute(DATABASES)]


def test_a_dump_brings_the_book_back_and_the_warehouse_notices_by_itself(small):
    platform, settings = small, small.settings
    before = platform.primary(BOOK)
    made = backup.dump(platform.cluster, "operational", "sql")
    assert backup.read_back(settings, made.path) == made.manifest["rows"]
    assert made.manifest["rows"]["operational.customers"] == 3
    assert made.path.stat().st_mode & 0o077 == 0
    change_everything(platform)
    # The warehouse has seen what the restore takes away.
    platform.build()
    assert platform.primary(BOOK) != before

    kept = restore.restore(platform.runtime, backup.named(settings, made.path.name), platform.servers["primary"])
    assert platform.primary(BOOK) == before
    assert databases(platform) == ["loans_db", kept]
    with platform.app() as connection:
        assert add_customer(connection, "After the restore") == 4
    platform.wait_for_replicas()
    result = platform.build()
    assert result.run["extraction_mode"] == "reconcile"
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)


@needs.pgbouncer
def test_who_connects_through_the_pools_sees_the_restored_book(small):
    pooled = make_conninfo(small.app_conninfo, port=small.settings.pgbouncer_port, dbname="loans_db")
    made = backup.dump(small.cluster, "operational", "sql")
    with psycopg.connect(pooled, prepare_threshold=None) as connection:
        connection.execute("insert into operational.customers (full_name) values ('After the backup')")
    restore.restore(small.runtime, made, small.servers["primary"])
    small.wait_for_replicas()
    for database in ("loans_db", "loans_db_ro"):
        with psycopg.connect(make_conninfo(pooled, dbname=database), prepare_threshold=None) as connection:
            assert connection.execute("select count(*) from operational.customers").fetchone() == (3,)


def test_a_second_restore_drops_the_database_that_the_first_one_kept(small):
    before = small.primary(BOOK)
    made = backup.dump(small.cluster, "operational", "custom")
    assert backup.read_back(small.settings, made.path) == made.manifest["rows"]
    change_everything(small)
    kept = [restore.restore(small.runtime, made, small.servers["primary"]) for _ in range(2)]
    assert small.primary(BOOK) == before
    assert databases(small) == ["loans_db", kept[1]]


def test_a_broken_dump_costs_nothing(small):
    platform, settings = small, small.settings
    made = backup.dump(platform.cluster, "operational", "sql")
    custom = backup.dump(platform.cluster, "operational", "custom")
    change_everything(platform)
    before = platform.primary(BOOK)
    whole = made.path.read_bytes()
    text = gzip.decompress(whole)
    manifest = backup.manifest_path(made.path)
    kept_manifest = manifest.read_text(encoding="utf-8")

    def refused(match: str) -> None:
        for action in (
            lambda: backup.verify(settings, backup.named(settings, made.path.name)),
            lambda: restore.load_dump(
                settings, backup.named(settings, made.path.name), platform.servers["primary"], "loans_db_restore_x"
            ),
        ):
            with pytest.raises(UserError, match=match):
                action()
        assert platform.primary(BOOK) == before
        assert databases(platform) == ["loans_db"]

    # Without a manifest, what the file itself tells.
    manifest.unlink()
    made.path.write_bytes(whole[: len(whole) // 2])
    refused("damaged|breaks off")
    made.path.write_bytes(b"not a dump at all")
    refused("is no dump")
    made.path.write_bytes(
        gzip.compress(text.replace(b"CREATE TABLE operational.loans ", b"CREATE TABEL operational.loans "))
    )
    with pytest.raises(UserError, match=r"could not be loaded.*\n.*TABEL"):
        restore.load_dump(
            settings, backup.named(settings, made.path.name), platform.servers["primary"], "loans_db_restore_x"
        )
    assert databases(platform) == ["loans_db"]
    # With one, also what only it tells: a row less, a byte that differs.
    lines = text.splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if line.startswith(b"COPY operational.payments"))
    made.path.write_bytes(gzip.compress(b"".join(lines[: at + 1] + lines[at + 2 :])))
    manifest.write_text(kept_manifest, encoding="utf-8")
    with pytest.raises(UserError, match="its checksum is"):
        backup.verify(settings, backup.named(settings, made.path.name))
    assert not backup.named(settings, made.path.name).verified
    with pytest.raises(UserError, match=r"operational.payments: 2, expected 3"):
        restore.load_dump(
            settings, backup.named(settings, made.path.name), platform.servers["primary"], "loans_db_restore_x"
        )
    damaged = bytearray(custom.path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    custom.path.write_bytes(damaged)
    with pytest.raises(UserError, match="its checksum is"):
        backup.verify(settings, custom)
    assert platform.primary(BOOK) == before
    assert databases(platform) == ["loans_db"]


def test_a_backup_that_fails_leaves_nothing_and_what_a_killed_one_left_is_removed(small):
    settings = small.settings
    folder = settings.backups
    folder.mkdir()
    (folder / ".incoming.backup_physical_20200101_000000").mkdir()
    (folder / ".incoming.backup_operational_20200101_000000.sql.gz").touch()
    with connect(small.superuser_conninfo, autocommit=True) as connection:
        # pg_dump cannot lock the table in time.
        connection.execute("alter role postgres set lock_timeout = '200ms'")
        with connect(small.superuser_conninfo) as holder:
            holder.execute("lock table operational.loan_products in access exclusive mode")
            with pytest.raises((UserError, psycopg.Error), match="lock timeout"):
                backup.dump(small.cluster, "operational", "sql")
        connection.execute("alter role postgres reset lock_timeout")
    assert [path.name for path in folder.iterdir()] == [".lock"]


@pytest.mark.proof
def test_the_warehouse_is_restored_and_its_next_run_catches_up(small):
    platform = small
    platform.build()
    made = backup.dump(platform.cluster, "warehouse", "sql")
    change_everything(platform)
    platform.build()
    restore.restore(platform.runtime, made, platform.servers["warehouse"])
    assert platform.warehouse("select count(*) from audit.etl_runs") == [(1,)]
    # Who may read, and for how long, is not in a dump.
    assert platform.view("vw_payment_by_method")
    with connect(platform.reader_conninfo) as connection:
        assert connection.execute("show statement_timeout").fetchone() == ("1min",)
    platform.build()
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)


def test_the_commands_ask_list_and_end_with_an_exit_code(small):
    def eds(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "eds", *command],
            env=os.environ | {"BACKUP_DIR": str(small.settings.backups)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "no backup" in eds("backups").stdout
    assert eds("backup", "--format", "custom", "--kind", "operational").returncode == 0
    assert eds("backup", "--keep", "1").returncode == 0
    listed = json.loads(eds("backups", "--json", "--verify").stdout)
    assert [(each["kind"], each["verified"]) for each in listed] == [("warehouse", True), ("operational", True)]
    file = next(each["path"] for each in listed if each["kind"] == "operational")
    asked = eds("restore", "--file", file)
    assert asked.returncode == 1
    assert "FORCE=1" in asked.stderr
    assert databases(small) == ["loans_db"]
    change_everything(small)
    done = eds("restore", "--file", file, "--force")
    assert done.returncode == 0, done.stderr
    assert "operational.customers: 4 rows now, 3 in the backup" in done.stdout
    assert small.primary("select count(*) from operational.customers") == [(3,)]
    for command, expected in (
        (("restore", "--file", "nothing.sql.gz"), "There is no backup nothing.sql.gz"),
        (("restore",), "Which backup?"),
        (("backup", "--kind", "odd"), "KIND is odd"),
        (("backup", "--format", "odd"), "FORMAT is odd"),
    ):
        refused = eds(*command)
        assert refused.returncode == 1
        assert expected in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.proof
def test_a_run_does_not_wait_for_a_dump_of_the_warehouse(small):
    platform = small
    platform.build()
    change_everything(platform)
    relations = [
        name
        for (name,) in platform.warehouse(
            "select format('%I.%I', relnamespace::regnamespace, relname) from pg_class "
            "where relkind in ('r', 'v') and relnamespace::regnamespace::text !~ '^(pg_|information_schema)'"
        )
    ]
    # What pg_dump holds until it has ended.
    with connect(platform.warehouse_conninfo) as dumping:
        dumping.execute("set transaction isolation level repeatable read, read only")
        dumping.execute(f"lock table {', '.join(relations)} in access share mode")
        child = platform.start_dbt(*DATA_BUILD)
        child.join(120)
        waited = child.is_alive()
    child.join()
    assert not waited
    assert child.exitcode == 0
    assert_views_equal_the_oltp(platform)


def test_a_scheduled_backup_is_recorded_and_its_failure_alerts(small, tmp_path, monkeypatch):
    settings = small.settings.model_copy(update={"alert_command": f"cat >>{tmp_path / 'output'}"})
    monkeypatch.setattr(alerts, "_start_delivery", lambda settings: None)
    monkeypatch.setenv("BACKUP_DIR", str(settings.backups))
    scheduler = BackupScheduler(settings)
    assert scheduler.run("backup_dump_schedule") == 0
    record = "select kind, database_name, started_by, succeeded, backup_name from audit.backups order by backup_id"
    recorded = small.warehouse(record)
    assert [row[:4] for row in recorded] == [
        ("dump", "loans_db", "schedule", True),
        ("dump", "warehouse_db", "schedule", True),
    ]
    assert {row[4] for row in recorded} == {each.path.name for each in backup.find(settings)}
    with connect(small.writer_conninfo) as connection:
        assert backup_record.protection(connection).dump.succeeded
    (tmp_path / "a file").touch()
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path / "a file"))
    assert scheduler.run("backup_dump_schedule") == 1
    assert small.warehouse(record)[-1][:4] == ("dump", "loans_db", "schedule", False)
    assert alerts.deliver(settings)
    assert "the dump of both databases failed" in (tmp_path / "output").read_text(encoding="utf-8")
    figures = metrics.render(settings)
    assert 'eds_last_backup_success{kind="dump"} 0' in figures
    assert 'eds_last_backup_timestamp_seconds{kind="dump"} ' in figures


def test_a_scheduled_check_that_finds_a_damaged_dump_alerts_and_health_names_it(small, tmp_path, monkeypatch):
    settings = small.settings.model_copy(update={"alert_command": f"cat >>{tmp_path / 'output'}"})
    monkeypatch.setattr(alerts, "_start_delivery", lambda settings: None)
    monkeypatch.setenv("BACKUP_DIR", str(settings.backups))
    scheduler = BackupScheduler(settings)

    def named() -> list[str]:
        return [each for each in health.health(small.runtime)["problems"] if "make backup KIND=operational" in each]

    made = backup.dump(small.cluster, "operational", "sql")
    content = made.path.read_bytes()
    assert scheduler.run("backup_verify_schedule") == 0
    assert named() == []
    made.path.write_bytes(content[:-100])
    assert scheduler.run("backup_verify_schedule") == 1
    assert alerts.deliver(settings)
    assert "the check of backups and archive failed" in (tmp_path / "output").read_text(encoding="utf-8")
    assert made.path.name in named()[0]
    assert "eds_last_backup_check_success 0" in metrics.render(settings)
    made.path.write_bytes(content)
    assert scheduler.run("backup_verify_schedule") == 0
    assert named() == []


def test_a_command_takes_the_lock_from_a_scheduled_one_and_from_no_other(small):
    held = (
        "import time; from eds.base.settings import load; from eds.base.services import exclusive\n"
        "with exclusive(load(), 'drill', gives_way={}):\n    print('held', flush=True); time.sleep(600)"
    )
    for gives_way in (False, True):
        with subprocess.Popen(
            [sys.executable, "-c", held.format(gives_way)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            if gives_way:
                with exclusive(small.settings, "failover"):
                    assert holder.wait(30) != 0
                    assert running_command(small.settings) == "failover"
            else:
                with (
                    pytest.raises(UserError, match="make drill of this checkout is running"),
                    exclusive(small.settings, "failover"),
                ):
                    pass
                holder.kill()
    assert running_command(small.settings) is None
