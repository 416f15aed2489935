"""Other ways to do the same work, on the same servers and the same data."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from psycopg import sql

from eds.bench.cluster import SQL, Bench
from eds.db import connect
from eds.ops.programs import at, run_program


def floor(bench: Bench, database: str, watermark: str) -> float:
    """The same increment by hand: one psql session on a copy of the warehouse, no dbt, no tests. Returns seconds."""
    server = bench.servers["warehouse"]
    started = time.monotonic()
    run_program(
        bench.settings,
        "psql",
        [
            *at(server, "etl_writer", database),
            *("--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-v", f"watermark={watermark}"),
            *("--output=/dev/null", "--file", str(SQL / "floor.sql")),
        ],
        password=bench.settings.etl_writer_password.get_secret_value(),
    )
    return time.monotonic() - started


class Reload:
    """The usual ETL: reload all into staging tables, upsert dimensions, insert new facts, compute the loans anew."""

    DATABASE = "reload_peer"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.conninfo = bench.servers["warehouse"].superuser_conninfo(self.DATABASE)
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
        """One run. Returns seconds."""
        started = time.monotonic()
        with connect(self.conninfo, autocommit=True) as connection:
            connection.execute((SQL / "reload.sql").read_bytes())
        return time.monotonic() - started

    def wrong(self) -> int:
        """How many payments its facts have that the source has not, or has with other figures."""
        bench = self.bench
        sums = (
            "select row(count(*), sum(amount), sum(hashtext(payment_id || ' ' || loan_id || ' ' || amount)::numeric))"
            "::text from "
        )
        found = bench.ask(sums + "mart.fact_payments", self.conninfo)
        expected = bench.ask(sums + "operational.payments", bench.primary)
        if found == expected:
            return 0
        ours = bench.ask("select count(*) from mart.fact_payments", self.conninfo)
        return int(ours) - int(bench.ask("select count(*) from operational.payments", bench.primary)) or 1

    def drop(self) -> None:
        with connect(self.bench.servers["warehouse"].superuser_conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"drop database {self.DATABASE} with (force)".encode())


def copy_pipe(bench: Bench, database: str) -> float:
    """All payments from a replica into a fresh table by COPY (binary) through a pipe. Returns rows a second."""
    source, target = bench.servers["replica1"], bench.servers["warehouse"]
    psql = str(bench.runtime.bindir / "psql")
    with connect(target.superuser_conninfo(database), autocommit=True) as connection:
        connection.execute("create table public.copied as select * from operational.payments with no data")
        connection.execute(
            "alter table public.copied drop column _run_id, drop column _changed_at, drop column _deleted_at"
        )
    started = time.monotonic()
    out = subprocess.Popen(
        [
            *(psql, *at(source, database=source.database), "-XqAt"),
            *("-c", "copy operational.payments to stdout (format binary)"),
        ],
        env={"PGPASSWORD": source.superuser_password},
        stdout=subprocess.PIPE,
    )
    subprocess.run(
        [psql, *at(target, database=database), "-XqAt", "-c", "copy public.copied from stdin (format binary)"],
        env={"PGPASSWORD": target.superuser_password},
        stdin=out.stdout,
        check=True,
    )
    if out.wait() != 0:
        raise RuntimeError("COPY from the source failed")
    seconds = time.monotonic() - started
    return float(bench.ask("select count(*) from public.copied", target.superuser_conninfo(database))) / seconds
