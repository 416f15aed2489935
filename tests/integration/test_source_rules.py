"""What the loan book refuses: values that its readers cannot represent, tables that the feed cannot follow, forgers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime

import psycopg
import pytest

from eds.base.errors import UserError
from eds.base.settings import ROOT
from eds.cluster.connections import connect
from eds.cluster.provision import FEED_FILE, SQL_FOLDERS, apply_files
from support.book import add_customer, add_loan, pay
from support.platform import TABLES, Platform

UNREADABLE = {
    "numeric": ("'NaN'", "'Infinity'", "'-Infinity'"),
    "date": ("'infinity'", "'-infinity'", "'10000-01-01'", "'20226-03-01'", "'0001-12-31 BC'", "'4714-11-24 BC'"),
    "timestamp with time zone": (
        "'infinity'",
        "'-infinity'",
        "'9999-12-31 00:00+00'",
        "'20226-03-01'",
        "'1899-12-31 23:59:59.999999+00'",
        "'0044-03-15 BC'",
    ),
}
REFUSALS = (psycopg.errors.CheckViolation, psycopg.errors.NumericValueOutOfRange)
READABLE = {
    "numeric": (),
    "date": ("'0001-01-01'", "'9999-12-31'", "null"),
    "timestamp with time zone": ("'1900-01-01 00:00+00'", "'9999-12-30 23:59:59.999999+00'"),
}


def columns(platform: Platform, table: str) -> list[tuple[str, str]]:
    """Return the table's columns of a type that is bounded."""
    return platform.primary(
        "select attname::text, format_type(atttypid, null) from pg_attribute where attrelid = %s::regclass "
        "and attnum > 0 and not attisdropped and format_type(atttypid, null) = any(%s) order by attnum",
        (f"operational.{table}", list(UNREADABLE)),
    )


@contextmanager
def nothing_kept(platform: Platform) -> Iterator[psycopg.Connection]:
    """Yield the superuser's connection, whose transaction is rolled back at the end."""
    with connect(platform.superuser_conninfo) as connection:
        yield connection
        connection.rollback()


def test_no_column_of_the_book_takes_a_value_that_its_readers_cannot_represent(empty_book):
    with nothing_kept(empty_book) as connection:
        pay(connection, add_loan(connection, add_customer(connection)))
        connection.execute(
            "insert into operational.loan_installments (loan_id, installment_no, due_date, principal_due) "
            "select loan_id, 1, date '2026-01-31', 100 from operational.loans"
        )
        for table in TABLES:
            # The trigger that stamps updated_at would hide the attempt.
            connection.execute(f"alter table operational.{table} disable trigger {table}_stamp_row")
        tried = 0
        for table in TABLES:
            for column, kind in columns(empty_book, table):
                for value in UNREADABLE[kind]:
                    with pytest.raises(REFUSALS), connection.transaction():
                        connection.execute(f"update operational.{table} set {column} = {value}::{kind}")
                    tried += 1
                for value in READABLE[kind]:
                    if value == "null" and column not in ("date_of_birth", "maturity_date"):
                        continue
                    with connection.transaction(force_rollback=True):
                        connection.execute(f"update operational.{table} set {column} = {value}::{kind}")
        assert tried > 90


def test_every_bounded_column_of_the_book_has_its_constraint(empty_book):
    for table in TABLES:
        found = empty_book.primary(
            "select conname::text from pg_constraint where conrelid = %s::regclass and contype = 'c' and convalidated "
            "and conname like '%%\\_bounds'",
            (f"operational.{table}",),
        )
        assert {name for (name,) in found} == {f"{table}_{column}_bounds" for column, _ in columns(empty_book, table)}


@pytest.fixture
def book_of_before(empty_book: Platform) -> Iterator[Platform]:
    """Yield a book of a version that had no bounds, with values that break them. What is changed here is put back."""
    with connect(empty_book.superuser_conninfo) as connection:
        loan = add_loan(connection, add_customer(connection))
        for table in TABLES:
            for (name,) in connection.execute(
                "select conname from pg_constraint where conrelid = %s::regclass and conname like '%%\\_bounds'",
                (f"operational.{table}",),
            ).fetchall():
                connection.execute(f"alter table operational.{table} drop constraint {name}")
        connection.execute(
            "alter table operational.customers add constraint customers_date_of_birth_check "
            "check (isfinite(date_of_birth))"
        )
        pay(connection, loan, "NaN", "0", payment_id=71)
        pay(connection, loan, payment_date="20226-03-01 00:00+00", payment_id=72)
        connection.execute("update operational.loans set outstanding_balance = 0, maturity_date = '0044-03-15 BC'")
        connection.execute("update platform.applied_file set sha256 = 'older' where file_name like '01%'")
    yield empty_book
    empty_book.empty_book()
    with connect(empty_book.superuser_conninfo, autocommit=True) as connection:
        apply_files(connection, SQL_FOLDERS["primary"])


