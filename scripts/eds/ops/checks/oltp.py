"""The OLTP database: its rows, the audit trail, the invariants of the books, the application's writes."""

from __future__ import annotations

import secrets

from eds.book.invariants import INVARIANTS, violations
from eds.book.tables import TABLES
from eds.cluster.connections import Cluster
from eds.cluster.queries import fetch_all, fetch_value, in_recovery
from eds.ops.checks.result import Verification, Warned, must
from eds.ops.transactions import accepts_prepared, oldest_transaction


def primary_answers(cluster: Cluster) -> str:
    """Check that the noted primary answers and is one."""
    server = cluster.primary
    must(not in_recovery(server), f"{server.name} at port {server.port} is a replica; who is the primary? (`make ps`)")
    return f"{server.name}, PostgreSQL {fetch_value(server, 'show server_version')}"


def check(run: Verification) -> None:
    """Check the loan book: rows, audit trail, invariants, writes, checksums."""
    cluster = run.cluster
    server = cluster.primary
    counts: dict[str, int] = {}

    def has_data(table: str) -> str:
        counts[table] = fetch_value(server, f"select count(*) from operational.{table}")  # noqa: S608 - names of our own
        if not counts[table]:
            raise Warned("it is empty (`make demo` fills an empty book)")
        return f"{counts[table]} rows"

    def triggers() -> str:
        rows = fetch_all(
            server,
            "select count(*) filter (where tgenabled = 'A'), count(*) from pg_trigger "
            "where tgrelid = any(%s::regclass[]) and not tgisinternal",
            ([f"operational.{table}" for table in (*TABLES, "audit_log")],),
        )
        expected = 3 * len(TABLES) + 1
        must(
            rows[0] == (expected, expected), f"{expected} should be enabled always, found {rows[0][0]} of {rows[0][1]}"
        )
        return f"{expected} triggers, enabled always"

    def invariants() -> str:
        if broken := violations(server):
            raise Warned("; ".join(f"{count} rows break: {name}" for name, count in broken.items()))
        return f"{len(INVARIANTS)} rules hold"

    def forgotten() -> str:
        oldest = oldest_transaction(server)
        must(not (oldest and oldest.problem), str(oldest and oldest.problem))
        return str(oldest) if oldest else "none is open"

    def nothing_is_prepared() -> str:
        must(not (accepts := accepts_prepared(server)), str(accepts))
        return f"max_prepared_transactions is {fetch_value(server, 'show max_prepared_transactions')}"

    # A lender need not record schedules.
    filled = [table for table in TABLES if table != "loan_installments"]
    for table in (*filled, "audit_log", "vw_active_loans", "vw_customer_payment_summary"):
        run.check("OLTP", f"operational.{table} has rows", lambda table=table: has_data(table))  # type: ignore[misc]
    run.check("OLTP", "the audit trail cannot be bypassed", triggers)
    run.check("OLTP", "the invariants of the books hold", invariants)
    run.check(
        "OLTP", "the application can write, and every change is in the trail", lambda: _application_writes(cluster)
    )
    run.check("OLTP", "no transaction was forgotten open", forgotten)
    run.check("OLTP", "prepared transactions are disabled", nothing_is_prepared)
    run.check("OLTP", "data checksums are on and no block is broken", lambda: _checksums(cluster))


def _application_writes(cluster: Cluster) -> str:
    """Write a customer with a loan and a payment with the application's rights, and roll back."""
    # Keys that no sequence gives out, so that no key is used up.
    key = -secrets.randbelow(2**31 - 1) - 1
    trail = "select count(*), count(distinct operation) from operational.audit_log where record_id = %s"
    with cluster.primary.connect() as connection:
        connection.execute("set session authorization app_user")
        connection.execute("insert into operational.customers (customer_id, full_name) values (%s, 'verify')", (key,))
        connection.execute(
            "insert into operational.loans (loan_id, customer_id, product_id, amount, interest_rate, tenure_months, "
            "status, disbursed_at, outstanding_balance) "
            "select %s, %s, min(product_id), 100, 12, 12, 'active', now(), 100 from operational.loan_products",
            (key, key),
        )
        connection.execute(
            "insert into operational.payments (payment_id, loan_id, amount, principal_portion, interest_portion, "
            "payment_method) values (%s, %s, 10, 9, 1, 'cash')",
            (key, key),
        )
        connection.execute("update operational.loans set outstanding_balance = 91 where loan_id = %s", (key,))
        connection.execute("delete from operational.payments where payment_id = %s", (key,))
        # The application may not read the trail.
        connection.execute("reset session authorization")
        row = connection.execute(f"{trail} and changed_by = 'app_user'", (key,)).fetchone()
        connection.rollback()
    must(row == (5, 3), f"five changes of three kinds should be in the trail as app_user's, found {row}")
    left = fetch_all(cluster.primary, trail, (key,))[0][0]
    must(left == 0, f"{left} rows are left in the trail")
    return "insert, update and delete recorded, then rolled back"


def _checksums(cluster: Cluster) -> str:
    server = cluster.primary
    must(fetch_value(server, "show data_checksums") == "on", "data checksums are off")
    broken = fetch_value(server, "select coalesce(sum(checksum_failures), 0)::bigint from pg_stat_database")
    must(broken == 0, f"{broken} broken blocks were read: restore, or fail over")
    return ""
