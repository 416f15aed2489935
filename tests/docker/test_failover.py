"""A replica becomes the primary, in containers: what follows, what is lost, and that never two servers take writes.

The tests run one after the other on one stack of their own, which has no more than they need.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import psycopg
import pytest

from eds.base.errors import UserError
from eds.base.settings import OPTIONAL_SERVICES
from eds.ops import failover
from eds.runtime.pgbackrest import Repository

from .conftest import OLTP, Stack, docker, throw_away, until

BOOK = "select count(*), sum(amount), max(payment_id) from operational.payments"


@pytest.fixture(scope="module")
def stack(engine: None) -> Iterator[Stack]:
    """Yield a stack of this file, up."""
    with throw_away() as stack:
        stack.values["DISABLED_SERVICES"] = ",".join(OPTIONAL_SERVICES)
        stack.up()
        yield stack


def primary(stack: Stack) -> str:
    """Return who is noted as the primary."""
    return stack.runtime.cluster.primary_name


def add_customer(stack: Stack, name: str) -> None:
    """Commit a customer as the application does: through PgBouncer."""
    conninfo = stack.app_conninfo(stack.settings.pgbouncer_port)
    with psycopg.connect(conninfo, prepare_threshold=None) as connection:
        connection.execute("insert into operational.customers (full_name) values (%s)", (name,))


def has_customer(stack: Stack, server: str, name: str) -> bool:
    return bool(stack.value(server, f"select count(*) from operational.customers where full_name = '{name}'"))


def followers(stack: Stack) -> set[str]:
    rows = stack.query(primary(stack), "select application_name from pg_stat_replication where state = 'streaming'")
    return {row[0] for row in rows}


def all_follow(stack: Stack) -> bool:
    return followers(stack) == set(OLTP) - {primary(stack)}


def takes_writes(stack: Stack, server: str) -> bool:
    """Return whether a member answers and takes writes."""
    try:
        stack.query(server, "select pg_current_xact_id()")
    except (UserError, psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction):
        # Nothing answers, or a replica does.
        return False
    return True


def writers(stack: Stack) -> set[str]:
    """Return the members that take writes now."""
    return {name for name in OLTP if takes_writes(stack, name)}


def encrypted(stack: Stack) -> set[bool]:
    """Return whether the sessions of replicas and PgBouncer with the primary are encrypted, and verify its name."""
    add_customer(stack, "through the pool")
    for name in stack.runtime.cluster.replica_names:
        conninfo = stack.value(name, "show primary_conninfo")
        assert "sslmode=verify-full" in conninfo, conninfo
    rows = stack.query(
        primary(stack),
        "select usename, ssl from pg_stat_ssl inner join pg_stat_activity using (pid) where client_addr is not null",
    )
    assert {"replicator", "app_user"} <= {row[0] for row in rows}, rows
    return {row[1] for row in rows}


def cut_off(stack: Stack, *names: str) -> None:
    """Let replicas lose their primary; they clone themselves again when that takes longer than 20 seconds."""
    for name in names:
        stack.query(name, "alter system set primary_conninfo = 'host=127.0.0.1 port=1'")
        stack.query(name, "select pg_reload_conf()")
    until(lambda: not followers(stack) & set(names), 15, "cut off")


def repair(stack: Stack, *names: str) -> None:
    for name in names:
        stack.query(name, "alter system reset primary_conninfo")


def start_anyway(stack: Stack, server: str) -> None:
    """Start a fenced member's container by hand: it refuses, and says why."""
    refusals = stack.log(server).count(f"{server} is fenced")
    docker("start", stack.container(server))
    until(lambda: stack.log(server).count(f"{server} is fenced") > refusals, 20, "refused")
    assert not takes_writes(stack, server)
    assert "make rejoin" in stack.log(server)


def failures(stack: Stack) -> list[str]:
    checks = json.loads(stack.eds("verify", "--json"))["checks"]
    assert len(checks) > 50
    return [check["name"] for check in checks if check["status"] == "FAIL"]


