"""The figures: counts and sums of the landing tables and of the two main facts are those of the OLTP.

Customers and products are compared by month of creation, loans by month of creation (landing table) and by status
(fact_loans), payments by month of payment (landing table and fact_payments). Instalments, aggregates and the marts of
schedules are not compared here: tests of the dbt project compare them with the facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from eds.book.tables import TABLES
from eds.cluster.connections import Cluster
from eds.cluster.queries import fetch_value, wait_for
from eds.ops.checks.result import Failed, must

RUN_ENDS_SECONDS = 60.0


@dataclass(frozen=True)
class Counterpart:
    """A table of the source and where the warehouse has its rows: what to group by and what to sum on either side."""

    table: str
    source_group: str
    source_columns: tuple[str, ...]
    place: str
    group: str
    columns: tuple[str, ...]


def _month(column: str) -> str:
    return f"to_char({column} at time zone 'UTC', 'YYYY-MM')"


def _counterparts() -> list[Counterpart]:
    sums = {
        "customers": ("created_at", ()),
        "loan_products": ("created_at", ("min_amount", "max_amount")),
        "loans": ("created_at", ("amount", "outstanding_balance", "interest_rate")),
        "payments": ("payment_date", ("amount", "principal_portion", "interest_portion", "penalty_portion")),
    }
    landing = "(select * from operational.{} where _deleted_at is null) as landing"
    result = [
        Counterpart(table, _month(time), columns, landing.format(table), _month(time), columns)
        for table, (time, columns) in sums.items()
    ]
    result.append(
        Counterpart(
            "payments",
            _month("payment_date"),
            sums["payments"][1],
            "warehouse.fact_payments",
            _month("payment_date"),
            ("payment_amount", "principal_amount", "interest_amount", "penalty_amount"),
        )
    )
    result.append(
        Counterpart(
            "loans",
            "status",
            sums["loans"][1],
            "warehouse.fact_loans",
            "loan_status",
            ("principal_amount", "outstanding_balance", "interest_rate"),
        )
    )
    return result


def _figures_of(
    connection: psycopg.Connection, relation: str, group: str, columns: tuple[str, ...], key: str, left_out: list[int]
) -> dict[str, tuple[Any, ...]]:
    """Count and sums of a relation by group, without the rows of these keys."""
    sums = "".join(f", coalesce(sum({column}), 0)" for column in columns)
    query = f"select {group}, count(*){sums} from {relation} where not {key} = any(%s) group by 1"  # noqa: S608
    return {row[0]: row[1:] for row in connection.execute(query.encode(), (left_out,)).fetchall()}


def figures(cluster: Cluster) -> str:
    """Compare counts and sums between source and warehouse, by table and month or status. Returns what was compared.

    Rows that changed in transactions that the last extraction did not see are left out on both sides, by their keys, so
    that the comparison is exact also under live traffic, and says something also while an old transaction is open.
    """
    warehouse, primary = cluster.warehouse, cluster.primary
    running = "select count(*) from audit.etl_runs where status = 'running'"
    wait_for(lambda: fetch_value(warehouse, running) == 0, RUN_ENDS_SECONDS, "no run of the warehouse is running")
    with (
        warehouse.connect() as target,
        primary.connect() as source,
    ):
        for connection in (target, source):
            connection.execute("set transaction isolation level repeatable read, read only")
        known = target.execute(
            "select watermark::text, system_identifier, timeline from audit.extraction_state"
        ).fetchone()
        must(known, "nothing was ever extracted: `make etl NOW=1`")
        [(seen,)] = target.execute(
            "select coalesce(array_agg(xact_id::text), '{}') from audit.extraction_transactions"
        ).fetchall()
        watermark, *identity = known or ()
        now = source.execute("select system_identifier, timeline from etl.source_state").fetchone()
        if now is None or tuple(identity) != tuple(now):
            raise Failed("the source was failed over or restored since the last run: `make etl NOW=1` compares it all")
        touched: dict[str, list[int]] = {}
        for table, keys in source.execute(
            "select table_name, array_agg(distinct record_id) from operational.audit_log "
            "where xact_id >= %s::xid8 and xact_id < pg_snapshot_xmax(pg_current_snapshot()) "
            "and xact_id <> all(%s::text[]::xid8[]) group by table_name",
            (watermark, seen),
        ):
            touched[table] = keys
        if reloaded := [table for table, keys in touched.items() if 0 in keys]:
            raise Failed(f"{', '.join(reloaded)} were reloaded since the last run: `make etl NOW=1` reads them")
        groups = 0
        counterparts = _counterparts()
        for pair in counterparts:
            key, left_out = TABLES[pair.table], touched.get(pair.table, [])
            relation = f"operational.{pair.table}"
            theirs = _figures_of(source, relation, pair.source_group, pair.source_columns, key, left_out)
            ours = _figures_of(target, pair.place, pair.group, pair.columns, key, left_out)
            if different := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
                name = different[0]
                raise Failed(
                    f"{pair.table} of {name}: the warehouse has (count, sums) {plain(ours.get(name))}, the OLTP "
                    f"{plain(theirs.get(name))}, in {pair.place.split()[-1]}; {len(different)} groups differ. "
                    "`make reconcile` repairs it"
                )
            groups += len(theirs)
    left = sum(map(len, touched.values()))
    return f"{len(counterparts)} comparisons of {groups} groups" + (
        f"; {left} rows changed since the last run and were left out" if left else ""
    )


def plain(values: tuple[Any, ...] | None) -> str:
    return ", ".join(map(str, values)) if values else "nothing"
