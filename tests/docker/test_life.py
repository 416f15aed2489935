"""Stops, crashes, replicas that cannot follow, changed settings: the stack recovers and keeps its data."""

from __future__ import annotations

import json
import os
import re
import time
from urllib.request import Request

import psycopg
import pytest

from eds.base.settings import ROOT, Settings

from .conftest import DATABASES, Stack, docker, until
from .test_stack import pgadmin_session

VOLUME = "/var/lib/postgresql/data"
BOOK = "select count(*), sum(amount), max(payment_id) from operational.payments"
# In a container's own process tree: everything but its init, which then ends, and the container with it.
KILL_ALL = """
import os, signal
for entry in os.listdir('/proc'):
    if entry.isdigit() and int(entry) not in (1, os.getpid(), os.getppid()):
        os.kill(int(entry), signal.SIGKILL)
"""


def crash(stack: Stack, service: str) -> None:
    """Kill a service's processes, as the kernel does when memory is short; nobody asked the engine to stop it."""
    docker(
        *("run", "--rm", "--pid", f"container:{stack.container(service)}", "--user", "root", "--cap-add", "KILL"),
        *("python:3.11-slim-bookworm", "python", "-c", KILL_ALL),
        # It may go down with the container whose processes it kills.
        check=False,
    )


def started_at(stack: Stack, service: str) -> str:
    return str(stack.inspect(service)["State"]["StartedAt"])


def insert_payment(stack: Stack) -> int:
    row = stack.query(
        "primary",
        "insert into operational.payments (loan_id, amount, principal_portion, interest_portion, payment_method, "
        "payment_date) select loan_id, 10, 0, 10, 'cash', now() from operational.loans "
        "where status = 'active' order by loan_id limit 1 returning payment_id",
    )
    return int(row[0][0])


def reaches_replicas(stack: Stack, payment: int) -> None:
    for name in ("replica1", "replica2"):
        query = f"select count(*) from operational.payments where payment_id = {payment}"
        until(lambda name=name, query=query: stack.value(name, query) == 1, 60, f"payment on {name}")


def move_on(stack: Stack) -> None:
    """Let the primary write, archive and remove more WAL than it keeps by itself (wal_keep_size)."""
    for _ in range(8):
        stack.query("primary", "select pg_switch_wal(), txid_current()")
    segment = stack.value("primary", "select pg_walfile_name(pg_switch_wal())")
    archived = f"select last_archived_wal >= '{segment}' from pg_stat_archiver"
    until(lambda: stack.value("primary", archived), 60, "everything archived")
    # A checkpoint removes what has been archived.
    stack.query("primary", "checkpoint")


def test_a_stop_lets_each_server_shut_down_cleanly_and_a_start_continues(stack: Stack) -> None:
    book = stack.query("primary", BOOK)
    names = ("scheduler", "pgbouncer", *DATABASES)
    docker("stop", *(stack.container(name) for name in names))
    for name in names:
        assert stack.inspect(name)["State"]["ExitCode"] == 0, name
    for name in DATABASES:
        assert "database system is shut down" in stack.log(name).splitlines()[-1], name
    stack.eds("ps", code=3)
    docker("start", *(stack.container(name) for name in reversed(names)))
    stack.wait_healthy()
    assert stack.query("primary", BOOK) == book


def test_each_service_comes_back_by_itself_after_a_crash(stack: Stack) -> None:
    before = {name: started_at(stack, name) for name in stack.runtime.services}
    clones = {name: stack.log(name).count("cloning the primary") for name in ("replica1", "replica2")}
    for name in stack.runtime.services:
        crash(stack, name)
    for name in stack.runtime.services:
        until(
            lambda name=name: started_at(stack, name) != before[name],
            60,
            f"{name} started again",
        )
    stack.wait_healthy()
    reaches_replicas(stack, insert_payment(stack))
    stack.assert_warehouse_equals_book()
    for name, count in clones.items():
        assert stack.log(name).count("cloning the primary") == count, f"{name} continues with the data it has"


