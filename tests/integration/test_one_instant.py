"""Every run shows one moment of the bank: what a transaction changed together is never seen apart."""

from __future__ import annotations

import threading

import pytest

from eds import demo, simulate
from eds.db import connect

from .conftest import use_only
from .oracle import assert_landing_equals_source, assert_views_equal_the_oltp

BALANCES = """
    select loans.loan_id from {schema}.loans as loans
    left join (
        select loan_id, sum(principal_portion) as principal from {schema}.payments {live_payments} group by loan_id
    ) as paid on paid.loan_id = loans.loan_id
    where loans.status <> 'pending' {live_loans}
        and loans.outstanding_balance <> loans.amount - coalesce(paid.principal, 0)
"""
LANDING = BALANCES.format(
    schema="operational", live_payments="where _deleted_at is null", live_loans="and loans._deleted_at is null"
)


@pytest.mark.parametrize("source", ["replica1", "replica2", "primary"])
def test_balances_and_payments_agree_after_every_run_while_traffic_goes_on(platform, source):
    with connect(platform.superuser_conninfo) as connection:
        demo.fill(connection, demo.Scale.parse("2000"))
    platform.wait_for_replicas()
    platform.build()
    use_only(platform, source)
    stop = threading.Event()
    counts = []
    traffic = threading.Thread(
        target=lambda: counts.append(
            simulate.simulate(
                lambda: connect(platform.app_conninfo, prepare_threshold=None),
                rate=120,
                seconds=300,
                seed=7,
                workers=2,
                stop=stop,
            )
        )
    )
    traffic.start()
    try:
        for _ in range(2):
            result = platform.build()
            assert result.run["source_host"].endswith(str(platform.servers[source].port))
            assert platform.warehouse(LANDING) == []
            assert (
                platform.warehouse(
                    "select loan_id from warehouse.fact_loans "
                    "where is_disbursed and outstanding_balance <> principal_amount - principal_paid"
                )
                == []
            )
    finally:
        stop.set()
        traffic.join()
    assert counts[0].total > 100
    platform.wait_for_replicas()
    platform.build()
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)
