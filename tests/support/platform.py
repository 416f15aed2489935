"""A throw-away platform as tests see it: its own directory, its own ports, real servers."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from eds.base.settings import BACKUP_SCHEDULES, OFF, ROOT, Settings, ensure_env_file
from eds.cluster.connections import Server, connect
from eds.cluster.queries import fetch_all
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.ports import free_ports
from eds.up import start_servers
from eds.warehouse import runs
from eds.warehouse.dbt_child import dbt_arguments, spawn_dbt
from eds.warehouse.dbt_parsed import PARSED
from support.book import add_customer, add_loan, pay
from support.waiting import wait_until

TABLES = ("customers", "loan_products", "loans", "payments", "loan_installments")


VIEWS = (
    "vw_monthly_revenue",
    "vw_top_customers",
    "vw_loan_status_distribution",
    "vw_payment_by_method",
    "vw_branch_performance",
)


MARTS = (
    "dim_customer",
    "dim_loan",
    "dim_product",
    "dim_date",
    "dim_payment_method",
    "dim_branch",
    "fact_payments",
    "fact_loans",
    "agg_collections",
    "agg_loan_book",
    "agg_disbursements",
    "agg_payments",
    "agg_payments_by_month",
    "agg_loans",
    "agg_customers",
    "int_loan_schedules",
    "fact_loan_month_end",
    "agg_portfolio_totals",
    "agg_portfolio_by_due_date",
    "agg_officer_totals",
    "agg_expected_dues",
    "agg_overdue",
    "agg_month_ends_by_branch",
    "agg_month_ends_by_officer",
    "agg_last_migration",
    "agg_loan_migration",
    "agg_vintages",
    "agg_vintages_by_officer",
    "dim_open_schedule",
    "dim_provision_band",
)


def ask(runtime: LocalRuntime, name: str, query: str) -> list[tuple[Any, ...]]:
    """Run a query on a server of a runtime, as the superuser."""
    return fetch_all(runtime.cluster.servers[name], query)


@dataclass
class BuildResult:
    """What came of one `dbt` command: its exit code and its row of audit.etl_runs (None when it made none)."""

    exit_code: int
    run: dict[str, Any] | None


class Platform:
    """The throw-away platform as tests see it."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self.runtime = runtime
        self.settings = runtime.settings
        self.cluster = cluster = runtime.cluster
        self.servers = cluster.servers
        self.superuser_conninfo = cluster.primary.superuser_conninfo()
        self.app_conninfo = cluster.app_conninfo()
        self.warehouse_conninfo = cluster.warehouse.superuser_conninfo()
        self.writer_conninfo = cluster.writer_conninfo()
        self.reader_conninfo = cluster.conninfo(cluster.warehouse, "warehouse_reader")
        self.dbt_environment = runs.dbt_environment(self.settings)
        self.project = ROOT
        self.target_path = runs.target_directory(self.settings)
        self.build_options: tuple[str, ...] = ()

    def of_project(self, project: Path, *build_options: str) -> Platform:
        """Return the same platform with the runs of another copy of the dbt project, with options for each build."""
        other = copy.copy(self)
        other.project, other.target_path, other.build_options = project, project / "target", build_options
        for parsed in self.target_path.rglob(PARSED):
            # dbt finds out what is different, and reads that alone.
            copied = other.target_path / parsed.relative_to(self.target_path)
            if not copied.exists():
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(parsed, copied)
        return other

    @contextmanager
    def held_run(self, table: str) -> Iterator[Any]:
        """Yield a run that has read this table and cannot write it yet: it goes on, with the next table, at the end."""
        with connect(self.warehouse_conninfo) as lock:
            lock.execute(f"lock table operational.{table} in exclusive mode".encode())
            child = self.start_dbt(*runs.DATA_BUILD)
            wait_until(
                lambda: self.warehouse(
                    "select 1 from pg_locks where not granted and relation = %s::regclass", (f"operational.{table}",)
                )
            )
            yield child

    # --- queries ------------------------------------------------------------------------------------------------------

    @contextmanager
    def app(self) -> Iterator[psycopg.Connection]:
        """Yield a connection of the application's role; committed at the end."""
        with connect(self.app_conninfo) as connection:
            yield connection

    def primary(self, query: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement on the primary as the superuser."""
        return self._query(self.superuser_conninfo, query, parameters)

    def warehouse(self, query: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement on the warehouse as the superuser."""
        return self._query(self.warehouse_conninfo, query, parameters)

    def _query(self, conninfo: str, query: str, parameters: Any) -> list[tuple[Any, ...]]:
        with connect(conninfo, autocommit=True) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def view(self, name: str) -> list[dict[str, Any]]:
        """Return a dashboard view's rows, read as the dashboards' role."""
        with connect(self.reader_conninfo) as connection:
            return connection.cursor(row_factory=dict_row).execute(f"select * from warehouse.{name}").fetchall()

    # --- dbt ----------------------------------------------------------------------------------------------------------

    def dbt(self, *arguments: str, environment: dict[str, str] | None = None) -> BuildResult:
        """Run dbt to its end, in a child forked from this process."""
        who = f"test-{os.urandom(6).hex()}"
        child = self.start_dbt(*arguments, environment={"ETL_STARTED_BY": who} | (environment or {}))
        child.join()
        return BuildResult(child.exitcode if child.exitcode is not None else -1, self.run_of(who))

    def start_dbt(self, *arguments: str, environment: dict[str, str] | None = None) -> Any:
        """Start dbt in a child and return the child."""
        return spawn_dbt(
            dbt_arguments(
                self.settings,
                *arguments,
                *(self.build_options if arguments[0] == "build" else ()),
                project=self.project,
                target_path=self.target_path,
            ),
            self.dbt_environment | (environment or {}),
        )

    def build(self, *arguments: str) -> BuildResult:
        """`dbt build` the scheduler's way; fails the test when it fails."""
        result = self.dbt(*runs.DATA_BUILD, *arguments)
        assert result.exit_code == 0, f"dbt build failed: {result.run and result.run['error_message']}"
        return result

    def run_of(self, who: str) -> dict[str, Any] | None:
        """Return the newest run that `who` started."""
        with connect(self.writer_conninfo) as connection:
            if connection.execute("select to_regclass('audit.etl_runs')").fetchone() == (None,):
                return None
            return (
                connection.cursor(row_factory=dict_row)
                .execute("select * from audit.etl_runs where started_by = %s order by run_id desc limit 1", (who,))
                .fetchone()
            )

    # --- waiting and resetting ----------------------------------------------------------------------------------------

    def wait_for_replicas(self) -> None:
        """Wait until both replicas have replayed everything the primary has written."""
        target = self.primary("select pg_current_wal_lsn()::text")[0][0]
        for server in self.cluster.replicas:
            with server.connect(autocommit=True) as connection:

                def caught_up(replica: psycopg.Connection = connection) -> bool:
                    return replica.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", (target,)).fetchone() == (
                        True,
                    )

                wait_until(caught_up)

    def empty_book(self) -> None:
        """Empty the five tables (and the trail), keeping the product catalogue of a new book."""
        with self.emptied_tables():
            pass
        with connect(self.superuser_conninfo) as connection:
            connection.execute((ROOT / "infra/primary/sql/050_products.sql").read_text(encoding="utf-8"))

    @contextmanager
    def emptied_tables(self) -> Iterator[psycopg.Connection]:
        """Yield a transaction in which the five tables and the trail are empty, and no trigger fires."""
        with connect(self.superuser_conninfo) as connection:
            # The trail becomes that of another book, or none: there is no gap to be noted in it.
            connection.execute("alter event trigger note_gap disable")
            for table in (*TABLES, "audit_log"):
                connection.execute(f"alter table operational.{table} disable trigger user")
            connection.execute(
                "truncate "
                + ", ".join(f"operational.{table}" for table in (*TABLES, "audit_log", "demo_book"))
                + " restart identity"
            )
            yield connection
            for table in TABLES:
                # All at once: while one of them is off, the trail notes a gap.
                actions = [f"enable always trigger {table}_{kind}" for kind in ("stamp_row", "audit", "no_truncate")]
                connection.execute(f"alter table operational.{table} {', '.join(actions)}")
            connection.execute("alter table operational.audit_log enable always trigger audit_log_append_only")
            connection.execute("alter event trigger note_gap enable always")

    def empty_warehouse(self, template: str = "warehouse_template") -> None:
        """Put back a warehouse that has never run. template: or this one."""
        database = self.settings.warehouse_db
        with connect(self.servers["warehouse"].superuser_conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"drop database {database} with (force)")
            connection.execute(f"create database {database} template {template}")
        # Settings of roles in a database are not copied with it.
        with connect(self.warehouse_conninfo, autocommit=True) as connection:
            connection.execute((ROOT / "infra/warehouse/sql/000_roles.sql").read_text(encoding="utf-8"))


