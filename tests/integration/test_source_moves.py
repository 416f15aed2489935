"""The source is another server than before: after a failover, a restore, a crash in the middle of a run.

Each scenario ends, by the next run alone, in landing tables that equal the source.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from eds.book.demo import fill
from eds.cluster.connections import Server, connect
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.ports import free_ports
from eds.warehouse.runs import DATA_BUILD
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform, kill_server, point_at, use_only
from support.servers import REPLICAS, cut_off, wait_for_replica
from support.waiting import wait_until

pytestmark = pytest.mark.proof


def some_changes(platform: Platform, server: Server) -> None:
    """Write a payment, an update, a deletion and a new customer as the application, on a server that accepts writes."""
    password = platform.settings.app_user_password.get_secret_value()
    with connect(server.conninfo("app_user", password)) as connection:
        newest = connection.execute("select max(payment_id), max(loan_id) from operational.payments").fetchone()
        assert newest is not None
        pay(connection, newest[1], "5.00", "0.50")
        connection.execute("delete from operational.payments where payment_id = %s", (newest[0],))
        connection.execute("update operational.customers set city = city || ' East' where customer_id = 2")
        pay(connection, add_loan(connection, add_customer(connection, "Newcomer")))


def burn_transactions(server: Server, count: int = 600) -> None:
    """Use up transaction ids, so that those of an earlier time are below the ones to come."""
    with connect(server.superuser_conninfo(), autocommit=True) as connection:
        connection.execute(
            f"do $$ begin for n in 1..{count} loop perform pg_current_xact_id(); commit; end loop; end $$"
        )


def assert_warehouse_equals(platform: Platform, server: Server) -> None:
    assert_landing_equals_source(platform, server.superuser_conninfo())
    assert_views_equal_the_oltp(platform, server.superuser_conninfo())


# --- servers that die -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["replica1", "primary"])
def test_a_source_that_is_killed_in_the_middle_of_a_run(small_book, name):
    platform = small_book
    some_changes(platform, platform.servers["primary"])
    platform.wait_for_replicas()
    use_only(platform, *[name, *(other for other in ("replica1", "replica2", "primary") if other != name)])
    with connect(platform.writer_conninfo) as connection:
        connection.execute("alter server oltp options (set target_session_attrs 'any')")
    try:
        with connect(platform.warehouse_conninfo) as lock:
            # Customers come first: the run has read them, and has the other tables before it.
            lock.execute("lock table operational.customers in access exclusive mode")
            child = platform.start_dbt(*DATA_BUILD, environment={"ETL_STARTED_BY": "the one in the middle"})
            wait_until(lambda: platform.warehouse("select 1 from pg_locks where not granted and locktype = 'relation'"))
            kill_server(platform, name)
        child.join()
        assert child.exitcode != 0
        run = platform.run_of("the one in the middle")
        assert run is not None and run["status"] == "failed"
        result = platform.build()
        assert not result.run["source_host"].endswith(str(platform.servers[name].port))
    finally:
        platform.runtime.postmaster.start(name)
    platform.wait_for_replicas()
    assert_warehouse_equals(platform, platform.servers["primary"])


def test_a_replica_that_had_not_received_everything_is_promoted(small_book):
    platform = small_book
    runtime, replica = platform.runtime, platform.servers["replica1"]
    runtime.postmaster.stop("replica1")
    try:
        # What the replica never receives, and the warehouse sees.
        some_changes(platform, platform.servers["primary"])
        use_only(platform, "primary")
        platform.build()
        assert_warehouse_equals(platform, platform.servers["primary"])
        runtime.postmaster.stop("primary")
        runtime.postmaster.start("replica1")
        with connect(replica.superuser_conninfo(), autocommit=True) as connection:
            assert connection.execute("select pg_promote()").fetchone() == (True,)
        some_changes(platform, replica)
        # The lost changes and the new ones have the same transaction ids: those are below the watermark in part.
        use_only(platform, "replica1")
        result = platform.build()
        assert result.run["extraction_mode"] == "reconcile"
        assert result.run["extraction_reason"] == "timeline 2 after 1"
        assert_warehouse_equals(platform, replica)
        some_changes(platform, replica)
        assert platform.build().run["extraction_mode"] == "changes"
        assert_warehouse_equals(platform, replica)
    finally:
        runtime.postmaster.stop("replica1")
        runtime.postmaster.start("primary")
        runtime.up_replica("replica1")
        for kept in runtime.home.path.glob("replica1.aside-*"):
            shutil.rmtree(kept)


def crash(platform: Platform, name: str) -> None:
    """End a server as a crash of the machine does: all its processes at once, with what they had not written."""
    with connect(platform.servers[name].superuser_conninfo()) as connection:
        found = connection.execute(
            # The one that writes the WAL out comes first.
            "select pid from pg_stat_activity where pid <> pg_backend_pid() order by backend_type <> 'walwriter'"
        ).fetchall()
    postmaster = platform.runtime.postmaster.pid(name)
    assert postmaster is not None
    # It would start others in their place.
    os.kill(postmaster, signal.SIGSTOP)
    for process in (*(pid for (pid,) in found), postmaster):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    wait_until(lambda: platform.runtime.postmaster.pid(name) is None)


def promote(server: Server) -> None:
    with connect(server.superuser_conninfo(), autocommit=True) as connection:
        assert connection.execute("select pg_promote()").fetchone() == (True,)


def test_a_second_failover_to_a_replica_that_did_not_follow_the_first(small_book):
    """Both former replicas are on timeline 2; one has a payment that the other one never received.

    The first one used up transaction ids without a trace in the trail, so that the payment's lies below the watermark.
    """
    platform = small_book
    runtime = platform.runtime
    first, second = platform.servers["replica1"], platform.servers["replica2"]
    # Nor does it find the payment in the archive.
    cut_off(platform, "replica1")
    try:
        with platform.app() as connection:
            payment = pay(connection, 1, "7.00", "0.50")
        wait_for_replica(platform, "replica2")
        runtime.postmaster.stop("primary")
        promote(first)
        use_only(platform, "replica1")
        assert platform.build().run["extraction_reason"] == "timeline 2 after 1"
        assert platform.warehouse("select 1 from operational.payments where payment_id = %s", (payment,)) == []
        assert_warehouse_equals(platform, first)
        burn_transactions(first)
        assert platform.build().run["extraction_mode"] == "changes"

        runtime.postmaster.stop("replica1")
        promote(second)
        burn_transactions(second, 2000)
        use_only(platform, "replica2")
        result = platform.build()
        assert_warehouse_equals(platform, second)
        assert result.run["extraction_mode"] == "reconcile"
        some_changes(platform, second)
        assert platform.build().run["extraction_mode"] == "changes"
        assert_warehouse_equals(platform, second)
    finally:
        for name in REPLICAS:
            runtime.postmaster.stop(name)
        runtime.postmaster.start("primary")
        for name in REPLICAS:
            runtime.up_replica(name)
            for kept in runtime.home.path.glob(f"{name}.aside-*"):
                shutil.rmtree(kept)


def test_a_replica_that_was_promoted_beside_the_primary_is_read_in_its_absence_alone(small_book):
    """Two servers take writes, and the list of sources has both: the primary last, as the platform names it."""
    platform = small_book
    runtime, promoted = platform.runtime, platform.servers["replica1"]

    def extract(*options: str) -> Any:
        result = platform.dbt("run", "-s", "extraction", *options, environment={"ETL_SOURCE_WAIT_SECONDS": "1"})
        return result.run

    try:
        promote(promoted)
        some_changes(platform, promoted)
        some_changes(platform, platform.servers["primary"])
        for names in (("replica1", "replica2", "primary"), ("replica1", "primary")):
            use_only(platform, *names)
            run = extract()
            assert (run["status"], run["extraction_mode"]) == ("success", "changes")
            assert_landing_equals_source(platform)
        # Whether the primary is gone for good is not for a run to know.
        runtime.postmaster.stop("primary")
        assert extract()["extraction_reason"] == "timeline 2 after 1"
        assert_landing_equals_source(platform, promoted.superuser_conninfo())
        # Then it is back, with another history than the warehouse has: a person must decide.
        runtime.postmaster.start("primary")
        refused = extract()["error_message"]
        assert "timeline 2, not that of the primary" in refused and "make reconcile" in refused
        assert_landing_equals_source(platform, promoted.superuser_conninfo())
        # He has: make rejoin NAME=replica1, make reconcile.
        runtime.postmaster.stop("replica1")
        assert "make reconcile" in extract()["error_message"]
        assert extract("--vars", "{reconcile: true}")["status"] == "success"
        some_changes(platform, platform.servers["primary"])
        wait_for_replica(platform, "replica2")
        assert extract()["extraction_mode"] == "changes"
        assert_landing_equals_source(platform)
    finally:
        runtime.postmaster.start("primary")
        runtime.up_replica("replica1")
        for kept in runtime.home.path.glob("replica1.aside-*"):
            shutil.rmtree(kept)


def test_a_commit_that_a_crash_loses_after_a_run_has_seen_it(small_book):
    """Without synchronous_commit the primary shows a commit before it is on disk.

    What goes has neither the newest entry of the trail nor a transaction id above the watermark.
    """
    platform = small_book
    runtime = platform.runtime
    use_only(platform, "primary")
    try:
        with connect(platform.app_conninfo) as late:
            late.execute("set local synchronous_commit = off")
            late.execute("update operational.customers set city = 'Lost' where customer_id = 3")
            with platform.app() as connection:
                connection.execute("update operational.customers set city = 'Kept' where customer_id = 4")
            # Nobody else writes the WAL out meanwhile.
            for (process,) in platform.primary(
                "select pid from pg_stat_activity "
                "where backend_type in ('walwriter', 'background writer', 'checkpointer', 'autovacuum launcher')"
            ):
                os.kill(process, signal.SIGSTOP)
            late.commit()
            assert platform.dbt("run", "--select", "extraction").exit_code == 0
            crash(platform, "primary")
        runtime.postmaster.start("primary")
        cities = "select customer_id, city from operational.customers where customer_id in (3, 4) order by customer_id"
        assert platform.primary(cities) == [(3, "Nairobi"), (4, "Kept")]
        assert platform.warehouse(cities) == [(3, "Lost"), (4, "Kept")]
        result = platform.build()
        assert result.run["extraction_mode"] == "reconcile"
        assert "put back to an earlier state" in result.run["extraction_reason"]
        assert_warehouse_equals(platform, platform.servers["primary"])
    finally:
        runtime.postmaster.start("primary")
        platform.wait_for_replicas()


# --- servers that were restored ---------------------------------------------------------------------------------------


@pytest.fixture
def other_cluster(all_servers: Platform) -> Iterator[LocalRuntime]:
    """Yield an empty second cluster, in a directory of its own."""
    place = Path(tempfile.mkdtemp(prefix="platform-test-other-", dir="/tmp"))
    place.chmod(0o755)
    settings = all_servers.settings.model_copy(update={"state_dir": place / "state", "primary_port": free_ports(1)[0]})
    runtime = LocalRuntime(settings)
    try:
        runtime.up_primary()
        yield runtime
    finally:
        runtime.stop_all(mode="immediate")
        runtime.destroy()
        shutil.rmtree(place, ignore_errors=True)


def restore_dump(platform: Platform, other: LocalRuntime) -> Server:
    """Dump the platform's primary whole, roles too, and restore it into another cluster, which is returned."""
    source, target = platform.servers["primary"], other.cluster.servers["primary"]
    dump = subprocess.run(
        [other.home.bindir / "pg_dumpall", "-h", source.host, "-p", str(source.port), "-U", "postgres", "--no-sync"],
        env={"PGPASSWORD": source.superuser_password},
        check=True,
        capture_output=True,
    )
    # The role postgres is there already, the one statement that fails.
    subprocess.run(
        [
            other.home.bindir / "psql",
            "-h",
            target.host,
            "-p",
            str(target.port),
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-q",
        ],
        env={"PGPASSWORD": target.superuser_password},
        input=dump.stdout,
        check=True,
        capture_output=True,
    )
    return target


