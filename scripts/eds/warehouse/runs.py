"""Runs of the warehouse: starting `dbt build`, and reading the record of what ran."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    sleep_using_event,
    stop_after_attempt,
    stop_after_delay,
    stop_when_event_set,
    wait_exponential,
)

from eds.base.console import err
from eds.base.errors import UserError
from eds.base.settings import ROOT, Settings
from eds.cluster import tls
from eds.cluster.connections import Cluster
from eds.cluster.queries import has_relation
from eds.warehouse.dbt_parsed import PARSED
from eds.warehouse.run_sessions import is_of_run
from eds.warehouse.source_watch import SILENT, watched

# Messages of a source or a warehouse that changed during a run; another attempt may well succeed.
TRANSIENT = (
    "conflict with recovery",
    "server closed the connection",
    "terminating connection",
    "could not connect to server",
    "connection to server",
    "could not serialize access",
    "lock timeout",
    "SSL SYSCALL error",
    "changed over to a server that is behind",
    SILENT,
)
# Corrections of a clock set it back by seconds.
CLOCK_TOLERANCE_MINUTES = 1.0
# Everything but the unit tests, which test the project and not the data.
DATA_BUILD = ("build", "--exclude-resource-type", "unit_test")
# A run of which no session was seen for this long is dead. One second longer than begin_run() looks
# (macros/run/run_is_alive.sql): a command that refuses or waits errs on the side of a run that is alive.
RUN_SILENT_SECONDS = 4.0
# How long a session that is terminated may go on holding the row of its run. A busy machine takes its time.
CANCEL_SECONDS = 45
RECONCILE_VARS = {"reconcile": True, "full_tests": True}


# What dbt puts around a message: a heading, and below the message where in the project it was raised.
_HEADING = re.compile(
    r"^(?:(?P<node>[\w.]+): )?(?P<kind>Compilation|Database|Runtime|Internal|Parsing|Validation|Dependency) Error"
    r"(?: in .*)?$"
)
_ORIGIN = re.compile(r"^(?:> in |> called by |compiled code at |For more on |Search the dbt docs|raise the error)")
# "12 of 87 OK created sql view model …", in dbt's output; hooks are counted apart.
_NODE_ENDED = re.compile(r"\b[0-9]+ of ([0-9]+) (?:OK(?! hook)|PASS|WARN|ERROR|FAIL|SKIP|NO-OP)")


def reasons(message: str | None) -> list[str]:
    """Return what went wrong in a run, one sentence or line per problem, without what dbt puts around it.

    message: of audit.etl_runs: a part per node that failed, of which all lines but the first are indented. A sentence
    of the project itself (raised as a compilation error) stands alone; what a database says follows its node's name.
    """
    found: list[tuple[str, list[str]]] = []
    for line in (message or "").splitlines():
        text = line.strip()
        heading = _HEADING.match(text)
        if heading and (heading["node"] or not found or not line.startswith(" ")):
            own = heading["kind"] == "Compilation"
            found.append(("" if own or not heading["node"] else f"{heading['node']}: ", []))
        elif not text or _ORIGIN.match(text) or heading:
            continue
        elif line.startswith(" ") and found:
            found[-1][1].append(text)
        else:
            found.append(("", [text]))
    return [node + " ".join(lines) for node, lines in found if lines]


def reason(message: str | None) -> str:
    """Return the first problem of a run's message, and how many more there are."""
    all_of_them = reasons(message)
    if len(all_of_them) < 2:
        return "".join(all_of_them)
    return f"{all_of_them[0]} (and {len(all_of_them) - 1} more)"


@dataclass(frozen=True)
class Run:
    """One row of audit.etl_runs."""

    run_id: int
    run_started_at: datetime
    run_finished_at: datetime | None
    status: str
    rows_inserted: int
    rows_updated: int
    rows_deleted: int
    error_message: str | None
    run_trigger: str
    started_by: str
    extraction_mode: str | None
    source_host: str | None
    snapshot_time: datetime | None

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it is running."""
        return (self.run_finished_at - self.run_started_at).total_seconds() if self.run_finished_at else None


def dbt_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that dbt's profile and the project's macros read."""
    return {
        "WAREHOUSE_HOST": settings.warehouse_host,
        "WAREHOUSE_PORT": str(settings.warehouse_port),
        "WAREHOUSE_DB": settings.warehouse_db,
        "DBT_ENV_SECRET_ETL_WRITER_PASSWORD": settings.etl_writer_password.get_secret_value(),
        # dbt reads a .env of the present directory by itself, and what it read would hide later changes of ours.
        "PYTHON_DOTENV_DISABLED": "1",
        "DBT_PROFILES_DIR": str(ROOT),
        "DBT_TARGET": settings.dbt_target,
        # So that dbt by hand works in any directory.
        "DBT_PROJECT_DIR": str(ROOT),
        "ETL_MAX_DELETE_SHARE": str(settings.etl_max_delete_share),
        "ETL_SOURCE_WAIT_SECONDS": str(settings.etl_source_wait_seconds),
        **lending_environment(settings),
        # libpq's own variables: dbt's adapter passes on only what its profile names.
        **tls.client_environment(settings),
    }