def project_copy(target: Path) -> Path:
    """Copy the dbt project without its singular tests, to change something in it."""
    target.mkdir()
    for name in ("macros", "models", "seeds", "snapshots"):
        shutil.copytree(ROOT / name, target / name)
    # Its generic tests are defined here.
    shutil.copytree(ROOT / "tests/sql/generic", target / "tests/sql/generic")
    for name in ("dbt_project.yml", "profiles.yml"):
        shutil.copy(ROOT / name, target / name)
    return target


@contextmanager
def separate_settings(prefix: str, **values: Any) -> Iterator[Settings]:
    """Yield settings of a platform in a directory of its own; nothing of it is in this process's environment."""
    place = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    # The servers' unprivileged account must get through.
    place.chmod(0o755)
    env_file = place / "own.env"
    ensure_env_file(env_file)
    services = ("primary", "replica1", "replica2", "warehouse", "pgbouncer", "pitr")
    places = zip(services, free_ports(len(services)), strict=True)
    ports: dict[str, Any] = {f"{name}_port": port for name, port in places}
    # Backups are made when a test makes them.
    values = dict.fromkeys(BACKUP_SCHEDULES, OFF) | values
    try:
        yield Settings(
            _env_file=env_file,  # type: ignore[call-arg]
            state_dir=place / "state",
            pg_durable=False,
            **ports,
            **values,
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)


