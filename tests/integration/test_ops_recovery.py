"""Point-in-time recovery and failover on a cluster of its own: acknowledged commits are kept, lost ones reported."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from eds import up
from eds.base.errors import UserError
from eds.base.services import SIDE
from eds.base.settings import Settings
from eds.book import invariants
from eds.cluster import provision
from eds.cluster.connections import Cluster, connect
from eds.cluster.queries import fetch_all, fetch_value, in_recovery
from eds.cluster.server_conf import STANZA
from eds.ops import backup, drill, failover, health, pitr, recovery, wal
from eds.runtime.local.binaries import find_pgbouncer
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.pgbackrest import Repository
from eds.warehouse import backup_record
from eds.warehouse.dbt_child import warm_up
from support import needs
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform, plain_values, separate_servers, separate_settings
from support.waiting import wait_until

pytestmark = pytest.mark.disaster


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    small: dict[str, object] = {"oltp_memory": "32MB", "warehouse_memory": "64MB", "etl_source_wait_seconds": 5}
    # How much a recovery takes away is up to the speed of the writers.
    small["etl_max_delete_share"] = 1.0
    with separate_settings("platform-recovery-", **small) as values:
        yield values


@pytest.fixture(scope="module")
def runtime(settings: Settings) -> Iterator[LocalRuntime]:
    with separate_servers(settings) as started:
        warm_up(settings)
        # Whichever test comes first: the warehouse knows the source that it moves away from.
        Platform(started).build()
        yield started


@pytest.fixture
def cluster(runtime: LocalRuntime) -> Platform:
    """Provide the cluster with everything running and following, whoever the primary is."""
    up.start_servers(runtime)
    return Platform(runtime)


@dataclass
class Commit:
    """A customer that a writer committed: when it began, and when the commit was acknowledged (the server's clock)."""

    name: str
    began: datetime
    acknowledged: datetime | None = None


@dataclass
class Log:
    commits: list[Commit] = field(default_factory=list)

    @property
    def acknowledged(self) -> set[str]:
        return {commit.name for commit in self.commits if commit.acknowledged}


@contextmanager
def writers(conninfo: str, count: int) -> Iterator[Log]:
    """Run sessions that commit customers, and log each acknowledgement, until the server goes."""
    log, stop = Log(), threading.Event()

    def write(number: int) -> None:
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                for at in range(100_000):
                    if stop.is_set():
                        return
                    (began,) = connection.execute("select clock_timestamp()").fetchone() or (None,)
                    assert began is not None
                    commit = Commit(f"writer {number} commit {at} {began.timestamp()}", began)
                    log.commits.append(commit)
                    connection.execute("insert into operational.customers (full_name) values (%s)", (commit.name,))
                    row = connection.execute("select clock_timestamp()").fetchone()
                    commit.acknowledged = row[0] if row else None
        except psycopg.OperationalError:
            return

    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield log
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def names(conninfo: str) -> set[str]:
    with connect(conninfo) as connection:
        return {row[0] for row in connection.execute("select full_name from operational.customers")}


def kill_primary(runtime: LocalRuntime) -> str:
    """Kill the primary the hard way. Returns its name."""
    name = runtime.cluster.primary_name
    pid = runtime.postmaster.pid(name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: runtime.postmaster.pid(name) is None, 20, f"{name} is gone")
    return name


def followers(runtime: LocalRuntime) -> set[str]:
    query = "select application_name from pg_stat_replication where state = 'streaming'"
    return {row[0] for row in fetch_all(runtime.cluster.servers[runtime.cluster.primary_name], query)}


def assert_the_warehouse_notices(cluster: Platform) -> None:
    """Assert that the next run, left to itself, compares everything and ends equal to the source."""
    cluster.wait_for_replicas()
    result = cluster.build()
    assert result.run is not None
    assert result.run["extraction_mode"] == "reconcile"
    assert_landing_equals_source(cluster)
    assert_views_equal_the_oltp(cluster)


# --- point-in-time recovery -------------------------------------------------------------------------------------------


@needs.pgbackrest
def test_the_drill_a_delete_by_mistake_and_the_books_as_just_before_it(cluster: Platform) -> None:
    settings, runtime = cluster.settings, cluster.runtime
    with cluster.app() as connection:
        for _ in range(5):
            pay(connection, add_loan(connection, add_customer(connection)))
    cluster.wait_for_replicas()
    cluster.build()
    base = backup.physical(runtime, "full")
    with writers(cluster.app_conninfo, 3) as log:
        wait_until(lambda: len(log.acknowledged) > 150, 30, "commits before the mistake")
        moment = cluster.primary("select clock_timestamp()")[0][0]
        with cluster.app() as connection:
            connection.execute("delete from operational.payments where payment_id <= 2")
        enough = len(log.acknowledged) + 100
        wait_until(lambda: len(log.acknowledged) > enough, 30, "commits after the mistake")
    before = {each.name for each in log.commits if each.acknowledged and each.acknowledged < moment}
    after = {each.name for each in log.commits if each.began > moment}
    assert len(before) > 100
    assert len(after) > 50
    cluster.wait_for_replicas()
    cluster.build()

    found = pitr.recover(runtime, pitr.Target.parse(moment.isoformat()))
    assert found.base.label == base.label
    assert found.rows["payments"] == 5
    assert found.broken == {}
    assert found.newest is not None
    assert found.newest < moment
    recovered = names(runtime.cluster.recovered.superuser_conninfo())
    assert before <= recovered
    assert not after & recovered
    # It is beside the primary, which kept running.
    assert cluster.primary("select count(*) from operational.payments") == [(3,)]
    assert fetch_all(runtime.cluster.recovered, "select timeline_id from pg_control_checkpoint()") == [(2,)]
    archive = Repository(runtime)
    assert archive.timelines(archive.info()).keys() == {1}

    aside = Path(recovery.install_recovered(runtime))
    assert (aside / "PG_VERSION").exists()
    cluster = Platform(runtime)
    assert names(cluster.superuser_conninfo) == recovered
    assert followers(runtime) == {"replica1", "replica2"}
    assert not runtime.home.data(SIDE).exists()
    assert_the_warehouse_notices(cluster)
    # The archive continues along the new timeline, without a gap.
    wal.switch_and_wait(runtime, 30)
    lines = archive.timelines(archive.info())
    assert lines.keys() == {1, 2}
    assert lines[1].gaps() == lines[2].gaps() == []
    assert (archive.history(archive.info(), 2) or "").startswith("1\t")
    with psycopg.connect(applications_way(settings), prepare_threshold=None) as connection:
        add_customer(connection, "after the recovery")


@needs.pgbackrest
def test_a_restore_point_the_end_of_the_wal_and_what_leads_nowhere(
    cluster: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = cluster.runtime
    server = runtime.cluster.recovered
    first = backup.physical(runtime, "full")
    with cluster.app() as connection:
        add_customer(connection, "before the mark")
    pitr.restore_point(runtime.cluster, "before_import")
    with cluster.app() as connection:
        add_customer(connection, "after the mark")
    # A younger backup does not lead there: the older one is taken.
    second = backup.physical(runtime, "incr")
    assert second.label.startswith(f"{first.label}_")
    found = pitr.recover(runtime, pitr.Target.parse("before_import"))
    assert found.base.label == first.label
    assert "before the mark" in names(server.superuser_conninfo())
    assert "after the mark" not in names(server.superuser_conninfo())

    with cluster.app() as connection:
        add_customer(connection, "the last one")
    found = pitr.recover(runtime, pitr.Target.parse("latest"))
    assert found.base.label == second.label
    assert found.shortfall is None
    assert names(server.superuser_conninfo()) == names(cluster.superuser_conninfo)

    # Nothing is restored to find out.
    with monkeypatch.context() as without_restores:
        without_restores.delattr(recovery, "start_recovery")
        with pytest.raises(UserError, match=r"holds a restore point 'never_made': there are [^.]*before_import"):
            pitr.recover(runtime, pitr.Target.parse("never_made"))
    with pytest.raises(UserError, match="Every physical backup is younger"):
        pitr.recover(runtime, pitr.Target.parse("2020-01-01 00:00:00+00"))
    for wrong in ("2999-01-01 00:00:00+00", "31.01.2026", "it's"):
        with pytest.raises(UserError, match="TO is"):
            pitr.Target.parse(wrong)
    assert followers(runtime) == {"replica1", "replica2"}


@contextmanager
def rotated_passwords(cluster: Platform) -> Iterator[LocalRuntime]:
    """Other passwords of the superuser and of a reader, on the primary and in the settings, for a while."""

    def set_passwords(settings: Settings) -> None:
        with cluster.cluster.primary.connect() as connection:
            provision.set_password(connection, "readonly_user", settings.readonly_user_password.get_secret_value())
            provision.set_password(connection, "postgres", settings.postgres_password.get_secret_value())

    others = {"postgres_password": SecretStr("another one"), "readonly_user_password": SecretStr("a third one")}
    fresh = LocalRuntime(cluster.settings.model_copy(update=others))
    set_passwords(fresh.settings)
    try:
        yield fresh
    finally:
        fresh.member(SIDE).remove()
        with fresh.cluster.primary.connect() as connection:
            provision.set_password(connection, "postgres", cluster.settings.postgres_password.get_secret_value())
        set_passwords(cluster.settings)


def readers_names(runtime: LocalRuntime) -> set[str]:
    """Return the customers of the cluster beside the primary, as `make psql-recovered` reads them."""
    return names(runtime.cluster.conninfo(runtime.cluster.recovered, "readonly_user"))


@needs.pgbackrest
def test_a_book_from_before_a_rotation_of_passwords_is_recovered_and_read(cluster: Platform) -> None:
    backup.physical(cluster.runtime, "diff")
    with cluster.app() as connection:
        add_customer(connection, "before the rotation")
    moment = cluster.primary("select clock_timestamp()")[0][0]
    with rotated_passwords(cluster) as runtime:
        with cluster.app() as connection:
            add_customer(connection, "after the rotation")
        found = pitr.recover(runtime, pitr.Target(moment))
        assert found.newest is not None
        assert found.newest < moment
        recovered = names(runtime.cluster.recovered.superuser_conninfo())
        assert "before the rotation" in recovered
        assert "after the rotation" not in recovered
        assert readers_names(runtime) == recovered


@needs.pgbackrest
def test_a_drill_proves_the_newest_backup_and_leaves_nothing(cluster: Platform) -> None:
    runtime = cluster.runtime
    backup.physical(runtime, "diff")
    with cluster.app() as connection:
        loan = add_loan(connection, add_customer(connection, "committed before the drill"))
        # The book itself breaks a rule: its copy is a true one.
        connection.execute(
            "update operational.loans set outstanding_balance = outstanding_balance + 1 where loan_id = %s", (loan,)
        )
    assert invariants.violations(runtime.cluster.primary)
    found = drill.drill(runtime)
    assert found.findings == []
    with cluster.app() as connection:
        connection.execute(
            "update operational.loans set outstanding_balance = outstanding_balance - 1 where loan_id = %s", (loan,)
        )
    assert found.rpo is not None
    assert found.rto is not None
    assert not runtime.home.data(SIDE).exists()
    drill.record(runtime.cluster, found)
    with connect(runtime.cluster.writer_conninfo()) as connection:
        assert backup_record.protection(connection).restore.succeeded


@pytest.fixture(scope="module")
def chain_of_segments(runtime: LocalRuntime) -> list[Path]:
    """Provide a full backup, and the archived segments after it, a commit in each."""
    up.start_servers(runtime)
    backup.physical(runtime, "full")
    segments = []
    for number in range(3):
        with Platform(runtime).app() as connection:
            add_customer(connection, f"in segment {number}")
        segments.append(wal.switch_and_wait(runtime, 30)[0])
    return [next((runtime.home.path / "repository").rglob(f"{segment}-*")) for segment in segments]


def _remove(first: Path, second: Path) -> None:
    first.unlink()


def _damage(first: Path, second: Path) -> None:
    content = bytearray(first.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    first.write_bytes(content)


def _truncate(first: Path, second: Path) -> None:
    first.write_bytes(first.read_bytes()[:100])


def _empty(first: Path, second: Path) -> None:
    first.write_bytes(b"")


def _swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def _copy(first: Path, second: Path) -> None:
    """Put the other one's content in its place, with the checksum that fits it."""
    first.write_bytes(second.read_bytes())
    first.rename(first.with_name(first.name[:24] + second.name[24:]))


@needs.pgbackrest
@pytest.mark.parametrize("harm", [_remove, _damage, _truncate, _empty, _swap, _copy])
def test_an_archive_that_is_not_complete_is_never_taken_for_the_end_of_the_wal(
    cluster: Platform, chain_of_segments: list[Path], harm: Callable[[Path, Path], None]
) -> None:
    """A truncated book must not be promoted as a complete one: the recovery stops, or reports what it lacks."""
    runtime, (_, first, second) = cluster.runtime, chain_of_segments
    kept = {path: path.read_bytes() for path in (first, second)}
    archive = Repository(runtime)
    try:
        harm(first, second)
        # What make backups VERIFY=1 says, and what health says of it from then on; of a gap by itself.
        findings = backup.check_all(archive)
        assert [each for each in findings if each.is_current]
        if harm is not _remove:
            note_check(runtime, findings)
        assert "make backup KIND=physical" in problem_of_a_repository(runtime)
        try:
            found = pitr.recover(runtime, pitr.Target())
        except UserError as error:
            assert "cannot be read" in str(error) or "could not restore" in str(error)
            assert not runtime.home.data(SIDE).exists()
        else:
            assert found.shortfall is not None
            assert drill.drill(runtime).findings
    finally:
        for path, content in kept.items():
            for other in path.parent.glob(f"{path.name[:24]}-*"):
                other.unlink()
            path.write_bytes(content)
            if account := runtime.home.account:
                os.chown(path, account.uid, account.gid)
        runtime.member(SIDE).remove()
    assert archive.verify().ok
    note_check(runtime, backup.check_all(archive))
    assert problem_of_a_repository(runtime) == ""


@needs.pgbackrest
def test_health_names_a_missing_segment_until_a_backup_was_made_after_it(
    cluster: Platform, chain_of_segments: list[Path]
) -> None:
    runtime = cluster.runtime
    newest, _ = wal.switch_and_wait(runtime, 30)
    (last,) = (runtime.home.path / "repository").rglob(f"{newest}-*")
    middle = chain_of_segments[1]
    # Nothing comes after the newest one, but what the primary says.
    for segment in (last, middle):
        segment.rename(segment.parent.parent / "elsewhere")
        assert f"lacks {segment.name[:24]}" in problem_of_a_repository(runtime)
        (segment.parent.parent / "elsewhere").rename(segment)
        assert problem_of_a_repository(runtime) == ""
    middle.rename(middle.parent.parent / "elsewhere")
    backup.physical(runtime, "diff")
    assert problem_of_a_repository(runtime) == ""
    # A recovery to an earlier time still meets it.
    note_check(runtime, backup.check_all(Repository(runtime)))
    assert problem_of_a_repository(runtime) == ""
    assert [each for each in health.health(runtime)["warnings"] if f"lacks {middle.name[:24]}" in each]
    (middle.parent.parent / "elsewhere").rename(middle)


def note_check(runtime: LocalRuntime, findings: list[wal.Finding]) -> None:
    """Record what a check of the backups found, as the command does."""
    texts = (
        [each.text for each in findings if each.is_current],
        [each.text for each in findings if not each.is_current],
    )
    backup_record.record_check(runtime.settings, *texts, scheduled=False)


def problem_of_a_repository(runtime: LocalRuntime) -> str:
    """Return what health says of a repository of backups."""
    return "\n".join(each for each in health.health(runtime)["problems"] if "repository" in each)


def undecipherable(runtime: LocalRuntime, place: Path) -> None:
    """Let the repository in this place be one whose key nobody has."""
    info = place / "archive" / STANZA / "archive.info"
    info.parent.mkdir(parents=True)
    info.write_bytes(b"Salted__" + bytes(range(256)))


def of_another(runtime: LocalRuntime, place: Path) -> None:
    """Let the repository in this place be sound, of the same name and key, and that of another cluster."""
    options = {
        "stanza": STANZA,
        "pg1-path": runtime.home.data("warehouse"),
        "repo1-path": place,
        "repo1-cipher-type": "aes-256-cbc",
        "lock-path": place / "locks",
    }
    runtime.member(runtime.cluster.primary_name).run(
        ["pgbackrest", "--no-config", "--no-online", "--log-level-file=off"]
        + [f"--{name}={value}" for name, value in options.items()]
        + ["stanza-create"],
        env={"PGBACKREST_REPO1_CIPHER_PASS": runtime.settings.backup_repo2_cipher_key.get_secret_value()},
    )


@needs.pgbackrest
@pytest.mark.parametrize("repository", [undecipherable, of_another], ids=["without its key", "sound"])
def test_a_repository_of_another_cluster_keeps_nobody_from_the_book_and_is_reported(
    cluster: Platform, repository: Callable[[LocalRuntime, Path], None]
) -> None:
    runtime = cluster.runtime
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="another-cluster-") as name:
        place = Path(name)
        place.chmod(0o777)
        repository(runtime, place)
        for path in place.rglob("*"):
            path.chmod(0o777)
        foreign = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        assert foreign
        changed = {"backup_repo2": "posix", "backup_repo2_path": name}
        beside = LocalRuntime(cluster.settings.model_copy(update=changed))
        up.start_servers(beside)
        with Platform(beside).app() as connection:
            add_customer(connection, "although nothing is archived")
        with pytest.raises(UserError, match="is archived"):
            wal.switch_and_wait(beside, 5)
        assert [each for each in health.health(beside)["problems"] if each.startswith("WAL is not archived")]
        assert {path: path.read_bytes() for path in foreign} == foreign
    up.start_servers(runtime)
    wal.switch_and_wait(runtime, 90)


# --- failover ---------------------------------------------------------------------------------------------------------


def test_with_synchronous_commit_nothing_acknowledged_is_lost_when_the_primary_is_killed(cluster: Platform) -> None:
    runtime = LocalRuntime(cluster.settings.model_copy(update={"synchronous": "on"}))
    up.start_servers(runtime)
    primary = runtime.cluster.servers[runtime.cluster.primary_name]
    assert fetch_value(primary, "show synchronous_standby_names") == "ANY 1 (primary, replica1, replica2)"
    with writers(Platform(runtime).app_conninfo, 4) as log:
        wait_until(lambda: len(log.acknowledged) > 200, 30, "commits under load")
        assert kill_primary(runtime) == "primary"
    found = failover.failover(runtime, None)
    assert found.old == "primary"
    assert found.new in ("replica1", "replica2")
    assert runtime.cluster.primary_name == found.new
    assert found.seconds > 0
    assert len(log.acknowledged) > 200
    cluster = Platform(runtime)
    assert log.acknowledged <= names(cluster.superuser_conninfo)
    # A commit that was never acknowledged may be lost, and is then counted.
    assert found.lost is not None
    assert (found.rejoined is None) == bool(found.lost)
    if found.lost:
        assert failover.rejoin(runtime, None) == {"primary": "rewound"}
    else:
        assert found.rejoined == "rewound"
    assert followers(runtime) == {"primary", "replica1", "replica2"} - {found.new}
    assert in_recovery(runtime.cluster.servers["primary"])
    with psycopg.connect(applications_way(runtime.settings), prepare_threshold=None) as connection:
        add_customer(connection, "after the failover")
    assert_the_warehouse_notices(cluster)
    assert health.health(runtime)["problems"] == ["scheduler is stopped"]

    # Who is the primary outlives a stop and a start.
    runtime.stop_all()
    again = LocalRuntime(runtime.settings)
    up.start_servers(again)
    assert again.cluster.primary_name == found.new
    assert followers(again) == {"primary", "replica1", "replica2"} - {found.new}
    assert "after the failover" in names(Platform(again).superuser_conninfo)


def test_without_it_what_was_lost_is_counted_and_kept_until_somebody_has_looked(cluster: Platform) -> None:
    runtime = cluster.runtime
    old = runtime.cluster.primary_name
    replicas = runtime.cluster.replica_names
    for name in replicas:
        fetch_all(runtime.cluster.servers[name], "alter system set primary_conninfo = 'host=127.0.0.1 port=1'")
        fetch_all(runtime.cluster.servers[name], "select pg_reload_conf()")
    wait_until(lambda: not followers(runtime), 30, "the replicas are cut off")
    lost = []
    for number in range(7):
        with cluster.app() as connection:
            add_customer(connection, f"lost {number}")
            lost.append(connection.execute("select pg_current_xact_id()::text").fetchone())
    with pytest.raises(UserError, match="does not stream"):
        failover.failover(runtime, replicas[0])
    assert kill_primary(runtime) == old
    for name in replicas:
        fetch_all(runtime.cluster.servers[name], "alter system reset primary_conninfo")
    found = failover.failover(runtime, replicas[0])
    assert found.new == replicas[0]
    assert found.rejoined is None
    counted = {re.search(r"tx:\s+(\d+)", line)[1] for line in found.lost or []}
    assert {row[0] for row in lost if row} <= counted
    cluster = Platform(runtime)
    assert not {name for name in names(cluster.superuser_conninfo) if name.startswith("lost")}
    assert runtime.postmaster.pid(old) is None
    assert not (runtime.home.data(old) / "standby.signal").exists()
    with cluster.app() as connection:
        add_customer(connection, "on the new timeline")
    commits, changes = failover.lost_changes(runtime, old)
    assert commits == len(found.lost or [])
    listed = [(change[2], change[3], change[4], json.loads(change[6])["full_name"]) for change in changes]
    assert listed == [("app_user", "INSERT", "customers", f"lost {number}") for number in range(7)]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        fetch_all(runtime.cluster.recovered, "create table nothing ()")
    # The copy has the passwords of before the failover; its readers have today's.
    with rotated_passwords(cluster) as fresh:
        assert failover.lost_changes(fresh, old) == (commits, changes)
        assert {f"lost {number}" for number in range(7)} <= readers_names(fresh)
    assert failover.rejoin(runtime, None) == {old: "rewound"}
    assert failover.rejoin(runtime, None) == {}
    assert followers(runtime) == set(runtime.cluster.replica_names)
    cluster.wait_for_replicas()
    assert names(runtime.cluster.servers[old].superuser_conninfo()) == names(cluster.superuser_conninfo)
    assert fetch_value(runtime.cluster.servers[old], "select count(*) from pg_replication_slots") == 0
    assert_the_warehouse_notices(cluster)


def test_a_planned_failover_back_loses_nothing_and_refuses_what_makes_no_sense(cluster: Platform) -> None:
    runtime = cluster.runtime
    for wrong, match in ((runtime.cluster.primary_name, "is the primary already"), ("warehouse", "expected one of")):
        with pytest.raises(UserError, match=match):
            failover.failover(runtime, wrong)
    with cluster.app() as connection:
        add_customer(connection, "just before")
    target = "primary" if runtime.cluster.primary_name != "primary" else "replica1"
    found = failover.failover(runtime, target)
    assert (found.new, found.lost, found.rejoined) == (target, [], "rewound")
    assert followers(runtime) == set(runtime.cluster.replica_names)
    cluster = Platform(runtime)
    assert "just before" in names(cluster.superuser_conninfo)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState), cluster.app() as connection:
        connection.execute("prepare transaction 'forgotten'")
    options = cluster.warehouse("select srvoptions::text from pg_foreign_server where srvname = 'oltp'")[0][0]
    ports = [str(runtime.cluster.servers[name].port) for name in (*runtime.cluster.replica_names, target)]
    assert f"port={','.join(ports)}" in options


@needs.pgbackrest
def test_what_a_killed_primary_had_not_archived_is_archived_by_its_successor(cluster: Platform) -> None:
    runtime = cluster.runtime
    old = runtime.cluster.primary
    backup.physical(runtime, "diff")
    fetch_all(old, "alter system set archive_command = 'false'")
    fetch_all(old, "select pg_reload_conf()")
    for number in range(3):
        with cluster.app() as connection:
            add_customer(connection, f"archived late {number}")
        fetch_all(old, "select pg_switch_wal()")
    Platform(runtime).wait_for_replicas()
    kill_primary(runtime)
    (runtime.home.data(old.name) / "postgresql.auto.conf").write_text("")
    failover.failover(runtime, None)
    wal.switch_and_wait(runtime, 30)
    assert problem_of_a_repository(runtime) == ""
    # The newest backup is on the former timeline: without its history, no recovery comes to the present one.
    history = max((runtime.home.path / "repository").rglob("0*.history"))
    history.rename(runtime.home.path / "elsewhere")
    assert f"lacks {history.name}" in problem_of_a_repository(runtime)
    (runtime.home.path / "elsewhere").rename(history)
    assert problem_of_a_repository(runtime) == ""
    found = pitr.recover(runtime, pitr.Target())
    assert found.shortfall is None
    assert "archived late 2" in names(runtime.cluster.recovered.superuser_conninfo())
    runtime.member(SIDE).remove()


def test_a_primary_that_was_promoted_with_room_for_prepared_transactions_is_named_and_restarted(
    cluster: Platform,
) -> None:
    """Replicas of a primary that had room, as an earlier version's had after a failover, ask for it themselves."""
    settings = cluster.settings
    up.start_servers(LocalRuntime(settings, extra_conf=("max_prepared_transactions = 10",)))
    runtime = LocalRuntime(settings)
    chosen = runtime.cluster.replica_names[0]
    runtime.postmaster.stop(chosen)
    assert runtime.up_replica(chosen)
    assert fetch_value(runtime.cluster.servers[chosen], "show max_prepared_transactions") == "10"
    failover.failover(runtime, chosen)
    problem = f"{chosen} accepts PREPARE TRANSACTION"
    assert [found for found in health.health(runtime)["problems"] if problem in found]
    with psycopg.connect(runtime.cluster.app_conninfo(), autocommit=True) as connection:
        connection.execute("begin; select pg_current_xact_id(); prepare transaction 'forgotten'")
        up.start_servers(runtime)
        # It would not start with one that is left.
        assert fetch_value(runtime.cluster.primary, "show max_prepared_transactions") == "10"
        connection.execute("rollback prepared 'forgotten'")
    up.start_servers(runtime)
    # The replicas have seen that their primary has room for none, and ask for none at their next start.
    Platform(runtime).wait_for_replicas()
    for name in runtime.cluster.servers:
        if name != "warehouse":
            runtime.postmaster.stop(name)
    up.start_servers(runtime)
    for name, server in runtime.cluster.servers.items():
        assert fetch_value(server, "show max_prepared_transactions") == "0", name
    assert not [found for found in health.health(runtime)["problems"] if problem in found]


def test_a_replica_that_lags_behind_the_other_is_not_promoted(cluster: Platform) -> None:
    runtime = cluster.runtime
    behind, ahead = runtime.cluster.replica_names
    fetch_all(runtime.cluster.servers[behind], "alter system set primary_conninfo = 'host=127.0.0.1 port=1'")
    fetch_all(runtime.cluster.servers[behind], "select pg_reload_conf()")
    wait_until(lambda: followers(runtime) == {ahead}, 30, f"{behind} is cut off")
    with cluster.app() as connection:
        add_customer(connection, "on one replica only")
    wait_until(
        lambda: "on one replica only" in names(runtime.cluster.servers[ahead].superuser_conninfo()),
        30,
        f"{ahead} has it",
    )
    old = kill_primary(runtime)
    with pytest.raises(UserError, match=f"{behind} is .* of WAL behind {ahead}"):
        failover.failover(runtime, behind)
    assert runtime.cluster.primary_name == old
    fetch_all(runtime.cluster.servers[behind], "alter system reset primary_conninfo")
    found = failover.failover(runtime, None)
    assert found.new == ahead
    assert "on one replica only" in names(Platform(runtime).superuser_conninfo)
    if found.rejoined is None:
        failover.rejoin(runtime, None)
    assert followers(runtime) == set(runtime.cluster.replica_names)


def test_a_failover_that_was_interrupted_after_its_decision_is_finished_by_make_up(cluster: Platform) -> None:
    runtime = cluster.runtime
    old, new = runtime.cluster.primary_name, runtime.cluster.replica_names[0]
    runtime.postmaster.stop(old)
    runtime.cluster.set_primary(new)
    fresh = LocalRuntime(cluster.settings)
    up.start_servers(fresh)
    assert not in_recovery(fresh.cluster.servers[new])
    assert in_recovery(fresh.cluster.servers[old])
    assert followers(fresh) == set(fresh.cluster.replica_names)
    assert provision.provision_oltp(cluster.cluster) == []


# --- passwords --------------------------------------------------------------------------------------------------------


def test_a_rotated_password_is_in_force_wherever_it_is_used(cluster: Platform) -> None:
    old = cluster.settings
    env_file = old.state.parent / "own.env"
    environment = {name.upper(): str(value) for name, value in plain_values(old).items()}
    before = env_file.read_text(encoding="utf-8").splitlines()

    def eds(role: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "eds", "rotate-password", "--role", role],
            env=os.environ | environment | {"EDS_ENV_FILE": str(env_file)},
            capture_output=True,
            text=True,
            check=False,
        )

    rotated = ("app_user", "replicator", "pgbouncer_lookup", "etl_reader", "postgres")
    for role in rotated:
        done = eds(role)
        assert done.returncode == 0, done.stderr
    after = env_file.read_text(encoding="utf-8").splitlines()
    changed = {line.split("=")[0] for line in set(before) ^ set(after)}
    assert changed == {f"{role.upper()}_PASSWORD" for role in rotated}
    assert env_file.stat().st_mode & 0o777 == 0o600
    new = Settings(_env_file=env_file, **plain_values(old))  # type: ignore[call-arg]
    for settings, works in ((old, False), (new, True)):
        for way in (applications_way(settings), settings_conninfo(settings, "etl_reader")):
            with contextlib.ExitStack() as stack:
                if not works:
                    stack.enter_context(pytest.raises(psycopg.OperationalError, match="authentication failed"))
                psycopg.connect(way, prepare_threshold=None).close()
    # Replication continues with the new password when it has to log in again.
    runtime = LocalRuntime(new)
    for name in runtime.cluster.replica_names:
        runtime.postmaster.stop(name)
        assert runtime.up_replica(name)
    assert followers(runtime) == set(runtime.cluster.replica_names)
    Platform(runtime).build()
    assert eds("nobody").returncode == 1


