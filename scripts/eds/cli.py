"""The command line: `make` calls it, and it can be called as `python -m eds`."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from psycopg.conninfo import conninfo_to_dict
from rich.markup import escape

from eds import ops, up
from eds.backup_scheduler import BackupScheduler
from eds.base import disk, usage
from eds.base.console import AsCsv, AsJson, confirm, err, out, print_rows
from eds.base.errors import UserError
from eds.base.services import exclusive
from eds.base.settings import (
    ROOT,
    Settings,
    differing_from_file,
    ensure_env_file,
    env_file,
    file_state_directory,
    keep_in_env_file,
    load,
    with_home,
)
from eds.book import simulate
from eds.book.csv_import import importer
from eds.book.csv_import.next_step import next_step
from eds.book.csv_import.template import write_template
from eds.book.demo import fill
from eds.cluster.connections import (
    SUPERUSER_OPTIONS,
    Cluster,
    connect,
    forget_libpq_environment,
    wait_until_accepting,
)
from eds.cluster.provision import OLTP_ROLES, WAREHOUSE_ROLES, provision_oltp, provision_warehouse
from eds.dashboards import commands as dashboard_commands
from eds.dashboards import page
from eds.ops import machine
from eds.ops.holdings import holdings
from eds.runtime.choice import has_data, select_runtime
from eds.runtime.docker.runtime import ComposeRuntime
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.member import Runtime
from eds.scheduler import Scheduler
from eds.warehouse import alerts, closing, failed_start, runs

# How long the provisioning waits for a primary that starts, in seconds.
PRIMARY_STARTS_SECONDS = 300

# The groups of `make`'s help; a command in none of them is for programs, and has no make target.
PLATFORM, WAREHOUSE, BOOK, SQL = "Platform", "Warehouse", "Loan book", "SQL"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="The data platform's commands. `make` lists the same by group; its KIND=physical is --kind physical here.",
)
app.add_typer(ops.app)
app.add_typer(dashboard_commands.app)


def _runtime() -> Runtime:
    return select_runtime(load())[0]


@app.command("up", rich_help_panel=PLATFORM)
def start(
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="small|medium|large|empty",
            help="How much demo data an empty loan book is filled with; empty: none.",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin again with an empty loan book after its volumes were removed.")
    ] = False,
) -> None:
    """Start everything; the first time also install, create, fill and build it."""
    upgrades = env_file().exists()
    if ensure_env_file():
        name = env_file().name
        err.print(
            f"added to {name}: new passwords" if upgrades else f"wrote {name} with generated passwords (mode 600)"
        )
    _keep_what_was_given({} if scale is None else {"SCALE": scale})
    runtime, why = select_runtime(load())
    err.print(f"runtime: {runtime.name} ({why})", markup=False)
    if fresh:
        if not isinstance(runtime, ComposeRuntime):
            raise UserError("FRESH=1 is for containers whose volumes are gone; `make nuke` destroys what is here.")
        runtime.begin_again()
        # A lender who has lost a book does not want invented loans in its place.
        scale = scale or "empty"
    up.up(runtime, scale)


@app.command("restore-machine", rich_help_panel="Operations")
def restore_machine() -> None:
    """On a new machine: bring the loan book back from the second repository of backups, then start everything.

    Needs the lines BACKUP_REPO2… that were kept, with the key, in .env or in the environment.
    """
    machine.check_given()
    if ensure_env_file():
        err.print(f"wrote {env_file().name} with generated passwords (mode 600)")
    _keep_what_was_given({})
    runtime = select_runtime(load())[0]
    if isinstance(runtime, ComposeRuntime) and runtime.files.had_data:
        # Its volumes are gone: what is restored takes their place.
        runtime.begin_again()
    up.restore_machine(runtime)


def _keep_what_was_given(options: dict[str, str]) -> None:
    """Keep in `.env` what the first `make up` is given by the environment and by options; later, report what differs.

    It is the first one as long as there is no data, neither where the environment says nor where `.env` does.
    """
    settings = load()
    fill.Scale.parse(options.get("SCALE", settings.scale))
    different = differing_from_file() | options
    shown = ", ".join(
        name if name in Settings.secret_names() else f"{name}={value}" for name, value in sorted(different.items())
    )
    if not different:
        return
    if _env_file_is_needed(settings):
        if shown := ", ".join(sorted(set(different) - set(options))):
            err.print(f"for this command alone, from the environment: {shown} (.env holds other values)", markup=False)
        return
    keep_in_env_file(different)
    err.print(f"kept in {env_file().name}: {shown}", markup=False)


def _env_file_is_needed(settings: Settings) -> bool:
    """Return whether there is data with the passwords of `.env`: where these settings say, or where `.env` does."""
    return has_data(settings) or has_data(settings.model_copy(update={"state_dir": file_state_directory()}))


@app.command(rich_help_panel=PLATFORM)
def down() -> None:
    """Stop everything, keep the data."""
    runtime = _runtime()
    with exclusive(runtime.settings, "down"):
        stopped = runtime.stop_all()
    out.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command(rich_help_panel=PLATFORM)
def ps(as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """Show what runs where. Exit code 3 when something that should run does not."""
    runtime = _runtime()
    states = runtime.states()
    rows = [vars(state) | {"host": up.host_of(runtime, state.name) if state.port else None} for state in states]
    if not print_rows(rows, as_json=as_json, as_csv=as_csv):
        out.print(up.state_table(runtime))
    if any(state.status in ("stopped", "unhealthy") for state in states):
        raise typer.Exit(3)


@app.command(rich_help_panel=PLATFORM)
def logs(
    service: Annotated[str | None, typer.Argument(metavar="primary", help="One service (default: all).")] = None,
    lines: Annotated[int, typer.Option(metavar="30", min=1, max=1_000_000, help="How many lines of each.")] = 30,
) -> None:
    """Show the end of the services' logs. Example: make logs SERVICE=primary LINES=100"""
    runtime = _runtime()
    known = [state.name for state in runtime.states()]
    if service and service not in known:
        raise UserError(f"There is no service {service!r}. Choose one of: {', '.join(known)}.")
    for name in [service] if service else known:
        out.print(f"[bold]== {name}[/] {escape(runtime.log_place(name))}")
        for line in runtime.tail(name, lines):
            out.print(line, markup=False)


