"""The servers as the embedded runtime starts them."""

from __future__ import annotations

import os
import socket
import subprocess
from datetime import UTC, date, datetime, timedelta

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from eds.base.errors import UserError
from eds.base.settings import ROOT
from eds.cluster import provision, server_conf
from eds.cluster.connections import connect
from eds.ops import wal
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.pgbackrest import Repository
from support import needs
from support.platform import ask, kill_server

NAMES = ("primary", "replica1", "replica2", "warehouse")


def test_a_second_start_changes_nothing(all_servers):
    runtime = all_servers.runtime
    before = {name: runtime.postmaster.pid(name) for name in NAMES}
    assert None not in before.values()
    assert runtime.up_primary() is False
    assert provision.provision_oltp(runtime.cluster) == []
    assert [runtime.up_replica(name) for name in ("replica1", "replica2")] == [False, False]
    assert runtime.up_warehouse() is False
    assert provision.provision_warehouse(runtime.cluster) == []
    assert {name: runtime.postmaster.pid(name) for name in NAMES} == before


@pytest.mark.parametrize("name", NAMES)
def test_a_password_is_always_asked_for_and_data_is_checksummed(all_servers, name):
    server = all_servers.servers[name]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.conninfo("postgres", "wrong"))
    methods = ask(all_servers.runtime, name, "select distinct auth_method from pg_hba_file_rules order by 1")
    assert methods == [("reject",), ("scram-sha-256",)]
    assert ask(all_servers.runtime, name, "show unix_socket_directories") == [("",)]
    assert ask(all_servers.runtime, name, "show data_checksums") == [("on",)]
    assert ask(all_servers.runtime, name, "show listen_addresses") == [("127.0.0.1",)]


@needs.root
@pytest.mark.parametrize("name", NAMES)
def test_no_server_runs_as_root(all_servers, name):
    process = psutil.Process(all_servers.runtime.postmaster.pid(name))
    assert process.uids().real != 0


def test_replicas_stream_by_slots_that_are_capped_and_refuse_writes(all_servers):
    assert ask(all_servers.runtime, "primary", "select slot_name, active from pg_replication_slots order by 1") == [
        ("replica1", True),
        ("replica2", True),
    ]
    assert ask(all_servers.runtime, "primary", "show max_slot_wal_keep_size") == [("2GB",)]
    for name in ("replica1", "replica2"):
        assert ask(
            all_servers.runtime, name, "select pg_is_in_recovery(), current_setting('hot_standby_feedback')"
        ) == [(True, "on")]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            ask(all_servers.runtime, name, "create table public.nothing ()")


@needs.pgbackrest
def test_the_archive_receives_segments(all_servers):
    segment, _ = wal.switch_and_wait(all_servers.runtime, 30)
    archive = Repository(all_servers.runtime)
    assert any(segment in name for name in archive.files(archive.info()))
    assert ask(all_servers.runtime, "primary", "select failed_count from pg_stat_archiver") == [(0,)]


