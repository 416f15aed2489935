"""Bring the platform up and down, on either runtime."""

from __future__ import annotations

import psycopg
from rich.table import Table

from eds.base.console import err, out, step
from eds.base.errors import UserError
from eds.base.services import exclusive
from eds.base.settings import Settings
from eds.book.demo import fill
from eds.cluster.connections import Cluster
from eds.dashboards import page
from eds.dashboards.commands import provision_metabase
from eds.runtime.member import Runtime
from eds.warehouse import runs


def start_servers(runtime: Runtime) -> None:
    """Start the four servers and PgBouncer, and bring their databases up to date. Safe to repeat."""
    runtime.prepare()
    runtime.start_servers()


def book_is_empty(settings: Settings) -> bool:
    """Return whether the loan book has no customers, loans or payments."""
    with Cluster(settings).primary.connect() as connection:
        row = connection.execute(
            "select not exists (select from operational.customers) and not exists (select from operational.loans) "
            "and not exists (select from operational.payments)"
        ).fetchone()
    return bool(row and row[0])


def fill_demo(settings: Settings) -> bool:
    """Fill an empty loan book with the demo of the settings' SCALE. Returns whether it was filled."""
    scale = fill.Scale.parse(settings.scale)
    if settings.scale == "empty" or not book_is_empty(settings):
        return False
    with Cluster(settings).primary.connect() as connection:
        summary = fill.fill(connection, scale, settings.seed)
    err.print(f"demo loan book: {summary}")
    return True


def first_build(settings: Settings) -> None:
    """Fill the warehouse, unless a run has succeeded before."""

    def done() -> bool:
        return runs.last_success(settings)[0] is not None

    if done():
        return
    err.print("first dbt build")
    if runs.build(settings, scheduled=True, trigger="start") == 0:
        return
    # A `make up` that was killed leaves its dbt running, and only one run is allowed at a time.
    waited = runs.wait_for_run(settings)
    if done() or (waited and runs.build(settings, scheduled=True, trigger="start") == 0):
        return
    raise UserError("The first dbt build failed, see above. Fix it, then `make up` resumes from here.")


def up(runtime: Runtime) -> None:
    """Start everything, from nothing to dashboards that answer (`make up`). Safe to repeat."""
    settings = runtime.settings
    fill.Scale.parse(settings.scale)
    try:
        with exclusive(settings):
            start_servers(runtime)
            fill_demo(settings)
            first_build(settings)
            runtime.start_services()
            show(runtime)
    except KeyboardInterrupt:
        err.print("interrupted; what was started runs on: `make up` resumes from here, `make down` stops it")
        raise
    summary(runtime)


def show(runtime: Runtime) -> None:
    """Bring the pages and Metabase up to date. A failure there is reported: the platform is up all the same."""
    settings = runtime.settings
    try:
        # In Docker, the scheduler writes them into the volume that is served.
        if runtime.name == "local":
            with step("pages"):
                page.refresh(settings)
        if runtime.is_running("metabase"):
            provision_metabase(runtime, check=None)
    except (UserError, OSError, psycopg.Error) as error:
        err.print("[red]failed:[/] ", end="")
        err.print(str(error), markup=False)


def summary(runtime: Runtime) -> None:
    """Print what runs where, and what to try next."""
    out.print(state_table(runtime))
    out.print(
        "Try next:\n"
        "  make docs                dashboards, lineage and star schema in the browser\n"
        "  make etl                 the run history (make etl NOW=1 runs one now)\n"
        "  echo 'select * from warehouse.vw_monthly_revenue' | make -s psql-warehouse\n"
        "  make simulate            live traffic through the application's role\n"
        "  . scripts/activate       then dbt build, dbt test, dbt docs generate by hand\n"
        "  make down                stop; make up continues with all data\n"
        "Passwords are in .env."
    )
    settings = runtime.settings
    pages = (settings.site / page.FILE_NAME).as_uri()
    if runtime.name == "docker":
        pages = f"http://127.0.0.1:{settings.docs_port}/ (refreshed after each run)"
    out.print(f"Dashboards: {pages}", soft_wrap=True)


def state_table(runtime: Runtime) -> Table:
    """Return the services as a table for the terminal."""
    table = Table(title="Services")
    for name in ("service", "status", "address", "pid", ""):
        table.add_column(name)
    colours = {"running": "green", "starting": "yellow", "unhealthy": "red", "stopped": "red", "absent": "yellow"}
    for state in runtime.states():
        host = getattr(runtime.settings, f"{state.name}_host", "127.0.0.1")
        address = f"{host}:{state.port}" if state.port else ""
        table.add_row(
            state.name, f"[{colours[state.status]}]{state.status}[/]", address, str(state.pid or ""), state.detail
        )
    return table
