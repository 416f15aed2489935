"""Roles, schemas and the foreign server: everything inside the databases, the same on either runtime."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import psycopg
from psycopg import sql

from eds.base.errors import UserError
from eds.base.settings import ROOT, Settings
from eds.cluster import exchange, locks
from eds.cluster.connections import Cluster, Server, psycopg_notices_off, refuses_password
from eds.cluster.queries import has_relation

# The SQL files of both databases, applied among each one's own in the order of their numbers.
COMMON_SQL = ROOT / "infra/postgres/sql"
SQL_FOLDERS = {"primary": ROOT / "infra/primary/sql", "warehouse": ROOT / "infra/warehouse/sql"}

# The file of the primary that makes the change feed.
FEED_FILE = "020_change_feed.sql"

# The roles that log in; <ROLE>_PASSWORD in `.env` is the password of each.
OLTP_ROLES = ("app_user", "readonly_user", "etl_reader", "replicator", "pgbouncer_lookup")
WAREHOUSE_ROLES = ("warehouse_user", "etl_writer", "warehouse_reader")

# Metabase's own database, on the warehouse server, and the role that owns it.
METABASE_DB = "metabase_db"
METABASE_ROLE = "metabase_user"
METABASE_CONNECTIONS = 20


def _ensure_database(server: Server) -> None:
    with server.connect("postgres", autocommit=True) as connection:
        exists = connection.execute("select from pg_database where datname = %s", (server.database,)).fetchone()
        if exists is None:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(server.database)))


def apply_files(connection: psycopg.Connection, folder: Path) -> list[str]:
    """Apply the SQL files that are new or changed since they were last applied here, in one transaction.

    folder: one of SQL_FOLDERS; the files of COMMON_SQL are applied with it.

    Returns their names. A failure leaves the database as it was.
    """
    psycopg_notices_off(connection)
    if not has_relation(connection, "platform.applied_file"):
        connection.execute("create schema if not exists platform")
        connection.execute(
            "create table if not exists platform.applied_file ("
            "file_name text primary key, sha256 text not null, applied_at timestamptz not null default now())"
        )
    what = f"Bringing database {connection.info.dbname} up to date"
    try:
        with connection.transaction():
            # Two concurrent commands must not apply the same file twice.
            locks.lock_table(connection, "platform.applied_file", what)
            locks.limit_waiting(connection)
            return _apply_new_files(connection, folder)
    except psycopg.errors.LockNotAvailable as error:
        raise locks.blocked(connection, what) from error


def _apply_new_files(connection: psycopg.Connection, folder: Path) -> list[str]:
    """Apply the files in the connection's transaction."""
    applied = []
    known: dict[str, str] = dict(connection.execute("select file_name, sha256 from platform.applied_file").fetchall())
    if folder == SQL_FOLDERS["primary"] and _feed_was_changed(connection):
        known.pop(FEED_FILE, None)
    for path in sorted([*COMMON_SQL.glob("*.sql"), *folder.glob("*.sql")], key=lambda path: path.name):
        text = path.read_bytes()
        digest = hashlib.sha256(text).hexdigest()
        if known.get(path.name) == digest:
            continue
        try:
            connection.execute(text)
        except psycopg.errors.RaiseException as error:
            # The file itself refuses: its message says what it found and what to do.
            raise UserError(f"{path.name}: {error.diag.message_primary}\n{error.diag.message_hint or ''}") from error
        connection.execute("reset role")
        connection.execute(
            "insert into platform.applied_file (file_name, sha256) values (%s, %s) "
            "on conflict (file_name) do update set sha256 = excluded.sha256, applied_at = now()",
            (path.name, digest),
        )
        applied.append(path.name)
    return applied


def _feed_was_changed(connection: psycopg.Connection) -> bool:
    """Return whether a function or view of the change feed is not as its file made it, so that no run passes."""
    if connection.execute("select to_regprocedure('etl.changed_part()')").fetchone() == (None,):
        return False
    return connection.execute("select etl.changed_part()").fetchone() != (None,)


