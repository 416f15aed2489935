"""Makes backups on cron schedules, reads them again, and proves them by a restore drill: one at a time, each a process.

It is a process of this machine on either runtime, and runs the commands that a person would type (`make backup`,
`make backups VERIFY=1`, `make drill`). A run of the warehouse never waits for it, and it never waits for a run. What
came due while it was not running (a machine that is off at night) is made up for at its start, once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import FrameType

from cronsim import CronSim

from eds.base.console import log
from eds.base.files import write_atomically
from eds.base.programs import tail
from eds.base.services import BACKUP_SCHEDULER
from eds.base.settings import ROOT, Settings
from eds.runtime.choice import select_runtime
from eds.warehouse import alerts

# How often to look at the clock: it may be set, and the machine may have been asleep.
LOOK_SECONDS = 10.0
# A job that was interrupted by a person's command is tried again after so long.
AGAIN = timedelta(minutes=10)
INTERRUPTED = 130
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Job:
    """What a schedule starts: its name for a person, the command, and whether it needs the physical repository."""

    name: str
    command: tuple[str, ...]
    needs_repository: bool = True


JOBS = {
    "backup_full_schedule": Job("full backup", ("backup", "--kind", "physical", "--type", "full")),
    "backup_diff_schedule": Job("differential backup", ("backup", "--kind", "physical", "--type", "diff")),
    "backup_dump_schedule": Job("dump of both databases", ("backup", "--kind", "logical"), needs_repository=False),
    "backup_verify_schedule": Job("check of backups and archive", ("backups", "--verify"), needs_repository=False),
    "drill_schedule": Job("restore drill", ("drill",)),
}


def due(schedules: Mapping[str, str], done_until: Mapping[str, datetime], now: datetime) -> list[str]:
    """Return the schedules that have come since they were last served, in the order of JOBS.

    A schedule that was never served and is of full backups is due at once: without one, nothing can be recovered. A
    full backup makes a differential one superfluous.
    """
    found = []
    for name in JOBS:
        if name not in schedules:
            continue
        since = done_until.get(name)
        if since is None:
            if name == "backup_full_schedule":
                found.append(name)
        # A clock that was set back must not silence a schedule.
        elif next(CronSim(schedules[name], min(since, now))) <= now:
            found.append(name)
    if "backup_full_schedule" in found and "backup_diff_schedule" in found:
        found.remove("backup_diff_schedule")
    return found


class BackupScheduler:
    """The loop. settings: the platform's."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = threading.Event()
        self.notes = settings.state / f"{BACKUP_SCHEDULER}.json"
        self.why_no_repository = select_runtime(settings)[0].why_no_repository
        self.schedules = {
            name: value
            for name, value in settings.backup_schedules.items()
            if not (self.why_no_repository and JOBS[name].needs_repository)
        }

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Signal handler: end what is running, then leave."""
        self.stopping.set()

    def done_until(self) -> dict[str, datetime]:
        """Return up to when each schedule was served; what cannot be read counts as never."""
        try:
            values = json.loads(self.notes.read_text(encoding="utf-8"))
            return {name: datetime.fromisoformat(value) for name, value in values.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def note(self, name: str, when: datetime) -> None:
        """Note that a schedule was served up to a time."""
        values = self.done_until() | {name: when}
        text = json.dumps({key: value.isoformat() for key, value in values.items()}) + "\n"
        write_atomically(self.notes, text, mode=0o600)

    def run(self, name: str) -> int | None:
        """Run the command of a schedule to its end. Returns its exit code; None when this process is to leave."""
        job = JOBS[name]
        log("begun", job=job.name)
        child = subprocess.Popen(
            [sys.executable, "-m", "eds", *job.command, "--scheduled"],
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "180"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        interrupted = False
        while True:
            try:
                output, _ = child.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if self.stopping.is_set() and not interrupted:
                    interrupted = True
                    child.send_signal(signal.SIGINT)
        code = INTERRUPTED if interrupted else child.returncode
        words = tail(output.splitlines())
        log("ended", job=job.name, exit_code=code, output=words)
        if code == INTERRUPTED or code == -signal.SIGINT:
            return None if interrupted else INTERRUPTED
        alerts.notify_of_backup(self.settings, job.name, words.strip() or f"exit code {code}" if code else None)
        return code

    def serve(self) -> None:
        """Run on schedule until a signal says stop."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        log("started", pid=os.getpid(), schedules=self.schedules, skipped=self.why_no_repository)
        for name in self.schedules:
            # Schedules count from now; a full backup is due where none was ever made.
            if name not in self.done_until() and name != "backup_full_schedule":
                self.note(name, datetime.now(UTC))
        postponed: dict[str, datetime] = {}
        while not self.stopping.is_set():
            now = datetime.now(UTC)
            for name in due(self.schedules, self.done_until(), now):
                if self.stopping.is_set() or postponed.get(name, now) > now:
                    continue
                code = self.run(name)
                if code is None:
                    break
                if code == INTERRUPTED:
                    postponed[name] = datetime.now(UTC) + AGAIN
                else:
                    self.note(name, now)
                    if name == "backup_full_schedule":
                        self.note("backup_diff_schedule", now)
            self.stopping.wait(LOOK_SECONDS)
        log("stopped")
