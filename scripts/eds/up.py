"""`make up`: start the platform, on either runtime; the first time also create, fill and build it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import psycopg
from rich.markup import escape
from rich.table import Table

from eds.base import disk
from eds.base.console import bar, err, out, step
from eds.base.errors import UserError
from eds.base.services import exclusive
from eds.base.settings import env_file
from eds.book.demo import fill
from eds.cluster.connections import POOLS, Cluster, connect, wait_until_accepting
from eds.dashboards import page
from eds.dashboards.commands import provision_metabase
from eds.ops import interrupted, machine, pitr, transactions
from eds.runtime.member import Runtime
from eds.warehouse import closing, failed_start, runs

# How long PgBouncer may take to serve, behind servers that answer.
POOL_SECONDS = 20


def start_servers(runtime: Runtime) -> None:
    """Start the four servers and PgBouncer, and bring their databases up to date. Safe to repeat."""
    runtime.prepare()
    interrupted.before_start(runtime)
    runtime.start_servers()
    interrupted.after_start(runtime)
    _end_preparing(runtime)
    if runtime.is_running("pgbouncer"):
        # After a time without a server it rejects the first client: let that be this one, not the application.
        for database in POOLS:
            try:
                wait_until_accepting(runtime.cluster.pooled_conninfo(database), POOL_SECONDS)
            except UserError as error:
                err.print(f"PgBouncer does not serve {database} yet: {error}", markup=False)


def _end_preparing(runtime: Runtime) -> None:
    """Restart a primary that accepts PREPARE TRANSACTION: it was promoted when its data still required that."""
    primary = runtime.cluster.primary
    if not transactions.accepts_prepared(primary):
        return
    if left := transactions.prepared(primary):
        # It would not start again with prepared transactions.
        err.print(
            f"{primary.name} accepts PREPARE TRANSACTION until it is restarted. These have to be ended first, each in "
            f"its database: {'; '.join(left)}",
            markup=False,
        )
        return
    with step(f"{primary.name} restarted: it accepted PREPARE TRANSACTION"):
        member = runtime.member(primary.name)
        member.stop()
        member.start()


def book_is_empty(cluster: Cluster) -> bool:
    """Return whether the loan book has no customers, loans or payments."""
    with cluster.primary.connect() as connection:
        row = connection.execute(
            "select not exists (select from operational.customers) and not exists (select from operational.loans) "
            "and not exists (select from operational.payments)"
        ).fetchone()
    return bool(row and row[0])


def fill_demo(cluster: Cluster, asked: str | None = None) -> bool:
    """Fill an empty loan book with demo data, the first time only. Returns whether it was filled.

    asked: the scale that this very command was given. Without it, the settings' SCALE is used, and only before the
    first successful run: a book that is empty after one is a lender's, whatever the settings of this shell are.
    """
    settings = cluster.settings
    named = settings.scale if asked is None else asked
    scale = fill.Scale.parse(named)
    if not book_is_empty(cluster):
        if asked is not None:
            err.print(f"SCALE={asked} has no effect: the loan book is filled already (make nuke destroys it)")
        return False
    if named == "empty":
        return False
    if asked is None and runs.last_success(cluster)[0] is not None:
        err.print("the loan book is empty: make import brings in a lender's own, make demo fills in demo data")
        return False
    with cluster.primary.connect() as connection:
        summary = fill.fill(connection, scale, settings.seed)
    err.print(f"demo loan book: {summary}")
    return True


def first_build(cluster: Cluster) -> None:
    """Fill the warehouse, unless a run of a version that has all views of the dashboards has succeeded before."""

    def done() -> bool:
        return runs.last_success(cluster)[0] is not None and not page.missing_views(cluster)

    if done():
        return
    # dbt's output goes into a log; on a terminal, a bar shows how many nodes are done.
    log = cluster.settings.state / "dbt-logs" / "first-build.log"

    label = "first dbt build" if runs.last_success(cluster)[0] is None else "dbt build of this version"

    def build() -> bool:
        who = runs.started_by("start")
        with bar(label) as advance:
            code = runs.build(cluster, unit_tests=False, trigger="start", who=who, log=log, on_node=advance)
        if code:
            failed_start.record(cluster, who, "start")
        return code == 0

    if build():
        return
    # A `make up` that was killed leaves its dbt running, and only one run is allowed at a time.
    waited = runs.wait_for_run(cluster)
    if done() or (waited and build()):
        return
    last = runs.last_finished(cluster)
    why = "\n".join(f"  {line}" for line in runs.reasons(last.error_message if last else None))
    why = why or "  without a record of why"
    if runs.last_success(cluster)[0] is not None:
        # The dashboards show their last state, and the scheduler tries again.
        err.print(f"The dbt build of this version failed, dbt's own output is in {log}:\n{why}", markup=False)
        return
    raise UserError(
        f"The first dbt build failed:\n{why}\ndbt's own output is in {log}. Fix it, then `make up` resumes from here."
    )


def up(runtime: Runtime, scale: str | None = None) -> None:
    """Start everything, from nothing to dashboards that answer (`make up`). Safe to repeat.

    scale: of the demo data for an empty loan book, when this command was given it.
    """
    settings = runtime.settings
    fill.Scale.parse(settings.scale)
    try:
        with exclusive(settings, "up"):
            disk.check(settings)
            with runs.reading_the_project(settings):
                start_servers(runtime)
                fill_demo(runtime.cluster, scale)
            runtime.launch_services()
            first_build(runtime.cluster)
            # Where an import could not reach the warehouse.
            if months := closing.drop_reports_of_demo(runtime.cluster):
                err.print(f"deleted {months:,} months that were reported of a demo book, which was replaced")
            runtime.start_services()
            show(runtime)
    except KeyboardInterrupt:
        err.print("interrupted; what was started keeps running: `make up` resumes from here, `make down` stops it")
        raise
    summary(runtime)


def restore_machine(runtime: Runtime) -> None:
    """Bring the loan book back from the second repository on a machine without one, and everything else around it."""
    began = time.monotonic()
    with exclusive(runtime.settings, "restore-machine"):
        disk.check(runtime.settings)
        runtime.prepare()
        interrupted.before_start(runtime)
        machine.check_possible(runtime)
        found = machine.recover(runtime)
        _report_recovered(found)
        pitr.confirm_shortfall(found)
        machine.install(runtime)
        start_servers(runtime)
        with connect(runtime.cluster.app_conninfo()) as connection:
            connection.execute("select pg_current_xact_id()")
        out.print(f"RTO: {time.monotonic() - began:.0f} s from the start of this command to the first write")
    up(runtime)
    out.print(f"With the warehouse and the dashboards: {time.monotonic() - began:.0f} s")


def _report_recovered(found: pitr.Recovery) -> None:
    for name, count in found.rows.items():
        out.print(f"  {name}: {count} rows")
    pitr.report_trouble(found)
    newest = found.newest or found.base.finished_at
    age = timedelta(seconds=round((datetime.now(UTC) - newest).total_seconds()))
    what = "newest recovered transaction" if found.newest else "backup; no transaction came after it"
    out.print(
        f"RPO: what was committed after {newest:%Y-%m-%d %H:%M:%S %Z} is lost ({what}, {age} ago); "
        f"recovered to {found.end}"
    )


def show(runtime: Runtime) -> None:
    """Bring the pages and Metabase up to date. A failure there is reported: the platform is up anyway."""
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
        "  make down                stop; make up continues with all data"
    )
    out.print(f"Passwords are in {env_file()}.", markup=False, soft_wrap=True)
    settings = runtime.settings
    if settings.backup_repo2:
        out.print(
            "The second repository of backups is encrypted with BACKUP_REPO2_CIPHER_KEY, which is in "
            f"{env_file().name} alone. Keep a copy away from this machine; without it nothing can be restored:\n"
            f"  (umask 077; grep '^BACKUP_REPO2' {env_file()} >/a/safe/place/repo2.env)",
            markup=False,
            soft_wrap=True,
        )
    pages = (settings.site / page.FILE_NAME).as_uri()
    if runtime.name == "docker":
        if not runtime.is_running("docs"):
            return
        pages = f"http://127.0.0.1:{settings.docs_port}/ (refreshed after each run)"
    out.print(f"Dashboards: {pages}", soft_wrap=True)


def host_of(runtime: Runtime, service: str) -> str:
    """Return where a service listens."""
    return str(getattr(runtime.settings, f"{service}_host", "127.0.0.1"))


def state_table(runtime: Runtime) -> Table:
    """Return the services as a table for the terminal."""
    table = Table(title="Services")
    for name in ("service", "status", "address", "pid", ""):
        table.add_column(name)
    colours = {"running": "green", "starting": "yellow", "unhealthy": "red", "stopped": "red", "absent": "yellow"}
    for state in runtime.states():
        address = f"{host_of(runtime, state.name)}:{state.port}" if state.port else ""
        table.add_row(
            state.name,
            f"[{colours[state.status]}]{state.status}[/]",
            address,
            str(state.pid or ""),
            escape(state.detail),
        )
    return table
