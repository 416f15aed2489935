"""Live traffic on a real server: the books balance, everything is on record, and trouble is survived."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from rich.console import Console

from eds.base.errors import UserError
from eds.book.demo.fill import Scale, fill
from eds.book.demo.names import Branch
from eds.book.invariants import INVARIANTS
from eds.book.operations import WEIGHTED, NothingSuitable, Transaction
from eds.book.simulate import OPERATIONS, TrafficCounts, simulate
from support.book import add_customer, add_loan, pay
from support.lender_book import add_installments
from support.lender_oracle import Installment, annuity, cents
from support.waiting import wait_until

FREQUENT = (
    "application",
    "disbursement",
    "payment",
    "late_payment",
    "reversal",
    "customer_move",
    "status_change",
    "transfer",
)
KEYS = {
    "customers": "customer_id",
    "loan_products": "product_id",
    "loans": "loan_id",
    "payments": "payment_id",
}


@pytest.fixture
def owner(empty_book: Any) -> Iterator[psycopg.Connection[Any]]:
    """Yield the superuser's connection to an empty book."""
    with psycopg.connect(empty_book.superuser_conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def connect(empty_book: Any) -> Callable[[], psycopg.Connection[Any]]:
    """Provide connections as the application makes them through a pooler."""
    return lambda: psycopg.connect(empty_book.app_conninfo, prepare_threshold=None)


def rows(connection: psycopg.Connection[Any], query: str) -> list[Any]:
    return connection.execute(query.encode()).fetchall()


def broken_rules(connection: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    found = {rule: rows(connection, query)[:3] for rule, query in INVARIANTS.items()}
    return {rule: broken for rule, broken in found.items() if broken}


def in_background(connect: Callable[[], psycopg.Connection[Any]], **options: Any) -> tuple[threading.Thread, list[Any]]:
    """Start a simulation in a thread. Returns the thread and a list that gets its result or its exception."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(simulate(connect, **options))
        except BaseException as error:  # reported to the test
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, results


def wait_for_payments(connection: psycopg.Connection[Any], more_than: int) -> None:
    wait_until(lambda: rows(connection, "select count(*) from operational.payments")[0][0] > more_than)


def test_traffic_keeps_the_books_and_is_on_record(
    owner: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    fill(owner, Scale.parse("3000"))
    for table, key in KEYS.items():
        owner.execute(
            f"create temporary table {table}_before as select {key} as id, to_jsonb({table}) as content "
            f"from operational.{table}".encode()
        )
    owner.execute("create temporary table trail_before as select max(log_id) as log_id from operational.audit_log")

    counts = simulate(connect, rate=50, seconds=4, seed=3, workers=2)

    assert broken_rules(owner) == {}
    assert [operation for operation in FREQUENT if counts[operation] == 0] == []
    assert counts.failures == 0
    assert counts.total == sum(counts.values()) > 0
    assert tuple(counts) == OPERATIONS

    owner.execute(
        "create temporary table trail as select * from operational.audit_log "
        "where log_id > (select log_id from trail_before)"
    )
    for table, key in KEYS.items():
        # Replaying the trail over the rows from before gives the rows that are there now, and each entry starts from
        # what the one before it left behind.
        unexplained = rows(
            owner,
            f"""
            with last_entry as (
                select distinct on (record_id) record_id, new_values
                from trail where table_name = '{table}' order by record_id, log_id desc
            ),
            replayed as (
                select
                    coalesce(before.id, last_entry.record_id) as id,
                    case when last_entry.record_id is null then before.content else last_entry.new_values end as content
                from {table}_before as before
                full join last_entry on before.id = last_entry.record_id
            )
            select coalesce(replayed.id, present.{key}), replayed.content, to_jsonb(present)
            from (select * from replayed where content is not null) as replayed
            full join operational.{table} as present on replayed.id = present.{key}
            where replayed.content is distinct from to_jsonb(present)
            """,
        )
        assert unexplained == [], table
        gaps = rows(
            owner,
            f"""
            select trail.log_id
            from (
                select *, lag(new_values) over (partition by record_id order by log_id) as left_behind,
                    row_number() over (partition by record_id order by log_id) as position
                from trail where table_name = '{table}'
            ) as trail
            left join {table}_before as before on trail.record_id = before.id
            where old_values is distinct from case when position = 1 then before.content else left_behind end
            """,
        )
        assert gaps == [], table

    recorded = {
        (table, operation): count
        for table, operation, count in rows(owner, "select table_name, operation, count(*) from trail group by 1, 2")
    }
    assert recorded["payments", "INSERT"] == counts["payment"] + counts["late_payment"] + counts["long_payment"]
    assert recorded["loans", "INSERT"] == counts["application"]
    assert recorded["customers", "UPDATE"] == counts["customer_move"]
    assert recorded.get(("customers", "DELETE"), 0) == counts["customer_deletion"]
    assert recorded.get(("loan_products", "UPDATE"), 0) == counts["product_change"]
    assert recorded.get(("loans", "DELETE"), 0) == counts["pending_loan_deletion"] + counts["loan_deletion"]
    assert recorded["loans", "UPDATE"] == sum(
        counts[operation]
        for operation in (
            *("disbursement", "payment", "late_payment", "long_payment", "reversal", "status_change", "transfer"),
        )
    )
    assert {row[0] for row in rows(owner, "select distinct changed_by from trail")} == {"app_user"}


def test_empty_book_starts_with_applications(
    owner: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    counts = simulate(connect, rate=100, seconds=2, seed=1)
    assert counts["application"] > 0
    assert counts["payment"] > 0
    assert broken_rules(owner) == {}


def test_high_rate_does_many_rare_operations(
    owner: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    """Faster than the server: every worker is busy all the time, and the books still balance."""
    fill(owner, Scale.parse("3000"))
    # One operation in many is rolled back on purpose: a slow machine needs more than one round to see one.
    for seed in range(2, 14):
        counts = simulate(connect, rate=100_000, seconds=4, seed=seed, workers=4)
        assert counts.failures == 0
        assert counts.rate < 100_000
        if counts.rollbacks:
            break
    else:
        pytest.fail("no operation was rolled back on purpose")
    assert broken_rules(owner) == {}


@dataclass
class Alone:
    """The surroundings of an operation that needs none of them."""

    product_ids: list[int] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    timezone: str = "UTC"
    halt: threading.Event = field(default_factory=threading.Event)


def test_a_loan_is_deleted_with_its_instalments(
    owner: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    with connect() as connection, connection.cursor() as cursor:
        loan = add_loan(connection, add_customer(connection))
        pay(connection, loan)
        add_installments(connection, loan, annuity(cents("1000"), cents("12"), 3, date(2026, 1, 31)))
        WEIGHTED["loan_deletion"][1](Transaction(cursor, random.Random(1), Alone()))
    assert rows(owner, "select count(*) from operational.loans") == [(0,)]
    assert rows(owner, "select count(*) from operational.loan_installments") == [(0,)]


def operate(connect: Callable[[], psycopg.Connection[Any]], name: str, times: int = 1) -> None:
    """Carry out one operation alone, each time in a transaction of its own."""
    with connect() as connection:
        for seed in range(times):
            with connection.transaction(), connection.cursor() as cursor:
                WEIGHTED[name][1](Transaction(cursor, random.Random(seed), Alone()))


def test_payments_follow_the_calendar_of_each_loan(
    owner: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    """What is due is paid first, by its own instalments; what is overdue costs a penalty; nothing due: ahead."""
    today = owner.execute("select (now() at time zone 'UTC')::date").fetchone()[0]
    weekly = [
        Installment(number, today + timedelta(days=7 * (number - 2)), Decimal("250.00"), Decimal(number))
        for number in (1, 2, 3, 4)
    ]
    with connect() as connection:
        customer = add_customer(connection)
        # Two loans of which nothing is due, and one that owes an instalment of last week and one of today.
        young = [add_loan(connection, customer, disbursed_at=str(today)) for _ in range(2)]
        due = add_loan(connection, customer, disbursed_at=str(today - timedelta(days=14)))
        add_installments(connection, due, weekly)
    with pytest.raises(NothingSuitable):
        operate(connect, "late_payment", 20)
    paid = rows(
        owner,
        "select loan_id, sum(principal_portion), sum(interest_portion), min(penalty_portion) from "
        "operational.payments group by 1",
    )
    # Parts, until the instalment of last week is paid; that of today is not late.
    assert [(loan, principal, interest) for loan, principal, interest, _ in paid] == [(due, 250, 1)]
    assert paid[0][3] > 0
    operate(connect, "payment")
    assert rows(owner, "select sum(principal_portion), sum(interest_portion) from operational.payments") == [(500, 3)]
    operate(connect, "payment")
    ahead = rows(owner, "select loan_id from operational.payments order by payment_id desc limit 1")[0][0]
    assert ahead in (due, *young)
    assert broken_rules(owner) == {}


def test_a_weekly_loan_that_is_paid_out_has_its_instalments(
    owner: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    product = rows(owner, "select product_id from operational.loan_products where product_name = 'Soko Weekly Loan'")
    with connect() as connection:
        loan = add_loan(
            connection, add_customer(connection), product_id=product[0][0], tenure_months=6, status="pending",
            amount="5000.00", disbursed_at=None, maturity_date=None, outstanding_balance="0.00",
        )  # fmt: skip
    operate(connect, "disbursement")
    assert rows(
        owner,
        "select loan_id, count(*), sum(principal_due), min(due_date) - min(disbursed_at)::date "
        "from operational.loan_installments inner join operational.loans using (loan_id) group by 1",
    ) == [(loan, 26, 5000, 7)]
    assert broken_rules(owner) == {}


def test_stop_ends_it_early(owner: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]) -> None:
    stop = threading.Event()
    thread, results = in_background(connect, rate=20, seconds=3600, stop=stop)
    wait_for_payments(owner, 0)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(results[0], TrafficCounts)
    assert results[0].seconds < 3600
    assert broken_rules(owner) == {}


def test_terminated_connections_are_made_again(
    owner: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    fill(owner, Scale.parse("500"))
    stop = threading.Event()
    thread, results = in_background(connect, rate=100, seconds=3600, stop=stop)
    for _ in range(3):
        wait_for_payments(owner, rows(owner, "select count(*) from operational.payments")[0][0])
        owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app_user'")
    wait_for_payments(owner, rows(owner, "select count(*) from operational.payments")[0][0] + 5)
    stop.set()
    thread.join(60)
    assert isinstance(results[0], TrafficCounts), results[0]
    assert results[0].retries > 0
    assert broken_rules(owner) == {}


def test_locked_rows_are_retried_and_do_not_keep_it_from_stopping(
    empty_book: Any, owner: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    fill(owner, Scale.parse("500"))
    stop = threading.Event()
    with psycopg.connect(empty_book.superuser_conninfo) as holder:
        holder.execute("select from operational.loans for update")
        thread, results = in_background(connect, rate=50, seconds=3600, stop=stop)
        wait_until(
            lambda: rows(
                owner,
                "select true from pg_stat_activity where usename = 'app_user' and wait_event_type = 'Lock'",
            )
        )
        # Longer than the wait for a lock may take.
        time.sleep(1.5)
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
    assert isinstance(results[0], TrafficCounts), results[0]
    assert results[0].retries > 0
    assert broken_rules(owner) == {}


def test_nothing_to_lend_is_reported(
    owner: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    active = [row[0] for row in rows(owner, "select product_id from operational.loan_products where is_active")]
    try:
        owner.execute("update operational.loan_products set is_active = false")
        with pytest.raises(UserError, match="Expected active products"):
            simulate(connect, rate=10, seconds=1)
    finally:
        owner.execute("update operational.loan_products set is_active = product_id = any(%s)", (active,))


def test_no_server_is_reported() -> None:
    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect("host=127.0.0.1 port=1 user=app_user dbname=loans_db connect_timeout=2")

    with pytest.raises(UserError, match="to answer"):
        simulate(connect, rate=10, seconds=1)


def test_counts_print_as_a_table() -> None:
    counts = TrafficCounts()
    counts.add("payment")
    counts.add(retries=2)
    counts.seconds = 2.0
    console = Console(width=100, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(counts.table())
    assert "late payment" in captured.get()
    assert "0.5 operations/s" in captured.get()
