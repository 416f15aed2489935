"""The main job, from an empty platform to views that answer."""

from __future__ import annotations

from eds.book.demo import fill
from eds.cluster.connections import connect


def test_a_demo_book_reaches_the_five_views_and_a_second_build_changes_nothing(platform):
    with connect(platform.superuser_conninfo) as connection:
        fill.fill(connection, fill.Scale.parse("5000"))
    platform.wait_for_replicas()
    first = platform.build()
    assert first.run["rows_inserted"] > 5000
    assert (
        sum(row["payment_count"] for row in platform.view("vw_monthly_revenue"))
        == platform.primary("select count(*) from operational.payments")[0][0]
    )
    second = platform.build()
    assert (second.run["rows_inserted"], second.run["rows_updated"], second.run["rows_deleted"]) == (0, 0, 0)
    assert (
        platform.warehouse(
            "select node_name from audit.model_runs where run_id = %s "
            "and coalesce(rows_inserted, 0) + coalesce(rows_updated, 0) + coalesce(rows_deleted, 0) > 0",
            (second.run["run_id"],),
        )
        == []
    )
