"""The oldest open transaction of the OLTP, and what it costs.

A transaction with an id holds the warehouse's watermark: what changed since it began may still be overtaken by it, so
that each run reads all of that again. It also keeps dead rows from being vacuumed.
"""

from __future__ import annotations

from dataclasses import dataclass

from eds.cluster.connections import Server
from eds.cluster.queries import fetch_all, fetch_dicts

# A session may be in a long batch; a prepared transaction only waits to be ended.
MOST_MINUTES = 10.0
MOST_MINUTES_WITH_MANY_CHANGES = 1.0
MANY_CHANGES = 1000
MOST_MINUTES_PREPARED = 0.2
# How many changes are counted at most.
COUNTED_CHANGES = 1_000_000

_OLDEST = """
    with running as (
        select
            -- The server's own processes have neither a user nor a state.
            'the transaction of process ' || pid || ' (' || concat_ws(
                ', ', coalesce(usename::text, backend_type), nullif(application_name, ''), state
            ) || ')' as who,
            'select pg_terminate_backend(' || pid || ')' as remedy,
            xact_start as since,
            backend_xid as xid,
            false as is_prepared
        from pg_stat_activity
        where backend_xid is not null
        union all
        select
            'the prepared transaction ' || quote_literal(gid) || ' of ' || owner,
            'in database ' || database || ': rollback prepared ' || quote_literal(gid),
            prepared,
            transaction,
            true
        from pg_prepared_xacts
    ),

    oldest as (
        select * from running order by age(xid) desc limit 1
    )

    select
        who,
        remedy,
        since,
        is_prepared,
        extract(epoch from clock_timestamp() - since)::float / 60 as minutes,
        -- It is the oldest: the snapshot's xmin is its id.
        (
            select count(*) from (
                select from operational.audit_log
                where xact_id >= (select pg_snapshot_xmin(pg_current_snapshot()))
                    and xact_id < (select pg_snapshot_xmax(pg_current_snapshot()))
                limit %s
            ) as changes
        ) as changes
    from oldest
"""


@dataclass(frozen=True)
class OldestTransaction:
    """Who has it open and since when, the changes since (COUNTED_CHANGES at most), and how to end it."""

    who: str
    remedy: str
    minutes: float
    is_prepared: bool
    changes: int

    def __str__(self) -> str:
        changes = f"{self.changes:,}{' or more' if self.changes >= COUNTED_CHANGES else ''}"
        return (
            f"{self.who} is open for {self.minutes:.1f} minutes; each run reads the {changes} changes since then again"
        )

    @property
    def problem(self) -> str | None:
        """What is wrong with it and what to do, or None while it may be at its work."""
        most = MOST_MINUTES
        if self.is_prepared:
            most = MOST_MINUTES_PREPARED
        elif self.changes >= MANY_CHANGES:
            most = MOST_MINUTES_WITH_MANY_CHANGES
        return (
            f"{self}, and no dead row is vacuumed. If it was forgotten: {self.remedy}" if self.minutes > most else None
        )


def oldest_transaction(primary: Server) -> OldestTransaction | None:
    """Return the oldest transaction with an id that is open on the primary, or None."""
    rows = fetch_dicts(primary, _OLDEST, (COUNTED_CHANGES,))
    if not rows:
        return None
    row = rows[0]
    return OldestTransaction(row["who"], row["remedy"], row["minutes"], row["is_prepared"], row["changes"])


# What is left of a time as a standby, or of a former configuration, until the next start: not what the files say.
_ACCEPTED = """
    select setting::integer from pg_settings
    where name = 'max_prepared_transactions' and setting::integer > 0
        and (source = 'command line' or pending_restart) and not pg_is_in_recovery()
"""


def accepts_prepared(server: Server) -> str | None:
    """Return a sentence when a primary accepts PREPARE TRANSACTION until it is started again, or None.

    A promotion changes no setting that a running server holds, and a replica has this one where its data needs it.
    """
    rows = fetch_all(server, _ACCEPTED, database="postgres")
    if not rows:
        return None
    return (
        f"{server.name} accepts PREPARE TRANSACTION, which can hold the change feed back for ever "
        f"(max_prepared_transactions is {rows[0][0]} until it is started again): `make up` restarts it"
    )


def prepared(server: Server) -> list[str]:
    """Return how each prepared transaction of any database is ended: with one, a server with room for none stops."""
    query = "select format('%s: rollback prepared %L', database, gid) from pg_prepared_xacts order by prepared"
    return [row[0] for row in fetch_all(server, query)]