def lending_environment(settings: Settings) -> dict[str, str]:
    """Return the variables of the lender's figures: what follows from one is computed again when it changes."""
    return {
        "BUSINESS_TIMEZONE": settings.business_timezone,
        "ARREARS_TOLERANCE": str(settings.arrears_tolerance),
        "PROVISION_SCHEME": settings.provision_scheme,
        "CLOSE_DAY": str(settings.close_day),
    }


def started_by(what: str) -> str:
    """Return a name for who starts a run: unique per call, so that it identifies the run in the record."""
    return f"{what} {os.getpid()}@{socket.gethostname()} {secrets.token_hex(4)}"


def target_directory(settings: Settings, variables: Any = None, *, base: Path | None = None) -> Path:
    """Return the directory in which dbt keeps what it has read of the project, for runs with these variables (--vars).

    base: of all sets of variables; by default the platform's, which all its runs share, so that none reads what another
    one has read. Each set has its own: dbt reads the whole project again when the variables differ from those of the
    files it finds, which takes several times as long as a run without a change.
    """
    place = base or settings.state / "dbt-target"
    if not variables:
        return place
    text = json.dumps(variables, sort_keys=True)
    return place / f"vars-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def dbt_executable() -> Path:
    """Return the dbt of the project's own environment."""
    return Path(sys.executable).with_name("dbt")


def unknown_names(select: str) -> list[str]:
    """Return, for each plain name of a selection that the project has no node of, a sentence with the nearest one.

    select: as dbt reads it; a method (tag:…, path:…) and a pattern name no node.
    """
    known = {
        path.stem
        for folder in ("models", "seeds", "snapshots", "tests/sql")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".sql", ".csv")
    }
    unknown = []
    for name in re.split(r"[\s,]+", select):
        plain = name.strip("+@0123456789")
        if re.fullmatch(r"\w+", plain) and plain not in known:
            close = difflib.get_close_matches(plain, sorted(known), 1)
            unknown.append(
                f"the project has no model, seed, snapshot or test called {plain}"
                + (f"; did you mean {close[0]}?" if close else "")
            )
    return unknown


def parse_command(settings: Settings) -> list[str]:
    """Return the command by which dbt reads the project for the runs, and says nothing but errors."""
    command = [str(dbt_executable()), "--quiet", "--no-use-colors", "--log-path", str(settings.state / "dbt-logs")]
    target = target_directory(settings)
    return [*command, "--no-write-json", "parse", "--project-dir", str(ROOT), "--target-path", str(target)]


@contextmanager
def reading_the_project(settings: Settings) -> Iterator[None]:
    """Let dbt read the project, if it never has, beside the block, for the runs behind it: ten seconds of a core.

    A project that cannot be read is no error here: the run that follows says what is wrong with it.
    """
    if (target_directory(settings) / PARSED).exists():
        yield
        return
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    # A process group of its own: an interrupt is for this process, which ends it.
    environment = os.environ | dbt_environment(settings)
    with subprocess.Popen(parse_command(settings), env=environment, cwd=ROOT, process_group=0, **quiet) as process:
        try:
            yield
            process.wait()
        finally:
            process.kill()


