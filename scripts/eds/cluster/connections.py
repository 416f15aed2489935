"""Connections to the platform's servers."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.datetime import DateLoader, TimestamptzLoader
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from eds.base.errors import UserError
from eds.base.files import write_atomically
from eds.base.services import SIDE, compose_folder, runs_in_docker
from eds.base.settings import Settings

CONNECT_TIMEOUT_SECONDS = 5
# A superuser's session finds what PostgreSQL itself brings, whatever a lesser role has made or set.
SUPERUSER_OPTIONS = "-c search_path=pg_catalog"
# The servers of the OLTP cluster. Each keeps its name, its place and its data, whichever of them takes the writes.
MEMBERS = ("primary", "replica1", "replica2")
# The databases that PgBouncer serves, and whether a replica answers there.
POOLS = {"loans_db": False, "loans_db_ro": True}


def replicas_of(primary: str) -> tuple[str, ...]:
    """Return the members that follow this one; the one called primary last."""
    return tuple(name for name in sorted(MEMBERS, key=lambda name: name == "primary") if name != primary)


@dataclass(frozen=True)
class Server:
    """One PostgreSQL server of the platform."""

    name: str
    host: str
    port: int
    database: str
    superuser_password: str
    # The CA that its certificate is of, where sessions are encrypted.
    ca_file: Path | None = None

    @property
    def _tls(self) -> dict[str, str]:
        return {"sslmode": "verify-full", "sslrootcert": str(self.ca_file)} if self.ca_file else {}

    def conninfo(self, user: str, password: str, database: str | None = None, **options: Any) -> str:
        """Return a libpq connection string. Keep it in memory: it contains the password."""
        return make_conninfo(
            host=self.host,
            port=self.port,
            user=user,
            password=password,
            dbname=database or self.database,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            **self._tls,
            **options,
        )

    def superuser_conninfo(self, database: str | None = None) -> str:
        """Return a libpq connection string of the server's superuser."""
        return self.conninfo("postgres", self.superuser_password, database, options=SUPERUSER_OPTIONS)

    def connect(self, database: str | None = None, *, autocommit: bool = False) -> psycopg.Connection:
        """Open a connection as the superuser. Raises UserError when nothing answers."""
        return connect(self.superuser_conninfo(database), autocommit=autocommit)


@dataclass(frozen=True)
class Cluster:
    """The platform's servers as the settings place them: three members of the OLTP cluster, and the warehouse.

    Which member takes the writes is read each time it is asked for: a failover, maybe another command's, changes it.
    """

    settings: Settings

    @cached_property
    def servers(self) -> dict[str, Server]:
        """The four servers by name: primary, replica1, replica2, warehouse."""
        return {name: self._server(name) for name in (*MEMBERS, "warehouse")}

    def _server(self, name: str) -> Server:
        settings, warehouse = self.settings, name == "warehouse"
        password = settings.warehouse_postgres_password if warehouse else settings.postgres_password
        return Server(
            name=name,
            host=getattr(settings, f"{name}_host"),
            port=getattr(settings, f"{name}_port"),
            database=settings.warehouse_db if warehouse else settings.oltp_db,
            superuser_password=password.get_secret_value(),
            ca_file=settings.ca_file if settings.uses_tls else None,
        )

    @property
    def _primary_note(self) -> Path:
        # Each runtime has data of its own, and so a primary of its own.
        settings = self.settings
        return (compose_folder(settings) if runs_in_docker(settings) else settings.state) / "current-primary"

    @property
    def primary_name(self) -> str:
        """The member that takes the writes: the one called primary, until a failover names another."""
        note = self._primary_note
        try:
            name = note.read_text(encoding="utf-8").strip()
        except (FileNotFoundError, NotADirectoryError):
            return "primary"
        if name not in MEMBERS:
            raise UserError(
                f"{note} should name the primary, one of {', '.join(MEMBERS)}; found {name!r}. Write there which one "
                "took the last writes, or remove the file when there was never a failover."
            )
        return name

    def set_primary(self, name: str) -> None:
        """Note which member takes the writes from now on. Survives a loss of power."""
        write_atomically(self._primary_note, f"{name}\n", mode=0o600)

    @property
    def primary(self) -> Server:
        """The server that takes the writes."""
        return self.servers[self.primary_name]

    @property
    def replica_names(self) -> tuple[str, ...]:
        """The members that follow the primary; the one called primary, after a failover, last."""
        return replicas_of(self.primary_name)

    @property
    def replicas(self) -> tuple[Server, ...]:
        """The servers of the members that follow the primary."""
        return tuple(self.servers[name] for name in self.replica_names)

    @property
    def warehouse(self) -> Server:
        """The warehouse server."""
        return self.servers["warehouse"]

    @property
    def recovered(self) -> Server:
        """The cluster that a point-in-time recovery leaves beside the primary."""
        return dataclasses.replace(self.primary, name=SIDE, port=self.settings.pitr_port)

    def conninfo(self, server: Server, role: str) -> str:
        """Return a connection string of a role, with its password of the settings."""
        return server.conninfo(role, getattr(self.settings, f"{role}_password").get_secret_value())

    def app_conninfo(self) -> str:
        """Return a connection string of app_user on the primary."""
        return self.conninfo(self.primary, "app_user")

    def pooled_conninfo(self, database: str = "loans_db") -> str:
        """Return a connection string of app_user through PgBouncer. loans_db is the primary, loans_db_ro a replica."""
        settings = self.settings
        return make_conninfo(
            self.app_conninfo(), host=settings.pgbouncer_host, port=settings.pgbouncer_port, dbname=database
        )

    def writer_conninfo(self) -> str:
        """Return a connection string of dbt's role on the warehouse."""
        return self.conninfo(self.warehouse, "etl_writer")

    def connect_as_writer(self, *, autocommit: bool = False) -> psycopg.Connection:
        """Open a connection as dbt's role on the warehouse. Raises UserError when nothing answers."""
        return connect(self.writer_conninfo(), autocommit=autocommit)


