"""The stack as it stands: who runs as whom, what is healthy, what each service serves, and where no secret is."""

from __future__ import annotations

import concurrent.futures
import http.cookiejar
import json
import re
import urllib.error
import urllib.parse
import urllib.request

import psycopg
import pytest

from eds.base.settings import Settings
from eds.cluster import tls
from eds.cluster.connections import connect
from eds.runtime.local import binaries

from .conftest import DATABASES, Stack, docker, until

LAPTOP_BYTES = 4 * 1024**3


def test_the_first_up_brings_every_service_to_health_and_fills_the_dashboards(stack: Stack, first_up: str) -> None:
    assert "runtime: docker" in first_up
    states = {state.name: (state.status, state.detail) for state in stack.runtime.states()}
    for name in stack.runtime.services:
        assert states[name] == ("running", "healthy"), (name, states[name])
    assert stack.value("warehouse", "select count(*) from warehouse.vw_monthly_revenue") > 12
    assert "ok: first dbt build" in first_up
    stack.eds("ps")
    assert json.loads(stack.eds("health", "--json"))["healthy"] is True


def test_verify_is_green(stack: Stack) -> None:
    found = json.loads(stack.eds("verify", "--json"))
    assert found["counts"]["FAIL"] == 0
    assert found["counts"]["PASS"] > 50
    # The tests make backups by themselves: no schedule is on.
    left_out = {f"{name} runs" for name in stack.settings.left_out} | {"backup-scheduler runs"}
    left_out |= {"Metabase is healthy"} if "metabase" in stack.settings.left_out else set()
    assert {check["name"] for check in found["checks"] if check["status"] == "SKIP"} <= left_out


def test_the_scheduler_and_the_warehouse_work_with_addresses_of_the_inside(stack: Stack) -> None:
    options = stack.value("warehouse", "select srvoptions::text from pg_foreign_server where srvname = 'oltp'")
    assert "host=replica1,replica2,primary" in options
    assert "port=5432,5432,5432" in options
    stack.assert_warehouse_equals_book()
    source = stack.value("warehouse", "select source_host from audit.etl_runs order by run_id desc limit 1")
    # The primary, when the replicas are not quite as far at that moment.
    assert source in ("replica, port 5432", "primary, port 5432")


PARSING = """
import os
from pathlib import Path
from eds.base.settings import load
from eds.warehouse.dbt_child import dbt_arguments
from eds.warehouse.dbt_parsed import begin_with_parsed
from eds.warehouse.runs import dbt_environment
os.environ.update(dbt_environment(load()))
from dbt.cli.main import dbtRunner
target = Path("/tmp/begins-with-parsed")
begin_with_parsed(target, "runs")
messages = []
dbtRunner(callbacks=[lambda event: messages.append(event.info.msg)]).invoke(
    dbt_arguments(load(), "parse", target_path=target)
)
print(*(message for message in messages if "artial parsing" in message), sep="\\n")
"""


def test_dbt_finds_what_it_has_read_of_the_project_in_the_image(stack: Stack) -> None:
    messages = stack.exec("scheduler", "python", "-c", PARSING)
    assert "Partial parsing enabled, no changes found, skipping parsing" in messages