def test_a_book_with_unreadable_values_is_not_upgraded_and_each_value_is_named(book_of_before):
    platform = book_of_before
    state = "select file_name, sha256 from platform.applied_file order by 1"
    before = platform.primary(state)
    with connect(platform.superuser_conninfo, autocommit=True) as connection, pytest.raises(UserError) as refused:
        apply_files(connection, SQL_FOLDERS["primary"])
    message = str(refused.value)
    for line in (
        "operational.payments: payment_id 71, column amount is NaN",
        "operational.payments: payment_id 71, column principal_portion is NaN",
        "operational.payments: payment_id 72, column payment_date is 20226-03-01",
        "operational.loans: loan_id 1, column maturity_date is 0044-03-15 BC",
        "make up",
    ):
        assert line in message
    assert platform.primary(state) == before
    assert platform.primary("select count(*) from pg_constraint where conname like '%\\_bounds'") == [(0,)]

    with platform.app() as connection:
        connection.execute("delete from operational.payments where payment_id = 71")
        connection.execute("update operational.payments set payment_date = '2026-03-01' where payment_id = 72")
        connection.execute("update operational.loans set maturity_date = null")
    with connect(platform.superuser_conninfo, autocommit=True) as connection:
        assert "015_bounds.sql" in apply_files(connection, SQL_FOLDERS["primary"])
        # What the bounds include is not checked twice.
        assert connection.execute(
            "select conname::text from pg_constraint where conrelid = 'operational.customers'::regclass "
            "and conname like 'customers_date_of_birth%'"
        ).fetchall() == [("customers_date_of_birth_bounds",)]
        assert apply_files(connection, SQL_FOLDERS["primary"]) == []


def test_at_most_twenty_values_of_a_table_are_named_and_the_others_counted(book_of_before):
    with connect(book_of_before.superuser_conninfo) as connection:
        for _ in range(30):
            pay(connection, 1, payment_date="20226-03-01 00:00+00")
    with (
        connect(book_of_before.superuser_conninfo, autocommit=True) as connection,
        pytest.raises(UserError, match=r"operational\.payments: \d+ more values") as refused,
    ):
        apply_files(connection, SQL_FOLDERS["primary"])
    assert str(refused.value).count("operational.payments: payment_id") == 20


# --- the trail and its functions --------------------------------------------------------------------------------------


def test_a_temporary_table_cannot_forge_entries_of_the_trail(empty_book):
    with connect(empty_book.app_conninfo) as connection:
        connection.execute("create temporary table payments (payment_id bigint)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(
                "create trigger forge after insert on payments for each row "
                "execute function operational.write_audit('payment_id')"
            )
    # A trigger that existed before, or that a privileged role made: the function itself refuses.
    with nothing_kept(empty_book) as connection:
        connection.execute("grant execute on function operational.write_audit() to app_user")
        connection.execute("set local role app_user")
        connection.execute("create temporary table payments (payment_id bigint)")
        connection.execute(
            "create trigger forge after insert on payments for each row "
            "execute function operational.write_audit('payment_id')"
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="tables in schema operational"):
            connection.execute("insert into payments values (1)")
    assert empty_book.primary("select count(*) from operational.audit_log where table_name = 'payments'") == [(0,)]


def test_public_may_execute_none_of_the_platforms_functions(empty_book):
    found = empty_book.primary(
        "select p.oid::regprocedure::text from pg_proc as p, "
        "aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as acl where acl.grantee = 0 "
        "and p.pronamespace in (select oid from pg_namespace where nspname in "
        "('operational', 'etl', 'platform', 'pgbouncer'))"
    )
    assert found == []


# --- tables of the feed -----------------------------------------------------------------------------------------------

STAMPS = "created_at timestamptz not null default now(), updated_at timestamptz not null default now()"
UNPUBLISHABLE = {
    "no updated_at": (
        "create table operational.t (id bigint primary key, created_at timestamptz not null)",
        "updated_at",
    ),
    "no created_at": (
        "create table operational.t (id bigint primary key, updated_at timestamptz not null)",
        "created_at",
    ),
    "updated_at may be null": (
        "create table operational.t (id bigint primary key, created_at timestamptz not null, updated_at timestamptz)",
        "no updated_at of type timestamptz not null",
    ),
    "updated_at of another type": (
        "create table operational.t (id bigint primary key, created_at timestamptz not null, updated_at date not null)",
        "no updated_at of type timestamptz not null",
    ),
    "updated_at is generated": (
        "create table operational.t (id bigint primary key, created_at timestamptz not null, updated_at timestamptz "
        "not null generated always as (timestamptz '2026-01-01 00:00+00') stored)",
        "updated_at",
    ),
    "no key": (f"create table operational.t (id bigint, {STAMPS})", "primary key of one integer column"),
    "key of text": (f"create table operational.t (id text primary key, {STAMPS})", "primary key of one integer column"),
    "key of two columns": (
        f"create table operational.t (id bigint, other bigint, {STAMPS}, primary key (id, other))",
        "primary key of one integer column",
    ),
    "partitioned": (
        f"create table operational.t (id bigint primary key, {STAMPS}) partition by range (id)",
        "partitioned",
    ),
    "a partition": (
        f"create table operational.all_t (id bigint primary key, {STAMPS}) partition by range (id); "
        "create table operational.t partition of operational.all_t for values from (1) to (100)",
        "partitioned",
    ),
    "inherits": (
        f"create table operational.all_t (id bigint primary key, {STAMPS}); "
        "create table operational.t (primary key (id)) inherits (operational.all_t)",
        "inherit",
    ),
    "unlogged": (f"create unlogged table operational.t (id bigint primary key, {STAMPS})", "unlogged"),
    "a view": ("create view operational.t as select * from operational.customers", "is not a table"),
    "row-level security": (
        f"create table operational.t (id bigint primary key, {STAMPS}); "
        "alter table operational.t enable row level security",
        "row-level security",
    ),
    "a column of the feed's": (
        f"create table operational.t (id bigint primary key, xact_id bigint, {STAMPS})",
        "columns of its own named xact_id",
    ),
    "values out of bounds": (
        f"create table operational.t (id bigint primary key, pledged numeric, {STAMPS}); "
        "insert into operational.t values (4, 'NaN')",
        r"operational\.t: id 4, column pledged is NaN",
    ),
}


