"""Attacks with a lesser role's password: what the role wins must be nothing, and nobody else may be kept out."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from eds.base.errors import UserError
from eds.cluster import provision
from eds.cluster.connections import connect
from eds.ops import backup, privileges, restore, verify
from support import needs
from support.book import add_customer, add_loan, pay
from support.commands import finish, start

# Each as an attacker would shadow it: the same name and arguments, found before pg_catalog's.
SHADOWED = {
    "hashtext(text)": "integer",
    "to_regclass(text)": "regclass",
    "format(text, text)": "text",
    "format(text, name, name)": "text",
    "current_setting(text)": "text",
    "pg_export_snapshot()": "text",
    "clock_timestamp()": "timestamptz",
    "has_schema_privilege(oid, oid, text)": "boolean",
    "to_char(timestamp, text)": "text",
    "count(text)": "bigint",
    "statement_timestamp()": "timestamptz",
    "pg_backend_pid()": "integer",
}


@pytest.fixture(scope="module")
def built(all_servers):
    """Return a small book and a warehouse that has it."""
    platform = all_servers
    platform.empty_book()
    platform.empty_warehouse()
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection)), payment_date="2026-02-03T10:00:00+00")
    platform.wait_for_replicas()
    platform.build()
    return platform


@pytest.fixture
def as_role(built):
    """Log in as a role of either side: as_role("etl_writer")."""
    open_connections = []

    def open_as(role, server=None, database=None):
        side = built.cluster.warehouse if role in provision.WAREHOUSE_ROLES else built.cluster.primary
        password = getattr(built.settings, f"{role}_password").get_secret_value()
        connection = psycopg.connect((server or side).conninfo(role, password, database), autocommit=True)
        open_connections.append(connection)
        # What a role begins with, it may change.
        connection.execute("set default_transaction_read_only = off")
        return connection

    yield open_as
    for connection in open_connections:
        connection.close()


def superusers(platform):
    """Whoever is superuser on either server, beside the one that should be."""
    query = "select rolname from pg_catalog.pg_roles where rolsuper and rolname <> 'postgres'"
    return platform.primary(query) + platform.warehouse(query)


def set_trap(connection, schema):
    """Make a schema of functions that make their owner a superuser, when a superuser calls one."""
    connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    role = connection.info.user
    for signature, result in SHADOWED.items():
        connection.execute(
            f"create function {schema}.{signature} returns {result} language plpgsql as $body$ begin "
            "if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) "
            f"then execute 'alter role {role} superuser'; end if; return null; end $body$"
        )


@pytest.mark.parametrize("role", ["warehouse_user", "etl_writer", "warehouse_reader"])
@pytest.mark.parametrize(
    "statement",
    [
        "alter database {database} set search_path = trap, pg_catalog",
        "alter database {database} set session_preload_libraries = 'trap'",
        "alter database {database} owner to {role}",
        "alter role postgres set search_path = trap",
        "alter role {role} superuser",
        "alter role {role} connection limit -1",
        "set role warehouse_owner",
        "grant etl_writer to warehouse_reader",
        "create or replace function public.hashtext(text) returns integer language sql as 'select 1'",
        "copy (select 1) to program 'id'",
        "create table platform.mine ()",
        "select * from pg_catalog.pg_authid",
        "select * from pg_catalog.pg_user_mapping",
        "alter system set log_connections = on",
        "create extension dblink",
        "security label on schema public is 'x'",
    ],
)
def test_no_role_of_the_warehouse_may(built, as_role, role, statement):
    if statement.startswith("grant") and role == "etl_writer":
        pytest.skip("on PostgreSQL 15 a role administers itself for its own session only")
    connection = as_role(role)
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue)):
        connection.execute(
            sql.SQL(statement).format(database=sql.Identifier(built.settings.warehouse_db), role=sql.Identifier(role))
        )


def test_the_warehouses_owner_cannot_log_in_and_owns_nothing_that_runs(built):
    assert built.warehouse(
        "select owner.rolname, owner.rolcanlogin from pg_catalog.pg_database as place "
        "join pg_catalog.pg_roles as owner on owner.oid = place.datdba where datname = current_database()"
    ) == [("warehouse_owner", False)]
    assert (
        built.warehouse(
            "select proc.oid::regprocedure::text from pg_catalog.pg_proc as proc "
            "where pg_catalog.pg_get_userbyid(proc.proowner) = 'warehouse_owner'"
        )
        == []
    )


def test_the_statistics_of_statements_hold_no_password(built):
    with connect(built.runtime.cluster.warehouse.superuser_conninfo(), autocommit=True) as connection:
        connection.execute("alter user mapping for etl_writer server oltp options (set password 'in-the-clear')")
        with connect(built.runtime.cluster.writer_conninfo(), autocommit=True) as writer:
            provision.ensure_foreign_server(writer, built.runtime.cluster)
        password = built.settings.etl_reader_password.get_secret_value()
        held = "select count(*) from public.pg_stat_statements where strpos(query, %s) + strpos(query, %s) > 0"
        assert connection.execute(held, (password, "in-the-clear")).fetchone() == (0,)


def test_superusers_sessions_of_the_platform_do_not_find_a_lesser_roles_functions(built, as_role):
    writer = as_role("etl_writer")
    # "$user" is part of the default search path: a schema of the superuser's name is found first.
    set_trap(writer, "postgres")
    database = sql.Identifier(built.settings.warehouse_db)
    with connect(built.cluster.warehouse.superuser_conninfo("postgres"), autocommit=True) as connection:
        # As an older version of the platform may have been left.
        connection.execute(sql.SQL("alter database {} set search_path = postgres, pg_catalog").format(database))
    try:
        provision.provision_warehouse(built.cluster)
        verify.verify(built.runtime, lambda result: None)
        made = backup.dump(built.cluster, "warehouse", "sql")
        backup.verify(built.settings, made)
        restore.rows_now(built.cluster.warehouse)
        made.path.unlink()
        assert superusers(built) == []
        with built.cluster.warehouse.connect() as connection:
            found, _ = privileges.differences(connection, privileges.WAREHOUSE)
        assert "every session begins with search_path = postgres, pg_catalog, and should not" in found
    finally:
        with connect(built.cluster.warehouse.superuser_conninfo("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("alter database {} reset all").format(database))
            connection.execute("alter role etl_writer nosuperuser")
        writer.execute("drop schema postgres cascade")


def test_views_of_a_lesser_role_are_never_read_by_a_superuser(built, as_role):
    writer = as_role("etl_writer")
    definition = writer.execute("select pg_get_viewdef('warehouse.vw_payment_by_method')").fetchone()[0].rstrip(";")
    writer.execute(
        "create function audit.trap() returns boolean language plpgsql as $body$ begin "
        "if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) "
        "then execute 'alter role etl_writer superuser'; end if; return true; end $body$"
    )
    writer.execute("grant usage on schema audit to public")
    writer.execute(
        "create or replace view warehouse.vw_payment_by_method as "
        f"select * from ({definition}) as shown where audit.trap()"
    )
    try:
        verify.verify(built.runtime, lambda result: None)
        values = {"STATE_DIR": str(built.settings.state), "EDS_ENV_FILE": os.environ["EDS_ENV_FILE"]}
        values |= {f"{name.upper()}_PORT": str(server.port) for name, server in built.servers.items()}
        psql = start(("psql", "warehouse"), values | {"RUNTIME": "local"})
        finish(psql, 0, "select method_name from warehouse.vw_payment_by_method")
        assert superusers(built) == []
    finally:
        built.warehouse("alter role etl_writer nosuperuser")
        writer.execute(f"create or replace view warehouse.vw_payment_by_method as {definition}")
        writer.execute("drop function audit.trap()")
        writer.execute("revoke usage on schema audit from public")


@pytest.mark.parametrize(
    ("server", "role", "query"),
    [
        ("primary", "readonly_user", "select count(*) > 0 from operational.payments"),
        ("replica1", "readonly_user", "select count(*) > 0 from operational.audit_log"),
        ("warehouse", "warehouse_user", "select count(*) > 0 from audit.etl_runs"),
    ],
)
def test_psql_without_a_role_only_reads(built, server, role, query):
    values = {"STATE_DIR": str(built.settings.state), "EDS_ENV_FILE": os.environ["EDS_ENV_FILE"], "RUNTIME": "local"}
    values |= {f"{name.upper()}_PORT": str(place.port) for name, place in built.servers.items()}

    def psql(text, *options, code=0):
        return finish(start(("psql", server, "--tuples", *options), values), code, text).strip()

    assert psql(f"select current_user; {query}") == f"{role}\nt"
    refused = psql("set default_transaction_read_only = off; create table public.mine ()", code=3)
    assert ("read-only transaction" if server == "replica1" else "permission denied") in refused
    assert psql("select current_user; show search_path", "--role", "postgres") == "postgres\npg_catalog,public"


@pytest.mark.parametrize("role", ["app_user", "readonly_user", "etl_reader", "warehouse_user", "warehouse_reader"])
@pytest.mark.parametrize(
    "statement",
    [
        "select lo_create(0)",
        "select lo_from_bytea(0, 'x')",
        "select lo_creat(-1)",
        "select lo_put(1, 0, 'x')",
        "select pg_logical_emit_message(false, 'x', 'y')",
        "select pg_logical_emit_message(true, 'x', 'y'::bytea)",
        "create table public.mine ()",
        "create schema mine",
    ],
)
def test_no_role_may_write_beside_its_tables(built, as_role, role, statement):
    connection = as_role(role)
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
        connection.execute(statement)


def test_a_prepared_transaction_is_refused_by_the_servers_own_settings():
    """The tests' servers allow some, for a test of their own."""
    for line in (provision.ROOT / "infra/postgres/oltp.conf").read_text(encoding="utf-8").splitlines():
        if line.startswith("max_prepared_transactions"):
            assert line == "max_prepared_transactions = 0"
            return
    raise AssertionError("oltp.conf does not say")