def test_a_member_that_lost_its_name_is_noticed_not_promoted_and_repaired(stack: Stack) -> None:
    network, container = f"{stack.project}_backend", stack.container("replica1")
    docker("network", "disconnect", network, container)
    docker("network", "connect", network, container)
    until(lambda: all_follow(stack), 60, "it streams all the same")
    lost = "pgbouncer does not reach replica1"
    assert lost in json.loads(stack.eds("health", "--json", code=1))["problems"]
    checks = json.loads(stack.eds("verify", "--json", code=1))["checks"]
    found = {check["name"]: check for check in checks if check["status"] == "FAIL"}
    assert lost in found["each member is reached by its name"]["detail"]
    with pytest.raises(UserError, match=lost):
        failover.failover(stack.runtime, "replica1")
    assert primary(stack) == "primary"
    assert takes_writes(stack, "primary")
    before = stack.inspect("replica1")["Id"]
    stack.up()
    assert stack.inspect("replica1")["Id"] == before
    assert stack.runtime.unreachable(*OLTP) == []
    assert failures(stack) == []


def test_a_planned_failover_loses_nothing_and_everything_follows(stack: Stack) -> None:
    add_customer(stack, "just before")
    containers = {name: stack.inspect(name)["Id"] for name in stack.runtime.services}
    pool = stack.app_conninfo(stack.settings.pgbouncer_port)
    with psycopg.connect(pool, prepare_threshold=None, autocommit=True) as session:
        assert session.execute("show cluster_name").fetchone() == ("primary",)
        output = stack.eds("failover", "--to", "replica1", "--force")
        # An application's session with the pool outlives it.
        assert session.execute("show cluster_name").fetchone() == ("replica1",)
    assert "RPO: 0, every commit of primary is on replica1" in output
    assert re.search(r"RTO: [0-9.]+ s", output)
    assert "primary follows as a replica (rewound)" in output
    assert primary(stack) == "replica1"
    assert all_follow(stack)
    assert writers(stack) == {"replica1"}
    add_customer(stack, "just after")
    for name in ("just before", "just after"):
        assert has_customer(stack, "replica1", name)
    options = stack.value("warehouse", "select srvoptions::text from pg_foreign_server where srvname = 'oltp'")
    assert "host=replica2,primary,replica1" in options
    assert "port=5432,5432,5432" in options
    # It took no new container, nor does the next `make up` make one.
    stack.wait_healthy()
    assert {name: stack.inspect(name)["Id"] for name in stack.runtime.services} == containers
    stack.up()
    assert {name: stack.inspect(name)["Id"] for name in stack.runtime.services} == containers

    stack.assert_warehouse_equals_book()
    assert failures(stack) == []
    assert json.loads(stack.eds("health", "--json"))["problems"] == []
    stack.eds("replication")
    assert "the primary since the last failover" in stack.eds("ps")
    assert stack.eds("psql", "primary", "--tuples", stdin="show cluster_name").strip() == "replica1"


def cut(stack: Stack, server: str) -> list[tuple[str, list[str]]]:
    """Take a running member off all networks. Returns them with its names there, for `reconnect`."""
    attached = stack.inspect(server)["NetworkSettings"]["Networks"]
    container = stack.container(server)
    networks = [
        (name, [alias for alias in each["Aliases"] or () if alias != container]) for name, each in attached.items()
    ]
    for name, _ in networks:
        docker("network", "disconnect", name, container)
    return networks


def reconnect(stack: Stack, server: str, networks: list[tuple[str, list[str]]]) -> None:
    """Connect a member again, under its names."""
    for name, aliases in networks:
        docker("network", "connect", *(f"--alias={alias}" for alias in aliases), name, stack.container(server))


