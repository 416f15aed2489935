"""Alerts: a run or a backup that fails, or succeeds again, reaches a person, once per change of state.

A run notes its outcome in a file of the state directory and starts a process that delivers it (`python -m eds alert`):
no run ever waits for a delivery. What could not be delivered is tried again by that process, and after the next run.
Each scheduled backup has a note of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psycopg
from filelock import FileLock, Timeout
from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_exponential

from eds.base import programs
from eds.base.errors import UserError
from eds.base.files import write_atomically
from eds.base.settings import ROOT, Settings
from eds.cluster.connections import Cluster
from eds.warehouse import runs

ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
WEBHOOK_SECONDS = 10.0
COMMAND_SECONDS = 60.0
NOTE_SECONDS = 5.0
# Stopped by a person, who knows of it.
CANCELLED = "cancelled"


@dataclass(frozen=True)
class Note:
    """The state of the runs that was last reported, or is to be: `pending` ways have not delivered it yet."""

    status: Literal["ok", "failed"]
    run_id: int | None
    text: str
    pending: tuple[str, ...]


RUNS = "alert"


def _path(settings: Settings, subject: str = RUNS) -> Path:
    return settings.state / f"{subject}.json"


def _subjects(settings: Settings) -> list[str]:
    """Return what has a note: the runs, and scheduled backups."""
    return sorted(path.stem for path in settings.state.glob(f"{RUNS}*.json"))


def _read(settings: Settings, subject: str = RUNS) -> Note | None:
    try:
        values = json.loads(_path(settings, subject).read_text(encoding="utf-8"))
        return Note(values["status"], values["run_id"], values["text"], tuple(values["pending"]))
    except (OSError, ValueError, KeyError):
        return None


def _write(settings: Settings, note: Note, subject: str = RUNS) -> None:
    write_atomically(_path(settings, subject), json.dumps(asdict(note)) + "\n", mode=0o600)


def ways(settings: Settings) -> tuple[str, ...]:
    """Return the settings of the ways by which alerts are delivered."""
    return tuple(name for name in ("alert_webhook", "alert_command") if getattr(settings, name))


def _platform(settings: Settings) -> str:
    return f"loan platform {settings.compose_project_name} on {socket.gethostname()}"


def text_of(settings: Settings, status: str, run_id: int | None, message: str) -> str:
    """Return what a person reads."""
    place = _platform(settings)
    run = "a run" if run_id is None else f"run {run_id}"
    if status == "ok":
        return f"{place}: {run} succeeded, the dashboards are up to date again"
    return f"{place}: {run} failed: {message or 'make etl shows why'}\nThe dashboards keep the last good state."


def notify(settings: Settings, problem: str | None = None) -> bool:
    """Note the outcome of the newest run and start its delivery. Returns whether there is something to deliver.

    problem: why the outcome could not be read, when the caller knows that the run failed. Never raises what would fail
    a run, and never waits for a delivery.
    """
    if not ways(settings):
        return False
    try:
        ended = [] if problem else [run for run in runs.history(Cluster(settings), 3) if run.status != "running"][:2]
    except (UserError, psycopg.Error) as error:
        ended, problem = [], problem or str(error).strip()
    try:
        with FileLock(settings.state / "alert.lock", timeout=NOTE_SECONDS):
            note = next_note(settings, _read(settings), ended, problem)
            if note is None:
                return False
            _write(settings, note)
    except (OSError, Timeout):
        return False
    if note.pending:
        _start_delivery(settings)
    return bool(note.pending)


def notify_of_backup(settings: Settings, name: str, problem: str | None) -> bool:
    """Note how a scheduled backup or drill ended and start its delivery, when that has changed since the last time.

    name: what it is, for a person. problem: why it failed; None when it succeeded. Returns whether there is something
    to deliver.
    """
    if not ways(settings):
        return False
    subject = f"{RUNS}-{name.replace(' ', '-')}"
    status: Literal["ok", "failed"] = "failed" if problem else "ok"
    text = f"{_platform(settings)}: the {name} " + (f"failed: {problem}" if problem else "succeeded again")
    try:
        with FileLock(settings.state / "alert.lock", timeout=NOTE_SECONDS):
            last = _read(settings, subject) or Note("ok", None, "", ())
            if last.status != status:
                last = Note(status, None, text, ways(settings))
                _write(settings, last, subject)
    except (OSError, Timeout):
        return False
    if last.pending:
        _start_delivery(settings)
    return bool(last.pending)


def next_note(settings: Settings, last: Note | None, ended: Sequence[runs.Run], problem: str | None) -> Note | None:
    """Return what is to be noted after a run: the same when the state is the same, something to deliver when not.

    last: what was noted before. ended: the newest runs that have ended, newest first. problem: as in `notify`.
    None: nothing has ended, or a person has stopped it.
    """
    status: Literal["ok", "failed"]
    if problem:
        status, run_id, message = "failed", None, problem
    elif not ended or (ended[0].error_message or "").startswith(CANCELLED):
        return None
    else:
        run = ended[0]
        status, run_id = "failed" if run.status == "failed" else "ok", run.run_id
        message = runs.reason(run.error_message)
    if last is None:
        # Nothing was noted here yet, and nobody was told. That runs succeed again is worth a note after a failed one.
        again = status == "ok" and len(ended) > 1 and ended[1].status == "failed"
        last = Note("failed" if again else "ok", None, "", ())
    if status == last.status:
        return last
    return Note(status, run_id, text_of(settings, status, run_id, message), ways(settings))


def _start_delivery(settings: Settings) -> None:
    """Start a process that delivers, and outlives this one."""
    with contextlib.suppress(OSError), (settings.state / "alerts.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "eds", "alert"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def deliver(settings: Settings) -> bool:
    """Deliver what is noted, by each way until it succeeds, with pauses. Returns whether nothing is left.

    One process at a time; what is noted meanwhile is delivered instead.
    """

    def attempt() -> bool:
        subjects = _subjects(settings)
        for subject in subjects:
            _attempt(settings, subject)
        return not any(rest.pending for subject in subjects if (rest := _read(settings, subject)))

    try:
        with FileLock(settings.state / "alert-delivery.lock", timeout=0):
            return bool(
                Retrying(
                    stop=stop_after_attempt(ATTEMPTS),
                    wait=wait_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
                    retry=retry_if_result(lambda done: not done),
                    retry_error_callback=lambda state: False,
                )(attempt)
            )
    except Timeout:
        return False


def _attempt(settings: Settings, subject: str) -> None:
    """Send a note by each way that has not delivered it yet."""
    note = _read(settings, subject)
    for way in note.pending if note else ():
        problem = _send(settings, way, note) if note else None
        if problem:
            print(f"{way.upper()}: {problem}", flush=True)
            continue
        with FileLock(settings.state / "alert.lock", timeout=NOTE_SECONDS):
            now = _read(settings, subject)
            if now and note and (now.status, now.run_id) == (note.status, note.run_id):
                left = tuple(each for each in now.pending if each != way)
                _write(settings, Note(now.status, now.run_id, now.text, left), subject)


def _send(settings: Settings, way: str, note: Note) -> str | None:
    """Send a note one way. Returns what went wrong, without the address, which may hold a secret."""
    if way == "alert_webhook":
        # It takes a tenth of the time in which a command starts, and few commands send a note.
        import requests

        try:
            answer = requests.post(str(settings.alert_webhook), json={"text": note.text}, timeout=WEBHOOK_SECONDS)
        except requests.RequestException as error:
            return type(error).__name__
        return None if answer.ok else f"it answered {answer.status_code} {answer.reason}"
    variables = {"ALERT_STATUS": note.status, "ALERT_RUN": str(note.run_id or ""), "ALERT_TEXT": note.text}
    # A line of the operator's own, as it is in .env.
    done = programs.run(
        ["sh", "-c", str(settings.alert_command)],
        check=False,
        env=os.environ | variables,
        stdin=note.text + "\n",
        timeout=COMMAND_SECONDS,
        show=True,
    )
    if done.ok:
        return None
    return done.errors or f"exit code {done.code}"
