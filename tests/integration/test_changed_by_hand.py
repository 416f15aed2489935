"""The shape of a mart, and the record of the runs, changed by hand: both are put right, or gone on from."""

from __future__ import annotations

import pytest

from eds.warehouse.runs import RECONCILE_VARS
from support.book import add_customer, add_loan, pay
from support.oracle import assert_views_equal_the_oltp
from support.platform import Platform

pytestmark = pytest.mark.proof


def change_the_book(platform: Platform) -> None:
    """Add a loan and payments, move a loan, delete a payment: something for each kind of mart."""
    with platform.app() as connection:
        loan = add_loan(connection, add_customer(connection), branch_code="MSA01")
        pay(connection, loan, "30.00", "3.00")
        pay(connection, 1, "20.00", "2.00")
        connection.execute("update operational.loans set branch_code = 'KSM01' where loan_id = 2")
        connection.execute(
            "delete from operational.payments where payment_id = "
            "(select max(payment_id) from operational.payments where loan_id = 3)"
        )
    platform.wait_for_replicas()


def change_build_and_compare(platform: Platform) -> None:
    change_the_book(platform)
    platform.build()
    assert_views_equal_the_oltp(platform)


# --- the shape of marts and of published copies -----------------------------------------------------------------------

RESHAPED = {
    "a narrower type": "alter table warehouse.dim_customer alter column full_name type varchar(5) "
    "using left(full_name, 5)",
    "a coarser type": "alter table warehouse.fact_payments alter column payment_amount type numeric(14, 0)",
    "a column that is gone": "alter table warehouse.fact_loans drop column penalty_paid cascade",
    "a column under another name": "alter table warehouse.agg_overdue rename column unpaid_amount to unpaid_amt",
    "a column more": "alter table warehouse.agg_customers add column note text not null default 'x'; "
    "alter table warehouse.agg_customers alter column note drop default",
    "no key, and a row twice": "alter table warehouse.agg_loan_book drop constraint agg_loan_book_pkey; "
    "insert into warehouse.agg_loan_book select * from warehouse.agg_loan_book limit 1",
    "another key": "alter table warehouse.agg_payments_by_month drop constraint agg_payments_by_month_pkey; "
    "alter table warehouse.agg_payments_by_month add column n bigint generated always as identity primary key",
    "a rule that rows break": "alter table warehouse.agg_loans add constraint mine check (loan_count < 0) not valid",
    "values that may be missing": "alter table warehouse.dim_loan alter column loan_status drop not null",
    "a change log without a column": "alter table changes.fact_loans drop column total_paid",
    "a copy with a column more": "alter table publish.fact_loans add column note text not null default 'x'; "
    "alter table publish.fact_loans alter column note drop default",
    "a copy without its key": "alter table publish.agg_customers drop constraint agg_customers_pkey",
}
REBUILT = "select model_name, created_run_id, recomputed_run_id from audit.model_states order by model_name"
SHAPES = """
    select attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull
    from pg_attribute
    inner join pg_class on attrelid = pg_class.oid and relkind = 'r' and relnamespace = 'warehouse'::regnamespace
    where attnum > 0 and not attisdropped
    union all
    select conrelid::regclass::text, pg_get_constraintdef(oid), contype::text, true
    from pg_constraint
    where connamespace = 'warehouse'::regnamespace
    order by 1, 2
"""


def reshape(platform: Platform, *names: str) -> None:
    """Reshape marts or copies by hand; the next run, with changes, puts them right, and so does the one after it."""
    before = platform.warehouse(SHAPES)
    for name in names:
        platform.warehouse(RESHAPED[name])
    change_build_and_compare(platform)
    assert platform.warehouse(SHAPES) == before
    # Once and for all: the run after it takes in what changed.
    made = platform.warehouse(REBUILT)
    change_build_and_compare(platform)
    assert platform.warehouse(REBUILT) == made


def test_what_was_reshaped_by_hand_is_put_right_by_the_next_run(small_book: Platform) -> None:
    # In turns, so that what one mart is computed from is not always rebuilt in the same run.
    names = list(RESHAPED)
    for group in (names[::3], names[1::3], names[2::3]):
        reshape(small_book, *group)
    small_book.build("--vars", str(RECONCILE_VARS))
    assert small_book.dbt("test").exit_code == 0