def test_a_dump_that_was_restored_into_another_cluster(small_book, other_cluster):
    platform = small_book
    some_changes(platform, platform.servers["primary"])
    restored = restore_dump(platform, other_cluster)
    # What the dump does not have, and the warehouse has seen.
    some_changes(platform, platform.servers["primary"])
    platform.wait_for_replicas()
    platform.build()
    some_changes(platform, restored)
    point_at(platform, restored)
    result = platform.build()
    assert result.run["extraction_mode"] == "reconcile"
    assert "another cluster" in result.run["extraction_reason"]
    assert_warehouse_equals(platform, restored)
    some_changes(platform, restored)
    assert platform.build().run["extraction_mode"] == "changes"
    assert_warehouse_equals(platform, restored)


def put_back_copy_of_the_disks(runtime: LocalRuntime, copy: Path) -> None:
    """Put the disks back, as when a volume is reset to a snapshot: same cluster, same timeline."""
    runtime.postmaster.start("primary")


def recover_to_the_point_of_the_copy(runtime: LocalRuntime, copy: Path) -> None:
    """Recover to the point of the copy, as by point-in-time recovery: same cluster, a new timeline."""
    data = runtime.home.data("primary")
    (data / "postgresql.auto.conf").write_text("restore_command = 'false'\nrecovery_target_action = 'promote'\n")
    runtime.home.write(data / "recovery.signal", "", 0o600)
    runtime.postmaster.start("primary")
    wait_until(lambda: not _in_recovery(runtime.cluster.servers["primary"]))


