"""dbt's connections to the warehouse: one for each of its threads, for the length of a run.

dbt opens one for each node and closes it behind that. To log in, and to read the catalogue into a new session, took a
third of the server's work in a run without a change.
"""

from __future__ import annotations

import psycopg2
from dbt.adapters.postgres.connections import PostgresConnectionManager
from dbt.adapters.postgres.impl import PostgresAdapter
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS

# Its session holds connections to the source, which go with it.
EXTRACTION = ".extraction"


class KeptConnections(PostgresConnectionManager):  # type: ignore[misc]
    """Connections that a node leaves open for the next one of its thread, with its transaction rolled back.

    One whose node failed, or that was lost, is closed, so that nothing but a sound session is handed on.
    """

    def release(self) -> None:
        """Take the thread's connection back from a node."""
        connection = self.get_if_exists()
        if connection is None or connection.state != "open":
            return
        handle = connection.handle
        status = handle.info.transaction_status
        sound = not handle.closed and status in (TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS)
        if not sound or (connection.name or "").endswith(EXTRACTION):
            super().release()
            return
        try:
            handle.rollback()
            connection.transaction_open = False
        except psycopg2.Error:
            super().release()


def keep_connections() -> None:
    """Make dbt in this process keep its connections."""
    PostgresAdapter.ConnectionManager = KeptConnections
