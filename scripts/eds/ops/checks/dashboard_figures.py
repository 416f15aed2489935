"""The dashboards: all views, and the marts behind them, show the same money and loans."""

from __future__ import annotations

from typing import Any

from eds.cluster.connections import Cluster
from eds.ops.checks.figures import plain
from eds.ops.checks.result import must

# What several relations show, each with its own query. Views first: the marts may be ahead of them after a failed run.
SHOWN_EVERYWHERE = {
    "amount received, number of payments": (
        ("vw_monthly_revenue", "sum(total_revenue), sum(payment_count)"),
        ("vw_payment_by_method", "sum(total_amount), sum(payment_count)"),
        ("vw_top_customers", "sum(total_paid), sum(payment_count)"),
        ("vw_collections", "sum(payment_amount), sum(payment_count)"),
        ("agg_payments_by_month", "sum(payment_amount), sum(payment_count)"),
        ("agg_payments", "sum(payment_amount), sum(payment_count)"),
        ("agg_customers", "sum(total_paid), sum(payment_count)"),
        ("fact_payments", "sum(payment_amount), count(*)"),
    ),
    "amount and interest received": (
        ("vw_monthly_revenue", "sum(total_revenue), sum(total_interest)"),
        ("vw_branch_performance", "sum(total_collected), sum(total_interest_earned)"),
        ("agg_loans", "sum(total_paid), sum(interest_paid)"),
        ("fact_loans", "sum(total_paid), sum(interest_paid)"),
    ),
    "principal, interest and penalties received": (
        ("vw_monthly_revenue", "sum(total_principal), sum(total_interest), sum(total_penalty)"),
        ("agg_payments_by_month", "sum(principal_amount), sum(interest_amount), sum(penalty_amount)"),
        ("fact_payments", "sum(principal_amount), sum(interest_amount), sum(penalty_amount)"),
    ),
    "number of loans": (
        ("vw_loan_status_distribution", "sum(loan_count)"),
        ("vw_branch_performance", "sum(loan_count)"),
        ("vw_top_customers", "sum(total_loans)"),
        ("vw_loan_book", "sum(loan_count)"),
        ("vw_loans", "count(*)"),
        ("fact_loans", "count(*)"),
    ),
    "principal lent": (
        ("vw_loan_status_distribution", "sum(total_loan_amount)"),
        ("fact_loans", "sum(principal_amount)"),
    ),
    "principal owed": (
        ("vw_loan_status_distribution", "sum(total_outstanding)"),
        ("vw_branch_performance", "sum(total_outstanding)"),
        ("vw_loan_book", "sum(outstanding_balance)"),
        ("vw_loans", "sum(outstanding_balance)"),
        ("fact_loans", "sum(outstanding_balance)"),
    ),
}


def dashboard_figures(cluster: Cluster) -> str:
    """Compare the totals that the views show with each other and with the marts. Returns what was compared.

    After a run that did not publish, the marts are ahead of the views: then the views alone are compared.
    """
    with cluster.warehouse.connect() as connection:
        connection.execute("set transaction isolation level repeatable read, read only")
        row = connection.execute(
            "select coalesce(bool_or(state.run_id > published.run_id), true) from audit.model_states as state "
            "cross join audit.model_states as published "
            "where published.model_name = 'published_state' and state.model_name ~ '^(dim|fact|agg)_'"
        ).fetchone()
        marts_are_ahead = bool(row and row[0])
        compared = 0
        for what, places in SHOWN_EVERYWHERE.items():
            totals: dict[str, tuple[Any, ...]] = {}
            for place, measures in places:
                if marts_are_ahead and not place.startswith("vw_"):
                    continue
                found = connection.execute(f"select {measures} from warehouse.{place}".encode()).fetchone()  # noqa: S608
                totals[place] = tuple(value or 0 for value in found or ())
            first = places[0][0]
            for place, values in totals.items():
                must(
                    values == totals[first],
                    f"{what}: {first} shows {plain(totals[first])}, {place} {plain(values)}: `make reconcile`",
                )
            compared += len(totals)
    ahead = "; the last run did not publish, so the views alone" if marts_are_ahead else ""
    return f"{len(SHOWN_EVERYWHERE)} totals in {compared} places{ahead}"