@pytest.mark.parametrize("case", UNPUBLISHABLE)
def test_a_table_that_the_feed_cannot_follow_is_refused_with_the_reason(empty_book, case):
    statements, reason = UNPUBLISHABLE[case]
    with nothing_kept(empty_book) as connection:
        connection.execute("set role loans_owner")
        connection.execute(statements)
        with pytest.raises(psycopg.errors.RaiseException, match=reason) as refused, connection.transaction():
            connection.execute("select etl.publish_table('operational.t')")
        assert refused.value.diag.message_hint
        assert connection.execute(
            "select count(*) from pg_trigger where tgrelid = 'operational.t'::regclass"
        ).fetchone() == (0,)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("public.t", "not in schema operational"),
        ("pg_temp.t", "not in schema operational"),
        ("operational.trail", "name that the feed itself uses"),
        ("operational.trail_transactions", "name that the feed itself uses"),
        ("operational.server_figures", "name that the feed itself uses"),
        ("operational.source_settings", "name that the feed itself uses"),
        ("operational.loans_changes", "name that the feed itself uses"),
        (f"operational.{'t' * 49}", "name of more than 48 bytes"),
    ],
)
def test_a_table_of_another_place_or_of_a_name_that_is_taken_is_refused(empty_book, table, reason):
    with nothing_kept(empty_book) as connection:
        connection.execute(f"create table {table} (id bigint primary key, {STAMPS})")
        with pytest.raises(psycopg.errors.RaiseException, match=reason):
            connection.execute("select etl.publish_table(%s)", (table,))


def test_the_trail_itself_is_not_published(empty_book):
    with nothing_kept(empty_book) as connection, pytest.raises(psycopg.errors.RaiseException, match="feed itself uses"):
        connection.execute("select etl.publish_table('operational.audit_log')")


def test_a_published_table_works_and_has_bounds_also_for_columns_that_come_later(empty_book):
    with nothing_kept(empty_book) as connection:
        connection.execute("set role loans_owner")
        connection.execute(f'create table operational."Own Table" ("Id" bigint primary key, pledged numeric, {STAMPS})')
        connection.execute("""select etl.publish_table('operational."Own Table"')""")
        connection.execute("""alter table operational."Own Table" add column "Wert" double precision""")
        connection.execute("""select etl.publish_table('operational."Own Table"')""")
        connection.execute("""insert into operational."Own Table" ("Id", pledged) values (1, 5)""")
        assert connection.execute('select "Id", pledged from etl."Own Table_changes"').fetchall() == [(1, 5)]
        for column in ("pledged", '"Wert"'):
            with pytest.raises(psycopg.errors.CheckViolation), connection.transaction():
                connection.execute(f"""update operational."Own Table" set {column} = 'NaN'""")


# --- gaps in the trail ------------------------------------------------------------------------------------------------

RESTORE_AUDIT = "alter table operational.payments enable always trigger payments_audit"
AUDIT = (
    "create or replace trigger payments_audit after {} on operational.payments for each row {} "
    "execute function operational.write_audit('{}')"
)
# What lets changes of payments pass by the trail, as a DBA may do it, and what seems to put everything right again.
GAPS = {
    "all triggers come back as pg_restore enables them": (
        "alter table operational.payments disable trigger all; alter table operational.payments enable trigger all",
        "select etl.publish_table('operational.payments')",
    ),
    "a trigger fires for ordinary sessions alone": (
        "alter table operational.payments enable trigger payments_audit",
        RESTORE_AUDIT,
    ),
    "a trigger fires for replicated changes alone": (
        "alter table operational.payments enable replica trigger payments_audit",
        RESTORE_AUDIT,
    ),
    "under another name": (
        "alter trigger payments_audit on operational.payments rename to mine; "
        "alter table operational.payments disable trigger mine",
        "alter table operational.payments enable always trigger mine; "
        "alter trigger mine on operational.payments rename to payments_audit",
    ),
    "of a table under another name": (
        "alter table operational.payments rename to other; "
        "alter table operational.other disable trigger payments_audit",
        "alter table operational.other enable always trigger payments_audit; "
        "alter table operational.other rename to payments",
    ),
    "of a table under another name, whose triggers stay": (
        "alter table operational.payments rename to other",
        "alter table operational.other rename to payments",
    ),
    "of a table in another schema": (
        "alter table operational.payments set schema public; "
        "alter table public.payments disable trigger payments_audit",
        "alter table public.payments enable always trigger payments_audit; "
        "alter table public.payments set schema operational",
    ),
    "for one kind of change": (
        AUDIT.format("insert", "", "payment_id"),
        "select etl.publish_table('operational.payments')",
    ),
    "for some columns": (
        AUDIT.format("insert or delete or update of notes", "", "payment_id"),
        AUDIT.format("insert or update or delete", "", "payment_id") + "; " + RESTORE_AUDIT,
    ),
    "for some rows": (
        AUDIT.format("insert or update", "when (new.amount > 1000)", "payment_id"),
        "select etl.publish_table('operational.payments')",
    ),
    "by another column": (
        AUDIT.format("insert or update or delete", "", "loan_id"),
        "select etl.publish_table('operational.payments')",
    ),
    "by another key": (
        "alter table operational.payments drop constraint payments_pkey; "
        "create unique index one on operational.payments (payment_id); "
        "alter table operational.payments add column other bigint generated always as identity primary key",
        "alter table operational.payments drop column other; "
        "alter table operational.payments add primary key (payment_id)",
    ),
    "truncation": (
        "alter table operational.payments disable trigger payments_no_truncate",
        "alter table operational.payments enable always trigger payments_no_truncate",
    ),
    "without the view": (
        "drop view etl.payments_changes; alter table operational.payments disable trigger payments_audit",
        RESTORE_AUDIT + "; select etl.publish_table('operational.payments')",
    ),
}
RELOADS = "select count(*) from operational.audit_log where operation = 'RELOAD'"