@app.command(rich_help_panel=PLATFORM)
def clean() -> None:
    """Stop everything, remove logs and dbt's files, keep the data."""
    runtime = _runtime()
    with exclusive(runtime.settings, "clean"):
        stopped = runtime.stop_all()
        for folder in (
            ROOT / "target",
            ROOT / "logs",
            runs.target_directory(runtime.settings),
            runtime.settings.state / "dbt-logs",
            runtime.settings.state / "dbt-docs",
        ):
            shutil.rmtree(folder, ignore_errors=True)
        runtime.clear_logs()
    out.print(f"stopped: {', '.join(stopped) or 'nothing'}; removed logs and dbt's files; the data is kept")


@app.command(rich_help_panel=PLATFORM)
def nuke(force: Annotated[bool, typer.Option("--force", help="Do not ask.")] = False) -> None:
    """Destroy all databases, the WAL archive, logs and settings of this checkout, after asking."""
    if not env_file().exists():
        if not (ROOT / ".state").exists() and not os.environ.get("STATE_DIR"):
            out.print("nothing to destroy: there is no .env")
            return
        # The data may still be there, and its servers may run.
        ensure_env_file()
    runtime = _runtime()
    backups = "" if runtime.settings.backup_dir else ", the backups"
    confirm(
        f"This destroys every database, the WAL archive{backups} and the logs in\n"
        + "".join(f"  {place}\n" for place in runtime.data_locations())
        + "which hold\n"
        + "".join(f"  {line}\n" for line in holdings(runtime))
        + f"and {env_file().name} with its passwords, unless the other runtime has data that it belongs to. "
        "It cannot be undone.",
        "nuke",
        force,
    )
    with exclusive(runtime.settings, "nuke"):
        runtime.stop_all(mode="immediate")
        runtime.destroy()
    if not _env_file_is_needed(runtime.settings):
        env_file().unlink(missing_ok=True)
    for folder in (ROOT / "target", ROOT / "logs"):
        shutil.rmtree(folder, ignore_errors=True)
    out.print("destroyed")
    if left := runtime.leftovers():
        out.print("not removed, because this checkout did not make it or a setting names its place:", markup=False)
        for place in left:
            out.print(f"  {place}", markup=False)


@app.command(name="env", rich_help_panel="For programs")
def env_command() -> None:
    """Print the variables that dbt needs, for a shell: . scripts/activate evaluates them."""
    if sys.stdout.isatty():
        raise UserError("This would show passwords on the screen. Use it as: . scripts/activate")
    for name, value in runs.dbt_environment(load()).items():
        print(f"export {name}={shlex.quote(value)}")


