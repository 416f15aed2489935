"""What the application changes on the primary is in the warehouse after the next run, exactly."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest

from eds.book.demo import fill
from eds.cluster.connections import connect
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp


def test_changes_of_every_kind_reach_the_five_views(platform):
    with connect(platform.superuser_conninfo) as connection:
        fill.fill(connection, fill.Scale.parse("3000"))
    platform.wait_for_replicas()
    platform.build()
    assert_views_equal_the_oltp(platform)

    with platform.app() as connection:
        customer = add_customer(connection, "Zawadi Wanjiru", segment="sme", city="Mombasa")
        loan = add_loan(connection, customer, "5000.00", branch_code="MSA01")
        pay(connection, loan, "400.00", "75.00", "5.00")
        # a status change, a move to another city, another segment, another branch
        connection.execute("update operational.loans set status = 'defaulted' where loan_id = 1")
        connection.execute("update operational.customers set city = 'Kisumu' where customer_id = 2")
        connection.execute("update operational.customers set segment = 'corporate' where customer_id = 3")
        connection.execute("update operational.loans set branch_code = 'KSM01' where loan_id in (4, 5)")
        connection.execute("update operational.loans set branch_code = null where loan_id = 6")
        # a back-dated payment, one that moves to another month and method, one that moves to another loan
        pay(connection, loan, "10.00", "1.00", payment_date="2026-02-03T10:00:00+00", payment_method="cheque")
        connection.execute(
            "update operational.payments set payment_date = payment_date - interval '40 days', payment_method = 'cash' "
            "where payment_id = 10"
        )
        connection.execute("update operational.payments set loan_id = %s where payment_id = 11", (loan,))
        # a loan that changes hands
        connection.execute("update operational.loans set customer_id = 2 where loan_id = 8")
        # deletions: a payment, a loan with its payments, a customer with all of it
        connection.execute("delete from operational.payments where payment_id = 20")
        connection.execute("delete from operational.payments where loan_id = 7")
        connection.execute("delete from operational.loans where loan_id = 7")
        connection.execute(
            "delete from operational.payments using operational.loans where payments.loan_id = loans.loan_id "
            "and loans.customer_id = 9"
        )
        connection.execute("delete from operational.loans where customer_id = 9")
        connection.execute("delete from operational.customers where customer_id = 9")
    platform.wait_for_replicas()
    result = platform.build()
    assert result.run["extraction_mode"] == "changes"
    assert result.run["rows_deleted"] > 3
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)
    # gone from the facts, closed in the history
    assert platform.warehouse("select count(*) from warehouse.fact_loans where loan_id = 7") == [(0,)]
    assert platform.warehouse("select count(*), bool_or(is_current) from warehouse.dim_loan where loan_id = 7") == [
        (1, False)
    ]
    assert platform.warehouse("select count(*) from warehouse.dim_customer where customer_id = 9 and is_current") == [
        (0,)
    ]


def test_a_customer_who_changes_segment_twice_has_three_versions_and_payments_keep_the_segment_of_their_time(platform):
    with platform.app() as connection:
        customer = add_customer(connection, segment="retail")
        loan = add_loan(connection, customer)
    segments = {}
    for segment in ("retail", "sme", "corporate"):
        with platform.app() as connection:
            connection.execute(
                "update operational.customers set segment = %s where customer_id = %s", (segment, customer)
            )
        with platform.app() as connection:
            segments[pay(connection, loan, "10.00", "1.00")] = segment
        platform.wait_for_replicas()
        platform.build()
    versions = platform.warehouse(
        "select customer_segment, valid_from, valid_to, is_current from warehouse.dim_customer "
        "where customer_id = %s order by valid_from",
        (customer,),
    )
    assert [version[0] for version in versions] == ["retail", "sme", "corporate"]
    assert [version[3] for version in versions] == [False, False, True]
    assert versions[0][2] == versions[1][1]
    assert versions[1][2] == versions[2][1]
    found = dict(
        platform.warehouse(
            "select payments.payment_id, customers.customer_segment from warehouse.fact_payments as payments "
            "join warehouse.dim_customer as customers on customers.customer_sk = payments.customer_sk"
        )
    )
    assert found == segments
    assert [(row["customer_id"], row["segment"], row["total_paid"]) for row in platform.view("vw_top_customers")] == [
        (customer, "corporate", Decimal("33.00"))
    ]


@pytest.mark.proof
def test_a_transaction_left_open_across_two_runs_loses_nothing(platform):
    with platform.app() as connection:
        customer = add_customer(connection)
        loan = add_loan(connection, customer)
    platform.wait_for_replicas()
    platform.build()
    with connect(platform.app_conninfo) as open_transaction:
        late = pay(open_transaction, loan, "70.00", "7.00")
        for amount in ("1.00", "2.00"):
            with platform.app() as connection:
                other = add_loan(connection, customer)
                pay(connection, other, amount, "0.50")
            platform.wait_for_replicas()
            platform.build()
            assert platform.warehouse("select count(*) from operational.payments where payment_id = %s", (late,)) == [
                (0,)
            ]
    platform.wait_for_replicas()
    platform.build()
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_a_deleted_key_that_comes_back_is_a_new_version(platform):
    with platform.app() as connection:
        customer = add_customer(connection, "Otieno", segment="sme")
        others = {add_customer(connection, f"Customer {number}") for number in range(3)}
    platform.wait_for_replicas()
    platform.build()
    with platform.app() as connection:
        connection.execute("delete from operational.customers where customer_id = %s", (customer,))
    platform.wait_for_replicas()
    platform.build()
    assert {row["customer_id"] for row in platform.view("vw_top_customers")} == others
    with platform.app() as connection:
        add_customer(connection, "Otieno again", customer_id=customer)
        connection.execute("delete from operational.customers where customer_id = %s", (customer,))
        add_customer(connection, "Otieno again", customer_id=customer)
    platform.wait_for_replicas()
    platform.build()
    versions = platform.warehouse(
        "select full_name, is_current from warehouse.dim_customer where customer_id = %s order by valid_from",
        (customer,),
    )
    assert versions == [("Otieno", False), ("Otieno again", True)]
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_tables_that_grew_a_lot_are_known_to_the_planner_within_the_run(small_book):
    """Else the models after them are planned for the former size: minutes instead of seconds after an import."""
    small_book.warehouse("analyze")
    with small_book.app() as connection:
        connection.execute(
            "insert into operational.customers (customer_id, full_name) "
            "select 1000 + n, 'Customer ' || n from generate_series(1, 400) as n"
        )
        connection.execute(
            "insert into operational.loans (loan_id, customer_id, product_id, amount, interest_rate, tenure_months, "
            "status, disbursed_at, maturity_date, outstanding_balance, branch_code) "
            "select 1000 + n, 1000 + n, 1, 1000, 18, 12, 'active', '2026-01-05', '2027-01-05', 900, 'NRB01' "
            "from generate_series(1, 400) as n"
        )
        connection.execute(
            "insert into operational.payments (loan_id, payment_date, amount, principal_portion, interest_portion, "
            "payment_method) select 1000 + n, '2026-02-05', 110, 100, 10, 'cash' from generate_series(1, 400) as n"
        )
    small_book.wait_for_replicas()
    small_book.build()
    tables = small_book.warehouse(
        "select oid::regclass::text, reltuples from pg_class where relkind = 'r' and relnamespace = any(array["
        "'operational', 'warehouse', 'snapshots', 'publish']::regnamespace[])"
    )
    counted = {name: small_book.warehouse(f"select count(*) from {name}")[0][0] for name, _ in tables}
    large = {name for name, count in counted.items() if count > 300}
    assert {"operational.payments", "warehouse.fact_loan_month_end", "snapshots.loans_snapshot"} <= large
    assert {"publish.fact_loans", "warehouse.dim_customer", "warehouse.int_loan_schedules"} <= large
    assert {name: known for name, known in tables if name in large and known < counted[name] / 2} == {}


@pytest.mark.proof
@pytest.mark.parametrize(
    "moment", ["1999-12-31T23:00:00+00", "2018-01-01T00:00:00+00", "2050-12-31T23:59:59+00", "2051-01-01T00:00:00+00"]
)
def test_a_payment_at_or_beyond_the_ends_of_the_usual_calendar_has_its_day(platform, moment):
    with platform.app() as connection:
        loan = add_loan(connection, add_customer(connection), disbursed_at="1999-01-01T00:00:00+00")
        pay(connection, loan, payment_date=moment)
    platform.wait_for_replicas()
    platform.build()
    day = moment[:10]
    assert platform.warehouse(
        "select date_sk, full_date::text from warehouse.fact_payments join warehouse.dim_date using (date_sk)"
    ) == [(int(day.replace("-", "")), day)]
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_every_kind_of_text_and_number_that_the_source_can_hold_arrives(platform):
    names = (
        'O\'Neil "Quote" \\ back; drop table loans --',
        "Zoë 😀 👩‍👩‍👧 Ünïcode",
        "مريم عبد الله",  # right to left
        "é" * 100,  # the longest
        "{{ this }} {% raw %}",
        "tab\tand\nnewline",
    )
    largest = "999999999999.99"
    with platform.app() as connection:
        for name in names:
            pay(
                connection,
                add_loan(
                    connection, add_customer(connection, name, city=name[:20]), loan_officer=name, branch_code=name[:10]
                ),
                notes=name,
                reference_number=name,
            )
        # the limits of amounts, rates and dates
        customer = add_customer(connection, "Limits", segment="corporate")
        limit = add_loan(connection, customer, largest, interest_rate="999.9999", maturity_date="9999-12-31")
        pay(connection, limit, largest, "0.00")
        pay(connection, add_loan(connection, customer, "0.01", interest_rate="0", tenure_months=1), "0.01", "0.00")
        # nothing at all wherever that may be
        for table, key in (("customers", "customer_id"), ("loans", "loan_id"), ("payments", "payment_id")):
            nullable = [
                row[0]
                for row in connection.execute(
                    "select column_name from information_schema.columns "
                    "where table_schema = 'operational' and table_name = %s and is_nullable = 'YES'",
                    (table,),
                )
            ]
            assert nullable
            emptied = ", ".join(f"{name} = null" for name in nullable)
            connection.execute(f"update operational.{table} set {emptied} where {key} = 2")
    platform.wait_for_replicas()
    platform.build("--vars", "{full_tests: true}")
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)
    found = platform.warehouse(
        "select full_name from warehouse.dim_customer where customer_id <= 6 order by customer_id"
    )
    assert found == [(name,) for name in names]
    assert platform.warehouse("select principal_amount from warehouse.fact_loans where loan_id = 7") == [
        (Decimal(largest),)
    ]


def test_no_personal_data_is_in_schema_warehouse_nor_behind_the_views(platform):
    secret = {
        "email": "amina.secret@example.org",
        "phone": "+254700123456",
        "national_id": "ID-77665544",
        "date_of_birth": "1987-06-05",
    }
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection, **secret)))
    platform.wait_for_replicas()
    platform.build()
    tables = platform.warehouse(
        "select nspname || '.' || relname from pg_class join pg_namespace on pg_namespace.oid = relnamespace "
        "where nspname in ('warehouse', 'publish', 'changes', 'snapshots', 'staging') and relkind in ('r', 'v')"
    )
    assert len(tables) > 20
    for (table,) in tables:
        text = " ".join(row[0] for row in platform.warehouse(f"select t::text from {table} as t"))
        for value in secret.values():
            assert value not in text, f"{value} is in {table}"
    columns = {
        row[0]
        for row in platform.warehouse(
            "select column_name::text from information_schema.columns where table_schema in ('warehouse', 'publish')"
        )
    }
    assert not columns & {"email", "phone", "national_id", "date_of_birth"}


def test_the_dashboards_role_sees_the_warehouse_schema_and_nothing_else(platform):
    platform.build()
    with connect(platform.reader_conninfo, autocommit=True) as connection:
        for name in ("vw_top_customers", "fact_loans", "dim_customer"):
            connection.execute(f"select count(*) from warehouse.{name}")
        for forbidden in (
            "operational.customers",
            "publish.agg_customers",
            "snapshots.customers_snapshot",
            "audit.etl_runs",
            "staging.stg_customers",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select count(*) from {forbidden}")
        with pytest.raises(psycopg.Error):
            connection.execute("delete from warehouse.fact_loans")


def test_every_index_that_the_models_ask_for_is_there(platform):
    platform.build()
    indexes = {row[0] for row in platform.warehouse("select indexname from pg_indexes")}
    assert {
        "fact_payments_loan_id_payment_date_idx",
        "dim_loan_customer_id_idx",
        "fact_loans_customer_id_idx",
        "dim_customer_customer_id_valid_from_idx",
        "dim_loan_loan_id_valid_from_idx",
        "customers_snapshot_dbt_scd_id_idx",
        "loans_snapshot_loan_id_idx",
    } <= indexes
    with connect(platform.warehouse_conninfo) as connection:
        connection.execute("set enable_seqscan = off")
        plan = "\n".join(
            row[0] for row in connection.execute("explain select * from warehouse.vw_top_customers limit 20")
        )
    assert "Index Scan" in plan and "Sort" not in plan, plan