def build(
    cluster: Cluster,
    *,
    select: str | None = None,
    full_refresh: bool = False,
    variables: dict[str, Any] | None = None,
    unit_tests: bool = True,
    trigger: str = "manual",
    who: str | None = None,
    log: Path | None = None,
    on_node: Callable[..., None] = lambda amount, **more: None,
) -> int:
    """Run `dbt build` in the foreground, with dbt's own output. Returns its exit code (0: success, 1: a node failed).

    who: by what name the record identifies the run (default: one of `started_by`). log: a file that takes dbt's output
    instead; `on_node(1, total=…)` is then called for each node that has ended.

    A run that failed because the source or the connection changed under it is tried again, up to ETL_ATTEMPTS.
    """
    # A selection that matches nothing is a mistake, and would succeed without building anything.
    strict = ("--warn-error-options", '{"error": ["NoNodesForSelectionCriteria"]}') if select else ()
    what = ("build",) if unit_tests else DATA_BUILD
    command = [str(dbt_executable()), *strict, *what, "--project-dir", str(ROOT)]
    command += ["--target-path", str(target_directory(cluster.settings, variables))]
    if select:
        command += ["--select", *select.split()]
    if full_refresh:
        command.append("--full-refresh")
    if variables:
        command += ["--vars", json.dumps(variables)]
    who = who or started_by(trigger)
    environment = os.environ | dbt_environment(cluster.settings) | {"ETL_TRIGGER": trigger, "ETL_STARTED_BY": who}
    if not sys.stdout.isatty():
        environment["DBT_USE_COLORS"] = "false"
    # An interrupted dbt leaves locks to multiprocessing's resource tracker, which would warn of them.
    environment["PYTHONWARNINGS"] = ",".join(
        [*filter(None, [environment.get("PYTHONWARNINGS")]), "ignore:resource_tracker:UserWarning"]
    )

    def attempt() -> int:
        try:
            return _run_watched(cluster, who, command, environment, log, on_node)
        except KeyboardInterrupt:
            mark_cancelled(cluster, who, "cancelled at the keyboard")
            raise

    return with_retries(cluster, who, attempt)


def _run_watched(
    cluster: Cluster,
    who: str,
    command: Sequence[str],
    environment: dict[str, str],
    log: Path | None,
    on_node: Callable[..., None],
) -> int:
    """Run a command, a run signed `who`, and end it when its source falls silent. Returns its exit code.

    log: a file that takes its output instead; `on_node` is then called for each node that it says has ended.
    """
    options: dict[str, Any] = {}
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = environment | {"DBT_USE_COLORS": "false"}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    # A process group of its own: this process handles an interrupt; dbt would answer with a traceback.
    with subprocess.Popen(command, env=environment, cwd=ROOT, process_group=0, **options) as process:
        try:
            with ending_when_silent(cluster, who, process.kill):
                if log is not None:
                    _follow(process.stdout, log, on_node)
                return process.wait()
        except BaseException:
            process.kill()
            raise


def _follow(lines: IO[str] | None, log: Path, on_node: Callable[..., None]) -> None:
    """Write a command's output to a log file, and call `on_node` for each node that it says has ended."""
    with log.open("w", encoding="utf-8") as file:
        for line in lines or ():
            file.write(line)
            if found := _NODE_ENDED.search(line):
                on_node(1, total=int(found[1]))


@contextmanager
def ending_when_silent(cluster: Cluster, who: str, kill: Callable[[], None]) -> Iterator[None]:
    """End the run of `who`, whose process `kill` kills, when the server that it reads stops answering meanwhile."""

    def end(reason: str) -> None:
        mark_cancelled(cluster, who, reason)
        # dbt would wait for its session, which may hang while it closes its connection to the frozen server.
        kill()

    with watched(cluster, who, end):
        yield


def with_retries(
    cluster: Cluster,
    who: str,
    attempt: Callable[[], int],
    *,
    stopping: threading.Event | None = None,
    on_retry: Callable[[int], None] = lambda number: None,
) -> int:
    """Call `attempt`, a run signed `who`, again while it fails in a way that another try may cure, up to ETL_ATTEMPTS.

    stopping: ends the pauses and the tries when it is set. on_retry: called with the number of the attempt that failed.
    Returns the last exit code.
    """
    stopping = stopping or threading.Event()
    retrying = Retrying(
        stop=stop_after_attempt(cluster.settings.etl_attempts) | stop_when_event_set(stopping),
        wait=wait_exponential(multiplier=1, max=10),
        sleep=sleep_using_event(stopping),
        retry=retry_if_result(lambda code: code != 0 and not stopping.is_set() and failed_transiently(cluster, who)),
        before_sleep=lambda state: on_retry(state.attempt_number),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else 1,
    )
    return retrying(attempt)


def failed_transiently(cluster: Cluster, who: str) -> bool:
    """Return whether the last run of `who` failed in a way that another try may cure."""
    try:
        with cluster.connect_as_writer() as connection:
            row = connection.execute(
                "select error_message from audit.etl_runs where started_by = %s order by run_id desc limit 1", (who,)
            ).fetchone()
    except (UserError, psycopg.Error):
        return False
    return bool(row and row[0] and any(text in row[0] for text in TRANSIENT))


