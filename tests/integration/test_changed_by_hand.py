"""The shape of a mart, and the record of the runs, changed by hand: both are put right, or gone on from."""

from __future__ import annotations

import psycopg
import pytest

from eds.cluster.connections import connect
from eds.warehouse.runs import DATA_BUILD, RECONCILE_VARS
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


def test_views_of_others_stay_as_they_are_when_a_column_below_them_is_put_right(small_book: Platform) -> None:
    platform = small_book
    platform.warehouse(
        "alter table warehouse.fact_payments alter column payment_amount type numeric(14, 0); "
        "set role etl_writer; "
        "create view warehouse.mine with (security_barrier = true) as "
        "select payment_id, payment_amount from warehouse.fact_payments; "
        "grant select on warehouse.mine to public; "
        "grant select on warehouse.mine to warehouse_reader with grant option; "
        "comment on view warehouse.mine is 'ours'"
    )
    state = (
        "select pg_get_viewdef(oid), reloptions, pg_get_userbyid(relowner), obj_description(oid, 'pg_class'), "
        "(select array_agg(entry::text order by entry::text) from unnest(relacl) as entry) "
        "from pg_class where oid = 'warehouse.mine'::regclass"
    )
    before = platform.warehouse(state)
    change_build_and_compare(platform)
    assert platform.warehouse(state) == before
    # One of a role as which the run cannot make it again is named, and left alone.
    platform.warehouse(
        "drop view warehouse.mine; "
        "alter table warehouse.fact_payments alter column payment_amount type numeric(14, 0); "
        "create view public.theirs as select payment_amount from warehouse.fact_payments; "
        "alter view public.theirs owner to warehouse_user"
    )
    change_the_book(platform)
    refused = platform.dbt(*DATA_BUILD)
    assert refused.exit_code != 0
    assert "View theirs reads " in refused.run["error_message"]
    assert "belongs to role warehouse_user" in refused.run["error_message"]
    platform.warehouse("drop view public.theirs")
    change_build_and_compare(platform)


# --- what marts are computed from -------------------------------------------------------------------------------------

BELOW_THE_MARTS = {
    "a landing table without the ids of runs": "alter table operational.payments drop column _run_id cascade",
    "a landing table without deletions": "alter table operational.loans drop column _deleted_at cascade",
    "a landing table without times of changes": "alter table operational.customers drop column _changed_at cascade",
    "a landing table whose ids are texts": "drop view staging.stg_payments cascade; "
    "alter table operational.payments alter column _run_id type text",
    "a history with a required column": "alter table snapshots.loans_snapshot add column y int not null default 3; "
    "alter table snapshots.loans_snapshot alter column y drop default",
    "a history with a column that is required now": "alter table snapshots.customers_snapshot "
    "add column y int generated always as identity; "
    "alter table snapshots.loans_snapshot alter column branch_code set not null",
    "a history with a rule that rows break": "alter table snapshots.loans_snapshot "
    "add constraint mine check (loan_id < 0) not valid",
    "a history with an index that rows break": "create unique index mine on snapshots.loans_snapshot (loan_id)",
    "a history without its index": "drop index snapshots.loans_snapshot_dbt_scd_id_idx",
    "a history with another index of that name": "drop index snapshots.loans_snapshot_dbt_scd_id_idx; "
    "create index loans_snapshot_dbt_scd_id_idx on snapshots.loans_snapshot (dbt_scd_id)",
    "no schema of foreign tables": "drop schema operational_fdw cascade",
}


def damage_below_the_marts(platform: Platform, what: str) -> None:
    """Damage what marts are computed from by hand: the next run, with changes, puts it right, once and for all."""
    with connect(platform.writer_conninfo, autocommit=True) as connection:
        connection.execute(BELOW_THE_MARTS[what].encode())
    change_build_and_compare(platform)
    made = platform.warehouse(REBUILT)
    change_build_and_compare(platform)
    assert platform.warehouse(REBUILT) == made
    platform.build("--vars", str(RECONCILE_VARS))
    assert platform.dbt("test").exit_code == 0


@pytest.mark.parametrize("what", BELOW_THE_MARTS)
def test_what_marts_are_computed_from_is_put_right_by_the_next_run(small_book: Platform, what: str) -> None:
    damage_below_the_marts(small_book, what)


