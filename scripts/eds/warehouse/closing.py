"""The months that were reported: which they are, and how one is closed by hand or closed again.

A run closes a month by itself from CLOSE_DAY of the next one on (macros/lending/keep_reported_months.sql). What was
reported is never changed: to close a month again adds a version, and vw_restated_months compares the last one with the
figures as they are known today.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

import psycopg
from psycopg.rows import dict_row

from eds.base.errors import UserError
from eds.cluster.connections import Cluster, connect
from eds.cluster.queries import has_relation
from eds.warehouse import runs


def month_end(text: str) -> datetime.date:
    """Return the last day of a month such as 2026-10. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d{4})-(\d{2})", text, re.ASCII)
    try:
        year, month = (int(part) for part in match.groups()) if match else (0, 0)
        first = datetime.date(year, month, 1)
    except ValueError as error:
        raise UserError(
            f"Expected a month such as 2026-10, found {text!r}. Example: make close MONTH=2026-10"
        ) from error
    return (first + datetime.timedelta(days=31)).replace(day=1) - datetime.timedelta(days=1)


def reported_months(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the reported months, the newest first: the last version, when it was kept, portfolio and PAR30."""
    with cluster.connect_as_writer() as connection:
        _require_reports(connection)
        cursor = connection.cursor(row_factory=dict_row)
        return cursor.execute(
            """
            select distinct on (month_end)
                month_end, report_version as version, min(reported_at) as reported_at,
                sum(gross_loan_portfolio) as gross_loan_portfolio, sum(par_30) as par_30
            from publish.reported_month_ends
            group by month_end, report_version
            order by month_end desc, report_version desc
            """
        ).fetchall()


def close(cluster: Cluster, month: str, *, again: bool) -> int:
    """Keep the published figures of a month that has ended as reported. Returns the version.

    again: also a month that was reported before, as a further version. Raises UserError, and changes nothing, when it
    was and that is not wanted, or when no such month is published.
    """
    end = month_end(month)
    with cluster.connect_as_writer() as connection:
        _require_reports(connection)
        connection.execute("lock table publish.reported_month_ends in share row exclusive mode")
        row = connection.execute(
            "select coalesce(max(report_version), 0), max(reported_at) from publish.reported_month_ends "
            "where month_end = %s",
            (end,),
        ).fetchone()
        version, reported_at = row or (0, None)
        if version and not again:
            raise UserError(
                f"Expected a month that was not reported yet, found {month} reported at {reported_at:%Y-%m-%d %H:%M}. "
                f"Nothing was changed. To report it again beside that: make close MONTH={month} AGAIN=1"
            )
        kept = connection.execute(
            """
            insert into publish.reported_month_ends (
                month_end, report_version, branch_sk, gross_loan_portfolio, par_1, par_30, par_60, par_90, par_180
            )
            select month_end, %s, branch_sk, gross_loan_portfolio, par_1, par_30, par_60, par_90, par_180
            from publish.agg_month_ends_by_branch
            where month_end = %s
            """,
            (version + 1, end),
        )
        if kept.rowcount == 0:
            raise UserError(
                f"Expected a month that has ended and is published, found nothing of {month}. "
                "Nothing was changed. vw_portfolio_at_risk_by_month shows the months that there are."
            )
    return int(version) + 1


def drop_reports_of_demo(cluster: Cluster) -> int:
    """Delete the months that were reported of a demo book which an import has replaced. Returns how many there were.

    They are figures of invented loans, with which those of the lender's would be compared. What a run reported that
    read its source since then is the lender's, and stays. Waits for a run that has begun before: it may have read the
    demo book, and reports when it ends.
    """
    with connect(cluster.app_conninfo()) as book:
        # A database of an earlier version may not have the table yet.
        if not has_relation(book, "operational.demo_book"):
            return 0
        (replaced,) = book.execute("select max(replaced_at) from operational.demo_book").fetchone() or (None,)
    if replaced is None:
        return 0
    running = runs.live_run(cluster)
    if running is not None and running.since <= replaced:
        runs.wait_for_run(cluster)
    with cluster.connect_as_writer() as connection:
        if not has_relation(connection, "publish.reported_month_ends"):
            return 0
        (until,) = connection.execute(
            "select coalesce(greatest(max(run_finished_at), %(replaced)s), %(replaced)s) from audit.etl_runs "
            "where coalesce(snapshot_time, run_started_at) <= %(replaced)s",
            {"replaced": replaced},
        ).fetchone() or (replaced,)
        found = connection.execute(
            "select count(distinct month_end) from publish.reported_month_ends where reported_at <= %s", (until,)
        ).fetchone()
        months = found[0] if found else 0
        if months:
            # A run that began meanwhile holds it for the moment in which it publishes.
            connection.execute("set local lock_timeout = '20s'")
            rule = "trigger reported_month_ends_append_only"
            connection.execute(f"alter table publish.reported_month_ends disable {rule}")
            connection.execute("delete from publish.reported_month_ends where reported_at <= %s", (until,))
            connection.execute(f"alter table publish.reported_month_ends enable {rule}")
    return int(months)


def _require_reports(connection: psycopg.Connection[Any]) -> None:
    if not has_relation(connection, "publish.reported_month_ends"):
        raise UserError(
            "Expected a published state, found none: the first run has not finished. Run it: make etl NOW=1"
        )