@pytest.mark.parametrize("gap", GAPS)
def test_whoever_opens_a_gap_in_the_trail_leaves_a_note_in_it_and_no_run_passes_meanwhile(empty_book, gap):
    opened, closed = GAPS[gap]
    problem = "select etl.feed_problem(coalesce(to_regclass('operational.payments'), to_regclass('operational.other'), "
    problem += "to_regclass('public.payments')))"
    with nothing_kept(empty_book) as connection:
        connection.execute("set session_replication_role = replica")
        assert connection.execute(problem).fetchone() == (None,)
        (before,) = connection.execute(RELOADS).fetchone() or (0,)
        for statement in opened.split("; "):
            connection.execute(statement)
        assert connection.execute(RELOADS).fetchone() == (before + 1,)
        assert connection.execute(problem).fetchone() != (None,)
        for statement in closed.split("; "):
            connection.execute(statement)
        assert connection.execute(problem).fetchone() == (None,)
        # It is noted once for each name that the table had.
        assert connection.execute(RELOADS).fetchone() in ((before + 1,), (before + 2,))


OPENED = "alter table operational.audit_log disable trigger audit_log_append_only"
CLOSED = "alter table operational.audit_log enable always trigger audit_log_append_only"
REMOVED = "delete from operational.audit_log"


@pytest.mark.parametrize("opened, closed", [
    (OPENED, CLOSED),
    ("alter table operational.audit_log disable trigger all", f"{OPENED}; {CLOSED}"),
    ("alter table operational.audit_log enable trigger audit_log_append_only", CLOSED),
    ("alter trigger audit_log_append_only on operational.audit_log rename to mine; "
     "alter table operational.audit_log disable trigger mine", "select etl.protect_trail()"),
    ("drop trigger audit_log_append_only on operational.audit_log", "select etl.publish_table('operational.loans')"),
    ("create or replace trigger audit_log_append_only before update on operational.audit_log for each statement "
     "execute function operational.refuse_rewriting_the_trail()", "select etl.protect_trail()"),
])  # fmt: skip
def test_entries_that_are_removed_from_the_trail_leave_a_note_for_every_table(empty_book, opened, closed):
    problem = "select etl.feed_problem('operational.payments')"
    tables = "select array_agg(table_name order by log_id) from operational.audit_log where operation = 'RELOAD'"
    with nothing_kept(empty_book) as connection:
        connection.execute("set session_replication_role = replica")
        for statement in opened.split("; "):
            connection.execute(statement)
        (found,) = connection.execute(problem).fetchone() or ("",)
        assert "entries of the audit trail can be removed" in str(found)
        connection.execute(REMOVED)
        for statement in closed.split("; "):
            connection.execute(statement)
        assert connection.execute(problem).fetchone() == (None,)
        (noted,) = connection.execute(tables).fetchone() or ([],)
        assert sorted(noted) == ["customers", "loan_installments", "loan_products", "loans", "payments"]
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            connection.execute(REMOVED)


# --- what the triggers call, and what keeps entries out of the trail --------------------------------------------------

FEED = (SQL_FOLDERS["primary"] / FEED_FILE).read_text(encoding="utf-8")
ALL_TABLES = sorted(TABLES)
NOTES = "select count(distinct xact_id) from operational.audit_log where operation = 'RELOAD'"
# As etl_reader reads it in a run.
PROBLEMS = "select distinct feed_problem from etl.source_columns where table_name = any(%s)"


def function_of_the_feed(name: str) -> str:
    """Return the statement that makes a function, as the platform's file has it."""
    found = re.search(rf"create or replace function {re.escape(name)}\(.*?\n\$\$;", FEED, re.DOTALL)
    assert found, name
    return found[0]


def problems(connection: psycopg.Connection) -> list[str | None]:
    """Return why a run does not pass, as etl_reader sees it."""
    with connection.transaction():
        connection.execute("set local role etl_reader")
        found = connection.execute(PROBLEMS, (list(TABLES),)).fetchall()
        connection.execute("set local role postgres")
    return [problem for (problem,) in found]


def noted(connection: psycopg.Connection) -> list[str]:
    """Return the tables that the trail says were reloaded, each as often as it says so."""
    rows = connection.execute("select table_name from operational.audit_log where operation = 'RELOAD' order by 1")
    return [table for (table,) in rows.fetchall()]