@app.command(rich_help_panel=WAREHOUSE)
def build(
    select: Annotated[str | None, typer.Option(metavar="fact_loans+", help="dbt's --select.")] = None,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Recompute every row, in place.")] = False,
) -> None:
    """Run dbt build, of everything or a part. Example: make build SELECT=fact_loans+"""
    raise typer.Exit(_run(load(), select=select, full_refresh=full_refresh))


def _run(settings: Settings, *, trigger: str = "manual", **options: Any) -> int:
    """Run dbt build and report, in one sentence, why it failed. Returns its exit code."""
    cluster = Cluster(settings)
    runs.refuse_second_run(cluster, trigger)
    before = runs.last_finished(cluster)
    who = runs.started_by(trigger)
    try:
        code = runs.build(cluster, trigger=trigger, who=who, **options)
        # A selection that names nothing is a slip of whoever typed it, and no failed run.
        if code and not options.get("select"):
            failed_start.record(cluster, who, trigger)
    except KeyboardInterrupt:
        err.print("interrupted; dashboards keep the last tested state, and the next run takes in what this one did not")
        raise
    finally:
        _after_run(settings)
    last = runs.last_finished(cluster)
    if code and last and last.status == "failed" and (before is None or last.run_id > before.run_id):
        err.print(f"[bold red]run {last.run_id} failed:[/] ", end="")
        err.print("\n".join(runs.reasons(last.error_message)), markup=False)
    elif code and (unknown := runs.unknown_names(options.get("select") or "")):
        err.print(f"SELECT: {'; '.join(unknown)}. Nothing was built.", markup=False)
    if code and (short := disk.short_of(settings, disk.NEEDED_BYTES)):
        # A full disk may have kept the run's record from being written.
        err.print(f"the disk is full, or nearly: {'; '.join(short)}", markup=False)
    return code


def _after_run(settings: Settings) -> None:
    """Show the outcome of a run by hand on the dashboards page, and alert. In Docker, the scheduler does both."""
    if select_runtime(settings)[0].name != "local":
        return
    alerts.notify(settings)
    try:
        page.refresh(settings)
    except (UserError, OSError, psycopg.Error) as error:
        why = disk.explain(error, settings) if isinstance(error, OSError) else error
        err.print(f"the dashboards page was not written: {why}", markup=False)


@app.command(name="etl", rich_help_panel=WAREHOUSE)
def etl_command(
    now: Annotated[bool, typer.Option("--now", help="Run one now, with progress.")] = False,
    mass_delete: Annotated[
        bool, typer.Option("--mass-delete", help="With --now: accept that a table loses most of its rows.")
    ] = False,
    limit: Annotated[int, typer.Option(metavar="15", min=1, max=1_000_000, help="How many runs are shown.")] = 15,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show the run history; NOW=1 runs one now. Example: make etl NOW=1"""
    settings = load()
    code = 0
    if mass_delete and not now:
        raise UserError(
            "MASS_DELETE=1 accepts a loss for one run, and none was asked for: make etl NOW=1 MASS_DELETE=1"
        )
    if now:
        code = _run(settings, variables={"allow_mass_delete": True} if mass_delete else None, unit_tests=False)
    history = runs.history(Cluster(settings), limit)
    if not print_rows([runs.run_as_json(run) for run in history], as_json=as_json, as_csv=as_csv):
        out.print(runs.history_table(history, out.width) if history else "No run yet.")
    raise typer.Exit(code)


@app.command(rich_help_panel=WAREHOUSE)
def reconcile(
    mass_delete: Annotated[
        bool, typer.Option("--mass-delete", help="Accept that a table loses most of its rows.")
    ] = False,
) -> None:
    """Compare every row with the source, repair what differs, test all data (also done nightly)."""
    variables = runs.RECONCILE_VARS | ({"allow_mass_delete": True} if mass_delete else {})
    raise typer.Exit(_run(load(), variables=variables, unit_tests=False, trigger="reconcile"))


@app.command(rich_help_panel=WAREHOUSE)
def close(
    month: Annotated[str | None, typer.Option(metavar="2026-10", help="The month that is reported.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also one that was reported before.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show the reported months; MONTH=2026-10 reports one by hand, AGAIN=1 once more. Example: make close"""
    if again and month is None:
        raise UserError("AGAIN=1 reports one month once more. Which? Example: make close MONTH=2026-10 AGAIN=1")
    cluster = Cluster(load())
    if month is not None:
        version = closing.close(cluster, month, again=again)
        out.print(f"{month} is reported, version {version}.", markup=False)
    months = [{name: str(value) for name, value in row.items()} for row in closing.reported_months(cluster)]
    if not print_rows(months, as_json=as_json, as_csv=as_csv) and month is None:
        for row in months:
            out.print("  ".join(f"{name} {value}" for name, value in row.items() if value), markup=False)
        if not months:
            out.print("No month was reported yet.")


@app.command(rich_help_panel="For programs")
def scheduler(
    at_start: Annotated[bool, typer.Option(help="Also run once right at the start.")] = False,
    catch_up: Annotated[bool, typer.Option(help="Make up for runs that were due while it was stopped.")] = False,
) -> None:
    """Run dbt build on schedule, in the foreground, with JSON lines on standard output."""
    Scheduler(load(), at_start=at_start, catch_up=catch_up).serve()


@app.command(rich_help_panel="For programs")
def backup_scheduler() -> None:
    """Make backups and prove them on schedule, in the foreground, with JSON lines on standard output."""
    BackupScheduler(load()).serve()


@app.command(name="demo", rich_help_panel=BOOK)
def demo_command(
    scale: Annotated[
        str | None, typer.Option(metavar="small|medium|large", help="Or a number of payments (default: SCALE of .env).")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="42", help="The same seed gives the same book.")] = None,
) -> None:
    """Fill an empty loan book with demo data. Example: make demo SCALE=medium SEED=7"""
    settings = load()
    size = fill.Scale.parse(settings.scale if scale is None else scale)
    with Cluster(settings).primary.connect() as connection:
        out.print(str(fill.fill(connection, size, settings.seed if seed is None else seed)))