def test_a_dump_can_be_made_by_the_programs_of_the_image(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without PostgreSQL; one that has some is made to have none."""
    monkeypatch.setattr(binaries, "_candidates", list)
    command = stack.runtime.client("pg_dump")
    assert command[:2] == ["docker", "run"]
    server = stack.servers["primary"]
    dump = docker(
        *command[1:],
        *("--host=127.0.0.1", f"--port={server.port}", "--username=postgres", "--schema-only", server.database),
        environment={"PGPASSWORD": server.superuser_password} | tls.client_environment(stack.settings),
    )
    assert "CREATE TABLE operational.payments" in dump


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    def containers() -> set[tuple[str, str]]:
        return {(name, stack.inspect(name)["Id"]) for name in stack.runtime.services}

    before, runs = containers(), stack.value("warehouse", "select count(*) from audit.etl_runs")
    stack.up()
    assert containers() == before
    assert stack.value("warehouse", "select count(*) from audit.etl_runs") == runs


def test_containers_have_the_rights_and_the_limits_that_they_need_and_no_more(stack: Stack) -> None:
    total = 0
    for name in stack.runtime.services:
        found = stack.inspect(name)
        host = found["HostConfig"]
        processes = docker("top", stack.container(name), "-eo", "user,pid,args").splitlines()[1:]
        for line in processes:
            assert line.split()[0] not in ("root", "0"), (name, line)
        assert host["Init"] is True, name
        assert "ALL" in host["CapDrop"], name
        assert host["CapAdd"] in (None, []) or name == "pgadmin", name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["RestartPolicy"]["Name"] == "unless-stopped", name
        assert host["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}, name
        assert host["ReadonlyRootfs"] or name in ("pgadmin", "metabase"), name
        assert 0 < host["Memory"] <= LAPTOP_BYTES / 2, name
        for bindings in host["PortBindings"].values():
            assert [binding["HostIp"] for binding in bindings] == ["127.0.0.1"], name
        assert [mount["RW"] for mount in found["Mounts"] if mount["Type"] == "bind"].count(True) == 0, name
        total += 0 if name == "metabase" else host["Memory"]
    assert total < LAPTOP_BYTES


def test_no_secret_is_in_an_image_a_definition_or_a_process_list(stack: Stack) -> None:
    settings = stack.settings
    secrets = {name: getattr(settings, name.lower()).get_secret_value() for name in Settings.secret_names()}
    assert all(len(value) > 20 for value in secrets.values())
    places = {"compose config": stack.runtime.compose.run("config")}
    for name in [*stack.runtime.services, "provision"]:
        container = stack.inspect(name)
        places[f"container {name}"] = json.dumps(container)
        places[f"image of {name}"] = docker("image", "inspect", container["Image"])
        places[f"history of {name}"] = docker("history", "--no-trunc", container["Image"])
        if name != "provision":
            places[f"processes of {name}"] = docker("top", stack.container(name), "-eo", "pid,args")
        places[f"log of {name}"] = docker("logs", stack.container(name))
    for place, text in places.items():
        for name, value in secrets.items():
            assert value not in text, f"{name} in {place}"
    # The secret files are closed to everybody else on this machine.
    assert (stack.runtime.files.folder / "secrets").stat().st_mode & 0o777 == 0o700


def test_a_container_has_the_secrets_of_its_duty_only(stack: Stack) -> None:
    wanted = {
        # Each member may have to follow another one.
        "primary": {"postgres_password", "member_pgpass", "pgbackrest_conf"},
        "replica1": {"postgres_password", "member_pgpass", "pgbackrest_conf"},
        "warehouse": {"warehouse_postgres_password"},
        "pgbouncer": {"pgbouncer_userlist", "pgbouncer_lookup_password"},
        "scheduler": {"etl_writer_password", "warehouse_reader_password"},
        "pgadmin": {"pgadmin_password", "pgadmin_pgpass"},
    }
    for name, secrets in wanted.items():
        assert set(stack.exec(name, "ls", "/run/secrets").split()) == secrets, name


def test_replicas_stream_by_their_slots_and_refuse_writes(stack: Stack) -> None:
    rows = stack.query(
        "primary",
        "select activity.application_name, activity.state, slots.active from pg_stat_replication as activity "
        "join pg_replication_slots as slots on slots.active_pid = activity.pid order by 1",
    )
    assert rows == [("replica1", "streaming", True), ("replica2", "streaming", True)]
    for name in ("replica1", "replica2"):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            stack.query(name, "create table operational.refused (x int)")


def test_wal_is_archived_into_its_volume(stack: Stack) -> None:
    segment = stack.value("primary", "select pg_walfile_name(pg_switch_wal())")
    with connect(stack.servers["primary"].superuser_conninfo(), autocommit=True) as connection:
        for _ in range(200):
            row = connection.execute("select last_archived_wal, last_failed_wal from pg_stat_archiver").fetchone()
            assert row is not None
            if row[0] and row[0] >= segment:
                break
            connection.execute("select pg_sleep(0.1)")
        assert row[0] >= segment
    assert f"{segment}-" in stack.exec("replica1", "ls", "-R", "/var/lib/postgresql/wal_archive")


# --- PgBouncer --------------------------------------------------------------------------------------------------------


def test_five_hundred_clients_share_twenty_five_server_connections(stack: Stack) -> None:
    script = (
        "\\set id random(1, 500)\nbegin;\nselect count(*) from operational.payments where loan_id = :id;\n"
        "update operational.customers set city = city where customer_id = :id;\ncommit;\n"
    )
    password = {"PGPASSWORD": stack.settings.app_user_password.get_secret_value()}
    container = stack.container("replica1")
    docker("exec", "--interactive", container, "sh", "-c", "cat >/tmp/load.sql", stdin=script)
    load = ("pgbench", "-n", "-h", "pgbouncer", "-p", "6432", "-U", "app_user", "-c", "500", "-j", "2", "-T", "20")
    most = 0
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        run = pool.submit(
            docker,
            *("exec", "--env", "PGPASSWORD", container, *load, "-f", "/tmp/load.sql", "loans_db"),
            environment=password,
        )
        with connect(stack.servers["primary"].superuser_conninfo(), autocommit=True) as connection:
            while not run.done():
                row = connection.execute(
                    "select count(*) from pg_stat_activity where usename = 'app_user' and pg_sleep(0.2) is not null"
                ).fetchone()
                most = max(most, row[0] if row else 0)
        output = run.result()
    assert "number of failed transactions: 0 (0.000%)" in output
    assert "number of clients: 500" in output
    assert "error" not in output.lower().replace("number of failed", "")
    assert 20 <= most <= 25


def test_the_read_only_pool_is_over_both_replicas_and_the_other_on_the_primary(stack: Stack) -> None:
    def where(conninfo: str) -> tuple[str, bool]:
        with psycopg.connect(conninfo, prepare_threshold=None) as connection:
            row = connection.execute(
                "select inet_server_addr()::text, pg_is_in_recovery() from pg_sleep(0.5)"
            ).fetchone()
            assert row is not None
            return row[0], row[1]

    # Before the threads start: to read the settings changes the environment for a moment.
    port = stack.settings.pgbouncer_port
    readers, writers = (stack.app_conninfo(port, name) for name in ("loans_db_ro", "loans_db"))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        read_only = set(pool.map(where, [readers] * 16))
        writing = set(pool.map(where, [writers] * 8))
    assert len(read_only) == 2
    assert {recovering for _, recovering in read_only} == {True}
    assert [recovering for _, recovering in writing] == [False]


def test_psycopg_without_prepared_statements_works_through_the_pool_and_with_them_is_refused(stack: Stack) -> None:
    """As docs/docker.md says: PgBouncer 1.18 in transaction pooling does not know a client's prepared statements."""
    conninfo = stack.runtime.cluster.pooled_conninfo()

    def work(threshold: int | None) -> None:
        def client(number: int) -> None:
            with psycopg.connect(conninfo, prepare_threshold=threshold, autocommit=True) as connection:
                for _ in range(40):
                    connection.execute("select %s::int, pg_sleep(0.002)", (number,))

        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            list(pool.map(client, range(60)))

    work(None)
    with pytest.raises((psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement)):
        work(0)


# --- pages ------------------------------------------------------------------------------------------------------------


def pgadmin_session(stack: Stack) -> tuple[urllib.request.OpenerDirector, str, str]:
    """Return a browser that has logged in to pgAdmin, pgAdmin's address, and the token for its interface."""
    base = f"http://127.0.0.1:{stack.settings.pgadmin_port}"
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def found(pattern: str, path: str) -> str:
        match = re.search(pattern, browser.open(f"{base}{path}", timeout=60).read().decode())
        assert match, (pattern, path)
        return match[1]

    login = {
        "csrf_token": found(r'"csrfToken": "([^"]+)"', "/login"),
        "email": "admin@enterprise.local",
        "password": stack.settings.pgadmin_password.get_secret_value(),
        "internal_button": "Login",
    }
    answer = browser.open(f"{base}/authenticate/login", urllib.parse.urlencode(login).encode(), timeout=60)
    assert answer.url == f"{base}/browser/"
    return browser, base, found(r"pgAdmin\['csrf_token'\] = '([^']+)'", "/browser/js/utils.js")


def test_metabase_keeps_its_own_data_in_its_database_on_the_warehouse_server(stack: Stack) -> None:
    if "metabase" in stack.settings.left_out:
        pytest.skip("no image of Metabase on this machine")
    owners = stack.query(
        "warehouse", "select distinct tableowner from pg_tables where schemaname = 'public'", "metabase_db"
    )
    assert owners == [("metabase_user",)]
    assert "no changes" in stack.eds("metabase")
    # Its role does not get into the warehouse itself.
    password = stack.settings.metabase_db_password.get_secret_value()
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(stack.servers["warehouse"].conninfo("metabase_user", password))


def test_pgadmin_has_all_four_servers_twice_and_connects_to_each_without_a_typed_password(stack: Stack) -> None:
    rows = stack.exec(
        "pgadmin",
        *("/venv/bin/python3", "-c"),
        "import json, sqlite3; print(json.dumps(sqlite3.connect('/var/lib/pgadmin/pgadmin4.db')"
        ".execute('select servergroup_id, id, name from server order by name').fetchall()))",
    )
    registered = json.loads(rows)
    names = [
        f"{name}{how}" for name in ("primary", "replica1", "replica2", "warehouse") for how in ("", " (superuser)")
    ]
    assert [name for _, _, name in registered] == names

    browser, base, token = pgadmin_session(stack)
    for group, server, name in registered:
        request = urllib.request.Request(
            f"{base}/browser/server/connect/{group}/{server}", data=b"", headers={"X-pgA-CSRFToken": token}
        )
        answer = json.loads(browser.open(request, timeout=60).read())
        assert (answer["success"], answer["data"]["connected"]) == (1, True), (name, answer)
    encrypted = (
        "select ssl from pg_stat_ssl inner join pg_stat_activity using (pid) where application_name like 'pgAdmin%'"
    )
    for server in DATABASES:
        assert set(stack.query(server, encrypted)) == {(True,)}, server


def test_the_scheduler_writes_the_pages_that_the_docs_service_serves(stack: Stack) -> None:
    base = f"http://127.0.0.1:{stack.settings.docs_port}"

    def page(path: str) -> str:
        try:
            with urllib.request.urlopen(f"{base}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return str(error)

    until(lambda: "have not been made" not in page("/"), 120, "an index of pages")
    assert "dashboards.html" in page("/")
    assert "<html" in page("/dashboards.html")
    assert "404" in page("/nothing-here.html")
    # What Prometheus reads: the runs, and through the warehouse also the primary, which the scheduler cannot reach.
    until(lambda: "eds_last_run_success 1" in page("/metrics"), 60, "figures for Prometheus")
    assert 'eds_replica_streaming{replica="replica1"} 1' in page("/metrics")
    with urllib.request.urlopen(f"{base}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_a_run_by_hand_reaches_the_pages_of_the_scheduler(stack: Stack) -> None:
    stack.eds("etl", "--now")
    newest = stack.value("warehouse", "select max(run_id) from audit.etl_runs")

    def shown() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{stack.settings.docs_port}/dashboards.html", timeout=10) as page:
            return f'"run_id":{newest},' in page.read().decode()

    until(shown, 60, "the run on the page")


# --- commands ---------------------------------------------------------------------------------------------------------


def test_psql_logs_and_simulate_do_as_on_the_other_runtime(stack: Stack) -> None:
    for name in DATABASES:
        assert stack.eds("psql", name, "--tuples", stdin="select 40 + 2").strip() == "42"
    as_reader = stack.eds("psql", "warehouse", "--role", "warehouse_reader", "--tuples", stdin="select current_user")
    assert as_reader.strip() == "warehouse_reader"
    assert "does not exist" in stack.eds("psql", "primary", "--tuples", stdin="select nothing", code=3)
    assert '"event": "started"' in stack.eds("logs", "scheduler")
    assert "ready to accept" in stack.eds("logs", "primary", "--lines", "500")
    assert "There is no service 'mysql'" in stack.eds("logs", "mysql", code=1)
    assert "traffic through PgBouncer" in stack.eds("simulate", "--for", "2s")
    assert "etl_pipeline" in stack.eds("compose", "ps", "--all")