def _ensure_password(connection: psycopg.Connection, server: Server, role: str, password: str) -> bool:
    """Give a role the password of the settings, unless it has it already. Returns whether it was set."""
    # Compare with the verifier first: a login with a wrong password would be a FATAL line in the log of a healthy first
    # start.
    row = connection.execute("select rolpassword from pg_authid where rolname = %s", (role,)).fetchone()
    if not row or not verifies(row[0], password):
        set_password(connection, role, password)
        return True
    try:
        database = "postgres" if role == "replicator" else server.database
        replication = {"replication": "true"} if role == "replicator" else {}
        with psycopg.connect(server.conninfo(role, password, database, **replication)):
            return False
    except psycopg.OperationalError as error:
        if not refuses_password(error):
            raise UserError(
                f"{server.name} at {server.host}:{server.port} refuses {role}: {str(error).strip()}"
            ) from error
        set_password(connection, role, password)
        return True


def adopt_passwords(server: Server, settings: Settings) -> None:
    """Give the roles of an OLTP server that is not provisioned, a recovered one, the passwords of the settings."""
    with server.connect("postgres") as connection:
        # A copy for inspection takes no writes by default.
        connection.execute("set transaction read write")
        rows = connection.execute(
            "select rolname, rolpassword from pg_authid where rolname = any(%s)", (list(OLTP_ROLES),)
        ).fetchall()
        for role, verifier in rows:
            password = getattr(settings, f"{role}_password").get_secret_value()
            if not verifies(verifier, password):
                set_password(connection, role, password)


def verifies(verifier: str | None, password: str) -> bool:
    """Return whether a password is the one of a SCRAM verifier, as pg_authid holds it (RFC 5803)."""
    found = re.fullmatch(r"SCRAM-SHA-256\$([0-9]+):([^$]+)\$([^:]+):(.+)", verifier or "")
    if not found:
        return False
    iterations, salt, stored_key = int(found[1]), base64.b64decode(found[2]), base64.b64decode(found[3])
    prepared = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", prepared, salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key)


def set_password(connection: psycopg.Connection, role: str, password: str) -> None:
    """Give a role a password. The server, and so its log, only ever sees the SCRAM verifier."""
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(verifier)))


def _provision(cluster: Cluster, server: Server, folder: Path, roles: tuple[str, ...]) -> list[str]:
    _ensure_database(server)
    # Before any other role has to log in.
    done = exchange.reopen(server)
    with server.connect(autocommit=True) as connection:
        done += apply_files(connection, folder)
        for role in roles:
            password = getattr(cluster.settings, f"{role}_password").get_secret_value()
            if _ensure_password(connection, server, role, password):
                done.append(f"password of {role}")
    return done


def provision_oltp(cluster: Cluster) -> list[str]:
    """Bring the primary's database, roles and schema up to date. Returns what was done (empty: nothing)."""
    return _provision(cluster, cluster.primary, SQL_FOLDERS["primary"], OLTP_ROLES)


def provision_warehouse(cluster: Cluster) -> list[str]:
    """Bring the warehouse's database, roles, schemas and foreign server up to date. Returns what was done."""
    done = _provision(cluster, cluster.warehouse, SQL_FOLDERS["warehouse"], WAREHOUSE_ROLES)
    with cluster.connect_as_writer() as connection:
        psycopg_notices_off(connection)
        done += ensure_foreign_server(connection, cluster)
    return done + provision_metabase(cluster)