def does_nothing(name: str, kind: str = "trigger") -> tuple[str, str]:
    """Return how a trigger's function is replaced by one that does nothing, and how it comes back."""
    body = "begin return null; end" if kind == "trigger" else "begin end"
    return (
        f"create or replace function {name}() returns {kind} language plpgsql security definer as '{body}'",
        function_of_the_feed(name),
    )


QUIET_RULE = (
    "create rule quiet as on insert to operational.audit_log where new.table_name = 'payments' do instead nothing"
)
LEAVES_OUT = "create function public.leaves_out() returns trigger language plpgsql as 'begin return null; end'"
BEFORE_INSERT = (
    "create trigger a before insert on operational.audit_log for each row execute function public.leaves_out()"
)
# What it is called, what makes it so, what takes it back; and what the run says meanwhile.
CODE = "is not as the platform made it: make up puts it back"
OUTSIDE_THE_TRIGGERS = {
    "the function that writes the trail": (*does_nothing("operational.write_audit"), f"write_audit.* {CODE}"),
    "the function that refuses to truncate": (*does_nothing("operational.refuse_truncate"), CODE),
    "the function that keeps the trail": (*does_nothing("operational.refuse_rewriting_the_trail"), CODE),
    "the function that stamps rows": (*does_nothing("operational.stamp_row"), CODE),
    "a setting of a function": (
        "alter function operational.write_audit() set search_path = public",
        "alter function operational.write_audit() set search_path = pg_catalog, pg_temp",
        CODE,
    ),
    "no privileges of the owner": (
        "alter function operational.write_audit() security invoker",
        "alter routine operational.write_audit() security definer",
        CODE,
    ),
    "another owner of a function": (
        "alter function operational.write_audit() owner to postgres",
        "alter function operational.write_audit() owner to loans_owner",
        CODE,
    ),
    "a function under another name": (
        "alter function operational.write_audit() rename to other",
        "alter function operational.other() rename to write_audit",
        "a trigger of its audit trail is missing",
    ),
    "a function in another schema": (
        "alter function operational.refuse_truncate() set schema public",
        "alter function public.refuse_truncate() set schema operational",
        "a trigger of its audit trail is missing",
    ),
    "the function that notes gaps": (*does_nothing("etl.note_gap", "event_trigger"), CODE),
    "the function that notes changed functions": (*does_nothing("etl.note_changed_function", "event_trigger"), CODE),
    "the function that notes dropped triggers": (*does_nothing("etl.note_dropped_trigger", "event_trigger"), CODE),
    "the function that notes rewritten tables": (*does_nothing("etl.note_rewrite", "event_trigger"), CODE),
    "the function that writes notes": (
        "create or replace function etl.note_reload_of_all() returns void language sql as 'select'",
        function_of_the_feed("etl.note_reload_of_all"),
        CODE,
    ),
    "another function for the same call": (
        "create function etl.note_reload(short_name name) returns void language sql as 'select'",
        "drop function etl.note_reload(name)",
        CODE,
    ),
    "the function that finds what is wrong": (
        "create or replace function etl.feed_problem(relation regclass) returns text language sql stable "
        "as 'select null'",
        function_of_the_feed("etl.feed_problem"),
        CODE,
    ),
    "a rule of the trail": (QUIET_RULE, "drop rule quiet on operational.audit_log", "rule quiet .*drop it"),
    "a rule of the trail that is switched off again": (
        QUIET_RULE,
        "alter table operational.audit_log disable rule quiet",
        "rule quiet .*drop it",
    ),
    "a trigger of the trail": (
        f"{LEAVES_OUT}; {BEFORE_INSERT}",
        "drop trigger a on operational.audit_log",
        "trigger a .*drop it",
    ),
    "a trigger of the trail that is switched off again": (
        f"{LEAVES_OUT}; {BEFORE_INSERT}",
        "alter table operational.audit_log disable trigger a",
        "trigger a .*drop it",
    ),
    "row-level security of the trail": (
        "create policy certain on operational.audit_log for select using (table_name <> 'payments'); "
        "alter table operational.audit_log enable row level security",
        "alter table operational.audit_log disable row level security; drop policy certain on operational.audit_log",
        "row-level security of operational.audit_log",
    ),
    "entries of an earlier transaction": (
        "alter table operational.audit_log alter column xact_id set default '3'",
        "alter table operational.audit_log alter column xact_id set default pg_current_xact_id()",
        "xact_id of operational.audit_log has another default",
    ),
}


@pytest.mark.parametrize("case", OUTSIDE_THE_TRIGGERS)
def test_what_lets_changes_pass_by_the_trail_is_noted_for_every_table_and_no_run_passes_meanwhile(empty_book, case):
    opened, closed, says = OUTSIDE_THE_TRIGGERS[case]
    with nothing_kept(empty_book) as connection:
        assert problems(connection) == [None]
        assert noted(connection) == []
        # A statement that does more than one thing ends where the next one begins in lower case.
        for statement in re.split(r"; (?=create|alter)", opened):
            connection.execute(statement)
        assert all(re.search(says, str(problem)) for problem in problems(connection)), problems(connection)
        for statement in re.split(r"; (?=drop|alter)", closed):
            connection.execute(statement)
        assert problems(connection) == [None]
        assert sorted(set(noted(connection))) == ALL_TABLES


