"""Load on the primary: what the audit trail costs there, and whether a one-minute schedule keeps up with traffic."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString

from psycopg import sql

from bench.cluster import SQL, Bench, percentile
from eds.base.errors import UserError
from eds.cluster.connections import connect

CLIENTS = 2
TABLES = ("customers", "loan_products", "loans", "payments")
MINUTE = 60.0
# How long to wait until the sessions that ended have reported their statistics.
REPORT_SECONDS = 1.5


def assert_pgbench(bench: Bench) -> None:
    """Raise UserError when the servers' installation has no pgbench."""
    program = bench.runtime.home.bindir / "pgbench"
    if not program.exists():
        raise UserError(f"MINUTES and TRAIL need pgbench, and there is no {program}: install PostgreSQL's package.")


def _pgbench(bench: Bench, script: str, seconds: float, *options: str) -> subprocess.Popen[str]:
    server = bench.servers["primary"]
    loans = bench.ask("select coalesce(max(loan_id), 1) from operational.loans", bench.primary)
    return subprocess.Popen(
        [
            *(str(bench.runtime.home.bindir / "pgbench"), f"--host={server.host}", f"--port={server.port}"),
            *("--username=app_user", "--no-vacuum", f"--client={CLIENTS}", f"--time={max(1, round(seconds))}"),
            *(f"--define=loans={loans}", f"--file={SQL / script}", *options, server.database),
        ],
        env={"PGPASSWORD": bench.settings.app_user_password.get_secret_value()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def _per_second(process: subprocess.Popen[str]) -> float:
    """Return the transactions a second of a pgbench that ends. Raises RuntimeError when it failed."""
    output, _ = process.communicate()
    found = re.search(r"tps = ([0-9.]+)", output)
    if process.returncode != 0 or not found:
        raise RuntimeError(f"pgbench failed:\n{output}")
    return float(found.group(1))


@contextmanager
def _without_trail(bench: Bench) -> Iterator[None]:
    """Switch the audit trail off meanwhile. What changes then, only a reconcile finds."""

    def alter(action: LiteralString) -> None:
        with connect(bench.primary) as connection:
            for table in TABLES:
                names = sql.Identifier(table), sql.Identifier(f"{table}_audit")
                connection.execute(sql.SQL("alter table operational.{} " + action + " trigger {}").format(*names))

    alter("disable")
    try:
        yield
    finally:
        alter("enable always")


def trail_cost(bench: Bench, seconds: float, rounds: int) -> dict[str, Any]:
    """Return the transactions a second of single-row updates and inserts, with the audit trail and without it.

    Returns for each of the two kinds the medians with and without, and the share of HOT updates of loans with it.
    """
    result: dict[str, Any] = {}
    for kind in ("update_loan", "insert_payment"):
        with_trail, without, hot = [], [], []
        for _ in range(rounds):
            before = _updates(bench)
            with_trail.append(_per_second(_pgbench(bench, f"{kind}.sql", seconds)))
            time.sleep(REPORT_SECONDS)
            after = _updates(bench)
            hot.append((after[1] - before[1]) / max(1, after[0] - before[0]))
            with _without_trail(bench):
                without.append(_per_second(_pgbench(bench, f"{kind}.sql", seconds)))
        result[kind] = {"with_trail": percentile(with_trail, 50), "without": percentile(without, 50)}
        if kind == "update_loan":
            result["hot_share"] = percentile(hot, 50)
    return result


def _updates(bench: Bench) -> tuple[int, int]:
    """Return how many updates of loans there have been, and how many of them were HOT."""
    with connect(bench.primary) as connection:
        row = connection.execute(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relid = 'operational.loans'::regclass"
        ).fetchone()
    return row or (0, 0)


@dataclass(frozen=True)
class Pace:
    """A one-minute schedule under traffic. rate: payments a second that came. walls: seconds of each run.
    fresh: seconds from a payment to the end of the run that shows it, p50 and p95."""

    rate: float
    walls: list[float]
    rows: list[int]
    fresh_p50: float
    fresh_p95: float


def keep_up(bench: Bench, minutes: int, payments_a_second: int) -> Pace:
    """Measure runs that start each minute while payments come, for some minutes."""
    began = datetime.now(UTC)
    newest = bench.ask("select coalesce(max(payment_id), 0) from operational.payments", bench.primary)
    traffic = _pgbench(bench, "pay.sql", minutes * MINUTE, f"--rate={payments_a_second}")
    walls, rows = [], []
    started = time.monotonic()
    for number in range(1, minutes + 1):
        time.sleep(max(0.0, started + number * MINUTE - time.monotonic()))
        cost = bench.run()
        walls.append(cost.wall)
        rows.append(cost.rows)
    _per_second(traffic)
    with connect(bench.warehouse) as connection:
        fresh = connection.execute(
            "select count(*), percentile_cont(array[0.5, 0.95]) within group "
            "(order by extract(epoch from run_finished_at - created_at)) "
            "from operational.payments inner join audit.etl_runs on run_id = _run_id "
            "where payment_id > %s and created_at >= %s",
            (newest, began),
        ).fetchone()
    count, (p50, p95) = fresh or (0, (0.0, 0.0))
    return Pace(count / (minutes * MINUTE), walls, rows, float(p50), float(p95))