def provision_metabase(cluster: Cluster) -> list[str]:
    """Give Metabase a role and a database of its own on the warehouse server. Returns what was done."""
    warehouse = cluster.warehouse
    place = replace(warehouse, database=METABASE_DB)
    with warehouse.connect("postgres", autocommit=True) as connection:
        if connection.execute("select from pg_roles where rolname = %s", (METABASE_ROLE,)).fetchone() is None:
            connection.execute(sql.SQL("create role {} login").format(sql.Identifier(METABASE_ROLE)))
        _ensure_database(place)
        for statement in (
            "alter database {database} owner to {role}",
            "revoke all on database {database} from public",
            "alter role {role} connection limit {limit}",
        ):
            connection.execute(
                sql.SQL(statement).format(
                    database=sql.Identifier(METABASE_DB),
                    role=sql.Identifier(METABASE_ROLE),
                    limit=sql.Literal(METABASE_CONNECTIONS),
                )
            )
        password = cluster.settings.metabase_db_password.get_secret_value()
        changed = _ensure_password(connection, place, METABASE_ROLE, password)
    return [f"password of {METABASE_ROLE}"] if changed else []


def ensure_foreign_server(connection: psycopg.Connection, cluster: Cluster) -> list[str]:
    """Create or correct the foreign servers and their user mappings. Returns what was done.

    Each has all hosts: libpq takes the first standby that answers for `oltp`, and the primary when there is none; for
    `oltp_primary`, which monitoring reads, whoever takes the writes. connection: as etl_writer, who owns them.
    """
    order = (*cluster.replicas, cluster.primary)
    wanted_server = {
        "host": ",".join(server.host for server in order),
        "port": ",".join(str(server.port) for server in order),
        "dbname": cluster.settings.oltp_db,
        "target_session_attrs": "prefer-standby",
        "connect_timeout": "5",
        "tcp_user_timeout": "60000",
        "application_name": "warehouse_extraction",
        "fetch_size": "20000",
    }
    of_primary = wanted_server | {
        "target_session_attrs": "primary",
        "connect_timeout": "3",
        "application_name": "warehouse_monitoring",
    }
    wanted_mapping = {"user": "etl_reader", "password": cluster.settings.etl_reader_password.get_secret_value()}
    done = [
        *_ensure_server(connection, "oltp", wanted_server, wanted_mapping),
        *_ensure_server(connection, "oltp_primary", of_primary, wanted_mapping),
    ]
    connection.execute(
        "create foreign table if not exists operational_fdw.server_figures (figure text, member text, "
        "amount double precision) server oltp_primary options (schema_name 'etl', table_name 'server_figures')"
    )
    return done


def _ensure_server(
    connection: psycopg.Connection, name: str, wanted_server: dict[str, str], wanted_mapping: dict[str, str]
) -> list[str]:
    done = []
    server = connection.execute("select srvoptions from pg_foreign_server where srvname = %s", (name,)).fetchone()
    if server is None:
        connection.execute(sql.SQL("create server {} foreign data wrapper postgres_fdw").format(sql.Identifier(name)))
    if changes := _option_changes(server[0] if server else None, wanted_server):
        connection.execute(sql.SQL("alter server {} options ({})").format(sql.Identifier(name), changes))
        done.append(f"foreign server {name}")
    mapping = connection.execute(
        "select umoptions from pg_user_mappings where srvname = %s and usename = 'etl_writer'", (name,)
    ).fetchone()
    if mapping is None:
        connection.execute(sql.SQL("create user mapping for etl_writer server {}").format(sql.Identifier(name)))
    if changes := _option_changes(mapping[0] if mapping else None, wanted_mapping):
        connection.execute(
            sql.SQL("alter user mapping for etl_writer server {} options ({})").format(sql.Identifier(name), changes)
        )
        done.append(f"user mapping of etl_writer on {name}")
    return done


def _option_changes(present: list[str] | None, wanted: dict[str, str]) -> sql.Composed | None:
    """Return the `options (…)` list that turns the present options into the wanted ones, or None."""
    have = dict(option.split("=", 1) for option in present or [])
    parts: list[sql.Composable] = [
        sql.SQL("{} {} {}").format(sql.SQL("set" if name in have else "add"), sql.Identifier(name), sql.Literal(value))
        for name, value in wanted.items()
        if have.get(name) != value
    ]
    parts += [sql.SQL("drop {}").format(sql.Identifier(name)) for name in have if name not in wanted]
    return sql.SQL(", ").join(parts) if parts else None