@pytest.mark.parametrize(
    ("view", "query"),
    [
        ("feed_events", "select * from etl.{0} where operation = 'RELOAD'"),
        ("trail_end", "select * from etl.{0} where false"),
        ("source_state", "select * from etl.{0} where is_current"),
    ],
)
def test_a_view_of_the_feed_that_somebody_made_another_one_stops_the_run(empty_book, view, query):
    with nothing_kept(empty_book) as connection:
        (definition,) = connection.execute("select pg_get_viewdef(%s::regclass)", (f"etl.{view}",)).fetchone() or ("",)
        inner = "(" + definition.rstrip(";") + ") as present"
        connection.execute(f"create or replace view etl.{view} as " + query.format(view).replace(f"etl.{view}", inner))
        assert problems(connection) == [f"view etl.{view} {CODE}"]
        connection.execute(FEED)
        assert problems(connection) == [None]
        assert noted(connection) == []


def test_a_function_of_the_feed_is_noted_when_it_changes_and_when_it_comes_back(oltp):
    """In a transaction each; the same function once more is no change."""
    off, on = does_nothing("operational.write_audit")
    oltp.empty_book()
    try:
        for statement in (off, on, on):
            oltp.primary(statement)
        assert oltp.primary(NOTES) == [(2,)]
    finally:
        oltp.primary(on)
        oltp.empty_book()


def test_the_function_that_notes_changed_functions_notes_what_happened_without_it_when_it_comes_back(oltp):
    """Several transactions: each of them is noted by itself, or by the next one."""
    blind, seeing = does_nothing("etl.note_changed_function", "event_trigger")
    off, on = does_nothing("operational.write_audit")
    oltp.empty_book()
    try:
        oltp.primary(blind)
        assert oltp.primary(NOTES) == [(1,)]
        oltp.primary(off)
        oltp.primary(on)
        oltp.primary(seeing)
        assert oltp.primary(NOTES) == [(2,)]
        oltp.primary(seeing)
        assert oltp.primary(NOTES) == [(2,)]
    finally:
        for statement in (seeing, on):
            oltp.primary(statement)
        oltp.empty_book()


def test_a_changed_function_waits_for_who_writes_by_the_former_one_and_the_same_one_waits_for_nobody(empty_book):
    off, on = does_nothing("operational.write_audit")
    with connect(empty_book.app_conninfo) as writer, nothing_kept(empty_book) as connection:
        add_customer(writer)
        connection.execute("set lock_timeout = '100ms'")
        connection.execute(on)
        with pytest.raises(psycopg.errors.LockNotAvailable), connection.transaction():
            connection.execute(off)
        writer.rollback()
        connection.execute(off)


def test_the_file_of_the_feed_applied_again_leaves_no_note(empty_book):
    with nothing_kept(empty_book) as connection:
        connection.execute(FEED)
        assert noted(connection) == []
        assert problems(connection) == [None]


def test_a_function_of_the_feed_that_was_changed_is_put_back_by_make_up(empty_book):
    off, on = does_nothing("operational.write_audit")
    with connect(empty_book.superuser_conninfo, autocommit=True) as connection:
        try:
            assert apply_files(connection, SQL_FOLDERS["primary"]) == []
            connection.execute(off)
            assert apply_files(connection, SQL_FOLDERS["primary"]) == [FEED_FILE]
            assert problems(connection) == [None]
            assert apply_files(connection, SQL_FOLDERS["primary"]) == []
        finally:
            connection.execute(on)
            empty_book.empty_book()


def test_a_second_function_of_a_name_of_the_feed_is_not_taken_for_the_platforms(empty_book):
    with nothing_kept(empty_book) as connection:
        connection.execute("create function etl.note_reload(short_name name) returns void language sql as 'select'")
        with pytest.raises(psycopg.errors.RaiseException, match=r"etl\.note_reload\(name\)"):
            connection.execute(FEED)


def test_every_function_and_view_of_the_feeds_file_is_a_part_of_the_feed(oltp):
    made = {f"function {name}" for name in re.findall(r"create or replace function (\S+?)\(", FEED)}
    made |= {f"view {name}" for name in re.findall(r"create or replace view (etl\.\w+)", FEED)}
    assert {part.partition("(")[0] for (part,) in oltp.primary("select part from etl.feed_parts()")} == made
    assert oltp.primary("select part from etl.applied_parts where part <> 'all functions' order by 1") == oltp.primary(
        "select part from etl.feed_parts() order by 1"
    )


def test_functions_of_others_leave_no_note(empty_book):
    with connect(empty_book.app_conninfo) as connection:
        connection.execute("create function pg_temp.write_audit() returns integer language sql as 'select 1'")
        connection.execute("drop function pg_temp.write_audit()")
        connection.rollback()
    with nothing_kept(empty_book) as connection:
        connection.execute("create function operational.own() returns integer language sql as 'select 1'")
        connection.execute("create or replace function operational.own() returns integer language sql as 'select 2'")
        connection.execute("drop function operational.own()")
        connection.execute("create rule own as on insert to operational.demo_book do instead nothing")
        connection.execute("drop rule own on operational.demo_book")
        assert noted(connection) == []
        assert problems(connection) == [None]