def mark_cancelled(cluster: Cluster, who: str, reason: str) -> None:
    """Mark the running run of `who` failed, and end its sessions: its process is gone or about to go.

    Gives up after CANCEL_SECONDS while a session still holds the run's row; the next run marks it then.
    """
    try:
        with cluster.connect_as_writer(autocommit=True) as connection:
            row = connection.execute(
                "select dbt_invocation_id from audit.etl_runs where status = 'running' and started_by = %s", (who,)
            ).fetchone()
            if row is None:
                return
            connection.execute(
                sql.SQL("select pg_terminate_backend(pid) from pg_stat_activity as activity where {}").format(
                    is_of_run(sql.Placeholder())
                ),
                (row[0],),
            )
            # A session that hangs while it closes its connection to a frozen server has given its transaction up, but
            # not its locks: an update that already waits for them waits on, one that starts later does not.
            connection.execute("set lock_timeout = '1s'")
            for attempt in Retrying(
                retry=retry_if_exception_type(psycopg.errors.LockNotAvailable),
                stop=stop_after_delay(CANCEL_SECONDS),
                reraise=True,
            ):
                with attempt:
                    connection.execute(
                        "update audit.etl_runs "
                        "set status = 'failed', run_finished_at = clock_timestamp(), error_message = %s "
                        "where status = 'running' and started_by = %s",
                        (reason, who),
                    )
    except (UserError, psycopg.Error):
        # The warehouse is down; the next run finds this one dead and marks it.
        return


@dataclass(frozen=True)
class LiveRun:
    """A run of which a session was seen: its number, who started it, and since when it has been running."""

    run_id: int
    started_by: str
    since: datetime


def live_run(cluster: Cluster, seconds: float = RUN_SILENT_SECONDS) -> LiveRun | None:
    """Return the run that is running, or None.

    dbt holds no session from a run's start to its end: one is running when its row says so and a session of its
    invocation is seen within `seconds`. Otherwise it was killed, and the next run marks it.
    """
    query = sql.SQL(
        "select run_id, started_by, run_started_at as since, exists (select from pg_stat_activity as "
        "activity where {} "
        # The condition of macros/run/run_is_alive.sql, where the reason is.
        "and not (state = 'active' and wait_event is null and backend_xid is null and backend_xmin is null "
        "and state_change < clock_timestamp() - interval '30 seconds')) as seen "
        "from audit.etl_runs as runs where runs.status = 'running'"
    ).format(is_of_run(sql.Identifier("runs", "dbt_invocation_id")))
    with cluster.connect_as_writer(autocommit=True) as connection:
        if not has_relation(connection, "audit.etl_runs"):
            return None
        end = time.monotonic() + seconds
        while (row := connection.execute(query).fetchone()) and not row[3]:
            if time.monotonic() > end:
                return None
            time.sleep(0.05)
    return LiveRun(*row[:3]) if row else None


def refuse_second_run(cluster: Cluster, trigger: str) -> None:
    """Raise UserError, and count the refused start, when a run is running.

    A run that starts between this and dbt's own first statement is refused by the project (macros/run/begin_run.sql).
    """
    holder = live_run(cluster)
    if holder is None:
        return
    with cluster.connect_as_writer() as connection:
        who = started_by(trigger)
        connection.execute(
            "insert into audit.refused_starts (holder_run_id, run_trigger, started_by, dbt_invocation_id) "
            "values (%s, %s, %s, %s)",
            (holder.run_id, trigger, who, who),
        )
    since = f"{holder.since.astimezone(UTC):%H:%M:%S} UTC"
    raise UserError(
        f"Refused to start: run {holder.run_id} ({holder.started_by}) has been running since "
        f"{since}. One run at a time: try again when it is done (make etl shows it)."
    )


def wait_for_run(cluster: Cluster) -> bool:
    """Wait until no run is active. Returns whether one was.

    A run is active when its row says so and a session of its invocation was seen within a few seconds.
    """
    waited = False
    while live_run(cluster):
        if not waited:
            err.print("another run is active, perhaps that of a command that was killed: waiting until it is done")
        waited = True
        time.sleep(0.2)
    return waited


def history(cluster: Cluster, limit: int = 15) -> list[Run]:
    """Return the newest runs, newest first. Empty when the warehouse has never run."""
    with cluster.connect_as_writer() as connection:
        if not has_relation(connection, "audit.etl_runs"):
            return []
        columns = sql.SQL(", ").join(map(sql.Identifier, Run.__dataclass_fields__))
        with connection.cursor(row_factory=class_row(Run)) as cursor:
            cursor.execute(
                sql.SQL("select {} from audit.etl_runs order by run_id desc limit %s").format(columns), (limit,)
            )
            return cursor.fetchall()