def _in_recovery(server: Server) -> bool:
    with connect(server.superuser_conninfo()) as connection:
        return bool(connection.execute("select pg_is_in_recovery()").fetchone() == (True,))


@pytest.mark.parametrize(
    ("restore", "reason"),
    [
        (put_back_copy_of_the_disks, "put back to an earlier state"),
        (recover_to_the_point_of_the_copy, "timeline 2 after 1"),
    ],
)
@pytest.mark.parametrize("later_transactions", [0, 600], ids=["few transactions since", "many transactions since"])
def test_a_source_that_was_restored_to_an_earlier_point_in_time(
    small_book, other_cluster, tmp_path, restore: Callable[..., None], reason: str, later_transactions: int
):
    platform, runtime = small_book, other_cluster
    source = restore_dump(platform, runtime)
    point_at(platform, source)
    platform.build()

    runtime.postmaster.stop("primary")
    data, copy = runtime.home.data("primary"), runtime.home.path / "copy"
    runtime.home.run(["cp", "-a", data, copy])
    runtime.postmaster.start("primary")
    some_changes(platform, source)
    platform.build()
    assert_warehouse_equals(platform, source)

    runtime.postmaster.stop("primary", mode="immediate")
    shutil.rmtree(data)
    copy.rename(data)
    restore(runtime, copy)
    some_changes(platform, source)
    if later_transactions:
        # The watermark alone would find nothing wrong any more.
        burn_transactions(source, later_transactions)
    result = platform.build()
    assert result.run["extraction_mode"] == "reconcile"
    assert reason in result.run["extraction_reason"]
    assert_warehouse_equals(platform, source)
    some_changes(platform, source)
    assert platform.build().run["extraction_mode"] == "changes"
    assert_warehouse_equals(platform, source)