@pytest.mark.parametrize("victim", ["warehouse", "primary"])
def test_a_server_killed_in_the_middle_of_a_run_costs_that_run_at_most(stack: Stack, victim: str) -> None:
    insert_payment(stack)
    runs = stack.value("warehouse", "select coalesce(max(run_id), 0) from audit.etl_runs")
    run = stack.start("build", "--full-refresh", ETL_ATTEMPTS="1")
    began = f"select 1 from audit.etl_runs where run_id > {runs} and status = 'running'"
    until(lambda: stack.query("warehouse", began) or run.poll() is not None, 60, "a running run")
    assert run.poll() is None, run.communicate()[0]
    docker("kill", stack.container(victim))
    output, _ = run.communicate(timeout=120)
    # The replicas serve a run when the primary is away; without the warehouse there is none.
    assert (run.returncode != 0) if victim == "warehouse" else (run.returncode in (0, 1)), output
    assert "Traceback" not in output
    if victim == "primary":
        # It stays away until its replicas are unhealthy: Compose then gives up before they can be well again.
        until(lambda: not stack.healthy("replica1"), 90, "replica1 is unhealthy without its primary")
    stack.up()
    stack.wait_healthy()
    reaches_replicas(stack, insert_payment(stack))
    stack.assert_warehouse_equals_book()
    assert stack.query("warehouse", "select 1 from audit.etl_runs where status = 'running'") == []


# Takes down whatever interfaces there are, in a network of a container (its process cannot tell the engine).
INTERFACES_DOWN = """
import fcntl, socket, struct
for _, name in socket.if_nameindex():
    with socket.socket() as probe:
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh14x", name.encode(), 0))
"""


def test_a_replica_whose_network_is_dead_inside_is_started_again_by_up(stack: Stack) -> None:
    """The engine still shows it in its networks, under all its names."""
    docker(
        *("run", "--rm", "--cap-add", "NET_ADMIN", "--network", f"container:{stack.container('replica1')}"),
        *("python:3.11-slim-bookworm", "python", "-c", INTERFACES_DOWN),
    )
    until(lambda: not stack.healthy("replica1"), 120, "replica1 is unhealthy")
    assert "still not healthy, starting again: replica1" in stack.up()
    reaches_replicas(stack, insert_payment(stack))


def test_a_replica_that_lost_its_slot_continues_from_the_archive(stack: Stack) -> None:
    clones = stack.log("replica1").count("cloning the primary")
    docker("stop", stack.container("replica1"))
    stack.query("primary", "select pg_drop_replication_slot('replica1')")
    payment = insert_payment(stack)
    move_on(stack)
    docker("start", stack.container("replica1"))
    stack.wait_healthy("replica1")
    reaches_replicas(stack, payment)
    assert stack.log("replica1").count("cloning the primary") == clones
    assert stack.value("primary", "select active from pg_replication_slots where slot_name = 'replica1'") is True


def test_replicas_that_cannot_follow_are_cloned_again_and_their_data_is_kept_aside(stack: Stack) -> None:
    # A replica was promoted and diverged, and was then made a standby again by hand.
    stack.query("replica2", "select pg_promote()")
    stack.query("replica2", "create table public.own_way (x int)")
    stack.exec("replica2", "touch", f"{VOLUME}/pgdata/standby.signal")
    # The other lost its slot, and the WAL that it needs is nowhere any more, not even for the slot of the first.
    docker("stop", stack.container("replica1"), stack.container("replica2"))
    stack.query("primary", "select pg_drop_replication_slot(slot_name) from pg_replication_slots")
    move_on(stack)
    stack.exec("primary", "bash", "-c", "rm -rf /var/lib/postgresql/wal_archive/repository/archive/oltp/15-1/0*")
    docker("start", stack.container("replica1"), stack.container("replica2"))

    for name in ("replica1", "replica2"):
        until(lambda name=name: "cloned again" in stack.log(name), 120, f"{name} cloned again")
        stack.wait_healthy(name)
        assert len(stack.exec(name, "bash", "-c", f"ls -d {VOLUME}/pgdata.aside-*").split()) == 1
    reaches_replicas(stack, insert_payment(stack))
    assert stack.value("replica2", "select to_regclass('public.own_way')") is None
    stack.assert_warehouse_equals_book()


def test_a_replica_that_was_promoted_is_cloned_again_at_its_next_start(stack: Stack) -> None:
    stack.query("replica2", "select pg_promote()")
    # The health check says so at its next looks.
    check = ("/etc/platform/health.sh", "replica2", "postgres_password")
    assert "does not serve as replica" in stack.exec("replica2", *check, check=False)
    docker("restart", stack.container("replica2"))
    until(lambda: "it was promoted" in stack.log("replica2"), 60, "the message")
    stack.wait_healthy("replica2")
    reaches_replicas(stack, insert_payment(stack))


