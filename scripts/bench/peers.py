"""Other ways to do the same work, on the same servers and the same data."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from psycopg import sql

from bench.cluster import SQL, Bench
from eds.base.settings import ROOT
from eds.cluster.connections import Server, connect
from eds.runtime.client_programs import connection_args, run_program

# In the order in which they follow from each other, with their keys.
MARTS = {
    "dim_customer": "customer_sk",
    "dim_loan": "loan_sk",
    "dim_product": "product_sk",
    "dim_date": "date_sk",
    "dim_payment_method": "method_sk",
    "dim_branch": "branch_sk",
    "fact_payments": "payment_id",
    "fact_loans": "loan_id",
    "agg_payments": "payment_month, method_sk, branch_sk",
    "agg_payments_by_month": "payment_month",
    "agg_loans": "branch_sk, loan_status, customer_segment",
    "agg_customers": "customer_id",
}


def floor(bench: Bench, database: str, watermark: str) -> float:
    """Apply the same increment by hand: one psql session on a copy of the warehouse, no dbt, no tests. Returns seconds.

    It runs twice, and is rolled back the first time, since nothing of a fresh copy is in memory yet.
    """
    server = bench.servers["warehouse"]
    started = 0.0
    for finish in ("rollback", "commit"):
        started = time.monotonic()
        run_program(
            bench.settings,
            "psql",
            [
                *connection_args(server, "etl_writer", database),
                *("--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-v", f"watermark={watermark}"),
                *("-v", f"finish={finish}", "--output=/dev/null", "--file", str(SQL / "floor.sql")),
            ],
            password=bench.settings.etl_writer_password.get_secret_value(),
        )
    return time.monotonic() - started


class Reload:
    """The usual ETL: reload all into staging tables, upsert dimensions, insert new facts, recompute the loans."""

    DATABASE = "reload_peer"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        target = bench.servers["warehouse"]
        # A database of its own, and with PostgreSQL's own search path: its SQL is what others would write.
        self.conninfo = target.conninfo("postgres", target.superuser_password, self.DATABASE)
        source = bench.servers["replica1"]
        with connect(bench.servers["warehouse"].superuser_conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"drop database if exists {self.DATABASE} with (force)".encode())
            connection.execute(f"create database {self.DATABASE} template template0".encode())
        with connect(self.conninfo) as connection:
            connection.execute("create extension dblink")
            options: dict[str, Any] = {
                "host": sql.Literal(source.host),
                "port": sql.Literal(str(source.port)),
                "database": sql.Literal(source.database),
                "password": sql.Literal(bench.settings.etl_reader_password.get_secret_value()),
            }
            connection.execute(
                sql.SQL(
                    "create server source foreign data wrapper dblink_fdw "
                    "options (host {host}, port {port}, dbname {database})"
                ).format(**options)
            )
            connection.execute(
                sql.SQL(
                    "create user mapping for postgres server source options (user 'etl_reader', password {password})"
                ).format(**options)
            )
            connection.execute((SQL / "reload_setup.sql").read_bytes())

    def run(self) -> float:
        """Run it once. Returns seconds."""
        started = time.monotonic()
        with connect(self.conninfo, autocommit=True) as connection:
            connection.execute((SQL / "reload.sql").read_bytes())
        return time.monotonic() - started

    def wrong(self) -> int:
        """Return how many payments its facts have too many, too few, or with other figures than the source."""
        return payments_that_differ(self.bench, self.conninfo, "mart.fact_payments")

    def lateral(self) -> float:
        """Time the usual form of "recompute all loans", a lateral sum over its unindexed staging tables."""
        with connect(self.conninfo, autocommit=True) as connection:
            connection.execute("set max_parallel_workers_per_gather = 0")
            # The query may take as long as the rest of the benchmark: its time grows with the square of the book.
            connection.execute("set statement_timeout = '15min'")
            started = time.monotonic()
            connection.execute((SQL / "lateral.sql").read_bytes())
        return time.monotonic() - started

    def drop(self) -> None:
        _drop(self.bench, self.DATABASE)


class Dlt:
    """dlt, by `updated_at` with merge, in an environment of its own below the state directory."""

    DATABASE = "dlt_peer"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.conninfo = bench.servers["warehouse"].superuser_conninfo(self.DATABASE)
        self.folder = bench.settings.state / "dlt"
        self.folder.mkdir(parents=True)
        self.python = self.folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", str(self.folder / "venv")], check=True)
        subprocess.run(
            [
                *(str(self.python), "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check", "install"),
                *("--require-hashes", "--requirement", str(ROOT / "requirements-bench.txt")),
            ],
            check=True,
        )
        with connect(bench.servers["warehouse"].superuser_conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"create database {self.DATABASE} template template0".encode())

    def run(self) -> float:
        """Run the pipeline once. Returns seconds, without those of starting Python."""
        source, target = self.bench.servers["replica1"], self.bench.servers["warehouse"]
        reader = self.bench.settings.etl_reader_password.get_secret_value()
        done = subprocess.run(
            [str(self.python), str(Path(__file__).with_name("dlt_peer.py"))],
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(self.folder),
                "DLT_DATA_DIR": str(self.folder / "data"),
                "RUNTIME__DLTHUB_TELEMETRY": "false",
                "PEER_SOURCE": f"postgresql+psycopg2://{_place(source, 'etl_reader', reader, source.database)}",
                "PEER_TARGET": (f"postgresql://{_place(target, 'postgres', target.superuser_password, self.DATABASE)}"),
            },
            cwd=self.folder,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            check=True,
        )
        return float(done.stdout.split()[-1])

    def wrong(self) -> int:
        """Return what Reload.wrong returns."""
        return payments_that_differ(self.bench, self.conninfo, "landing.payments")

    def drop(self) -> None:
        _drop(self.bench, self.DATABASE)


def _place(server: Server, role: str, password: str, database: str) -> str:
    return f"{role}:{quote(password, safe='')}@{server.host}:{server.port}/{database}"


def rebuild(bench: Bench) -> float:
    """Rebuild the marts as dbt's own `table` materialization would, in one session without dbt. Returns seconds.

    From the SQL of their models, with their primary keys.
    """
    compiled = bench.compile("models/marts")
    seconds = 0.0
    with connect(bench.warehouse, autocommit=True) as connection:
        connection.execute("create schema rebuilt")
        try:
            for name, keys in MARTS.items():
                started = time.monotonic()
                connection.execute(f"create table rebuilt.{name} as {compiled[name]}".encode())
                connection.execute(f"alter table rebuilt.{name} add primary key ({keys})".encode())
                connection.execute(f"analyze rebuilt.{name}".encode())
                seconds += time.monotonic() - started
        finally:
            connection.execute("drop schema rebuilt cascade")
    return seconds


def payments_that_differ(bench: Bench, conninfo: str, table: str) -> int:
    """Return how many payments a table has too many, too few, or with other figures than the source has."""

    def rows(place: str, of: str) -> Iterator[tuple[int, bytes]]:
        query = f"copy (select payment_id, loan_id, amount from {of} order by payment_id) to stdout"  # noqa: S608
        with connect(place) as connection, connection.cursor().copy(query.encode()) as copy:
            rest = b""
            for block in copy:
                *lines, rest = (rest + bytes(block)).split(b"\n")
                for line in lines:
                    yield int(line.split(b"\t", 1)[0]), line

    # Rows that are in both become neighbours, and cancel out.
    both = groupby(merge(rows(conninfo, table), rows(bench.primary, "operational.payments")), key=itemgetter(0))
    return sum(1 for _, found in both if len(pair := list(found)) != 2 or pair[0] != pair[1])


def _drop(bench: Bench, database: str) -> None:
    with connect(bench.servers["warehouse"].superuser_conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {database} with (force)".encode())


def copy_pipe(bench: Bench, database: str) -> float:
    """Copy all payments from a replica into a new table by COPY (binary) through a pipe. Returns rows a second."""
    source, target = bench.servers["replica1"], bench.servers["warehouse"]
    psql = str(bench.runtime.home.bindir / "psql")
    with connect(target.superuser_conninfo(database), autocommit=True) as connection:
        connection.execute("create table public.copied as select * from operational.payments with no data")
        connection.execute(
            "alter table public.copied drop column _run_id, drop column _changed_at, drop column _deleted_at"
        )
    started = time.monotonic()
    with subprocess.Popen(
        [
            *(psql, *connection_args(source, database=source.database), "-XqAt"),
            *("-c", "copy operational.payments to stdout (format binary)"),
        ],
        env={"PGPASSWORD": source.superuser_password},
        stdout=subprocess.PIPE,
    ) as out:
        subprocess.run(
            [
                *(psql, *connection_args(target, database=database), "-XqAt"),
                *("-c", "copy public.copied from stdin (format binary)"),
            ],
            env={"PGPASSWORD": target.superuser_password},
            stdin=out.stdout,
            check=True,
        )
    if out.returncode != 0:
        raise RuntimeError("COPY from the source failed")
    seconds = time.monotonic() - started
    return float(bench.ask("select count(*) from public.copied", target.superuser_conninfo(database))) / seconds