def last_finished(cluster: Cluster) -> Run | None:
    """Return the newest run that has ended, well or not."""
    return next((run for run in history(cluster, 2) if run.status != "running"), None)


def test_warnings(cluster: Cluster, run_id: int) -> list[str]:
    """Return the tests of a run that warned, each with its message."""
    with cluster.connect_as_writer() as connection:
        return [
            f"{name}: {message}" if message else str(name)
            for name, message in connection.execute(
                "select node_name, message from audit.model_runs "
                "where run_id = %s and resource_type in ('test', 'unit_test') and status = 'warn' order by node_name",
                (run_id,),
            ).fetchall()
        ]


def data_as_of(cluster: Cluster) -> datetime | None:
    """Return up to when the published figures have the source's changes; None before the first run."""
    with cluster.connect_as_writer() as connection:
        if not has_relation(connection, "warehouse.vw_data_as_of"):
            return None
        row = connection.execute("select data_as_of from warehouse.vw_data_as_of").fetchone()
    return row[0] if row else None


# The width of a terminal that has room for all columns of the history, the messages among them.
WIDE_COLUMNS = 140
HISTORY_COLUMNS = ("run", "started", "seconds", "status", "trigger", "extraction", "source", "+", "~", "-", "message")
LEFT_OUT_WHEN_NARROW = ("extraction", "source", "message")


def history_table(runs: Sequence[Run], width: int) -> Group:
    """Return the run history as a table for a terminal of this width; a narrow one has the messages below it."""
    is_wide = width >= WIDE_COLUMNS
    table = Table(title="Runs of the warehouse, newest first (UTC)", padding=(0, 1 if is_wide else 0))
    shown = [name for name in HISTORY_COLUMNS if is_wide or name not in LEFT_OUT_WHEN_NARROW]
    for name in shown:
        numeric = name in ("run", "seconds", "+", "~", "-")
        table.add_column(
            name,
            justify="right" if numeric else "left",
            no_wrap=name != "message",
            overflow="ellipsis",
            max_width=60 if name == "message" else None,
        )
    colours = {"success": "green", "failed": "red", "running": "yellow"}
    for run in runs:
        cells = (
            str(run.run_id),
            run.run_started_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S" if is_wide else "%Y-%m-%d %H:%M"),
            f"{run.seconds:.1f}" if run.seconds is not None else "",
            f"[{colours[run.status]}]{run.status}[/]",
            run.run_trigger,
            run.extraction_mode or "",
            run.source_host or "",
            str(run.rows_inserted),
            str(run.rows_updated),
            str(run.rows_deleted),
            escape(reason(run.error_message)),
        )
        table.add_row(*(cell for name, cell in zip(HISTORY_COLUMNS, cells, strict=True) if name in shown))
    messages = () if is_wide else (run for run in runs if run.error_message)
    return Group(table, *(Text(f"run {run.run_id}: {reason(run.error_message)}") for run in messages))


def last_success(cluster: Cluster) -> tuple[datetime | None, float | None]:
    """Return when the last successful run finished, and how many minutes ago that was.

    The last one that was started, not the one with the latest time: a clock may have been ahead. Then the age is
    negative (see `stale`).
    """
    with cluster.connect_as_writer() as connection:
        if not has_relation(connection, "audit.etl_runs"):
            return None, None
        row = connection.execute(
            "select run_finished_at, extract(epoch from clock_timestamp() - run_finished_at) / 60 "
            "from audit.etl_runs where status = 'success' order by run_id desc limit 1"
        ).fetchone()
    if row is None or row[0] is None:
        return None, None
    return row[0], float(row[1])


def stale(minutes: float | None, limit: float) -> str | None:
    """Say what is wrong with the age of the last success, or None. minutes: as last_success gives it."""
    if minutes is None:
        return "no successful run yet"
    if minutes < -CLOCK_TOLERANCE_MINUTES:
        return (
            f"the last success is stamped {-minutes:.0f} minutes ahead of now: the warehouse's clock was ahead then or "
            "is behind now. Correct it, and run again"
        )
    if minutes > limit:
        return f"the last success is {minutes:.0f} minutes old (limit {limit:g})"
    return None


def run_as_json(run: Run) -> dict[str, Any]:
    """Return a run as plain data for a log line."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(run).items()
    } | {"seconds": run.seconds, "reason": reason(run.error_message) or None}