def test_a_clone_that_was_killed_half_way_does_not_block_the_next_start(stack: Stack) -> None:
    container = stack.container("replica1")
    stack.exec("replica1", "bash", "-c", f"rm {VOLUME}/pgdata/standby.signal")
    docker("restart", "--time", "20", container)
    found = f"test -e {VOLUME}/incoming/base"
    until(
        lambda: (
            docker(
                "exec",
                container,
                "bash",
                "-c",
                f"{found} && kill -STOP $(pgrep pg_basebackup) && echo stopped",
                check=False,
            )
            == "stopped"
            or stack.healthy("replica1")
        ),
        60,
        "a running clone",
    )
    docker("kill", container)
    docker("start", container)
    stack.wait_healthy("replica1")
    log = stack.log("replica1")
    if "did not finish" not in log:
        # The clone was done before it could be killed: leave what a killed one leaves.
        docker("stop", container)
        helper = ("run", "--rm", "--user", "postgres", "--volume", f"{stack.project}_replica1_data:/volume")
        docker(*helper, "postgres:15-bookworm", "mkdir", "/volume/incoming")
        docker("start", container)
        stack.wait_healthy("replica1")
        log = stack.log("replica1")
    assert "did not finish" in log
    stack.exec("replica1", "test", "!", "-e", f"{VOLUME}/incoming")
    reaches_replicas(stack, insert_payment(stack))


def test_a_scheduler_stopped_in_the_middle_of_a_run_records_it_and_ends_cleanly(stack: Stack) -> None:
    name = f"{stack.project}_second_scheduler"
    files = stack.runtime.files
    secret, ca = files.folder / "secrets" / "etl_writer_password", files.certificates("clients")
    environment = {
        "WAREHOUSE_HOST": "warehouse",
        "WAREHOUSE_PORT": "5432",
        "TLS": "on",
        "TLS_CA_FILE": "/run/tls/ca.crt",
    }
    docker(
        *("run", "--detach", "--init", "--name", name, "--network", f"{stack.project}_analytics"),
        *("--volume", f"{secret}:/run/secrets/etl_writer_password:ro", "--volume", f"{ca}:/run/tls:ro"),
        *(part for setting, value in environment.items() for part in ("--env", f"{setting}={value}")),
        *(f"{stack.project}_etl_pipeline", "scheduler", "--at-start"),
    )
    try:
        running = "select started_by from audit.etl_runs where status = 'running'"
        until(lambda: stack.query("warehouse", running), 180, "a running run")
        docker("stop", "--time", "30", name)
        assert json.loads(docker("inspect", name))[0]["State"]["ExitCode"] == 0
        events = [json.loads(line).get("event") for line in docker("logs", name).splitlines()]
        assert events[-1] == "stopped"
    finally:
        docker("rm", "--force", "--volumes", name)
    status, message = stack.query(
        "warehouse", "select status, error_message from audit.etl_runs order by run_id desc limit 1"
    )[0]
    assert (status, message) == ("failed", "cancelled: the scheduler was stopped")
    stack.assert_warehouse_equals_book()


def test_the_image_of_the_scheduler_starts_without_any_network(stack: Stack) -> None:
    name = f"{stack.project}_offline"
    docker("run", "--detach", "--init", "--name", name, "--network", "none", f"{stack.project}_etl_pipeline")
    try:
        until(lambda: '"event": "started"' in docker("logs", name), 60, "the scheduler started")
        docker("stop", "--time", "20", name)
        assert json.loads(docker("inspect", name))[0]["State"]["ExitCode"] == 0
    finally:
        docker("rm", "--force", "--volumes", name)


