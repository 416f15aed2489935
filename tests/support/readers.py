"""Dashboards that read all the time, as people have them open: nothing that runs beside them may disturb them."""

from __future__ import annotations

import threading
import time
from decimal import Decimal
from typing import Any

import psycopg

from eds.cluster.connections import connect

State = tuple[Decimal, int, int, Decimal]

VIEWS_STATE = (
    "select sum(total_revenue), sum(payment_count) from warehouse.vw_monthly_revenue",
    "select sum(total_amount), sum(payment_count) from warehouse.vw_payment_by_method",
    "select sum(total_paid), sum(payment_count) from warehouse.vw_top_customers",
    "select sum(loan_count), sum(total_outstanding) from warehouse.vw_loan_status_distribution",
    "select sum(loan_count), sum(total_outstanding), sum(total_collected) from warehouse.vw_branch_performance",
)
LONGEST_WAIT_SECONDS = 5.0
PAUSE_SECONDS = 0.03


def oltp_state(conninfo: str) -> State:
    """Return what the views should add up to: sum and number of payments, number of loans, sum outstanding."""
    with connect(conninfo) as connection:
        row = connection.execute(
            "select (select coalesce(sum(amount), 0) from operational.payments), "
            "(select count(*) from operational.payments), count(*), coalesce(sum(outstanding_balance), 0) "
            "from operational.loans"
        ).fetchone()
    assert row is not None
    return row


class Readers:
    """Four connections of the dashboards' role that read all five views, each time in one REPEATABLE READ transaction.

    Use as a context manager; `assert_good` afterwards, or meanwhile, says whether anything was amiss.
    """

    def __init__(self, conninfo: str, count: int = 4) -> None:
        self.conninfo = conninfo
        self.problems: list[str] = []
        self.states: set[State] = set()
        self.reads = 0
        self.longest = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(count)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        try:
            with psycopg.connect(self.conninfo) as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                while not self._stop.is_set():
                    started = time.monotonic()
                    with connection.transaction():
                        # An empty book's sums are 0, as the OLTP's are.
                        months, methods, customers, statuses, branches = (
                            tuple(value or 0 for value in connection.execute(query).fetchall()[0])
                            for query in VIEWS_STATE
                        )
                    self.longest = max(self.longest, time.monotonic() - started)
                    self.reads += 1
                    loans, outstanding, collected = branches
                    if not (
                        months == methods == customers and months[0] == collected and statuses == (loans, outstanding)
                    ):
                        self.problems.append(f"views disagree: {months} {methods} {customers} {statuses} {branches}")
                    self.states.add((Decimal(months[0]), months[1], loans, Decimal(outstanding)))
                    # As fast as the machine can would leave it no time for what is tested.
                    self._stop.wait(PAUSE_SECONDS)
        except psycopg.Error as error:
            self.problems.append(f"{type(error).__name__}: {error}")

    def assert_good(self, *allowed: State) -> None:
        """Assert no error, no long wait, views that agree, and no state but those that a run has published."""
        assert self.problems == [], self.problems[:5]
        assert self.reads > 20
        assert self.longest <= LONGEST_WAIT_SECONDS, f"a reader waited for {self.longest:.1f} s"
        assert self.states <= set(allowed), f"seen {self.states - set(allowed)}, published {allowed}"
