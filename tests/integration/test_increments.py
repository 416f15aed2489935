"""The most important promise of the models: increments give the marts that a full computation gives, in every column.

Not compared: dim_date, in which an increment keeps years that no longer occur in the data (only a full computation
removes them), and the snapshots, which a full refresh does not rebuild (test_history.py compares them with an oracle).
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from eds.warehouse.runs import DATA_BUILD
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import MARTS, changed_nodes
from support.random_book import Change, apply, changes

pytestmark = pytest.mark.proof

EXAMPLES = int(os.environ.get("INCREMENT_EXAMPLES", "3"))

BASE = [Change("add_customer", 0, number) for number in range(8)]
BASE += [Change("add_loan", number, number * 7) for number in range(16)]
BASE += [Change("pay", number, 10 + number) for number in range(24)]


def contents(platform: Any) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of every mart but dim_date, and of the published copies, in a fixed order."""
    result = {}
    tables = [f"warehouse.{mart}" for mart in MARTS if mart != "dim_date"]
    published = {row[0] for row in platform.warehouse("select tablename from pg_tables where schemaname = 'publish'")}
    tables += [f"publish.{mart}" for mart in MARTS if mart in published]
    assert len(tables) > len(MARTS)
    for table in tables:
        result[table] = sorted(platform.warehouse(f"select * from {table}"), key=str)
    return result


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(rounds=st.lists(st.lists(changes, min_size=6, max_size=25), min_size=2, max_size=3))
def test_increments_equal_a_full_refresh(all_servers, rounds):
    platform = all_servers
    platform.empty_book()
    platform.empty_warehouse()
    for change in BASE:
        apply(platform.app_conninfo, change)
    platform.wait_for_replicas()
    platform.build()
    for each in rounds:
        for change in each:
            apply(platform.app_conninfo, change)
        platform.wait_for_replicas()
        # An environment variable, because another --vars would make dbt parse the complete project again.
        result = platform.dbt(*DATA_BUILD, environment={"ETL_MAX_DELETE_SHARE": "1"})
        assert result.exit_code == 0, result.run
    incremental = contents(platform)
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)

    full = platform.build("--full-refresh")
    complete = contents(platform)
    for table, rows in complete.items():
        missing = [row for row in rows if row not in incremental[table]]
        extra = [row for row in incremental[table] if row not in rows]
        note(f"{table}: only after a full refresh {missing[:3]}, only by increments {extra[:3]}")
        assert (missing, extra) == ([], []), table
    # The full refresh works in place, by difference: it must have found none.
    assert changed_nodes(platform, full.run["run_id"]) == []