@pytest.mark.parametrize("later_transactions", [0, 600], ids=["few transactions since", "many transactions since"])
def test_disks_that_were_put_back_to_a_time_between_two_commits(small_book, other_cluster, later_transactions: int):
    """The commit that went has neither the newest entry of the trail nor a transaction id above the watermark."""
    platform, runtime = small_book, other_cluster
    source = restore_dump(platform, runtime)
    point_at(platform, source)
    platform.build()
    password = platform.settings.app_user_password.get_secret_value()

    with connect(source.conninfo("app_user", password)) as earlier:
        lost = pay(earlier, 1, "7.00", "0.50")
        # Later in the trail, but committed before.
        with connect(source.conninfo("app_user", password)) as later:
            later.execute("update operational.customers set city = 'Eldoret' where customer_id = 2")
        platform.build()
        # A crash-consistent copy, as a snapshot of the volume is.
        with connect(source.superuser_conninfo(), autocommit=True) as connection:
            connection.execute("checkpoint")
        data, copy = runtime.home.data("primary"), runtime.home.path / "copy"
        runtime.home.run(["cp", "-a", data, copy])
        earlier.commit()
    platform.build()
    assert_warehouse_equals(platform, source)

    runtime.postmaster.stop("primary", mode="immediate")
    shutil.rmtree(data)
    copy.rename(data)
    (data / "postmaster.pid").unlink()
    runtime.postmaster.start("primary")
    if later_transactions:
        burn_transactions(source, later_transactions)
    with connect(source.conninfo("app_user", password)) as connection:
        connection.execute("update operational.customers set city = 'Kisumu' where customer_id = 3")
    result = platform.build()
    assert platform.warehouse(
        "select _deleted_at is null from operational.payments where payment_id = %s", (lost,)
    ) == [(False,)]
    assert result.run["extraction_mode"] == "reconcile"
    assert "put back to an earlier state" in result.run["extraction_reason"]
    assert_warehouse_equals(platform, source)
    assert platform.build().run["extraction_mode"] == "changes"