# Earlier versions had an index there that said nothing of a version being there once.
WITHOUT_A_KEY = (
    "drop index snapshots.loans_snapshot_dbt_scd_id_idx; "
    "create index loans_snapshot_dbt_scd_id_idx on snapshots.loans_snapshot (dbt_scd_id)"
)
VERSIONS = "select * from snapshots.loans_snapshot order by dbt_scd_id"
TWICE = {
    "all rows once more": "insert into snapshots.loans_snapshot table snapshots.loans_snapshot",
    "one row three times": "insert into snapshots.loans_snapshot "
    "select * from (select * from snapshots.loans_snapshot limit 1) as one, generate_series(1, 2) as copy",
    "rows of a time when they had not ended": "insert into snapshots.loans_snapshot table public.kept",
}


@pytest.mark.parametrize("of_an_earlier_version", [False, True])
@pytest.mark.parametrize("twice", TWICE)
def test_a_version_that_is_there_twice_is_removed_once(
    small_book: Platform, twice: str, of_an_earlier_version: bool
) -> None:
    platform = small_book
    platform.warehouse("create table public.kept as table snapshots.loans_snapshot")
    change_build_and_compare(platform)
    before = platform.warehouse(VERSIONS)
    # While the index is there, nothing comes twice.
    statement = TWICE[twice].replace("select * from (select *", "select one.* from (select *")
    with pytest.raises(psycopg.errors.UniqueViolation):
        platform.warehouse(statement)
    platform.warehouse(f"{WITHOUT_A_KEY}; {statement}")
    if of_an_earlier_version:
        platform.warehouse("update audit.model_states set stored_definition = null where model_name = 'loans_snapshot'")
    change_build_and_compare(platform)
    now = platform.warehouse(VERSIONS)
    # Every version that was there is there, but for the end of those that the last change ended.
    begun = {(row[-4], row[-2]) for row in before}
    assert begun <= {(row[-4], row[-2]) for row in now}
    assert len(now) == len({row[-4] for row in now})
    change_build_and_compare(platform)
    platform.build("--vars", str(RECONCILE_VARS))
    assert platform.dbt("test").exit_code == 0


def test_versions_of_which_it_is_not_known_which_is_true_are_refused(small_book: Platform) -> None:
    platform = small_book
    spoiled = f"{WITHOUT_A_KEY}; create table public.kept as table snapshots.loans_snapshot; "
    spoiled += "update public.kept set branch_code = 'XXX' where loan_id = 2; "
    spoiled += "insert into snapshots.loans_snapshot table public.kept"
    platform.warehouse(spoiled)
    before = platform.warehouse(f"select * from ({VERSIONS}) as versions order by dbt_scd_id, branch_code")
    change_the_book(platform)
    refused = platform.dbt(*DATA_BUILD)
    assert refused.exit_code != 0
    assert "versions more than once, with different values" in refused.run["error_message"]
    assert "Leave one row of each" in refused.run["error_message"]
    assert platform.warehouse(f"select * from ({VERSIONS}) as versions order by dbt_scd_id, branch_code") == before
    platform.warehouse("delete from snapshots.loans_snapshot where branch_code = 'XXX'")
    change_build_and_compare(platform)


UNREPAIRED = {
    "a history without its versions": (
        "alter table snapshots.loans_snapshot drop column dbt_scd_id",
        "has no column dbt_scd_id, without which its versions are not known",
    ),
    "no foreign server": ("drop server oltp cascade", "There is no foreign server oltp in the warehouse: `make up`"),
    "no user mapping": (
        "drop user mapping for etl_writer server oltp",
        "has no user mapping for the role that dbt uses: `make up`",
    ),
    "no schema that may be made": (
        "drop schema operational_fdw cascade; do $$ begin "
        "execute format('revoke create on database %I from etl_writer', current_database()); end $$",
        "There is no schema operational_fdw in the warehouse, which holds the foreign tables: `make up`",
    ),
}


@pytest.mark.parametrize("what", UNREPAIRED)
def test_what_no_run_can_put_right_is_refused_with_what_to_do(small_book: Platform, what: str) -> None:
    damage, sentence = UNREPAIRED[what]
    small_book.warehouse(damage)
    change_the_book(small_book)
    refused = small_book.dbt(*DATA_BUILD)
    assert refused.exit_code != 0
    assert sentence in refused.run["error_message"]


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