@pytest.mark.parametrize("action", ["nothing", "insert into operational.demo_book values (now(), 1, 1)"])
def test_a_rule_that_keeps_all_entries_out_of_the_trail_is_refused(empty_book, action):
    """Sessions that had written under it would go on without entries after it was dropped."""
    with nothing_kept(empty_book) as connection:
        with (
            pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="all entries out of") as refused,
            connection.transaction(),
        ):
            connection.execute(f"create rule quiet as on insert to operational.audit_log do instead {action}")
        assert refused.value.diag.message_hint
        for rule in (QUIET_RULE, "drop rule quiet on operational.audit_log"):
            connection.execute(rule)
        add_customer(connection)
        pay(connection, add_loan(connection, add_customer(connection)))
        assert connection.execute(
            "select count(*) from operational.audit_log where table_name = 'payments' and operation = 'INSERT'"
        ).fetchone() == (1,)


@pytest.mark.parametrize("change", ["rename to trail_of_2026", "set schema public"])
def test_the_trail_keeps_its_name_and_whoever_renames_it_is_told_why(empty_book, change):
    with nothing_kept(empty_book) as connection:
        with (
            pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="cannot be renamed or moved") as refused,
            connection.transaction(),
        ):
            connection.execute(f"alter table operational.audit_log {change}")
        assert "create view" in str(refused.value.diag.message_hint)
        # Other tables are nobody's business, also where there is no trail.
        connection.execute("create table public.own (id integer)")
        connection.execute("alter table public.own rename to other")


# --- who publishes a table, and under which settings ------------------------------------------------------------------

SETTINGS = ("quote_all_identifiers = on", "search_path = etl, operational, public", "datestyle = 'German'")
BOUNDS = "select oid, conname from pg_constraint where conname ~ '_bounds$' order by oid"


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_table_is_published_the_same_whatever_is_set_for_the_session(empty_book, setting):
    with nothing_kept(empty_book) as connection:
        bounds = connection.execute(BOUNDS).fetchall()
        for session in (setting, setting.partition(" = ")[0] + " = default"):
            connection.execute(f"set {session}")
            for table in TABLES:
                connection.execute("select etl.publish_table(%s)", (f"operational.{table}",))
                assert connection.execute("select etl.feed_problem(%s)", (f"operational.{table}",)).fetchone() == (
                    None,
                )
        assert noted(connection) == []
        assert connection.execute(BOUNDS).fetchall() == bounds


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_new_table_gets_its_bounds_whatever_is_set_for_the_session(empty_book, setting):
    with nothing_kept(empty_book) as connection:
        connection.execute(f"set {setting}")
        connection.execute(f"create table operational.t (id bigint primary key, due date, at timestamp, {STAMPS})")
        connection.execute("select etl.publish_table('operational.t')")
        found = connection.execute("select conname from pg_constraint where conname ~ '^t_.*_bounds$' order by 1")
        assert found.fetchall() == [
            ("t_at_bounds",),
            ("t_created_at_bounds",),
            ("t_due_bounds",),
            ("t_updated_at_bounds",),
        ]


def test_types_of_the_source_are_named_the_same_whatever_is_set_for_the_session(empty_book):
    query = "select table_name, column_name, data_type from etl.source_columns order by 1, 2"
    with nothing_kept(empty_book) as connection:
        expected = connection.execute(query).fetchall()
        connection.execute("set quote_all_identifiers = on")
        assert connection.execute(query).fetchall() == expected


FOREIGN = (
    "select cls.oid::regclass::text from pg_class as cls where cls.relnamespace = 'etl'::regnamespace "
    "and cls.relowner <> 'loans_owner'::regrole union all select proc.oid::regprocedure::text from pg_proc as proc "
    "where proc.pronamespace = 'etl'::regnamespace and proc.proowner <> 'loans_owner'::regrole"
)


@pytest.mark.parametrize("owner", ["loans_owner", "postgres"])
def test_what_publishing_makes_belongs_to_the_owner_whoever_publishes(empty_book, owner):
    """owner: of the table. Who may not read a table would not read it through the view either."""
    with nothing_kept(empty_book) as connection:
        connection.execute(f"create table operational.t (id bigint primary key, {STAMPS})")
        connection.execute(f"alter table operational.t owner to {owner}")
        connection.execute("select etl.publish_table('operational.t')")
        connection.execute("drop view etl.payments_changes")
        connection.execute("select etl.publish_table('operational.payments')")
        assert connection.execute(FOREIGN).fetchall() == []
        connection.execute("insert into operational.t values (4)")
        connection.execute("set local role etl_reader")
        assert connection.execute("select id from etl.t_changes").fetchall() == [(4,)]
        connection.execute("select * from etl.payments_changes")
        connection.execute("set local role loans_owner")
        connection.execute("select etl.publish_table('operational.payments')")


@pytest.mark.parametrize(
    "taken",
    [
        "alter view etl.payments_changes owner to postgres",
        "alter view etl.source_state owner to postgres",
        "alter table etl.applied_parts owner to postgres",
        "alter function operational.write_audit() owner to postgres",
        "alter function etl.source_state() owner to postgres",
    ],
)
def test_what_the_superuser_made_is_the_owners_again_after_the_next_make_up(empty_book, taken):
    with nothing_kept(empty_book) as connection:
        connection.execute(taken)
        connection.execute(FEED)
        connection.execute("reset role")
        assert connection.execute(FOREIGN).fetchall() == []
        assert problems(connection) == [None]


