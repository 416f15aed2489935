"""Connections to the platform's servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from eds.errors import UserError
from eds.settings import Settings

CONNECT_TIMEOUT_SECONDS = 5


@dataclass(frozen=True)
class Server:
    """One PostgreSQL server of the platform, and the setting that moves its port."""

    name: str
    host: str
    port: int
    port_setting: str
    database: str
    superuser_password: str

    def conninfo(self, user: str, password: str, database: str | None = None, **options: Any) -> str:
        """A libpq connection string. Keep it in memory: it contains the password."""
        return make_conninfo(
            host=self.host,
            port=self.port,
            user=user,
            password=password,
            dbname=database or self.database,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            **options,
        )

    def superuser_conninfo(self, database: str | None = None) -> str:
        """A libpq connection string of the server's superuser."""
        return self.conninfo("postgres", self.superuser_password, database)


def servers(settings: Settings) -> dict[str, Server]:
    """The four PostgreSQL servers by name: primary, replica1, replica2, warehouse."""
    result = {}
    for name in ("primary", "replica1", "replica2", "warehouse"):
        warehouse = name == "warehouse"
        password = settings.warehouse_postgres_password if warehouse else settings.postgres_password
        result[name] = Server(
            name=name,
            host=getattr(settings, f"{name}_host"),
            port=getattr(settings, f"{name}_port"),
            port_setting=f"{name.upper()}_PORT",
            database=settings.warehouse_db if warehouse else settings.oltp_db,
            superuser_password=password.get_secret_value(),
        )
    return result


def connect(conninfo: str, **options: Any) -> psycopg.Connection:
    """Open a connection in UTC. Raises UserError that says where nothing answers."""
    try:
        return psycopg.connect(conninfo, options="-c TimeZone=UTC", **options)
    except psycopg.OperationalError as error:
        place = psycopg.conninfo.conninfo_to_dict(conninfo)
        raise UserError(
            f"No connection to database {place.get('dbname')} at {place.get('host')}:{place.get('port')} as "
            f"{place.get('user')}: {str(error).strip()}\nIs the platform up? `make up` starts it, `make ps` shows it."
        ) from error


def wait_until_accepting(conninfo: str, seconds: float) -> None:
    """Wait until a server accepts connections. Raises UserError after `seconds`."""
    try:
        for attempt in Retrying(
            stop=stop_after_delay(seconds),
            wait=wait_exponential(multiplier=0.05, max=0.5),
            retry=retry_if_exception_type(psycopg.OperationalError),
        ):
            with attempt, psycopg.connect(conninfo):
                return
    except RetryError as error:
        place = psycopg.conninfo.conninfo_to_dict(conninfo)
        raise UserError(
            f"The server at {place.get('host')}:{place.get('port')} did not accept connections within {seconds:.0f} s: "
            f"{error.last_attempt.exception()}"
        ) from error


def psycopg_notices_off(connection: psycopg.Connection) -> None:
    """Do not send 'already exists, skipping' and the like."""
    connection.execute("set client_min_messages = warning")
