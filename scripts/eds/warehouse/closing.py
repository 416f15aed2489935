"""The months that were reported: which they are, and how one is closed by hand or closed again.

A run closes a month by itself from CLOSE_DAY of the next one on (macros/lending/keep_reported_months.sql). What was
reported is never changed: to close a month again adds a version, and vw_restated_months compares the last one with the
figures as they are known today. What a clock that was ahead has reported counts as no report.
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

# Whether what was kept of a month is a report of it: the same as the macro counts_as_report.
_COUNTS = """
    (
        reported_at <= clock_timestamp()
        and (
            (reported_at at time zone %(timezone)s)::date >= month_end
            or (clock_timestamp() at time zone %(timezone)s)::date < month_end
        )
    )
"""
_MONTHS = f"""
    with versions as (
        select
            month_end, report_version as version, min(reported_at) as reported_at,
            sum(gross_loan_portfolio) as gross_loan_portfolio, sum(par_30) as par_30,
            min(reported_at) > clock_timestamp() as is_ahead,
            bool_and({_COUNTS}) and month_end < (
                select (data_as_of at time zone %(timezone)s)::date from publish.published_state
            ) as is_report
        from publish.reported_month_ends
        group by month_end, report_version
    ),

    -- What a clock that was ahead has left is of no interest once the month was reported after it.
    ranked as (
        select *, coalesce(max(version) filter (where is_report) over (partition by month_end), 0) as last_report
        from versions
    )

    select distinct on (month_end, is_report)
        month_end, version, reported_at, gross_loan_portfolio, par_30,
        case
            when is_report then ''
            when is_ahead then 'no report: stamped ahead of now'
            else 'no report: made before the month had ended'
        end as note
    from ranked
    where version >= last_report
    order by month_end desc, is_report desc, version desc
"""  # noqa: S608 - the condition is the constant above


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
    """Return the reported months, the newest first: the last version, when it was kept, portfolio and PAR30.

    note: why a version is no report; blank for one that is. A clock that was ahead leaves such, until the month is
    reported after it.
    """
    with cluster.connect_as_writer() as connection:
        _require_reports(connection)
        return _months(cluster, connection)


def _months(cluster: Cluster, connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(_MONTHS, {"timezone": cluster.settings.business_timezone}).fetchall()


def reported_ahead(cluster: Cluster) -> str | None:
    """Say which months a clock that was ahead has reported, and were not reported since; None when there is none."""
    with cluster.connect_as_writer() as connection:
        if not has_relation(connection, "publish.reported_month_ends"):
            return None
        found = [row for row in _months(cluster, connection) if row["note"]]
    if not found:
        return None
    named = ", ".join(f"{row['month_end']:%Y-%m} at {row['reported_at']:%Y-%m-%d %H:%M}" for row in reversed(found))
    return (
        f"reported by a clock that was ahead: {named}. The dashboards leave that out. Correct the clock if it is still "
        "wrong; each month is reported again by the first run of its close day, or, once it has ended, by make close "
        f"MONTH={found[-1]['month_end']:%Y-%m} AGAIN=1"
    )


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
            f"select coalesce(max(report_version), 0), max(reported_at) filter (where {_COUNTS}) "  # noqa: S608
            "from publish.reported_month_ends where month_end = %(end)s",
            {"end": end, "timezone": cluster.settings.business_timezone},
        ).fetchone()
        version, reported_at = row or (0, None)
        if reported_at and not again:
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
            "select greatest(max(run_finished_at), %(replaced)s) from audit.etl_runs "
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
