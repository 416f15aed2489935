"""The warehouse: tables and views that must have rows, the runs, and whether counts and sums are those of the OLTP."""

from __future__ import annotations

import psycopg
from psycopg import sql

from eds.base.settings import Settings
from eds.cluster.connections import Cluster, connect
from eds.cluster.queries import fetch_all, fetch_value
from eds.dashboards.metabase import address
from eds.dashboards.metabase_client import Client
from eds.ops.checks.dashboard_figures import dashboard_figures
from eds.ops.checks.figures import figures
from eds.ops.checks.result import Failed, Skipped, Verification, Warned, must
from eds.runtime.ports import bind_error
from eds.warehouse import closing, runs

METABASE_SECONDS = 5.0
# Tables and views with rows as soon as there are loans and payments, also without schedules or a month that has ended.
MUST_BE_FILLED = [
    "dim_customer",
    "dim_loan",
    "dim_product",
    "dim_date",
    "dim_payment_method",
    "dim_branch",
    "fact_loans",
    "fact_payments",
]
MUST_SHOW_ROWS = (
    "vw_monthly_revenue",
    "vw_top_customers",
    "vw_loan_status_distribution",
    "vw_payment_by_method",
    "vw_branch_performance",
)


def warehouse_answers(cluster: Cluster) -> str:
    """Check that the warehouse answers."""
    return f"PostgreSQL {fetch_value(cluster.warehouse, 'show server_version')}"


def check(run: Verification) -> None:
    """Check the star schema, the dashboard views, the runs and the figures."""
    settings, cluster = run.runtime.settings, run.cluster
    server = cluster.warehouse
    reader = cluster.conninfo(server, "warehouse_reader")

    def filled(table: str) -> str:
        count = fetch_value(server, f"select count(*) from warehouse.{table}")  # noqa: S608 - names of the catalogue
        must(count, "it is empty")
        return f"{count} rows"

    def shows(view: str) -> str:
        with connect(reader) as connection:
            row = connection.execute(f"select count(*) from warehouse.{view}".encode()).fetchone()  # noqa: S608
        must(row and row[0], "it shows nothing")
        return f"{row[0] if row else 0} rows"

    def others() -> str:
        # Of these, a young or a small book has some that show nothing: no loan is late, no month is closed.
        with connect(reader) as connection:
            names = connection.execute(
                "select viewname from pg_views where schemaname = 'warehouse' and not viewname = any(%s) order by 1",
                (list(MUST_SHOW_ROWS),),
            ).fetchall()
            must(names, "there is none")
            for (name,) in names:
                query = sql.SQL("select count(*) from {}").format(sql.Identifier("warehouse", name))
                try:
                    connection.execute(query)
                except psycopg.Error as error:
                    raise Failed(f"{name}: {error}".strip()) from None
        return f"{len(names)} views"

    def successes() -> str:
        row = fetch_all(
            server,
            "select count(*) filter (where status = 'success'), count(*) filter (where status = 'failed'), "
            "(array_agg(status order by run_id desc) filter (where status <> 'running'))[1] from audit.etl_runs",
            database=settings.warehouse_db,
        )[0]
        must(row[0], "no run has ever succeeded")
        if row[2] == "failed":
            raise Warned("the last run failed: `make etl` shows why; the views keep the last good state")
        return f"{row[0]} succeeded, {row[1]} failed"

    def fresh() -> str:
        _, minutes = runs.last_success(cluster)
        problem = runs.stale(minutes, settings.etl_fresh_minutes)
        must(not problem, str(problem))
        return f"{minutes:.1f} minutes old"

    def reports() -> str:
        problem = closing.reported_ahead(cluster)
        must(not problem, str(problem))
        return "each of a month that had ended"

    for table in MUST_BE_FILLED:
        run.check("star schema", f"warehouse.{table} is filled", lambda table=table: filled(table))  # type: ignore[misc]
    for view in MUST_SHOW_ROWS:
        run.check("dashboards", f"{view} answers", lambda view=view: shows(view))  # type: ignore[misc]
    run.check("dashboards", "all other views answer", others)
    run.check("dashboards", "Metabase is healthy", lambda: _metabase(settings))
    run.check("runs", "there are successes, and the last run is one", successes)
    run.check("runs", "the last success is fresh", fresh)
    run.check("runs", "no month was reported by a clock that was ahead", reports)
    run.check("figures", "the dashboards show the same money and loans everywhere", lambda: dashboard_figures(cluster))
    run.check(
        "figures", "customers, products, loans and payments have the OLTP's counts and sums", lambda: figures(cluster)
    )


def _metabase(settings: Settings) -> str:
    if bind_error(settings.metabase_host, settings.metabase_port) is None:
        raise Skipped(f"nothing listens at {address(settings)}: `make up` starts one when METABASE_JAR names its jar")
    Client(address(settings)).wait_until_ready(METABASE_SECONDS)
    return address(settings)
