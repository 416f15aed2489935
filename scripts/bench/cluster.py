"""A throw-away cluster to measure on, and dbt started on it the scheduler's way."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil
import psycopg
from psycopg import sql

from eds.base.console import step
from eds.base.settings import Settings
from eds.book.demo import fill
from eds.cluster.connections import connect
from eds.cluster.queries import current_position, wait_for_replay
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.ports import free_ports
from eds.warehouse import runs
from eds.warehouse.dbt_child import dbt_arguments, spawn_dbt, warm_up

SQL = Path(__file__).parent / "sql"
SAMPLE_SECONDS = 0.05
# A book of millions takes its time to arrive.
REPLAY_SECONDS = 1800.0
SERVICES = ("primary", "replica1", "replica2", "warehouse", "pgbouncer", "metabase", "pgadmin", "docs", "pitr")


@dataclass(frozen=True)
class RunCost:
    """What one dbt run cost.

    wall, extraction, models (the others), tests: seconds, the last three as dbt counts them. rows: what the extraction
    brought. memory: the most that dbt had, in bytes. primary_cpu, warehouse_cpu: seconds that the servers' processes
    computed.
    """

    wall: float
    extraction: float
    models: float
    tests: float
    rows: int
    memory: int
    primary_cpu: float
    warehouse_cpu: float
    nodes: dict[str, float]


class Bench:
    """The cluster, with what is measured on it."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self.runtime = runtime
        self.settings = runtime.settings
        self.servers = runtime.cluster.servers
        self.primary = self.servers["primary"].superuser_conninfo()
        self.app = self.servers["primary"].conninfo("app_user", self.settings.app_user_password.get_secret_value())
        self.warehouse = self.servers["warehouse"].superuser_conninfo()
        self.reader = self.servers["warehouse"].conninfo(
            "warehouse_reader", self.settings.warehouse_reader_password.get_secret_value()
        )

    def fill(self, payments: int) -> float:
        """Fill the empty book. Returns the seconds that it took, until both replicas have it."""
        started = time.monotonic()
        with connect(self.primary) as connection:
            fill.fill(connection, fill.Scale.of_payments(payments))
        self.wait_for_replicas()
        return time.monotonic() - started

    def increment(self, payments: int, seed: str) -> None:
        """Make the standard increment, with this many new payments, and wait until both replicas have it."""
        with connect(self.app, autocommit=True) as connection:
            connection.execute("select set_config('bench.payments', %s, false)", (str(payments),))
            connection.execute("select set_config('bench.seed', %s, false)", (seed,))
            connection.execute((SQL / "increment.sql").read_bytes())
        self.wait_for_replicas()

    @contextmanager
    def late_payment(self) -> Iterator[None]:
        """Keep the transaction of one payment open meanwhile; it commits at the end."""
        with connect(self.app) as connection:
            connection.execute(
                "insert into operational.payments "
                "(loan_id, amount, principal_portion, interest_portion, payment_method, payment_date, recorded_by) "
                "select loan_id, 1.00, 0.00, 1.00, 'cash', now(), 'bench' from operational.loans "
                "where status = 'active' order by loan_id limit 1"
            )
            yield
        self.wait_for_replicas()

    def wait_for_replicas(self) -> None:
        """Wait until both replicas have replayed what the primary has written."""
        position = current_position(self.servers["primary"])
        for name in ("replica1", "replica2"):
            wait_for_replay(self.servers[name], position, REPLAY_SECONDS)

    def run(self, *options: str) -> RunCost:
        """Run one `dbt build` in a child of this warm process. Raises RuntimeError when it fails."""
        who = runs.started_by("bench")
        arguments = dbt_arguments(self.settings, *runs.DATA_BUILD, *options)
        cpu = {name: self._cpu(name) for name in ("primary", "warehouse")}
        started = time.monotonic()
        child = spawn_dbt(arguments, runs.dbt_environment(self.settings) | {"ETL_STARTED_BY": who})
        memory = [0]
        watcher = threading.Thread(target=_watch_memory, args=(child.pid, memory))
        watcher.start()
        child.join()
        wall = time.monotonic() - started
        watcher.join()
        if child.exitcode != 0:
            raise RuntimeError("dbt build failed, see above")
        with connect(self.warehouse) as connection:
            nodes = connection.execute(
                "select node_name, resource_type, seconds::float from audit.model_runs "
                "join audit.etl_runs using (run_id) where started_by = %s",
                (who,),
            ).fetchall()
            rows = connection.execute(
                "select rows_inserted + rows_updated + rows_deleted from audit.etl_runs where started_by = %s", (who,)
            ).fetchone()
        seconds = {name: took for name, kind, took in nodes if kind != "test"}
        extraction = seconds.get("extraction", 0.0)
        return RunCost(
            wall=wall,
            extraction=extraction,
            models=sum(seconds.values()) - extraction,
            tests=sum(took for _, kind, took in nodes if kind == "test"),
            rows=rows[0] if rows else 0,
            memory=memory[0],
            primary_cpu=self._cpu("primary") - cpu["primary"],
            warehouse_cpu=self._cpu("warehouse") - cpu["warehouse"],
            nodes=seconds,
        )

    def compile(self, select: str) -> dict[str, str]:
        """Return the SQL of models as it is without an increment: name and text."""
        arguments = dbt_arguments(self.settings, "compile", "--select", select)
        child = spawn_dbt(arguments, runs.dbt_environment(self.settings))
        child.join()
        if child.exitcode != 0:
            raise RuntimeError("dbt compile failed, see above")
        compiled = runs.target_directory(self.settings) / "compiled"
        return {path.stem: path.read_text(encoding="utf-8") for path in compiled.rglob("*.sql")}

    def _cpu(self, server: str) -> float:
        pid = self.runtime.postmaster.pid(server)
        processes = [psutil.Process(pid), *psutil.Process(pid).children()] if pid else []
        total = 0.0
        for process in processes:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def ask(self, query: str, conninfo: str | None = None) -> Any:
        """Return the single value that a query gives, by default on the warehouse."""
        with connect(conninfo or self.warehouse, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None

    @contextmanager
    def copy_of_the_warehouse(self, name: str) -> Iterator[str]:
        """Copy the warehouse's database in its present state, for others to work on, and drop the copy at the end.

        Yields a superuser's connection string.
        """
        with connect(self.servers["warehouse"].superuser_conninfo("postgres"), autocommit=True) as connection:
            names = {"copy": sql.Identifier(name), "original": sql.Identifier(self.settings.warehouse_db)}
            connection.execute(sql.SQL("drop database if exists {copy} with (force)").format(**names))
            # The files, not page by page through the WAL: the copy of a large warehouse fills no disk with it.
            connection.execute(sql.SQL("create database {copy} template {original} strategy file_copy").format(**names))
            connection.execute("checkpoint")
            try:
                yield self.servers["warehouse"].superuser_conninfo(name)
            finally:
                connection.execute(sql.SQL("drop database {copy} with (force)").format(**names))


def _watch_memory(pid: int, most: list[int]) -> None:
    """Note the most memory a process and its children have, in `most[0]`, until it ends."""
    try:
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            most[0] = max(most[0], sum(one.memory_info().rss for one in [process, *process.children()]))
            time.sleep(SAMPLE_SECONDS)
    except psutil.NoSuchProcess:
        return


@contextmanager
def throw_away(settings: Settings) -> Iterator[Bench]:
    """Yield a cluster of its own on free ports, below the state directory; removed at the end."""
    ports = free_ports(len(SERVICES))
    own = settings.model_copy(
        update={
            "runtime": "local",
            "state_dir": settings.state / "bench",
            **{f"{name}_port": port for name, port in zip(SERVICES, ports, strict=True)},
        }
    )
    runtime = LocalRuntime(own)
    if own.state.exists():
        # Remove what a killed benchmark has left.
        runtime.stop_all(mode="immediate")
        runtime.destroy()
    try:
        with step("a throw-away cluster"):
            runtime.prepare()
            runtime.start_servers()
            warm_up(own)
        yield Bench(runtime)
    finally:
        runtime.stop_all(mode="immediate")
        runtime.destroy()


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` percent of the values are (0 to 100)."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[round(share) - 1]


class Latency:
    """Dashboards' readers: four connections that read the five views again and again, and how long each read took.

    queries: others than these, by a name for each.
    """

    QUERIES: ClassVar = {
        "vw_monthly_revenue": "select * from warehouse.vw_monthly_revenue",
        "vw_top_customers": "select * from warehouse.vw_top_customers order by total_paid desc, customer_id limit 20",
        "vw_loan_status_distribution": "select * from warehouse.vw_loan_status_distribution",
        "vw_payment_by_method": "select * from warehouse.vw_payment_by_method",
        "vw_branch_performance": "select * from warehouse.vw_branch_performance",
    }

    def __init__(
        self, conninfo: str, queries: Mapping[str, str] = QUERIES, readers: int = 4, pause: float = 0.02
    ) -> None:
        self.conninfo, self.queries, self.pause = conninfo, queries, pause
        self.milliseconds: dict[str, list[float]] = {name: [] for name in queries}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(readers)]

    def __enter__(self) -> Latency:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            while not self._stop.wait(self.pause):
                for view, query in self.queries.items():
                    started = time.perf_counter()
                    # Read the answer to its last byte, but do not parse it: that would measure this process.
                    connection.execute(query.encode())
                    self.milliseconds[view].append((time.perf_counter() - started) * 1000)

    def summary(self) -> dict[str, dict[str, float]]:
        """For each view: p50, p95 and the longest, in milliseconds, and the number of reads."""
        return {
            view: {"p50": percentile(times, 50), "p95": percentile(times, 95), "max": max(times), "reads": len(times)}
            for view, times in self.milliseconds.items()
            if times
        }
