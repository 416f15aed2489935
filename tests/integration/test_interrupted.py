"""Operations that are killed at their steps: the next `make up` resumes or undoes them, and nobody stays locked out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from eds import up
from eds.base import journal
from eds.base.services import SIDE
from eds.base.settings import ROOT, Settings
from eds.cluster.queries import fetch_all, in_recovery
from eds.ops import backup, failover, health
from eds.runtime.local import processes
from eds.runtime.local.binaries import find_pgbouncer
from eds.runtime.local.runtime import LocalRuntime
from support import needs
from support.book import add_customer
from support.platform import Platform, plain_values, separate_servers, separate_settings
from support.waiting import wait_until

pytestmark = pytest.mark.disaster

DATABASES = "select datname, datconnlimit from pg_database where datname ~ '^loans_db' order by 1"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with separate_settings("platform-killed-", oltp_memory="32MB", warehouse_memory="64MB") as values:
        yield values


@pytest.fixture(scope="module")
def runtime(settings: Settings) -> Iterator[LocalRuntime]:
    with separate_servers(settings) as started:
        yield started


def killed(settings: Settings, operation: str, step: str, code: int = -signal.SIGKILL) -> str:
    """Run an operation that is killed at a step. Returns what it wrote."""
    values = {name.upper(): str(value) for name, value in plain_values(settings).items()}
    values |= {"EDS_ENV_FILE": str(settings.state.parent / "own.env"), "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        [sys.executable, "-m", "support.killed", operation, step],
        env=os.environ | values,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"it was not killed at {step}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def writes(runtime: LocalRuntime, name: str) -> bool:
    """Return whether the application can commit, on its usual way."""
    cluster = runtime.cluster
    try:
        with psycopg.connect(
            cluster.pooled_conninfo() if find_pgbouncer() else cluster.app_conninfo(), prepare_threshold=None
        ) as connection:
            add_customer(connection, name)
    except psycopg.OperationalError:
        return False
    return True


def names(runtime: LocalRuntime) -> set[str]:
    return {row[0] for row in fetch_all(runtime.cluster.primary, "select full_name from operational.customers")}


def assert_all_is_well_again(settings: Settings) -> LocalRuntime:
    """`make up` has finished what was begun: one primary, which takes writes, is followed, and nothing is left over."""
    runtime = LocalRuntime(settings)
    up.start_servers(runtime)
    cluster = runtime.cluster
    assert [name for name in cluster.servers if name != "warehouse" and not in_recovery(cluster.servers[name])] == [
        cluster.primary_name
    ]
    wait_until(lambda: writes(runtime, "after the repair"), 20, "the application writes")
    streaming = fetch_all(cluster.primary, "select application_name from pg_stat_replication where state = 'streaming'")
    assert {name for (name,) in streaming} == set(cluster.replica_names)
    Platform(runtime).wait_for_replicas()
    assert journal.entries(settings) == {}
    assert [path.name for path in runtime.home.path.iterdir() if ".new." in path.name or path.name == SIDE] == []
    databases = fetch_all(cluster.primary, DATABASES)
    assert dict(databases)[settings.oltp_db] == -1
    assert [name for name, _ in databases if "_restore_" in name] == []
    # Only what these servers never had is missing: a scheduler and a run.
    assert set(health.health(runtime)["problems"]) <= {"scheduler is stopped", "no successful run yet"}
    return runtime


@pytest.mark.parametrize(
    ("step", "exchanged"),
    [
        ("load of the dump+", False),
        ('alter database "loans_db_restore_.*" connection', False),
        ("alter database .* rename", False),
        ("announcement", True),
        ("connection limit  -1", True),
        ("alter database .metabase_db", True),
    ],
)
def test_a_restore_that_is_killed_locks_nobody_out(
    runtime: LocalRuntime, settings: Settings, step: str, exchanged: bool
) -> None:
    up.start_servers(runtime)
    assert writes(runtime, "in the dump")
    backup.dump(runtime.cluster, "operational", "sql")
    assert writes(runtime, "since the dump")
    killed(settings, "restore", step)
    if "rename" in step or "-1" in step:
        found = health.health(runtime)["problems"]
        assert any("the application cannot log in" in problem for problem in found), found
    assert any("make restore was interrupted" in problem for problem in health.health(runtime)["problems"])
    again = assert_all_is_well_again(settings)
    assert ("since the dump" in names(again)) == (not exchanged)
    assert "in the dump" in names(again)
    reloads = "select count(*) from operational.audit_log where operation = 'RELOAD'"
    if exchanged:
        assert fetch_all(again.cluster.primary, reloads)[0][0] >= 1
    with again.cluster.primary.connect() as connection:
        connection.execute("delete from operational.customers where full_name = 'since the dump'")


@pytest.mark.parametrize(
    "step",
    [
        "written: current-primary",
        "promotion",
        "written: pgbouncer.ini",
        "^rm$",
        "pg_rewind+",
        "written: standby.signal",
    ],
)
def test_a_failover_that_is_killed_is_finished_or_undone(runtime: LocalRuntime, settings: Settings, step: str) -> None:
    up.start_servers(runtime)
    old = LocalRuntime(settings).cluster.primary_name
    assert writes(runtime, f"before {step}")
    killed(settings, "failover", step)
    again = assert_all_is_well_again(settings)
    assert (again.cluster.primary_name == old) == (step == "written: current-primary")
    assert f"before {step}" in names(again)


@pytest.mark.parametrize("step", ["promotion", "written: pgbouncer.ini"])
def test_a_failover_that_is_killed_is_finished_by_itself(runtime: LocalRuntime, settings: Settings, step: str) -> None:
    up.start_servers(runtime)
    killed(settings, "failover", step)
    decided = LocalRuntime(settings).cluster.primary_name
    found = failover.failover(LocalRuntime(settings), None)
    assert (found.new, found.lost, found.rejoined) == (decided, [], "rewound")
    assert LocalRuntime(settings).cluster.primary_name == decided
    assert_all_is_well_again(settings)


@pytest.mark.parametrize(
    ("step", "cloned"),
    [
        ("stop of", False),
        ("^rm$", False),
        ("pg_rewind+", False),
        ("written: standby.signal", False),
        ("start of", False),
        ("pg_basebackup+", True),
        (r"becomes \w+\.aside", True),
        (r"^\.\w+\.new\.\w+ becomes", True),
        ("start of", True),
    ],
)
def test_a_rejoin_that_is_killed_leaves_a_member_that_make_up_brings_back(
    runtime: LocalRuntime, settings: Settings, step: str, cloned: bool
) -> None:
    up.start_servers(runtime)
    former = diverged(settings, f"only on the former primary, {step}")
    if cloned:
        # As after a rewinding that was killed.
        journal.enter(settings, f"{failover.REJOIN}{former}", name=former)
    killed(settings, "rejoin", step)
    assert any("make rejoin was interrupted" in problem for problem in health.health(runtime)["problems"])
    again = assert_all_is_well_again(settings)
    assert former in again.cluster.replica_names
    assert f"only on the former primary, {step}" not in names(again)


def diverged(settings: Settings, name: str) -> str:
    """Leave behind a former primary with a commit that no other member has. Returns which."""
    runtime = LocalRuntime(settings)
    cluster = runtime.cluster
    former, replicas = cluster.primary_name, cluster.replica_names
    for replica in replicas:
        fetch_all(cluster.servers[replica], "alter system set primary_conninfo = 'host=127.0.0.1 port=1'")
        fetch_all(cluster.servers[replica], "select pg_reload_conf()")
    streams = "select from pg_stat_replication"
    wait_until(lambda: not fetch_all(cluster.primary, streams), 30, "the replicas are cut off")
    assert writes(runtime, name)
    runtime.postmaster.kill(former)
    wait_until(lambda: runtime.postmaster.pid(former) is None, 20, f"{former} is gone")
    for replica in replicas:
        fetch_all(cluster.servers[replica], "alter system reset primary_conninfo")
    found = failover.failover(runtime, replicas[0], force=True)
    assert found.rejoined is None
    return former


def test_the_note_of_a_server_in_single_user_mode_is_no_obstacle(runtime: LocalRuntime, settings: Settings) -> None:
    """What pg_rewind leaves in the target when it is killed in its recovery: a process id with a minus sign."""
    up.start_servers(runtime)
    name = runtime.cluster.replica_names[0]
    runtime.postmaster.stop(name)
    runtime.home.write(runtime.home.data(name) / "postmaster.pid", f"-{os.getpid()}\n{runtime.home.data(name)}\n")
    assert runtime.postmaster.pid(name) is None
    assert {state.name: state.status for state in runtime.states()}[name] == "stopped"
    assert_all_is_well_again(settings)


@needs.pgbackrest
@pytest.mark.parametrize(
    ("step", "promoted"),
    [
        ("^pgbackrest$+", False),
        ("start of recovered", False),
        (r"becomes \w+\.aside", True),
        ("^recovered becomes", True),
        ("pg_basebackup+", True),
    ],
)
def test_a_recovery_that_is_killed_leaves_the_old_book_or_the_recovered_one(
    runtime: LocalRuntime, settings: Settings, step: str, promoted: bool
) -> None:
    up.start_servers(runtime)
    backup.physical(runtime, "full")
    assert writes(runtime, f"before {step}")
    before = fetch_all(runtime.cluster.primary, "select timeline_id from pg_control_checkpoint()")[0][0]
    killed(settings, "pitr", step)
    again = assert_all_is_well_again(settings)
    assert f"before {step}" in names(again)
    fetch_all(again.cluster.primary, "checkpoint")
    timeline = fetch_all(again.cluster.primary, "select timeline_id from pg_control_checkpoint()")[0][0]
    assert (timeline > before) == promoted
    if promoted:
        kept = list(again.home.path.glob(f"{again.cluster.primary_name}.aside-*"))
        assert [(path / "PG_VERSION").exists() for path in kept] == [True]


def test_a_suspended_primary_is_fenced_without_waiting_and_its_rto_counts_from_the_fault(
    runtime: LocalRuntime, settings: Settings
) -> None:
    up.start_servers(runtime)
    cluster = LocalRuntime(settings).cluster
    old = cluster.primary_name
    assert writes(runtime, "the last commit before the fault")
    Platform(runtime).wait_for_replicas()
    pid = runtime.postmaster.pid(old)
    assert pid is not None
    for process in processes.busy_with(runtime.home.data(old)):
        process.suspend()
    done = failover.switch(LocalRuntime(settings), None, force=True)
    assert done.unreachable
    assert done.seconds >= done.own_seconds > 0
    assert runtime.postmaster.pid(old) is None
    # It is not waited for; `make up` brings it back.
    found = failover.bring_back(LocalRuntime(settings), done)
    assert found.rejoined is None
    again = assert_all_is_well_again(settings)
    assert again.cluster.primary_name == done.new
    assert "the last commit before the fault" in names(again)