def test_a_trail_that_came_with_a_dump_is_not_read_again_in_each_run(platform, other_cluster):
    """Its entries have ids that the new cluster has yet to reach; one of them says that a table was filled."""
    burn_transactions(platform.servers["primary"], 3000)
    with connect(platform.superuser_conninfo) as connection:
        fill.fill(connection, fill.Scale.parse("500"))
    some_changes(platform, platform.servers["primary"])
    platform.wait_for_replicas()
    platform.build()
    restored = restore_dump(platform, other_cluster)
    point_at(platform, restored)
    assert platform.build().run["extraction_mode"] == "reconcile"
    for _ in range(2):
        some_changes(platform, restored)
        assert platform.build().run["extraction_mode"] == "changes"
        assert_warehouse_equals(platform, restored)
    # Up to the ids of the former cluster, and past them.
    [(former,)] = platform.primary("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    with connect(restored.superuser_conninfo()) as connection:
        row = connection.execute("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
    assert row is not None
    assert row[0] < former
    for _ in range(2):
        burn_transactions(restored, (former - row[0]) // 2 + 50)
        some_changes(platform, restored)
        platform.build()
        assert_warehouse_equals(platform, restored)


def test_a_deletion_in_a_trail_that_came_with_a_dump_takes_no_row_away(small_book, other_cluster):
    """The new cluster reaches the id of the deletion, and not yet that of the insertion that followed it."""
    platform, runtime = small_book, other_cluster
    primary = platform.servers["primary"]
    # Ids that the new cluster has not reached.
    burn_transactions(primary, 5000)
    with platform.app() as connection:
        connection.execute("create temporary table kept as select * from operational.payments where payment_id = 5")
        connection.execute("delete from operational.payments where payment_id = 5")
        connection.commit()
        burn_transactions(primary)
        connection.execute("insert into operational.payments select * from kept")
    source = restore_dump(platform, runtime)
    point_at(platform, source)
    platform.build()
    with connect(source.superuser_conninfo(), autocommit=True) as connection:
        [(missing,)] = connection.execute(
            "select min(xact_id::text::bigint) + 300 - pg_current_xact_id()::text::bigint from operational.audit_log "
            "where record_id = 5 and table_name = 'payments' and operation = 'DELETE'"
        ).fetchall()
    assert missing > 0
    burn_transactions(source, missing)
    assert platform.build().run["extraction_mode"] == "changes"
    assert_warehouse_equals(platform, source)


def test_transaction_ids_beyond_32_bits(small_book, other_cluster):
    """After the counter has wrapped around, its epoch is part of every id."""
    platform, runtime = small_book, other_cluster
    source = restore_dump(platform, runtime)
    runtime.postmaster.stop("primary")
    runtime.home.run([runtime.home.bindir / "pg_resetwal", "--epoch=1", "-D", runtime.home.data("primary")])
    runtime.postmaster.start("primary")
    point_at(platform, source)
    platform.build()
    password = platform.settings.app_user_password.get_secret_value()
    with connect(source.conninfo("app_user", password)) as late:
        late.execute("update operational.customers set phone = '1' where customer_id = 6")
        for _ in range(2):
            some_changes(platform, source)
            assert platform.build().run["extraction_mode"] == "changes"
            assert_landing_equals_source(platform, source.superuser_conninfo())
        late.commit()
    assert platform.build().run["extraction_mode"] == "changes"
    assert_warehouse_equals(platform, source)
    [(watermark,)] = platform.warehouse("select watermark::text::bigint from audit.extraction_state")
    assert watermark > 2**32


def freeze(source: Server) -> None:
    """Freeze every row of a cluster, so that its ids may go on by two thousand million."""
    with connect(source.superuser_conninfo("postgres"), autocommit=True) as connection:
        connection.execute("alter database template0 allow_connections true")
        databases = [name for (name,) in connection.execute("select datname from pg_database").fetchall()]
    for database in databases:
        with connect(source.superuser_conninfo(database), autocommit=True) as connection:
            connection.execute("vacuum (freeze)")


def jump_to(runtime: LocalRuntime, transaction_id: int) -> None:
    """Let a cluster go on with this transaction id."""
    data = runtime.home.data("primary")
    runtime.postmaster.stop("primary")
    runtime.home.run([runtime.home.bindir / "pg_resetwal", f"--next-transaction-id={transaction_id}", "-D", data])
    # The state of so many ids is kept in a file that does not exist here.
    states = data / "pg_xact" / f"{transaction_id // 2**20:04X}"
    runtime.home.run(["truncate", "--size=262144", states])
    runtime.postmaster.start("primary")


def test_transaction_ids_that_wrap_around_between_two_runs(small_book, other_cluster):
    """The rows are frozen, an older transaction stays open, and the ids of 32 bits begin again."""
    platform, runtime = small_book, other_cluster
    source = restore_dump(platform, runtime)
    freeze(source)
    for transaction_id in (1_500_000_000, 3_000_000_000, 2**32 - 150):
        jump_to(runtime, transaction_id)
        freeze(source)
    point_at(platform, source)
    platform.build()
    password = platform.settings.app_user_password.get_secret_value()
    with connect(source.conninfo("app_user", password)) as late:
        late.execute("update operational.customers set phone = '1' where customer_id = 6")
        for _ in range(2):
            burn_transactions(source, 100)
            some_changes(platform, source)
            assert platform.build().run["extraction_mode"] == "changes"
            assert_landing_equals_source(platform, source.superuser_conninfo())
        late.commit()
    assert platform.build().run["extraction_mode"] == "changes"
    assert_warehouse_equals(platform, source)
    freeze(source)
    some_changes(platform, source)
    assert platform.build().run["extraction_mode"] == "changes"
    assert_warehouse_equals(platform, source)
    [(watermark,)] = platform.warehouse("select watermark::text::bigint from audit.extraction_state")
    assert watermark > 2**32


def test_changes_that_arrive_by_logical_replication_are_in_the_trail(small_book, other_cluster):
    """The OLTP subscribes to another database: the triggers fire for its apply worker too."""
    platform, publisher = small_book, other_cluster
    source = restore_dump(platform, publisher)
    with connect(source.superuser_conninfo(), autocommit=True) as connection:
        connection.execute("alter system set wal_level = 'logical'")
        connection.execute("create publication book for table operational.customers, operational.payments")
    publisher.postmaster.stop("primary")
    publisher.postmaster.start("primary")
    with connect(platform.superuser_conninfo, autocommit=True) as subscriber:
        subscriber.execute(
            sql.SQL("create subscription book connection {} publication book with (copy_data = false)").format(
                sql.Literal(source.superuser_conninfo())
            )
        )
        try:
            password = platform.settings.app_user_password.get_secret_value()
            with connect(source.conninfo("app_user", password)) as connection:
                connection.execute("update operational.customers set city = 'Kisumu' where customer_id = 3")
                connection.execute("insert into operational.customers (full_name) values ('Came by replication')")
                connection.execute("delete from operational.payments where payment_id in (1, 2)")
            wait_until(
                lambda: platform.primary("select 1 from operational.customers where full_name = 'Came by replication'")
            )
            platform.wait_for_replicas()
            assert platform.build().run["extraction_mode"] == "changes"
            assert_warehouse_equals(platform, platform.servers["primary"])
        finally:
            subscriber.execute("drop subscription book")


def test_a_database_that_was_replaced_by_an_older_dump_in_the_same_cluster(small_book):
    """Same identity, same timeline, later transaction ids: only the trail tells."""
    platform = small_book
    use_only(platform, "primary")
    some_changes(platform, platform.servers["primary"])
    database = platform.settings.oltp_db
    server = platform.servers["primary"]
    pg: dict[str, Any] = {"env": {"PGPASSWORD": server.superuser_password}, "check": True, "capture_output": True}
    place = ["-h", server.host, "-p", str(server.port), "-U", "postgres"]
    bindir = platform.runtime.home.bindir
    dump = subprocess.run([bindir / "pg_dump", *place, "-d", database], **pg).stdout
    some_changes(platform, server)
    platform.build()
    with connect(server.superuser_conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {database}_restored template template0")
        subprocess.run([bindir / "psql", *place, "-q", "-d", f"{database}_restored"], input=dump, **pg)
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()",
            (database,),
        )
        connection.execute(f"alter database {database} rename to {database}_replaced")
        connection.execute(f"alter database {database}_restored rename to {database}")
        try:
            some_changes(platform, server)
            result = platform.build()
            assert result.run["extraction_mode"] == "reconcile"
            assert "put back to an earlier state" in result.run["extraction_reason"]
            assert_warehouse_equals(platform, server)
        finally:
            connection.execute(f"drop database {database} with (force)")
            connection.execute(f"alter database {database}_replaced rename to {database}")