@app.command(name="simulate", rich_help_panel=BOOK)
def simulate_command(
    rate: Annotated[float, typer.Option(metavar="20", help="Operations a second.")] = 20.0,
    duration: Annotated[str, typer.Option("--for", metavar="30s", help="How long: 30s, 5m, 1h.")] = "30s",
    seed: Annotated[int | None, typer.Option(metavar="7", help="The same seed gives the same operations.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Do not ask whether invented traffic may enter a lender's own book.")
    ] = False,
) -> None:
    """Run live traffic through the application's role. Example: make simulate RATE=50 FOR=2m"""
    seconds = simulate.parse_duration(duration)
    simulate.check_above_zero("rate", rate)
    runtime = _runtime()
    pooled = runtime.is_running("pgbouncer")
    conninfo = runtime.cluster.pooled_conninfo() if pooled else runtime.cluster.app_conninfo()
    if customers := simulate.customers_at_risk(lambda: connect(conninfo, prepare_threshold=None)):
        confirm(
            f"This book is no demo book: it has {customers:,} customers that were imported or entered. Traffic adds\n"
            "invented customers, loans and payments to theirs, changes and deletes some of theirs, and no command\n"
            "takes that back.",
            "simulate",
            force,
        )
    err.print(f"traffic through {'PgBouncer' if pooled else 'the primary'} for {seconds:.0f} s")
    counts = simulate.simulate(
        lambda: connect(conninfo, prepare_threshold=None),
        rate=rate,
        seconds=seconds,
        seed=seed,
        timezone=runtime.settings.business_timezone,
    )
    out.print(counts.table())