@pytest.mark.parametrize(
    ("role", "database"),
    [
        *(
            (role, database)
            for role in ("app_user", "readonly_user", "etl_reader")
            for database in ("postgres", "template1")
        ),
        *(
            (role, database)
            for role in ("etl_writer", "warehouse_user", "warehouse_reader")
            for database in ("postgres", "template1", "metabase_db")
        ),
    ],
)
def test_no_role_gets_into_a_database_that_is_not_its_own(as_role, role, database):
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        as_role(role, database=database)


@pytest.mark.parametrize("role", ["readonly_user", "etl_reader", "app_user", "warehouse_reader", "warehouse_user"])
def test_one_role_cannot_take_every_connection(built, as_role, role):
    with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
        for _ in range(130):
            as_role(role)
    # Everybody else gets in, and not by the superuser's reserve alone.
    others = {"readonly_user", "app_user", "etl_writer", "warehouse_reader"} - {role}
    for other in sorted(others):
        assert as_role(other).execute("select 1").fetchone() == (1,)


@needs.pgbouncer
def test_a_password_that_is_no_longer_valid_is_refused_through_pgbouncer_too(built):
    def log_in(conninfo):
        with psycopg.connect(conninfo, prepare_threshold=None) as connection:
            return connection.execute("select current_user").fetchone()

    for valid_until, ways_in in (("2020-01-01", False), ("2999-01-01", True), ("infinity", True)):
        built.primary(f"alter role app_user valid until '{valid_until}'")
        try:
            for conninfo in (built.app_conninfo, built.cluster.pooled_conninfo()):
                if ways_in:
                    assert log_in(conninfo) == ("app_user",)
                else:
                    with pytest.raises(psycopg.OperationalError):
                        log_in(conninfo)
        finally:
            built.primary("alter role app_user valid until 'infinity'")