def applications_way(settings: Settings) -> str:
    """Return how the application reaches the primary: through PgBouncer, where there is one."""
    cluster = Cluster(settings)
    return cluster.pooled_conninfo() if find_pgbouncer() else cluster.app_conninfo()


def settings_conninfo(settings: Settings, role: str) -> str:
    cluster = Cluster(settings)
    return cluster.conninfo(cluster.primary, role)


# --- a clock that was ahead: last, since its WAL and its backups stay -------------------------------------------------

# Lets a server's clock be ahead by as many seconds as a file says. Of the programs that it starts, their clocks stay.
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

static int is_server;

// A server overwrites its own name later, to be told apart in a list of processes.
__attribute__((constructor)) static void look(void) {
    is_server = !strcmp(program_invocation_short_name, "postgres");
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = (int (*)(struct timeval *, void *)) dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    FILE *file = is_server ? fopen(SECONDS_FILE, "r") : NULL;
    long seconds;
    if (file && fscanf(file, "%ld", &seconds) == 1) now->tv_sec += seconds;
    if (file) fclose(file);
    return result;
}
"""


@contextmanager
def settable_clock(runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Give the primary a clock that the test sets ahead, by seconds."""
    primary = runtime.member(runtime.cluster.primary_name)
    with tempfile.TemporaryDirectory(prefix="clock-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        seconds, library = folder / "seconds", folder / "clock.so"

        def set_clock(ahead: int) -> None:
            other = folder / "next"
            other.write_text(str(ahead))
            other.replace(seconds)

        set_clock(0)
        subprocess.run(
            ["cc", "-shared", "-fPIC", f'-DSECONDS_FILE="{seconds}"', "-x", "c", "-", "-o", library, "-ldl"],
            input=CLOCK,
            text=True,
            check=True,
        )
        environment = runtime.home.environment | {"LD_PRELOAD": str(library)}
        with monkeypatch.context() as patch:
            patch.setattr(type(runtime.home), "environment", property(lambda _: environment))
            primary.stop()
            primary.start()
        try:
            yield set_clock
        finally:
            primary.stop()
            primary.start()


@needs.pgbackrest
@needs.compiler
def test_what_a_clock_that_was_ahead_keeps_from_a_recovery_to_a_time_is_named_and_found(
    cluster: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = cluster.runtime
    server = runtime.cluster.recovered
    backup.physical(runtime, "full")

    def add(name: str) -> None:
        with cluster.app() as connection:
            add_customer(connection, name)

    with settable_clock(runtime, monkeypatch) as set_clock:
        add("before the clock was ahead")
        set_clock(40 * 86400)
        add("while the clock was ahead")
        set_clock(0)
        add("after the clock was ahead")
        time.sleep(1)
        moment = datetime.now(UTC)
        time.sleep(1)
        add("behind the target")
        found = pitr.recover(runtime, pitr.Target.parse(moment.isoformat()))
        recovered = names(server.superuser_conninfo())
        assert "before the clock was ahead" in recovered
        assert not {"after the clock was ahead", "behind the target"} & recovered
        assert found.shortfall is not None
        assert "the clock of the server was ahead then" in found.shortfall
        with pytest.raises(UserError, match="Neither FORCE=1 nor a script"):
            pitr.confirm_shortfall(found)
        # What it says leads there.
        position = re.search(r"TO=(\S+)", found.shortfall)
        assert position is not None, found.shortfall
        found = pitr.recover(runtime, pitr.Target.parse(position[1]))
        recovered = names(server.superuser_conninfo())
        assert "after the clock was ahead" in recovered
        assert "behind the target" not in recovered
        assert found.shortfall is None
    runtime.member(SIDE).remove()


@needs.pgbackrest
@needs.compiler
def test_a_full_backup_of_a_clock_that_was_ahead_is_named_where_it_is_in_the_way(
    cluster: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = cluster.runtime
    backup.physical(runtime, "full")
    with settable_clock(runtime, monkeypatch) as set_clock:
        set_clock(40 * 86400)
        ahead = backup.physical(runtime, "full")
    with pytest.raises(UserError, match=f"was ahead when backup {ahead.label} was made[^?]*TYPE=diff"):
        backup.physical(runtime, "full")
    # What was made is returned, not what is stamped latest.
    assert backup.physical(runtime, "diff").label.startswith(f"{ahead.label}_")
    assert pitr.recover(runtime, pitr.Target()).shortfall is None
    runtime.member(SIDE).remove()
