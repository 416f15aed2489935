"""The loan book's own promises: a complete trail, honest time stamps, and roles that may do what they should."""

from __future__ import annotations

import psycopg
import pytest

from eds.cluster.connections import connect
from support.book import add_customer, add_loan, pay


def trail(platform, table):
    return platform.primary(
        "select operation, record_id, changed_by, old_values is null, new_values is null from operational.audit_log "
        "where table_name = %s order by log_id",
        (table,),
    )


def test_every_change_is_in_the_trail_with_who_and_both_images(empty_book):
    with empty_book.app() as connection:
        customer = add_customer(connection)
        connection.execute("update operational.customers set city = 'Thika' where customer_id = %s", (customer,))
        connection.execute("delete from operational.customers where customer_id = %s", (customer,))
    assert trail(empty_book, "customers") == [
        ("INSERT", customer, "app_user", True, False),
        ("UPDATE", customer, "app_user", False, False),
        ("DELETE", customer, "app_user", False, True),
    ]


def test_a_changed_key_is_a_deletion_and_an_insertion(empty_book):
    with empty_book.app() as connection:
        customer = add_customer(connection)
        connection.execute("update operational.customers set customer_id = 777 where customer_id = %s", (customer,))
    assert [row[:2] for row in trail(empty_book, "customers")] == [
        ("INSERT", customer),
        ("DELETE", customer),
        ("INSERT", 777),
    ]


def test_the_trail_is_written_also_for_a_session_that_replays(empty_book):
    with connect(empty_book.superuser_conninfo) as connection:
        connection.execute("set session_replication_role = replica")
        add_customer(connection)
    assert len(trail(empty_book, "customers")) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "update operational.audit_log set changed_by = 'nobody'",
        "delete from operational.audit_log",
        "truncate operational.audit_log",
        "truncate operational.payments",
        "truncate operational.customers cascade",
    ],
)
def test_nobody_rewrites_the_trail_or_empties_a_table_behind_it(empty_book, statement):
    with connect(empty_book.superuser_conninfo) as connection:
        with pytest.raises(psycopg.errors.RaiseException, match=r"append-only|refused"):
            connection.execute(statement)
        connection.rollback()
    with connect(empty_book.app_conninfo) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


def test_updated_at_is_the_platforms_and_increases_with_every_change_also_within_a_transaction(empty_book):
    with empty_book.app() as connection:
        customer = add_customer(connection, updated_at="1999-01-01T00:00:00+00")
        seen = []
        for city in ("A", "B", "C"):
            row = connection.execute(
                "update operational.customers set city = %s, updated_at = '2099-01-01', created_at = '1999-01-01' "
                "where customer_id = %s returning updated_at, created_at",
                (city, customer),
            ).fetchone()
            seen.append(row[0])
            assert row[1].year >= 2026
    assert seen == sorted(set(seen))
    assert all(2026 <= moment.year < 2099 for moment in seen)


def test_updated_at_increases_when_the_clock_goes_backwards(empty_book):
    with connect(empty_book.superuser_conninfo) as connection:
        customer = add_customer(connection)
        connection.execute("alter table operational.customers disable trigger customers_stamp_row")
        connection.execute("update operational.customers set updated_at = '2090-01-01'")
        connection.execute("alter table operational.customers enable always trigger customers_stamp_row")
        row = connection.execute(
            "update operational.customers set city = 'B' where customer_id = %s returning updated_at", (customer,)
        ).fetchone()
    assert row[0].isoformat() == "2090-01-01T00:00:00.000001+00:00"


def test_updates_of_a_balance_stay_hot_under_the_trail(empty_book):
    with empty_book.app() as connection:
        loans = [add_loan(connection, add_customer(connection), "100000.00") for _ in range(5)]
    before = empty_book.primary(
        "select pg_stat_force_next_flush(), n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'loans'"
    )[0]
    with empty_book.app() as connection:
        for loan in loans * 4:
            pay(connection, loan, "1.00", "0.10")
        connection.execute("select pg_stat_force_next_flush()")
    with empty_book.app() as connection:
        connection.execute("select 1")
    for _ in range(50):
        after = empty_book.primary(
            "select pg_sleep(0.1), n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'loans'"
        )[0]
        if after[1] - before[1] == 20:
            break
    assert (after[1] - before[1], after[2] - before[2]) == (20, 20)


MATRIX: dict[str, dict[str, set[str]]] = {
    # role: object -> the verbs it may use
    "app_user": {
        **{
            key: {"select", "insert", "update", "delete"} for key in ("customers", "loan_products", "loans", "payments")
        },
        "audit_log": set(),
        "vw_active_loans": {"select"},
    },
    "readonly_user": {
        **{key: {"select"} for key in ("customers", "loans", "payments", "audit_log", "vw_active_loans")},
    },
    "etl_reader": {
        **{key: {"select"} for key in ("customers", "loan_products", "loans", "payments")},
        "audit_log": set(),
    },
    "pgbouncer_lookup": {key: set() for key in ("customers", "loans", "payments", "audit_log")},
}


@pytest.mark.parametrize("role", sorted(MATRIX))
def test_a_role_may_do_what_it_should_and_nothing_else(empty_book, role):
    for name, allowed in MATRIX[role].items():
        found = {
            verb
            for verb in ("select", "insert", "update", "delete", "truncate")
            if empty_book.primary("select has_table_privilege(%s, %s, %s)", (role, f"operational.{name}", verb))[0][0]
        }
        assert found == allowed, f"{role} on {name}"
    assert empty_book.primary(
        "select rolsuper, rolcreatedb, rolcreaterole, rolreplication from pg_roles where rolname = %s", (role,)
    ) == [(False, False, False, False)]
