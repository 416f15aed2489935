"""The lender's figures within a run: which models they are, what those cost, and a month that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

from eds.base.settings import ROOT
from eds.cluster.connections import connect

MODELS = ROOT / "models"
FEED = ROOT / "infra/primary/sql/020_change_feed.sql"
SCHEDULES = {"annuity_schedule", "int_loan_installments", "int_loan_schedules"}
VIEWS = (
    "vw_portfolio_at_risk",
    "vw_portfolio_at_risk_by_month",
    "vw_arrears_ageing",
    "vw_loan_migration",
    "vw_vintages",
    "vw_collections_by_month",
    "vw_write_offs",
    "vw_loan_classification",
    "vw_ifrs9_stages",
    "vw_expected_collections",
    "vw_officer_performance",
    "vw_schedule_coverage",
    "vw_restated_months",
)
# A branch's late loans, as a click on its figure shows them.
LATE_LOANS = (
    "select * from warehouse.loans_in_arrears where branch_code = "
    "(select min(branch_code) from warehouse.vw_portfolio_at_risk)"
)
QUERIES = {view: f"select * from warehouse.{view}" for view in VIEWS}  # noqa: S608 - the names above
QUERIES["loans_in_arrears"] = LATE_LOANS


def models() -> set[str]:
    """Return the names of the models of the lender's figures."""
    folders = (MODELS / "marts/lending", MODELS / "marts/dashboards/lending")
    return SCHEDULES | {path.stem for folder in folders for path in folder.rglob("*.sql")}


def seconds(nodes: dict[str, float]) -> float:
    """Return the seconds of the lender's models in a run, of which the seconds by node are given."""
    return sum(took for name, took in nodes.items() if name in models())


def month_seconds(nodes: dict[str, float]) -> float:
    """Return the seconds of the loans' history and of what is summed up of it."""
    history = ("fact_loan_month_end", "agg_month_ends", "agg_loan_migration", "agg_last_migration", "agg_vintages")
    return sum(took for name, took in nodes.items() if name.startswith(history))


@contextmanager
def days_later(superuser_conninfo: str, days: int) -> Iterator[None]:
    """Let the source answer as if it were that many days later; nothing else changes."""
    text = FEED.read_text(encoding="utf-8")
    start = text.index("create or replace view etl.source_state as")
    view = text[start : text.index(";", start)]
    later = view.replace("state.snapshot_time,", f"state.snapshot_time + interval '{days} days' as snapshot_time,")
    if later == view:
        raise RuntimeError(f"expected state.snapshot_time in etl.source_state, found none in {FEED}")
    with connect(superuser_conninfo) as connection:
        connection.execute(later.encode())
        # A run refuses a view that is not as its file made it.
        connection.execute("select etl.record_feed_parts()")
    try:
        yield
    finally:
        with connect(superuser_conninfo) as connection:
            connection.execute(view.encode())
            connection.execute("select etl.record_feed_parts()")


def days_to_the_next_month(day: date) -> int:
    """Return how many days after a day the next month begins."""
    return ((day.replace(day=1) + timedelta(days=32)).replace(day=1) - day).days


def month_that_ends(bench: Any) -> dict[str, Any]:
    """Measure the run that closes a month. It is the last thing to measure: the data's day goes back behind it."""
    today = bench.ask("select (snapshot_time at time zone 'UTC')::date from audit.extraction_state")
    with days_later(bench.primary, days_to_the_next_month(today)):
        bench.wait_for_replicas()
        cost = bench.run()
    return {name: getattr(cost, name) for name in ("wall", "warehouse_cpu", "nodes")}