@app.command(name="import", rich_help_panel=BOOK)
def import_command(
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="/data/book", help="The folder of the CSV files.")
    ] = None,
    sync: Annotated[bool, typer.Option("--sync", help="Make the database hold exactly what the files hold.")] = False,
    mass_delete: Annotated[
        bool, typer.Option("--mass-delete", help="Accept that most rows of a table are deleted.")
    ] = False,
    replace_demo: Annotated[bool, typer.Option("--replace-demo", help="Delete the demo book first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count, write nothing.")] = False,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="mapping.yml", help="The mapping file, when it is not in the folder."),
    ] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", metavar="auto|excel-us|excel-uk|excel-eu", help="Who wrote the files.")
    ] = None,
    dates: Annotated[
        str | None, typer.Option("--dates", metavar="dmy|mdy|ymd", help="The order of day and month in dates.")
    ] = None,
    decimal: Annotated[str | None, typer.Option("--decimal", metavar="point|comma", help="The decimal sign.")] = None,
    century: Annotated[
        str | None, typer.Option("--century", metavar="1930", help="The first year that two digits can mean.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option("--timezone", metavar="Africa/Nairobi", help="Of times without an offset.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", metavar="windows-1252", help="The encoding of the files.")
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option("--delimiter", metavar="comma|semicolon|tab|pipe", help="What separates the columns."),
    ] = None,
    header_line: Annotated[
        str | None, typer.Option("--header-line", metavar="1", help="The line of the column names.")
    ] = None,
    empty: Annotated[str | None, typer.Option("--empty", metavar="NULL,-", help="What stands for no value.")] = None,
) -> None:
    """Import a loan book from CSV files. Example: make import DIR=/data/book SYNC=1 (see docs/import.md)"""
    if directory is None:
        raise UserError("Which folder? Example: make import DIR=/data/book")
    directory = with_home(directory)
    mapping = with_home(mapping) if mapping else None
    cluster = Cluster(load())
    given = {
        "format": file_format,
        "dates": dates,
        "decimal": decimal,
        "century": century,
        "timezone": timezone,
        "encoding": encoding,
        "delimiter": delimiter,
        "header_line": header_line,
        "empty": empty,
    }
    inputs = importer.find_inputs(
        directory,
        sync=sync,
        options={name: value for name, value in given.items() if value is not None},
        mapping_file=mapping,
    )
    with connect(cluster.app_conninfo()) as connection:
        result = importer.import_book(
            connection,
            directory,
            sync=sync,
            allow_mass_delete=mass_delete,
            replace_demo=replace_demo,
            dry_run=dry_run,
            inputs=inputs,
            shown_currency=cluster.settings.currency,
            business_timezone=cluster.settings.business_timezone,
        )
    out.print(result.table())
    for remark in result.remarks:
        out.print(f"note: {remark}", markup=False)
    if not dry_run:
        if replace_demo:
            _drop_reports_of_demo(cluster)
        out.print(next_step(cluster), markup=False)


def _drop_reports_of_demo(cluster: Cluster) -> None:
    try:
        months = closing.drop_reports_of_demo(cluster)
    except (UserError, psycopg.Error):
        out.print("note: the warehouse does not answer; the next make up deletes the months reported of the demo book")
        return
    if months:
        out.print(
            f"note: {months:,} months that were reported of the demo book were deleted. The warehouse keeps the "
            "history of the demo's customers and loans; make nuke, then SCALE=empty make up, begins without it.",
            markup=False,
        )


@app.command(name="import-template", rich_help_panel=BOOK)
def import_template_command(
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="/data/book", help="The folder of the CSV files.")
    ] = None,
) -> None:
    """Write a draft of a mapping file beside CSV files. Example: make import-template DIR=/data/book"""
    if directory is None:
        raise UserError("Which folder? Example: make import-template DIR=/data/book")
    directory = with_home(directory)
    out.print(
        f"wrote {write_template(directory)}: complete it, then: "
        f"make import DIR={shlex.quote(str(directory))} DRY_RUN=1",
        markup=False,
    )


@app.command(rich_help_panel=SQL)
def psql(
    server: Annotated[str, typer.Argument(help="primary, replica1, replica2, warehouse or recovered.")],
    role: Annotated[
        str,
        typer.Option(metavar="app_user", help="Log in as this role instead of one that reads; postgres: superuser."),
    ] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Results of standard input's SQL as CSV with headers.")] = False,
    tuples: Annotated[bool, typer.Option("--tuples", help="Bare rows, for scripts: a|b.")] = False,
) -> None:
    """Open psql on a server, as a role that reads; run the SQL of standard input when it is not a terminal."""
    if as_csv and tuples:
        raise UserError("CSV and TUPLES are two forms of the same: ask for one of them.")
    runtime = _runtime()
    cluster = runtime.cluster
    known = cluster.servers | {"recovered": cluster.recovered}
    if server not in known:
        raise UserError(f"There is no server {server!r}. Choose one of: {', '.join(known)}.")
    # `primary` is the server that takes the writes; the replicas keep their own names.
    place = known[cluster.primary_name if server == "primary" else server]
    # A superuser who reads a view runs whatever its owner has written into it: that role must be named explicitly.
    role = role or ("warehouse_user" if server == "warehouse" else "readonly_user")
    roles = (*(WAREHOUSE_ROLES if server == "warehouse" else OLTP_ROLES), "postgres")
    if role not in roles:
        raise UserError(f"ROLE is {role!r}: expected one of {', '.join(roles)}, those that log in on {server}.")
    conninfo = place.superuser_conninfo() if role == "postgres" else cluster.conninfo(place, role)
    password = str(conninfo_to_dict(conninfo)["password"])
    if isinstance(runtime, LocalRuntime):
        _check_that_it_answers(server, conninfo)
    arguments = ["-U", role, "-d", place.database]
    if not sys.stdin.isatty():
        arguments += ["--no-psqlrc", "--quiet", "-P", "pager=off", "-v", "ON_ERROR_STOP=1"]
    if as_csv:
        arguments.append("--csv")
    if tuples:
        arguments += ["--no-align", "--tuples-only"]
    command, environment = runtime.psql(place, arguments, password)
    if role == "postgres":
        environment["PGOPTIONS"] = f"{SUPERUSER_OPTIONS},public"
    os.execvpe(command[0], command, os.environ | environment)