def test_a_replica_cut_off_by_the_network_is_named_and_catches_up(stack: Stack) -> None:
    replica = stack.runtime.cluster.replica_names[0]
    networks = cut(stack, replica)
    until(lambda: replica not in followers(stack), 40, "the primary notices")
    add_customer(stack, "while a replica was cut off")
    assert any(replica in problem for problem in json.loads(stack.eds("health", "--json", code=1))["problems"])
    # Runs read the other one, and all that was committed.
    stack.assert_warehouse_equals_book()
    reconnect(stack, replica, networks)
    until(lambda: all_follow(stack), 60, "it follows again")
    until(lambda: has_customer(stack, replica, "while a replica was cut off"), 20, "it has caught up")
    stack.up()
    assert failures(stack) == []


def test_a_primary_cut_off_by_the_network_is_replaced_and_never_writes_again(stack: Stack) -> None:
    """The two halves of a partitioned network: the one with the old primary must not go on taking writes."""
    old = primary(stack)
    add_customer(stack, "before the partition")
    until(lambda: all(has_customer(stack, name, "before the partition") for name in OLTP), 20, "everybody has it")
    networks = cut(stack, old)
    try:
        # It runs, and takes writes from clients on its side: these exist nowhere else.
        stack.exec(
            old, "sh", "-c",
            'PGPASSWORD=$(cat /run/secrets/postgres_password) psql --no-psqlrc --dbname="host=127.0.0.1 user=postgres '
            "dbname=loans_db sslmode=prefer\" --command \"insert into operational.customers (full_name) "
            "values ('on the lost side')\"",
        )  # fmt: skip
        output = stack.eds("failover", "--force")
    finally:
        reconnect(stack, old, networks)
    new = primary(stack)
    assert new != old
    assert "RPO: " in output
    assert writers(stack) == {new}
    add_customer(stack, "on the other side")
    stack.eds("rejoin", "--force")
    until(lambda: all_follow(stack), 60, "all follow")
    assert writers(stack) == {new}
    # The archive may have delivered it: then the command said so, and every member has it; else none.
    assert {has_customer(stack, name, "on the lost side") for name in OLTP} == {"RPO: 0" in output}
    stack.assert_warehouse_equals_book()
    stack.up()
    assert failures(stack) == []


def test_archive_backup_and_recovery_follow_the_primary(stack: Stack) -> None:
    assert primary(stack) != "primary"
    assert "in the archive after" in stack.eds("wal", "--switch")
    # Every member sees what it archives.
    archive = Repository(stack.runtime)
    assert (archive.history(archive.info(), 2) or "").startswith("1\t")
    assert "00000002.history" in stack.exec("primary", "ls", "-R", "/var/lib/postgresql/wal_archive")
    stack.eds("backup", "--kind", "physical")
    add_customer(stack, "after the backup")
    assert "invariants hold" in stack.eds("pitr", "--to", "latest")
    query = "select count(*) from operational.customers where full_name = 'after the backup'"
    assert stack.eds("psql", "recovered", "--tuples", stdin=query).strip() == "1"
    stack.eds("pitr", "--remove")


def test_what_a_killed_primary_had_alone_is_counted_shown_and_kept_until_it_rejoins(stack: Stack) -> None:
    old = primary(stack)
    new, other = stack.runtime.cluster.replica_names
    cut_off(stack, new, other)
    for number in range(3):
        add_customer(stack, f"lost {number}")
    docker("kill", stack.container(old))
    repair(stack, new, other)
    output = stack.eds("failover", "--to", new, "--force")
    found = re.search(rf"RPO: (\d+) commits of {old} are not on {new}", output)
    assert found, output
    assert int(found[1]) >= 3
    assert f"{old} was left as it is, stopped" in output
    assert primary(stack) == new
    assert followers(stack) == {other}
    assert writers(stack) == {new}
    # It stays out, with what only it has, however it is started.
    start_anyway(stack, old)
    add_customer(stack, "on the new timeline")

    shown = stack.eds("failover-diff", "--name", old, COLUMNS="200")
    assert f"{found[1]} commits are only on {old}" in shown
    assert [number for number in range(5) if f"lost {number}" in shown] == [0, 1, 2]
    refused = stack.eds("psql", "recovered", "--tuples", stdin="create table nothing ()", code=3)
    assert "read-only transaction" in refused
    assert f"{old} follows {new} (rewound)" in stack.eds("rejoin", "--force")
    stack.eds("pitr", "--remove")
    assert "nothing to do" in stack.eds("rejoin", "--force")
    assert all_follow(stack)
    assert writers(stack) == {new}
    assert stack.value(old, "select count(*) from pg_replication_slots") == 0
    until(lambda: has_customer(stack, old, "on the new timeline"), 20, "it has the new timeline")
    assert not any(has_customer(stack, name, "lost 0") for name in OLTP)
    stack.wait_healthy(*OLTP)