@pytest.mark.parametrize(
    ("code", "purpose", "expected"),
    [(0, "recovery", 126), (1, "recovery", 1), (42, "recovery", 126), (255, "recovery", 126), (42, "replica", 1)],
)
def test_only_a_segment_that_is_not_there_ends_a_recovery(tmp_path, code, purpose, expected):
    """PostgreSQL takes every exit code up to 125 for the end of the WAL; a damaged segment must not look like it.

    Nor a tool that reports success and has fetched nothing.
    """
    tool = tmp_path / "pgbackrest"
    tool.write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
    tool.chmod(0o755)
    script = str(ROOT / "infra/postgres/restore_wal.sh")
    done = subprocess.run(
        [script, "conf", purpose, "000000010000000000000001", str(tmp_path / "target")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
    )
    assert done.returncode == expected


@pytest.mark.parametrize("name", NAMES)
def test_what_depends_on_how_a_server_was_built_is_the_first_choice_that_it_offers(all_servers, name):
    """Of build.settings, by the server's own word: pg_settings for a choice, and no file that was not applied."""
    wanted = [line.split() for line in server_conf.BUILD_SETTINGS.read_text(encoding="utf-8").splitlines()]
    for setting, *values in [line for line in wanted if line and line[0] != "#"]:
        ((offered, kind),) = ask(
            all_servers.runtime, name, f"select enumvals, vartype from pg_settings where name = '{setting}'"
        )
        first = next(value for value in values if kind != "enum" or value in offered)
        assert ask(all_servers.runtime, name, f"show {setting}") == [(first,)]
    assert ask(all_servers.runtime, name, "select name, error from pg_file_settings where error is not null") == []


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("wal_compression nosuch pglz", "wal_compression = pglz"),
        ("wal_compression nosuch\nwork_mem 3MB", "work_mem = 3MB"),
        ("no_such_setting on", ""),
        ("# a comment\n\nwal_compression off", "wal_compression = off"),
        ("work_mem -5 64kB", "work_mem = 64kB"),
    ],
)
def test_a_value_that_a_server_refuses_is_passed_over(runtime, tmp_path, asked, chosen):
    postgres = tmp_path / "with blanks" / "postgres"
    postgres.parent.mkdir()
    postgres.symlink_to(runtime.home.bindir / "postgres")
    done = subprocess.run(
        [server_conf.CHOOSE_SETTINGS, postgres], input=asked + "\n", capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == (chosen, "")


@needs.pgbouncer
def test_pgbouncer_serves_the_primary_and_a_replica(all_servers):
    settings = all_servers.settings
    found = {}
    for database in ("loans_db", "loans_db_ro"):
        pooled = make_conninfo(all_servers.app_conninfo, port=settings.pgbouncer_port, dbname=database)
        with psycopg.connect(pooled, prepare_threshold=None) as connection:
            found[database] = connection.execute("select pg_is_in_recovery()").fetchone()
    assert found == {"loans_db": (False,), "loans_db_ro": (True,)}


def test_taken_ports_are_named_with_the_setting_that_moves_them_before_anything_starts(runtime):
    with socket.socket() as one, socket.socket() as two:
        ports = []
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
            each.listen()
            ports.append(each.getsockname()[1])
        other = runtime.settings.model_copy(
            update={"state_dir": runtime.settings.state / "other", "primary_port": ports[0], "warehouse_port": ports[1]}
        )
        with pytest.raises(UserError) as caught:
            LocalRuntime(other).check_ports()
    message = str(caught.value)
    assert f"PRIMARY_PORT={ports[0]}" in message
    assert f"WAREHOUSE_PORT={ports[1]}" in message


def test_a_killed_server_comes_back_with_its_data(all_servers):
    runtime = all_servers.runtime
    with connect(all_servers.warehouse_conninfo, autocommit=True) as connection:
        connection.execute("create table public.kept as select 7 as seven")
    kill_server(all_servers, "warehouse")
    assert runtime.up_warehouse() is True
    assert all_servers.warehouse("select seven from public.kept") == [(7,)]
    all_servers.warehouse("drop table public.kept")


@pytest.mark.parametrize("name", ["primary", "warehouse"])
def test_commands_read_times_whatever_is_set_for_a_database_or_in_the_shell(all_servers, name, monkeypatch):
    """A lender's own habit: days first, in its own time zone."""
    server = all_servers.servers[name]
    database = ask(all_servers.runtime, name, "select current_database()")[0][0]
    settings = {"datestyle": "SQL, DMY", "timezone": "Africa/Nairobi"}
    with connect(server.superuser_conninfo(), autocommit=True) as connection:
        try:
            for setting, value in settings.items():
                connection.execute(f"alter database {database} set {setting} = '{value}'")
            monkeypatch.setenv("PGTZ", "America/New_York")
            monkeypatch.setenv("PGDATESTYLE", "German")
            found = ask(all_servers.runtime, name, "select timestamptz '2026-03-31 22:30+00', date '2026-04-03'")
        finally:
            for setting in settings:
                connection.execute(f"alter database {database} reset {setting}")
    assert found == [(datetime(2026, 3, 31, 22, 30, tzinfo=UTC), date(2026, 4, 3))]
    assert found[0][0].utcoffset() == timedelta(0)