def _check_that_it_answers(server: str, conninfo: str) -> None:
    """Raise UserError when a server does not let a role in: psql's own words name no command that helps."""
    try:
        connect(conninfo).close()
    except UserError as error:
        if server == "recovered":
            raise UserError("No recovered cluster answers: `make pitr TO=…` leaves one.") from error
        raise


@app.command(name="compose", context_settings={"ignore_unknown_options": True}, rich_help_panel=PLATFORM)
def compose_command(
    args: Annotated[list[str], typer.Argument(metavar='"top primary"', help="Of docker compose.")],
) -> None:
    """Run docker compose with the platform's settings. Example: make compose ARGS="top primary" """
    runtime = _runtime()
    if not isinstance(runtime, ComposeRuntime) or not runtime.compose.owned:
        raise UserError("The platform of this checkout does not run in Docker: RUNTIME=docker make up.")
    os.execvpe("docker", runtime.compose.command(*args, progress="auto"), runtime.compose.full_environment())


@app.command(hidden=True)
def fresh() -> None:
    """Return by the exit code whether the last success is fresh (the health check of the scheduler's container)."""
    settings = load()
    _, minutes = runs.last_success(Cluster(settings))
    problem = runs.stale(minutes, settings.etl_fresh_minutes)
    print(problem or f"last success {minutes:.1f} minutes ago")
    raise typer.Exit(1 if problem else 0)


@app.command(hidden=True)
def alert() -> None:
    """Deliver the alert that a run has noted (a process of its own, so that no run waits for it)."""
    raise typer.Exit(0 if alerts.deliver(load()) else 1)


@app.command(hidden=True)
def provision() -> None:
    """Bring databases, roles and schemas of both servers up to date (the one-shot job of the Docker runtime)."""
    cluster = Cluster(load())
    wait_until_accepting(cluster.primary.superuser_conninfo("postgres"), PRIMARY_STARTS_SECONDS)
    for done in (*provision_oltp(cluster), *provision_warehouse(cluster)):
        print(done, flush=True)


@app.command(hidden=True)
def watchdog(parent: int) -> None:
    """Stop this state directory's servers when the process `parent` has ended (used by the tests)."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(parent).wait()
    runtime = LocalRuntime(load())
    runtime.stop_all(mode="immediate")
    runtime.destroy()


def _settings_if_any() -> Settings | None:
    try:
        return load()
    except UserError:
        return None


def main(application: typer.Typer = app) -> None:
    """Run a command line. A person's mistake ends in a sentence on standard error, without a traceback."""
    forget_libpq_environment()
    # Files that a command creates are for this account alone, unless it says otherwise.
    os.umask(0o077)
    try:
        sys.exit(application(standalone_mode=False) or 0)
    except UserError as error:
        message, code = str(error), 1
    except usage.UsageError as error:
        # Without arguments typer has shown the help, and has nothing to add.
        message, code = usage.explain(error), 2
    except typer.Abort:
        # The end of the input, or an interrupt, at a question.
        message, code = "Not done: the question was not answered.", 1
    except OSError as error:
        # A file of another account, say: the system's own words and the place explain it.
        message, code = disk.explain(error, _settings_if_any()), 1
    except psycopg.errors.DiskFull as error:
        settings = _settings_if_any()
        free = "; ".join(disk.describe(path) for path in disk.places(settings)) if settings else ""
        message, code = f"the disk of a server is full: {str(error).strip()}\n{free}", 1
    except psycopg.Error as error:
        message, code = f"the database says: {str(error).strip()}\n`make ps` shows what runs, `make logs` why.", 1
    if message:
        err.print("[bold red]Error:[/] ", end="")
        err.print(message, markup=False)
    sys.exit(code)
