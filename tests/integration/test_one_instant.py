"""Every run shows one instant of the loan book: what a transaction changed together is never seen apart."""

from __future__ import annotations

import threading

import pytest

from eds.book import simulate
from eds.book.demo import fill
from eds.cluster.connections import connect
from support.book import pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import use_only

pytestmark = pytest.mark.proof

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
def test_balances_and_payments_agree_after_every_run_under_traffic(platform, source):
    with connect(platform.superuser_conninfo) as connection:
        fill.fill(connection, fill.Scale.parse("2000"))
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


@pytest.mark.parametrize("source", ["replica1", "replica2", "primary"])
def test_what_changes_while_a_run_reads_is_seen_completely_or_not_at_all(small_book, source):
    """A run is held between two tables; what moves between them meanwhile must not be seen in one of them only."""
    platform = small_book
    use_only(platform, source)
    with platform.app() as connection:
        connection.execute("update operational.loans set loan_officer = 'Achieng' where loan_id = 3")
    platform.wait_for_replicas()
    # It reads the payments after it has written the loans.
    with platform.held_run("loans") as child:
        with platform.app() as connection:
            # a payment with its balance, a transfer from one loan to another, a reversal with its compensation
            pay(connection, 1, "40.00", "4.00")
            connection.execute("update operational.payments set loan_id = 2 where payment_id = 1")
            connection.execute(
                "update operational.loans set outstanding_balance = outstanding_balance + "
                "case loan_id when 1 then 100 else -100 end where loan_id in (1, 2)"
            )
            connection.execute("delete from operational.payments where payment_id = 7")
            connection.execute(
                "update operational.loans set outstanding_balance = outstanding_balance + 100 where loan_id = 3"
            )
        platform.wait_for_replicas()
    child.join()
    assert child.exitcode == 0
    assert platform.warehouse(LANDING) == []
    assert platform.warehouse("select count(*) from operational.payments where payment_id = 19") == [(0,)]
    platform.build()
    assert platform.warehouse(LANDING) == []
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)