# --- the record of the runs -------------------------------------------------------------------------------------------

AUDIT_TABLES = (
    "etl_runs",
    "model_runs",
    "model_states",
    "extraction_state",
    "extraction_trail",
    "extraction_transactions",
)


def keep_the_record(platform: Platform) -> None:
    """Keep a copy of the record as it is now, as a dump would."""
    platform.warehouse("create schema kept")
    for table in AUDIT_TABLES:
        platform.warehouse(f"create table kept.{table} as table audit.{table}")


def put_the_record_back(platform: Platform) -> None:
    """Put the copy in place of the record, with its counter."""
    platform.warehouse(f"truncate {', '.join(f'audit.{table}' for table in AUDIT_TABLES)}, audit.refused_starts")
    for table in AUDIT_TABLES:
        values = "overriding system value" if table == "etl_runs" else ""
        platform.warehouse(f"insert into audit.{table} {values} table kept.{table}")
    platform.warehouse("select setval('audit.etl_runs_run_id_seq', (select max(run_id) from audit.etl_runs))")


LOST = {
    "emptied with its counter": "truncate audit.etl_runs restart identity cascade",
    "emptied": "truncate audit.etl_runs cascade",
    "the counter alone": "alter table audit.etl_runs alter column run_id restart with 1",
    "states too": "truncate audit.etl_runs, audit.model_states restart identity cascade",
}


def lose_the_record(platform: Platform, statement: str | None) -> None:
    """Lose a part of the record after a run that was not published, whose changes are still in the logs, and go on."""
    change_build_and_compare(platform)
    keep_the_record(platform)
    for _ in range(2):
        change_build_and_compare(platform)
    change_the_book(platform)
    platform.build("--exclude", "published_state+")
    if statement is None:
        put_the_record_back(platform)
    else:
        platform.warehouse(statement)
    for _ in range(3):
        change_build_and_compare(platform)


@pytest.mark.parametrize("lost", [*LOST.values(), None], ids=[*LOST, "put back to an earlier state"])
def test_runs_go_on_from_a_record_that_knows_less_than_the_data(small_book: Platform, lost: str | None) -> None:
    platform = small_book
    lose_the_record(platform, lost)
    assert platform.warehouse("select max(_run_id) from operational.payments") == platform.warehouse(
        "select max(run_id) from audit.etl_runs where status = 'success'"
    )
    platform.build("--vars", str(RECONCILE_VARS))
    change_build_and_compare(platform)
    assert platform.dbt("test").exit_code == 0


# --- entities whose landing rows are gone -----------------------------------------------------------------------------


def landing_rows_of_an_older_copy(platform: Platform) -> None:
    """Put older landing rows back, and delete at the source what they lack: the nightly run ends its history."""
    tables = ("customers", "loans")
    for table in tables:
        platform.warehouse(f"create table public.{table} as table operational.{table}")
    with platform.app() as connection:
        customer = add_customer(connection, "gone")
        loan = add_loan(connection, customer, branch_code="MSA01")
    platform.wait_for_replicas()
    platform.build()
    for table in tables:
        platform.warehouse(f"delete from operational.{table}; insert into operational.{table} table public.{table}")
    with platform.app() as connection:
        connection.execute("delete from operational.loans where loan_id = %s", (loan,))
        connection.execute("delete from operational.customers where customer_id = %s", (customer,))
    platform.wait_for_replicas()
    platform.build("--vars", str(RECONCILE_VARS))
    for table, key, gone in (("dim_loan", "loan_id", loan), ("dim_customer", "customer_id", customer)):
        versions = platform.warehouse(f"select is_current from warehouse.{table} where {key} = {gone}")
        assert versions == [(False,)], table
    assert_views_equal_the_oltp(platform)


def test_the_history_of_what_no_landing_row_tells_of_ends(small_book: Platform) -> None:
    landing_rows_of_an_older_copy(small_book)
    assert small_book.dbt("test").exit_code == 0