def forget_libpq_environment() -> None:
    """Drop libpq's own variables (PGSERVICE, PGSSLMODE, PGOPTIONS, …) from this process and its children.

    They belong to other servers of the user, and would change what reaches ours.
    The platform's own settings have an underscore: PG_BINDIR, PGBOUNCER_PORT.
    """
    for name in [name for name in os.environ if re.fullmatch(r"PG[A-Z0-9]+", name)]:
        del os.environ[name]


class _NearestDateLoader(DateLoader):
    """Reads a date that Python cannot hold (before Christ, after 9999, infinite) as the nearest one it can."""

    def load(self, data: Buffer) -> date:
        try:
            return super().load(data)
        except psycopg.DataError:
            return date.min if _is_past(data) else date.max


class _NearestTimestamptzLoader(TimestamptzLoader):
    """Reads a timestamp that Python cannot hold as the nearest one it can."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return (datetime.min if _is_past(data) else datetime.max).replace(tzinfo=UTC)


def _is_past(data: Buffer) -> bool:
    text = bytes(data)
    return text.endswith(b"BC") or text.startswith(b"-")


def connect(conninfo: str, **options: Any) -> psycopg.Connection:
    """Open a connection in UTC and with ISO dates, whatever is set elsewhere, which reads every date.

    Raises UserError that says where nothing answers.
    """
    # Variables of the shell would take precedence over these options.
    for variable in ("PGTZ", "PGDATESTYLE"):
        os.environ.pop(variable, None)
    place = conninfo_to_dict(conninfo)
    try:
        own = f"-c TimeZone=UTC -c DateStyle=ISO {place.get('options') or ''}".rstrip()
        connection = psycopg.connect(conninfo, options=own, **options)
        connection.adapters.register_loader("date", _NearestDateLoader)
        connection.adapters.register_loader("timestamptz", _NearestTimestamptzLoader)
        return connection
    except psycopg.OperationalError as error:
        raise UserError(
            f"No connection to database {place.get('dbname')} at {place.get('host')}:{place.get('port')} as "
            f"{place.get('user')}: {str(error).strip()}\nIs the platform up? `make up` starts it, `make ps` shows it."
        ) from error


class WrongPasswordError(UserError):
    """The server answers, and has another password for the role."""


def refuses_password(error: BaseException) -> bool:
    """Return whether a connection failed at its password (libpq gives no code for it, only the server's words)."""
    return "authentication failed" in str(error)


def wait_until_accepting(conninfo: str, seconds: float) -> None:
    """Wait until a server accepts a login.

    Raises UserError after `seconds`, and WrongPasswordError as soon as the server refuses the password.
    """
    place = conninfo_to_dict(conninfo)
    where = f"{place.get('host')}:{place.get('port')}"
    try:
        for attempt in Retrying(
            stop=stop_after_delay(seconds),
            wait=wait_exponential(multiplier=0.02, max=0.25),
            retry=retry_if_exception(
                lambda error: isinstance(error, psycopg.OperationalError) and not refuses_password(error)
            ),
        ):
            # A pooler accepts a login without having a server for it.
            with attempt, psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("select 1")
                return
    except RetryError as error:
        raise UserError(
            f"The server at {where} did not accept connections within {seconds:.0f} s: {error.last_attempt.exception()}"
        ) from error
    except psycopg.OperationalError as error:
        raise WrongPasswordError(
            f"The server at {where} refuses the password that .env (or the environment) has for "
            f"{place.get('user')}: {str(error).strip()}"
        ) from error


def psycopg_notices_off(connection: psycopg.Connection) -> None:
    """Do not send 'already exists, skipping' and the like."""
    connection.execute("set client_min_messages = warning")
