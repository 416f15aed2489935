"""The embedded runtime under faults: killed commands, crashed servers, replicas cut off, changed settings.

These tests have servers of their own, which they may break, under a path that a shell would trip over.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from eds import up
from eds.base.errors import UserError
from eds.base.services import BACKUP_SCHEDULER, exclusive
from eds.base.settings import Settings
from eds.cluster import members, provision
from eds.ops import wal
from eds.runtime import ports
from eds.runtime.local import binaries
from eds.runtime.local import home as local
from eds.runtime.local.binaries import find_pgbouncer
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.pgbackrest import Repository
from eds.runtime.ports import free_ports
from support import needs
from support.platform import ask, plain_values, separate_servers, separate_settings
from support.waiting import wait_until

pytestmark = pytest.mark.disaster


@pytest.fixture(scope="module")
def own_settings() -> Iterator[Settings]:
    """Yield settings of a platform of its own, under a path that a shell would trip over."""
    small = {"oltp_memory": "16MB", "warehouse_memory": "16MB", "max_slot_wal_keep_size": "16MB"}
    with separate_settings("platform it's 100% own-", **small) as settings:
        yield settings


@pytest.fixture(scope="module")
def started(own_settings: Settings) -> Iterator[LocalRuntime]:
    """Yield the servers and PgBouncer, started the way `make up` does it."""
    with separate_servers(own_settings) as runtime:
        yield runtime


@pytest.fixture
def runtime(started: LocalRuntime) -> LocalRuntime:
    """Provide the servers with everything running, and a fresh look at them."""
    fresh = LocalRuntime(started.settings)
    up.start_servers(fresh)
    return fresh


@pytest.fixture
def room(own_settings: Settings) -> Path:
    """Provide an empty directory that the servers' account can reach (pytest's own are closed to it)."""
    path = Path(tempfile.mkdtemp(dir=own_settings.state.parent))
    path.chmod(0o755)
    return path


def pids(runtime: LocalRuntime) -> dict[str, int | None]:
    return {state.name: state.pid for state in runtime.states() if not state.name.endswith("scheduler")}


def kill(runtime: LocalRuntime, name: str) -> None:
    """Kill a server the hard way."""
    pid = runtime.postmaster.pid(name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: runtime.postmaster.pid(name) is None, 20, f"{name} is gone")


def asides(runtime: LocalRuntime, name: str) -> list[Path]:
    return sorted(runtime.home.path.glob(f"{name}.aside-*"))


# --- starting again -----------------------------------------------------------------------------------------------


def test_starting_again_changes_nothing(runtime: LocalRuntime) -> None:
    conf = {path: path.stat().st_mtime_ns for path in runtime.home.path.glob("*/conf.d/*.conf")}
    assert len(conf) == 16
    before = pids(runtime)
    assert None not in before.values() or not find_pgbouncer()
    again = LocalRuntime(runtime.settings)
    up.start_servers(again)
    assert pids(again) == before
    assert {path: path.stat().st_mtime_ns for path in conf} == conf
    assert again.start_pgbouncer() in (False, None)
    assert provision.provision_oltp(runtime.cluster) + provision.provision_warehouse(runtime.cluster) == []


def test_only_one_command_at_a_time(runtime: LocalRuntime) -> None:
    with (
        exclusive(runtime.settings, "up"),
        pytest.raises(UserError, match="is running"),
        exclusive(runtime.settings, "up"),
    ):
        pass
    with exclusive(runtime.settings, "up"):
        pass


def test_the_services_are_shown_with_how_the_replicas_follow(runtime: LocalRuntime) -> None:
    states = {state.name: state for state in runtime.states()}
    assert [states[name].status for name in ("primary", "replica1", "replica2", "warehouse")] == ["running"] * 4
    assert states["replica1"].detail.startswith("streaming, ")
    assert states["scheduler"].status == "stopped"


# --- killed midway ------------------------------------------------------------------------------------------------


def test_a_half_made_directory_is_removed_and_whoever_still_writes_to_it_is_ended(
    runtime: LocalRuntime, tmp_path: Path
) -> None:
    half = runtime.home.path / ".warehouse.new.half"
    half.mkdir()
    (half / "PG_VERSION").write_text("15\n", encoding="utf-8")
    # A process as a killed command leaves it: by the name of initdb, working in the directory.
    shutil.copy("/bin/sleep", tmp_path / "initdb")
    left = subprocess.Popen([tmp_path / "initdb", "600"], cwd=half)
    # And a person's shell that works there, which is left alone.
    shell = subprocess.Popen(["/bin/sleep", "600"], cwd=half)
    try:
        assert runtime.up_warehouse() is False
        assert left.wait(10) == -signal.SIGKILL
        assert shell.poll() is None
    finally:
        shell.kill()
        left.kill()
        shell.wait()
    assert not half.exists()


def test_a_directory_that_is_no_database_is_left_alone_and_named(own_settings: Settings, room: Path) -> None:
    runtime = LocalRuntime(own_settings.model_copy(update={"state_dir": room / "state"}))
    runtime.home.data("primary").mkdir()
    (runtime.home.data("primary") / "precious").touch()
    with pytest.raises(UserError, match="holds no PostgreSQL data"):
        runtime.up_primary()
    assert (runtime.home.data("primary") / "precious").exists()


def test_a_failed_bootstrap_leaves_nothing_and_names_the_cause(own_settings: Settings, room: Path) -> None:
    runtime = LocalRuntime(own_settings.model_copy(update={"state_dir": room / "state"}))

    def fill(directory: Path) -> None:
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runtime.bootstrap.make("primary", fill)
    assert not runtime.home.data("primary").exists()
    assert list(runtime.home.path.glob(".primary.new.*")) == []


# --- servers that died --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["primary", "replica1", "warehouse"])
def test_a_killed_server_comes_back_also_when_its_process_id_is_anothers_now(runtime: LocalRuntime, name: str) -> None:
    kill(runtime, name)
    pidfile = runtime.home.data(name) / "postmaster.pid"
    lines = pidfile.read_text(encoding="utf-8").splitlines()
    # A live PostgreSQL process of the same account, but not of this directory.
    other = runtime.postmaster.pid("replica2")
    pidfile.write_text("\n".join([str(other), *lines[1:]]) + "\n", encoding="utf-8")
    assert runtime.postmaster.pid(name) is None
    up.start_servers(runtime)
    assert runtime.postmaster.pid(name) not in (None, other)
    assert runtime.postmaster.pid("replica2") == other
    assert asides(runtime, name) == []


@needs.pgbouncer
def test_a_killed_pgbouncer_comes_back_also_when_its_process_id_is_anothers_now(runtime: LocalRuntime) -> None:
    pid = runtime.services.pid("pgbouncer")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: runtime.services.pid("pgbouncer") is None, 20, "PgBouncer is gone")
    runtime.services.pidfile("pgbouncer").write_text(f"{runtime.postmaster.pid('primary')}\n", encoding="utf-8")
    assert runtime.services.pid("pgbouncer") is None
    assert runtime.start_pgbouncer() is True


def test_a_server_that_does_not_start_says_why(runtime: LocalRuntime) -> None:
    broken = LocalRuntime(runtime.settings, extra_conf=("max_connections = none",))
    with pytest.raises(UserError, match="warehouse did not start") as caught:
        broken.up_warehouse()
    assert 'parameter "max_connections"' in str(caught.value)


# --- replicas that fell out ---------------------------------------------------------------------------------------


def test_a_promoted_replica_is_cloned_again_and_its_data_kept(
    runtime: LocalRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(runtime, "replica1", "select pg_promote()") == [(True,)]
    ask(runtime, "replica1", "create table public.lost_write as select 1 as one")
    assert "make up" in next(state.detail for state in runtime.states() if state.name == "replica1")
    # The archive of its new timeline must not get into the way of the next clone.
    ask(runtime, "replica1", "select pg_switch_wal()")
    assert runtime.up_replica("replica1") is True
    assert ask(runtime, "replica1", "select pg_is_in_recovery(), to_regclass('public.lost_write')") == [(True, None)]
    [kept] = asides(runtime, "replica1")
    assert (kept / "PG_VERSION").exists()
    output = capsys.readouterr().err.replace("\n", "")
    assert "promoted" in output
    assert kept.name in output

    # Once more: a diverged one that claims to be a replica. Only the newest is kept.
    monkey = pytest.MonkeyPatch()
    monkey.setattr(members, "STANDSTILL_SECONDS", 1.5)
    time.sleep(1.0 - time.time() % 1.0)
    try:
        ask(runtime, "replica1", "select pg_promote()")
        runtime.postmaster.stop("replica1")
        (runtime.home.data("replica1") / "standby.signal").touch()
        assert runtime.up_replica("replica1") is True
    finally:
        monkey.undo()
    assert "timeline" in capsys.readouterr().err
    assert len(asides(runtime, "replica1")) == 1
    assert asides(runtime, "replica1") != [kept]


def test_a_replica_whose_slot_lost_its_wal_catches_up_from_the_archive_or_is_cloned(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(members, "STANDSTILL_SECONDS", 1.5)
    for older in asides(runtime, "replica2"):
        shutil.rmtree(older)

    def lose_the_slot() -> None:
        runtime.postmaster.stop("replica2")
        for _ in range(7):
            ask(runtime, "primary", "select pg_logical_emit_message(true, 'test', 'wal'), pg_switch_wal()")
        ask(runtime, "primary", "checkpoint")
        status = "select wal_status from pg_replication_slots where slot_name = 'replica2'"
        assert ask(runtime, "primary", status) == [("lost",)]

    lose_the_slot()
    assert runtime.up_replica("replica2") is True
    assert asides(runtime, "replica2") == []
    slots = "select slot_name, active, wal_status from pg_replication_slots where slot_name = 'replica2'"
    assert ask(runtime, "primary", slots) == [("replica2", True, "reserved")]

    lose_the_slot()
    waiting = "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'"
    wait_until(lambda: ask(runtime, "primary", waiting) == [(0,)], 20, "everything is archived")
    # What is archived, the next checkpoint may remove.
    ask(runtime, "primary", "checkpoint")
    for segment in (runtime.home.path / "repository" / "archive").rglob("0000*-*"):
        segment.unlink()
    assert runtime.up_replica("replica2") is True
    assert len(asides(runtime, "replica2")) == 1
    assert "already been removed" in capsys.readouterr().err.replace("\n", "")


def test_a_replica_with_broken_data_is_cloned_again(runtime: LocalRuntime) -> None:
    runtime.postmaster.stop("replica2")
    control = runtime.home.data("replica2") / "global" / "pg_control"
    control.write_bytes(bytes(control.stat().st_size))
    assert runtime.up_replica("replica2") is True


# --- changed settings ---------------------------------------------------------------------------------------------


def test_moved_ports_take_everything_along_also_when_two_servers_swap_theirs(runtime: LocalRuntime) -> None:
    settings = runtime.settings
    (new_pgbouncer,) = free_ports(1)
    moved = settings.model_copy(
        update={
            "primary_port": settings.replica1_port,
            "replica1_port": settings.primary_port,
            "pgbouncer_port": new_pgbouncer,
        }
    )
    before = pids(runtime)
    other = LocalRuntime(moved)
    assert "moves it" in next(state.detail for state in other.states() if state.name == "primary")
    up.start_servers(other)
    after = pids(other)
    assert after["warehouse"] == before["warehouse"]
    for name in ("primary", "replica1", "replica2"):
        assert after[name] != before[name]
        assert ask(other, name, "show port") == [(str(getattr(moved, f"{name}_port")),)]
    for name in ("replica1", "replica2"):
        assert ask(other, name, "select status, sender_port from pg_stat_wal_receiver") == [
            ("streaming", moved.primary_port)
        ]
    options = ask(other, "warehouse", "select srvoptions::text from pg_foreign_server where srvname = 'oltp'")[0][0]
    assert f"port={moved.replica1_port},{moved.replica2_port},{moved.primary_port}" in options
    if find_pgbouncer():
        password = moved.app_user_password.get_secret_value()
        pooled = make_conninfo(
            other.cluster.servers["primary"].conninfo("app_user", password, "loans_db"), port=new_pgbouncer
        )
        with psycopg.connect(pooled, prepare_threshold=None) as connection:
            assert connection.execute("select inet_server_port()").fetchone() == (moved.primary_port,)


def test_a_changed_setting_restarts_the_server_it_is_for(runtime: LocalRuntime) -> None:
    before = pids(runtime)
    other = LocalRuntime(runtime.settings.model_copy(update={"warehouse_memory": "24MB"}))
    up.start_servers(other)
    after = pids(other)
    assert {name for name in before if before[name] != after[name]} == {"warehouse"}
    assert ask(other, "warehouse", "show shared_buffers") == [("24MB",)]


def test_changed_passwords_are_taken_over_the_superusers_too(runtime: LocalRuntime) -> None:
    old = runtime.settings
    secret = type(old.postgres_password)
    # As a person may write them; the servers of the fixture keep the old ones afterwards.
    changes = {name.lower(): secret(f"""it's "new": \\ {name} ü#""") for name in Settings.secret_names()}
    new = LocalRuntime(old.model_copy(update=changes))
    up.start_servers(new)
    for name, server in runtime.cluster.servers.items():
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.superuser_conninfo())
        assert ask(new, name, "select 1") == [(1,)]
    for role, name in (("app_user", "primary"), ("etl_reader", "replica1"), ("warehouse_reader", "warehouse")):
        password = changes[f"{role}_password"].get_secret_value()
        psycopg.connect(new.cluster.servers[name].conninfo(role, password)).close()
    streaming = "select count(*) from pg_stat_replication where state = 'streaming'"
    assert ask(new, "primary", streaming) == [(2,)]


