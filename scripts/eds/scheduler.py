"""Runs `dbt build` on a cron schedule: one run at a time, for as long as the process lives.

Each run is a child forked from this warm process (see dbt_child).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType

import psycopg
from cronsim import CronSim

from eds.base.console import log
from eds.base.errors import UserError
from eds.base.settings import Settings, load
from eds.cluster.connections import Cluster
from eds.dashboards import site
from eds.warehouse import alerts, failed_start, metrics, runs
from eds.warehouse.dbt_child import dbt_arguments, spawn_dbt, warm_up
from eds.warehouse.dbt_docs import CancelledError

CANCEL_SECONDS = 7.0
KILL_SECONDS = 2.0
# How often the scheduler checks whether somebody ran dbt by hand.
LOOK_SECONDS = 10.0


@dataclass(frozen=True)
class Tick:
    """A time at which a run is due. `full`: compare every row and run every test."""

    at: datetime
    full: bool


def next_tick(schedule: str, full_schedule: str, after: datetime) -> Tick:
    """Return the first time after `after` at which either schedule fires; a full run wins when both do."""
    ordinary = next(CronSim(schedule, after))
    full = next(CronSim(full_schedule, after))
    return Tick(full, True) if full <= ordinary else Tick(ordinary, False)


def overdue(schedule: str, full_schedule: str, after: datetime, now: datetime) -> Tick | None:
    """Return what was missed from `after` to `now`, as one run: full when one of them was. None: nothing."""
    missed = None
    tick = next_tick(schedule, full_schedule, after)
    while tick.at <= now:
        missed = Tick(tick.at, tick.full or bool(missed and missed.full))
        if missed.full:
            break
        tick = next_tick(schedule, full_schedule, tick.at)
    return missed


class Scheduler:
    """The loop.

    settings: the platform's. at_start: also run once at once. catch_up: also make up for what was due since the last
    success, while nothing ran; a warehouse without a success is due.
    """

    def __init__(self, settings: Settings, *, at_start: bool = False, catch_up: bool = False) -> None:
        self.settings = settings
        self.cluster = Cluster(settings)
        self.at_start = at_start
        self.catch_up = catch_up
        self.stopping = threading.Event()
        self.signal: str | None = None
        # The newest run whose outcome is on the pages.
        self.shown: int | None = None
        self.metrics_due = 0.0
        self.state = settings.state
        self.state.mkdir(parents=True, exist_ok=True)

    def stop(self, signal_number: int, _frame: FrameType | None) -> None:
        """Signal handler: finish the present run's cancellation, then leave.

        It must not print: it may have come in the middle of a print, and Python refuses a second one inside the first.
        """
        self.signal = signal.Signals(signal_number).name
        self.stopping.set()

    def _say_stopping(self) -> None:
        """Say once which signal it was."""
        if self.signal:
            log("stopping", signal=self.signal)
            self.signal = None

    def run_once(self, *, full: bool, trigger: str = "schedule") -> bool:
        """Run once, and again when the source changed under it. Returns whether it succeeded."""
        who = runs.started_by("scheduler")
        environment = runs.dbt_environment(self.settings) | self._lending_environment()
        environment |= {"ETL_TRIGGER": trigger, "ETL_STARTED_BY": who}
        code = runs.with_retries(
            self.cluster,
            who,
            lambda: self._run_child(full, environment, who),
            stopping=self.stopping,
            on_retry=lambda number: log("retry", attempt=number),
        )
        if code and not self.stopping.is_set():
            failed_start.record(self.cluster, who, trigger)
        self._report(code, who)
        return code == 0

    def _lending_environment(self) -> dict[str, str]:
        """Read the settings of the lender's figures from the file, as a run by hand does.

        Otherwise the two would recompute everything in turn, each with its own settings.
        """
        try:
            # Bypass the cache, which keeps the settings of the start for the rest of this process.
            return runs.lending_environment(load.__wrapped__())
        except UserError as error:
            log("settings", status="kept", message=str(error))
            return runs.lending_environment(self.settings)

    def _run_child(self, full: bool, environment: dict[str, str], who: str) -> int:
        options = ("--vars", json.dumps(runs.RECONCILE_VARS)) if full else ()
        child = spawn_dbt(dbt_arguments(self.settings, *runs.DATA_BUILD, *options), environment)
        with runs.ending_when_silent(self.cluster, who, child.kill):
            while child.is_alive() and not self.stopping.is_set():
                child.join(0.2)
                self._write_metrics()
        if child.is_alive():
            self._say_stopping()
            log("cancelling", pid=child.pid)
            child.terminate()
            # Ends the run's statements on the server, so that dbt comes back to Python and sees the signal.
            runs.mark_cancelled(self.cluster, who, "cancelled: the scheduler was stopped")
            child.join(CANCEL_SECONDS)
            if child.is_alive():
                child.kill()
                child.join(KILL_SECONDS)
        return child.exitcode if child.exitcode is not None else 1

    def _report(self, code: int, who: str) -> None:
        try:
            run = next((run for run in runs.history(self.cluster, 5) if run.started_by == who), None)
        except (UserError, psycopg.Error) as error:
            log("run", status="failed", exit_code=code, message=str(error))
            alerts.notify(self.settings, problem=str(error).strip())
            return
        if run is None:
            # Refused (another run is active), or ended before its record was written.
            log("run", status="not started", exit_code=code)
        else:
            log("run", exit_code=code, **runs.run_as_json(run))
            alerts.notify(self.settings)
            self.shown = run.run_id

    def _refresh_pages(self) -> None:
        """Rewrite the pages, unless it is time to leave. A page that fails is logged, and fails no run."""
        if not self._writes_pages():
            return
        try:
            if site.refresh(self.settings, self.stopping):
                log("documentation", path=str(self.settings.site))
        except CancelledError:
            return
        except Exception as error:
            log("pages", status="failed", kind=type(error).__name__, message=str(error))

    def _last_success(self) -> datetime | None:
        try:
            return runs.last_success(self.cluster)[0]
        except (UserError, psycopg.Error) as error:
            log("error", kind=type(error).__name__, message=str(error))
            return None

    def serve(self) -> None:
        """Run on schedule until a signal says stop."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        started = time.monotonic()
        settings = self.settings
        warm_up(settings)
        logging.getLogger().setLevel(logging.WARNING)
        log(
            "started",
            schedule=settings.etl_schedule,
            reconcile_schedule=settings.etl_reconcile_schedule,
            pid=os.getpid(),
            seconds=round(time.monotonic() - started, 2),
        )
        with contextlib.suppress(UserError, psycopg.Error):
            newest = runs.last_finished(self.cluster)
            self.shown = newest.run_id if newest else None
        now = datetime.now(UTC)
        last = self._last_success() if self.catch_up else now
        # A success that is stamped ahead of now (the clock was, or is, set wrong) must not silence the schedule.
        done_until = min(last or now, now)
        if self.at_start or last is None:
            self._tick(Tick(now, full=False), "start")
        # Before the first run has ended there is nothing to show.
        elif self.shown and not overdue(settings.etl_schedule, settings.etl_reconcile_schedule, done_until, now):
            self._refresh_pages()
        while not self.stopping.is_set():
            now = datetime.now(UTC)
            # Nor must a clock that was set back silence it.
            done_until = min(done_until, now)
            due = overdue(settings.etl_schedule, settings.etl_reconcile_schedule, done_until, now)
            if due:
                done_until = now
                self._tick(due, "reconcile" if due.full else "schedule")
                continue
            upcoming = next_tick(settings.etl_schedule, settings.etl_reconcile_schedule, done_until)
            # Wait in short steps: the clock may be set, the machine may have been asleep, somebody may run dbt by hand.
            self.stopping.wait(min(max((upcoming.at - now).total_seconds(), 0.05), LOOK_SECONDS))
            self._look_for_runs_by_hand()
            self._write_metrics()
        self._say_stopping()
        log("stopped")

    def _write_metrics(self) -> None:
        """Write the figures for Prometheus, every few seconds at most. What fails there fails no run."""
        if time.monotonic() < self.metrics_due or not self._writes_pages():
            return
        self.metrics_due = time.monotonic() + LOOK_SECONDS
        try:
            metrics.write(self.settings)
        except OSError as error:
            log("metrics", status="failed", message=str(error))

    def _writes_pages(self) -> bool:
        # A container that has only the secrets that it needs cannot read as the dashboards' role.
        return bool(self.settings.warehouse_reader_password.get_secret_value()) and not self.stopping.is_set()

    def _look_for_runs_by_hand(self) -> None:
        """Bring a run's outcome to the pages, and alert, when it was started by somebody else and has ended."""
        if self.stopping.is_set():
            return
        try:
            run = runs.last_finished(self.cluster)
        except (UserError, psycopg.Error):
            # The warehouse is away; the next run reports it.
            return
        if run and run.run_id != self.shown:
            self.shown = run.run_id
            alerts.notify(self.settings)
            self._refresh_pages()

    def _tick(self, tick: Tick, trigger: str) -> None:
        log("tick", due=tick.at.isoformat(), full=tick.full)
        try:
            self.run_once(full=tick.full, trigger=trigger)
        except Exception as error:  # a run must never end the scheduler
            log("error", kind=type(error).__name__, message=str(error))
        self._refresh_pages()
