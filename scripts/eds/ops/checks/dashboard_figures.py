"""The dashboards: all views, and the marts behind them, show the same money, loans and portfolio at risk."""

from __future__ import annotations

from typing import Any

from eds.cluster.connections import Cluster
from eds.ops.checks.figures import plain
from eds.ops.checks.result import must

OVER_30_DAYS = "filter (where days_past_due > 30)"

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
    "loans of the portfolio, principal owed of them": (
        ("vw_portfolio_at_risk", "sum(loan_count), sum(gross_loan_portfolio)"),
        ("vw_schedule_coverage", "sum(loan_count), sum(gross_loan_portfolio)"),
        ("vw_officer_performance", "sum(loan_count), sum(gross_loan_portfolio)"),
        ("vw_portfolio_quality", "sum(loan_count), sum(outstanding_principal)"),
        (
            "fact_loans",
            "count(*) filter (where is_in_portfolio), sum(outstanding_balance) filter (where is_in_portfolio)",
        ),
    ),
    "principal owed of loans with a schedule": (
        ("vw_portfolio_at_risk", "sum(scheduled_portfolio)"),
        ("vw_arrears_ageing", "sum(outstanding_principal)"),
        ("vw_loan_classification", "sum(outstanding_principal)"),
        ("vw_ifrs9_stages", "sum(outstanding_principal)"),
        ("vw_portfolio_quality", "sum(scheduled_principal)"),
    ),
    "portfolio at risk from 1 day and over 30 days": (
        ("vw_portfolio_at_risk", "sum(par_1), sum(par_30)"),
        ("loans_in_arrears", f"sum(outstanding_principal), sum(outstanding_principal) {OVER_30_DAYS}"),
    ),
    "amount in arrears": (
        ("vw_arrears_ageing", "sum(overdue_amount)"),
        ("vw_portfolio_quality", "sum(overdue_amount)"),
        ("loans_in_arrears", "sum(overdue_amount)"),
    ),
    "portfolio and portfolio at risk of all month ends": (
        ("vw_portfolio_at_risk_by_month", "sum(gross_loan_portfolio), sum(par_1), sum(par_30)"),
        ("vw_month_ends", "sum(gross_loan_portfolio), sum(par_1), sum(par_30)"),
    ),
    "due and paid of all months": (
        ("vw_collections_by_month", "sum(due_amount), sum(paid_on_time), sum(paid_of_arrears)"),
        ("vw_month_ends", "sum(due_amount), sum(paid_on_time), sum(paid_of_arrears)"),
    ),
    "written off and recovered": (
        ("vw_write_offs", "sum(written_off_amount), sum(recovered_amount)"),
        ("vw_month_ends", "sum(written_off_amount), sum(recovered_amount)"),
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