def plain_values(settings: Settings) -> dict[str, Any]:
    """Return the settings that are no secrets."""
    secret = {name.lower() for name in Settings.secret_names()}
    return {name: value for name, value in settings if name not in secret and value is not None}


@contextmanager
def separate_servers(settings: Settings) -> Iterator[LocalRuntime]:
    """Yield the servers and PgBouncer of such a platform, started the way `make up` does it; destroyed at the end."""
    plain = {name.upper(): str(value) for name, value in plain_values(settings).items()}
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "eds", "watchdog", str(os.getpid())],
        env=os.environ | plain | {"EDS_ENV_FILE": str(settings.state.parent / "own.env")},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        runtime = LocalRuntime(settings)
        start_servers(runtime)
        yield runtime
    finally:
        # Whatever the last test made of the settings: what runs is found by its directory.
        LocalRuntime(settings).stop_all(mode="immediate")
        watchdog.kill()
        watchdog.wait()
        LocalRuntime(settings).destroy()


def fill_small_book(platform: Platform) -> Platform:
    """Six loans of three payments each, and one run."""
    with platform.app() as connection:
        for number in range(6):
            loan = add_loan(connection, add_customer(connection, f"Customer {number}"))
            for _ in range(3):
                pay(connection, loan)
    platform.wait_for_replicas()
    platform.build()
    return platform


def changed_nodes(platform: Platform, run_id: int) -> list[tuple[Any, ...]]:
    """Return the nodes of a run that changed rows, with how many they inserted, updated and deleted."""
    return platform.warehouse(
        "select node_name, rows_inserted, rows_updated, rows_deleted from audit.model_runs "
        "where run_id = %s and rows_inserted + rows_updated + rows_deleted > 0",
        (run_id,),
    )


def kill_server(platform: Platform, name: str) -> None:
    """SIGKILL one of the platform's PostgreSQL servers, and wait until it is gone."""
    pid = platform.runtime.postmaster.pid(name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: platform.runtime.postmaster.pid(name) is None)


def point_at(platform: Platform, *members: Server) -> None:
    """Let the warehouse's foreign server know these servers alone, in this order."""
    with connect(platform.writer_conninfo) as connection:
        connection.execute(
            f"alter server oltp options (set host '{','.join(member.host for member in members)}', "
            f"set port '{','.join(str(member.port) for member in members)}', "
            f"set target_session_attrs '{'any' if len(members) == 1 else 'prefer-standby'}')"
        )


def use_only(platform: Platform, *names: str) -> None:
    """Do the same, by the names of the platform's servers."""
    point_at(platform, *(platform.servers[name] for name in names))


@contextmanager
def gaps_unnoted(platform: Platform) -> Iterator[None]:
    """Let triggers of the trail be disabled without a trace in it, as an attacker would."""
    for event_trigger in ("note_gap", "note_dropped_trigger"):
        platform.primary(f"alter event trigger {event_trigger} disable")
    try:
        yield
    finally:
        for event_trigger in ("note_gap", "note_dropped_trigger"):
            platform.primary(f"alter event trigger {event_trigger} enable always")
