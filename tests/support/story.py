"""A story of the loan book: changes, runs, and transactions that commit only after the next run, with its history."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import psycopg

from eds.cluster.connections import connect
from eds.warehouse.runs import DATA_BUILD
from support.history_oracle import History
from support.platform import Platform
from support.random_book import Change, change_book
from support.readers import oltp_state
from support.servers import server_read

# What the clock of the server shows at a change, against the time of the change before it.
CLOCKS = {"same_time": "interval '0'", "backwards_clock": "interval '-1 hour'", "ahead": "interval '1 hour'"}


def change_by_the_clock(platform: Platform, change: Change) -> None:
    """Change a customer and a loan with a time that the trigger would not give."""
    with connect(platform.superuser_conninfo) as connection:
        # The DDL must not wait for late transactions.
        connection.execute("set local lock_timeout = '300ms'")
        for table, key, value in (
            ("customers", "customer_id", f"city = 'City {change.value % 3}'"),
            ("loans", "loan_id", f"loan_officer = 'Officer {change.value % 3}'"),
        ):
            connection.execute(f"alter table operational.{table} disable trigger {table}_stamp_row")
            connection.execute(
                f"update operational.{table} set {value}, updated_at = updated_at + {CLOCKS[change.kind]} "
                f"where {key} = (select {key} from operational.{table} order by {key} "
                f"offset %s %% greatest((select count(*) from operational.{table}), 1) limit 1)",
                (change.row,),
            )
            connection.execute(f"alter table operational.{table} enable always trigger {table}_stamp_row")


class Story:
    """Changes between runs, and the transactions that commit only after the next run."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.history = History(platform.superuser_conninfo)
        self.late: list[psycopg.Connection] = []
        # How many transactions committed after the last run.
        self.ended_late = 0
        # What to wait for before a run.
        self.wait: Callable[[], None] = platform.wait_for_replicas

    def tell(self, change: Change) -> None:
        if change.kind in CLOCKS:
            with contextlib.suppress(psycopg.errors.LockNotAvailable):
                change_by_the_clock(self.platform, change)
        elif change.kind.startswith("late"):
            connection = connect(self.platform.app_conninfo)
            self.late.append(connection)
            # Its time is that of the statement; others continue, a run passes, then it commits.
            self.attempt(connection, Change(f"change_{change.kind[5:]}", change.row, change.value))
        else:
            with connect(self.platform.app_conninfo) as connection:
                self.attempt(connection, change)

    def attempt(self, connection: psycopg.Connection, change: Change) -> None:
        connection.execute("set local lock_timeout = '100ms'")
        # A row that a late transaction holds is left alone.
        with contextlib.suppress(psycopg.errors.LockNotAvailable), connection.transaction():
            change_book(connection, change)

    def run(self, *options: str) -> str:
        """Run, and compare with the server that was read. Transactions that were late commit afterwards.

        Returns a superuser's connection string of that server; `state` is what it showed.
        """
        self.wait()
        result = self.platform.dbt(*DATA_BUILD, *options, environment={"ETL_MAX_DELETE_SHARE": "1"})
        assert result.exit_code == 0 and result.run is not None, result.run
        read = self.platform.servers[server_read(self.platform, result.run)].superuser_conninfo()
        self.state = oltp_state(read)
        self.history.oltp = read
        self.history.observe()
        self.history.compare(self.platform)
        self.end_late()
        return read

    def end_late(self) -> None:
        self.ended_late = len(self.late)
        for connection in self.late:
            connection.commit()
            connection.close()
        self.late.clear()