def test_changed_settings_reach_the_services_by_up_and_cost_no_data(stack: Stack) -> None:
    book, runs = stack.query("primary", BOOK), stack.value("warehouse", "select count(*) from audit.etl_runs")
    untouched = {name: stack.inspect(name)["Id"] for name in stack.runtime.services if name in ("docs",)}
    # By .env: passwords of superusers and of roles; by the environment: memory, a schedule, a port, a file's content.
    text = stack.env_file.read_text(encoding="utf-8")
    # Metabase and pgAdmin keep their accounts themselves: their administrators' passwords are changed there.
    for name in set(Settings.secret_names()) - {"METABASE_ADMIN_PASSWORD", "PGADMIN_PASSWORD"}:
        text = re.sub(rf"(?m)^{name}=(.*)$", rf"{name}=new-'\1", text)
    stack.env_file.write_text(text, encoding="utf-8")
    port = stack.values["PGBOUNCER_PORT"]
    # What a user of pgAdmin has left: its container will be another one.
    tree, pgadmin = {"/browser": ["servers", "opened by a test"]}, stack.inspect("pgadmin")["Id"]
    browser, base, token = pgadmin_session(stack)
    headers = {"X-pgA-CSRFToken": token, "Content-Type": "application/json"}
    browser.open(Request(f"{base}/settings/save_tree_state/", json.dumps(tree).encode(), headers), timeout=60)
    stack.values |= {
        "OLTP_MEMORY": "96MB",
        "MAX_SLOT_WAL_KEEP_SIZE": "1GB",
        "ETL_SCHEDULE": "7 0 1 1 *",
        "PGBOUNCER_PORT": next(str(free) for free in range(15999, 15000, -1) if str(free) not in stack.values.values()),
    }
    stack.up()
    stack.wait_healthy()
    for name in ("primary", "replica1", "replica2"):
        assert stack.value(name, "show shared_buffers") == "96MB"
        assert stack.value(name, "show max_slot_wal_keep_size") == "1GB"
    assert stack.inspect("pgadmin")["Id"] != pgadmin
    browser, base, token = pgadmin_session(stack)
    kept = Request(f"{base}/settings/get_tree_state/", headers={"X-pgA-CSRFToken": token})
    assert json.loads(browser.open(kept, timeout=60).read()) == tree
    assert '"schedule": "7 0 1 1 *"' in stack.log("scheduler")
    with psycopg.connect(stack.app_conninfo(int(stack.values["PGBOUNCER_PORT"]))) as connection:
        assert connection.execute("select current_user").fetchone() == ("app_user",)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(stack.app_conninfo(int(port)))
    assert stack.query("primary", BOOK) == book
    assert stack.value("warehouse", "select count(*) from audit.etl_runs") == runs
    assert {name: stack.inspect(name)["Id"] for name in untouched} == untouched
    reaches_replicas(stack, insert_payment(stack))
    stack.assert_warehouse_equals_book()


@pytest.mark.parametrize("file", ["compose.yaml", "infra/compose.yaml"])
def test_plain_docker_compose_is_the_same_stack_and_changes_nothing(stack: Stack, file: str) -> None:
    def plain(*arguments: str) -> str:
        # In a checkout, infra/.env is found by itself; the stack of these tests has its copy beside its files.
        env_file = str(stack.runtime.files.folder / "compose.env")
        return docker("compose", "--env-file", env_file, "--file", str(ROOT / file), *arguments)

    before = {
        name: (stack.inspect(name)["Id"], stack.inspect(name)["State"]["StartedAt"]) for name in stack.runtime.services
    }
    shown = plain("ps", "--format", "{{.Service}}").split()
    assert set(shown) >= set(stack.runtime.services)
    assert "database system is ready" in plain("logs", "primary")
    plain("up", "--detach")
    after = {
        name: (stack.inspect(name)["Id"], stack.inspect(name)["State"]["StartedAt"]) for name in stack.runtime.services
    }
    assert after == before
    stack.eds("compose", "up", "--detach")
    after = {
        name: (stack.inspect(name)["Id"], stack.inspect(name)["State"]["StartedAt"]) for name in stack.runtime.services
    }
    assert after == before
    if "metabase" in stack.settings.left_out:
        assert "metabase" not in plain("ps", "--all", "--format", "{{.Service}}").split()


@pytest.mark.parametrize("file", ["compose.yaml", "infra/compose.yaml"])
@pytest.mark.parametrize("command", [("up", "--detach"), ("ps",), ("down", "--volumes")])
def test_before_the_first_up_compose_makes_nothing(file: str, command: tuple[str, ...]) -> None:
    project = f"edstest{os.urandom(3).hex()}"
    place = ("compose", "--env-file", os.devnull, "--project-name", project, "--file", str(ROOT / file))
    assert "run make up first" in docker(*place, *command, check=False)
    for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
        assert docker(*kind, "--quiet", "--filter", f"label=com.docker.compose.project={project}") == ""


def test_down_removes_the_containers_and_up_continues_with_all_data(stack: Stack) -> None:
    book, runs = stack.query("primary", BOOK), stack.value("warehouse", "select count(*) from audit.etl_runs")
    label = f"label=com.docker.compose.project={stack.project}"
    assert "stopped: " in stack.eds("down")
    assert docker("ps", "--all", "--quiet", "--filter", label) == ""
    assert docker("network", "ls", "--quiet", "--filter", label) == ""
    # Nothing is left to stop; it removes the logs, and keeps the data too.
    assert "stopped: nothing" in stack.eds("clean")
    stack.eds("ps", code=3)
    began = time.monotonic()
    stack.up()
    print(f"\nmake up with data and images: {time.monotonic() - began:.0f} s")
    assert stack.query("primary", BOOK) == book
    assert stack.value("warehouse", "select count(*) from audit.etl_runs") == runs