def test_publishing_a_table_again_leaves_no_note_and_one_trigger_of_each_kind(empty_book):
    with nothing_kept(empty_book) as connection:
        (before,) = connection.execute(RELOADS).fetchone() or (0,)
        connection.execute("set role loans_owner")
        for statement in (
            "alter table operational.payments add column colour text",
            "alter table operational.payments alter column colour set default 'red'",
            "create index on operational.payments (colour)",
            "alter trigger payments_audit on operational.payments rename to mine",
            "alter table operational.payments enable always trigger mine",
            "create temporary table payments (payment_id bigint primary key)",
            "alter table pg_temp.payments add column other text",
        ):
            connection.execute(statement)
        for _ in range(2):
            connection.execute("select etl.publish_table('operational.payments')")
        assert connection.execute(RELOADS).fetchone() == (before,)
        assert connection.execute(
            "select array_agg(tgname::text order by tgname) from pg_trigger "
            "where tgrelid = 'operational.payments'::regclass and not tgisinternal"
        ).fetchone() == (["payments_audit", "payments_no_truncate", "payments_stamp_row"],)
        assert connection.execute("select count(*) from etl.payments_changes where colour = 'red'").fetchone() == (0,)


def test_a_view_of_the_changes_that_somebody_made_another_one_is_named(empty_book):
    with nothing_kept(empty_book) as connection:
        (definition,) = connection.execute(
            "select rtrim(pg_get_viewdef('etl.payments_changes'::regclass), ';')"
        ).fetchone() or ("",)
        connection.execute(
            f"create or replace view etl.payments_changes as select * from ({definition}) as recent "
            "where payment_id > 5000"
        )
        problem = "select etl.feed_problem('operational.payments')"
        assert "renamed or dropped" in str(connection.execute(problem).fetchone())
        connection.execute("select etl.publish_table('operational.payments')")
        assert connection.execute(problem).fetchone() == (None,)


def test_other_roles_alter_tables_of_their_own(empty_book):
    with connect(empty_book.app_conninfo) as connection:
        connection.execute("create temporary table payments (payment_id bigint primary key)")
        connection.execute("alter table payments add column other text")
        connection.rollback()


# --- keys of the application's next rows ------------------------------------------------------------------------------

GREATEST = {"customers": 2**31 - 1, "loans": 2**63 - 1}


@pytest.mark.parametrize(
    ("table", "keys", "expected"),
    [
        ("customers", [], None),
        ("customers", [5], 6),
        ("customers", [5, 900], 901),
        ("customers", [-7], 1),
        ("customers", [5, GREATEST["customers"]], 6),
        ("customers", [5, GREATEST["customers"] - 1], 6),
        ("customers", [1, 1_999_999_999], 2),
        # The 1 that a new sequence stands at counts as given out.
        ("customers", [1_500_000_000, GREATEST["customers"]], 2),
        ("loans", [1_020_304_050_607_081], 1_020_304_050_607_082),
        ("loans", [10**18], 10**18 + 1),
        ("loans", [7, GREATEST["loans"]], 8),
        ("loans", [GREATEST["loans"] - 1], 2),
    ],
)
def test_the_applications_next_keys_are_free_and_do_not_run_out(empty_book, table, keys, expected):
    with empty_book.app() as connection:
        customer = add_customer(connection, customer_id=1_000_000) if table == "loans" else 0
        for key in keys:
            if table == "loans":
                add_loan(connection, customer, loan_id=key)
            else:
                add_customer(connection, customer_id=key)
        connection.execute("select operational.advance_identity(%s::regclass)", (f"operational.{table}",))
        for follows in range(3):
            new = add_loan(connection, customer) if table == "loans" else add_customer(connection)
            if expected is not None:
                assert new == expected + follows


def test_a_sequence_that_was_moved_to_its_end_comes_back_and_no_other_ever_goes_back(empty_book):
    with empty_book.app() as connection:
        add_customer(connection, customer_id=40)
        connection.execute("select setval('operational.customers_customer_id_seq', 2147483647)")
        with pytest.raises(psycopg.errors.SequenceGeneratorLimitExceeded), connection.transaction():
            add_customer(connection)
        connection.execute("select operational.advance_identity('operational.customers')")
        assert add_customer(connection) == 41
        connection.execute("delete from operational.customers where customer_id = 41")
        connection.execute("select operational.advance_identity('operational.customers')")
        assert add_customer(connection) == 42


def test_the_files_of_the_oltp_can_be_applied_again(empty_book):
    with nothing_kept(empty_book) as connection:
        for path in sorted((ROOT / "infra/primary/sql").glob("*.sql")):
            connection.execute(path.read_bytes())
            connection.execute("reset role")


def test_dates_that_python_cannot_hold_are_read_as_the_nearest_ones(empty_book):
    found = empty_book.primary(
        "select 'infinity'::date, '20226-03-01'::date, '0044-03-15 BC'::date, '-infinity'::timestamptz, "
        "'20226-03-01 00:00+00'::timestamptz, '0044-03-15 00:00+00 BC'::timestamptz, '2026-03-01 00:00+00'::timestamptz"
    )
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert found == [(date.max, date.max, date.min, first, last, first, datetime(2026, 3, 1, tzinfo=UTC))]