def test_who_is_the_primary_outlives_down_and_up(stack: Stack) -> None:
    before, name = stack.query(primary(stack), BOOK), primary(stack)
    assert name != "primary"
    stack.eds("down")
    stack.up()
    assert primary(stack) == name
    assert writers(stack) == {name}
    assert all_follow(stack)
    assert stack.query(name, BOOK) == stack.query("primary", BOOK) == before
    add_customer(stack, "after the start")
    assert has_customer(stack, name, "after the start")


def test_with_synchronous_commit_nothing_acknowledged_is_lost_when_the_primary_is_killed(stack: Stack) -> None:
    stack.values |= {"SYNCHRONOUS": "on", "TLS": "on"}
    stack.up()
    assert encrypted(stack) == {True}
    old = primary(stack)
    assert stack.value(old, "show synchronous_standby_names") == "ANY 1 (primary, replica1, replica2)"
    ahead, behind = stack.runtime.cluster.replica_names
    cut_off(stack, behind)
    add_customer(stack, "on one replica only")
    docker("kill", stack.container(old))
    refused = stack.eds("failover", "--to", behind, code=1)
    assert f"of WAL behind {ahead}" in refused
    assert primary(stack) == old
    repair(stack, behind)
    output = stack.eds("failover", "--force")
    assert f"RPO: 0, every commit of {old} is on {ahead}" in output
    assert f"{old} follows as a replica (rewound)" in output
    assert encrypted(stack) == {True}
    assert "what only it had was wiped" in stack.eds("failover-diff", "--name", old, code=1)
    assert writers(stack) == {ahead}
    assert all_follow(stack)
    for name in OLTP:
        until(lambda name=name: has_customer(stack, name, "on one replica only"), 20, name)
    add_customer(stack, "acknowledged by a replica")
    stack.assert_warehouse_equals_book()


def test_a_failover_that_was_interrupted_is_undone_or_finished_by_up_and_nobody_else_takes_writes(stack: Stack) -> None:
    stack.values["TLS"] = "on"
    stack.up()
    old, new = primary(stack), stack.runtime.cluster.replica_names[-1]
    # Before the decision was noted.
    stack.runtime.member(old).fence()
    assert writers(stack) == set()
    start_anyway(stack, old)
    stack.up()
    assert primary(stack) == old
    assert writers(stack) == {old}
    assert all_follow(stack)
    # After it, and before the promotion.
    stack.runtime.member(old).fence()
    stack.runtime.cluster.set_primary(new)
    start_anyway(stack, old)
    assert writers(stack) == set()
    output = stack.up()
    assert f"{new} promoted: a failover was interrupted" in output
    assert f"{old}, a former primary, is cloned again" in output
    assert writers(stack) == {new}
    assert all_follow(stack)
    add_customer(stack, "after the interrupt")
    # A server that crashes and starts again by itself finds its part in the note, whichever comes first.
    docker("kill", *(stack.container(name) for name in OLTP))
    docker("start", *(stack.container(name) for name in (old, *stack.runtime.cluster.replica_names, new)))
    stack.wait_healthy(*OLTP)
    assert writers(stack) == {new}
    until(lambda: all_follow(stack), 30, "all follow")
    assert encrypted(stack) == {True}
    assert has_customer(stack, old, "after the interrupt")