@needs.pgbouncer
def test_a_role_that_may_not_log_in_is_refused_through_pgbouncer_too(built):
    built.primary("alter role app_user nologin")
    try:
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(built.cluster.pooled_conninfo()).close()
    finally:
        built.primary("alter role app_user login")


@needs.pgbouncer
def test_clients_that_forget_their_transaction_do_not_stop_the_pool(built):
    """As many as the pool has servers: whoever comes next waits until theirs are ended, and gets in."""
    forgotten = []
    try:
        for _ in range(25):
            connection = psycopg.connect(built.cluster.pooled_conninfo(), prepare_threshold=None)
            forgotten.append(connection)
            connection.execute("select 1")
        with psycopg.connect(built.cluster.pooled_conninfo(), prepare_threshold=None, autocommit=True) as next_one:
            assert next_one.execute("select 1").fetchone() == (1,)
    finally:
        for connection in forgotten:
            connection.close()


@pytest.fixture
def marker(tmp_path):
    """Yield where an attack would make a file; every account could."""
    folder = Path(tempfile.mkdtemp(prefix="attack-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder / "made"
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "attack",
    [
        "\\! id > {marker}\n",
        "select 1 \\! id > {marker}\n",
        "select 1; \\! id > {marker}\n",
        "\\unrestrict 0\n\\! id > {marker}\n",
        "\\o |id > {marker}\nselect 1;\n",
        "select 1 \\g |id > {marker}\n",
        "\\copy (select 1) to program 'id > {marker}'\n",
        "\\i {marker}\n",
        "create function pg_temp.f() returns void language sql as $$\nCOPY x FROM stdin;\n$$;\n\\! id > {marker}\n",
        "  \\setenv PAGER 'id > {marker}'\nselect 1 \\gx\n",
    ],
)
@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_dump_runs_no_command_of_psql(built, marker, attack, with_manifest):
    text = (
        f"set statement_timeout = 0;\n{attack.format(marker=marker)}select 1;\n-- PostgreSQL database dump complete\n"
    )
    folder = built.settings.backups
    folder.mkdir(exist_ok=True)
    path = folder / "backup_operational_20260101_000000.sql.gz"
    path.write_bytes(gzip.compress(text.encode()))
    try:
        made = backup.Backup(path, "operational", datetime.now(UTC), {"rows": {}} if with_manifest else {})
        with pytest.raises(UserError, match=r"command of psql|restrict"):
            restore.load_dump(built.settings, made, built.cluster.primary, "loans_db_restore_attack")
        assert not marker.exists()
        assert built.primary("select datname from pg_database where datname ~ 'restore'") == []
    finally:
        path.unlink()


def test_a_dump_without_manifest_is_not_restored_by_force_alone(built):
    made = backup.dump(built.cluster, "operational", "sql")
    backup.manifest_path(made.path).unlink()
    values = {"STATE_DIR": str(built.settings.state), "EDS_ENV_FILE": os.environ["EDS_ENV_FILE"], "RUNTIME": "local"}
    values |= {f"{name.upper()}_PORT": str(place.port) for name, place in built.servers.items()}
    try:
        refused = finish(start(("restore", "--file", str(made.path), "--force"), values), 1)
        assert "WITHOUT_MANIFEST=1" in refused
        assert built.primary("select count(*) from pg_database where datname ~ 'replaced|restore'") == [(0,)]
    finally:
        made.path.unlink()