def test_the_scheduler_is_restarted_when_its_settings_have_changed(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in plain_values(runtime.settings).items():
        monkeypatch.setenv(name.upper(), str(value))
    monkeypatch.setenv("EDS_ENV_FILE", str(runtime.settings.state.parent / "own.env"))
    assert runtime.services.start_scheduler() is True
    pid = runtime.services.pid("scheduler")
    try:
        assert runtime.services.start_scheduler() is False
        assert runtime.services.pid("scheduler") == pid
        changed = LocalRuntime(runtime.settings.model_copy(update={"etl_fresh_minutes": 41}))
        assert changed.services.scheduler_is_outdated() is True
        monkeypatch.setenv("ETL_FRESH_MINUTES", "41")
        assert changed.services.start_scheduler() is True
        assert changed.services.pid("scheduler") not in (None, pid)
        assert not psutil.pid_exists(pid or 0) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    finally:
        runtime.services.stop("scheduler")
    assert runtime.services.pid("scheduler") is None


def test_the_scheduler_of_backups_runs_as_long_as_a_schedule_is_on(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = next(state for state in runtime.states() if state.name == BACKUP_SCHEDULER)
    assert (off.status, off.detail) == ("absent", "no schedule of backups is set")
    assert runtime.services.start_backup_scheduler() is False
    on = LocalRuntime(runtime.settings.model_copy(update={"drill_schedule": "0 0 1 1 *"}))
    for name, value in plain_values(on.settings).items():
        monkeypatch.setenv(name.upper(), str(value))
    monkeypatch.setenv("EDS_ENV_FILE", str(runtime.settings.state.parent / "own.env"))
    try:
        assert on.services.start_backup_scheduler() is True
        state = next(state for state in on.states() if state.name == BACKUP_SCHEDULER)
        assert (state.status, state.detail) == ("running", "drill: 0 0 1 1 *")
        pid = on.services.pid(BACKUP_SCHEDULER)
        assert on.services.start_backup_scheduler() is True
        assert on.services.pid(BACKUP_SCHEDULER) == pid
        assert "started" in "".join(on.tail(BACKUP_SCHEDULER, 5))
    finally:
        # Also by settings that turn the schedules off.
        assert runtime.services.start_backup_scheduler() is False
    assert runtime.services.pid(BACKUP_SCHEDULER) is None


# --- places and accounts ------------------------------------------------------------------------------------------


def test_a_copied_pointer_does_not_make_two_checkouts_share_one_cluster(runtime: LocalRuntime, tmp_path: Path) -> None:
    copy = tmp_path / "state"
    copy.mkdir()
    (copy / "servers-home").write_text(f"{runtime.home.path}\n", encoding="utf-8")
    with pytest.raises(UserError, match="is a copy of"):
        _ = LocalRuntime(runtime.settings.model_copy(update={"state_dir": copy})).home.path


def test_a_moved_state_directory_finds_its_servers(own_settings: Settings, room: Path) -> None:
    first = LocalRuntime(own_settings.model_copy(update={"state_dir": room / "here"}))
    (first.home.path / "mark").touch()
    (room / "here").rename(room / "there")
    second = LocalRuntime(own_settings.model_copy(update={"state_dir": room / "there"}))
    assert (second.home.path / "mark").exists()
    assert second.home.path == room / "there" / "servers"


def test_destroying_spares_what_was_in_the_directory_before(own_settings: Settings, room: Path) -> None:
    (room / "precious").touch()
    LocalRuntime(own_settings.model_copy(update={"state_dir": room})).destroy()
    assert [path.name for path in room.iterdir()] == ["precious"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has an account to choose")
@pytest.mark.parametrize(
    ("name", "message"), [("root", "refuses to run as root"), ("nosuchaccount", "no such account")]
)
def test_an_account_that_cannot_serve_is_refused(own_settings: Settings, room: Path, name: str, message: str) -> None:
    other = own_settings.model_copy(update={"state_dir": room / "state", "pg_os_user": name})
    with pytest.raises(UserError, match=message):
        _ = LocalRuntime(other).home.account


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's checkout can be out of the servers' reach")
def test_the_data_is_elsewhere_when_the_servers_cannot_reach_the_checkout(own_settings: Settings, room: Path) -> None:
    (room / "closed").mkdir(mode=0o700)
    runtime = LocalRuntime(own_settings.model_copy(update={"state_dir": room / "closed" / "state"}))
    assert runtime.home.path.parent == local.FAR_HOME
    try:
        assert runtime.home.run(["ls", runtime.home.path / "log"]).output == ""
    finally:
        runtime.destroy()
    assert not runtime.home.path.exists()


# --- addresses ----------------------------------------------------------------------------------------------------


def test_an_address_that_is_not_this_machines_is_reported_before_anything_stops(runtime: LocalRuntime) -> None:
    before = pids(runtime)
    other = LocalRuntime(runtime.settings.model_copy(update={"warehouse_host": "192.0.2.1"}))
    with pytest.raises(UserError, match=r"192\.0\.2\.1 is no address of this machine"):
        up.start_servers(other)
    assert pids(runtime) == before


def test_whoever_listens_on_a_port_is_named(runtime: LocalRuntime) -> None:
    port = runtime.settings.primary_port
    found = ports.bind_error("127.0.0.1", port)
    assert found is not None
    assert f"pid {runtime.postmaster.pid('primary')}" in found


# --- the archive --------------------------------------------------------------------------------------------------


@needs.pgbackrest
def test_segments_are_archived_from_a_path_with_quotes(runtime: LocalRuntime) -> None:
    segment, _ = wal.switch_and_wait(runtime, 30)
    archive = Repository(runtime)
    assert any(segment in name for name in archive.files(archive.info()))
    assert archive.verify().ok


def test_without_pgbackrest_nothing_is_archived_and_the_servers_serve(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "find_pgbackrest", lambda major: (None, "it is not here"))
    without = LocalRuntime(runtime.settings)
    assert without.why_no_repository == "it is not here"
    assert "archive_mode = off" in without.postmaster._runtime_conf("primary")
    with pytest.raises(UserError, match=r"need pgBackRest: it is not here, then make up\. Dumps"):
        Repository(without).check_available()
