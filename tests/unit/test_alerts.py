"""Alerts: once per change of state, tried again, never without an end."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from eds.base.settings import Settings, ensure_env_file
from eds.warehouse import alerts, runs
from eds.warehouse.alerts import Note
from support.webhook import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def settings(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Provide settings with both ways: a webhook, and a command that writes what it gets into a file."""
    monkeypatch.setattr(alerts, "FIRST_PAUSE_SECONDS", 0.01)
    ensure_env_file(tmp_path / "env")
    (tmp_path / "state").mkdir()
    command = f'{{ echo "$ALERT_STATUS $ALERT_RUN"; cat; }} >>"{tmp_path}/output"'
    return Settings(
        _env_file=tmp_path / "env",  # type: ignore[call-arg]
        state_dir=tmp_path / "state",
        alert_webhook=receiver.url,
        alert_command=command,
    )


def run(run_id: int, status: str, message: str | None = None) -> runs.Run:
    now = datetime.now(UTC)
    ended = None if status == "running" else now
    return runs.Run(run_id, now, ended, status, 0, 0, 0, message, "schedule", "test", None, None, None)


FAILED = run(2, "failed", "fact_loans: Database Error in model fact_loans (models/…)\n  division by zero")


@pytest.mark.parametrize(
    ("last", "ended", "problem", "status", "pending"),
    [
        (None, [FAILED, run(1, "success")], None, "failed", True),
        (None, [FAILED], None, "failed", True),
        # Runs failed already when the address was given.
        (None, [FAILED, run(1, "failed")], None, "failed", True),
        (None, [run(3, "success"), FAILED], None, "ok", True),
        (None, [run(3, "success")], None, "ok", False),
        (Note("ok", 1, "", ()), [FAILED, run(1, "success")], None, "failed", True),
        (Note("failed", 1, "", ()), [FAILED, run(1, "failed")], None, "failed", False),
        (Note("failed", 1, "", ("alert_webhook",)), [FAILED, run(1, "failed")], None, "failed", True),
        (Note("failed", 2, "", ()), [run(3, "success"), FAILED], None, "ok", True),
        (Note("ok", 3, "", ()), [run(4, "success"), run(3, "success")], None, "ok", False),
        (Note("ok", 3, "", ()), [], "connection refused", "failed", True),
        (Note("failed", None, "", ()), [], "connection refused", "failed", False),
    ],
)
def test_a_change_of_state_is_reported_once(settings, last, ended, problem, status, pending):
    note = alerts.next_note(settings, last, ended, problem)
    assert note is not None
    assert (note.status, bool(note.pending)) == (status, pending)
    # The same again is nothing new.
    assert alerts.next_note(settings, note, ended, problem) == note


def test_what_a_person_has_stopped_alerts_nobody(settings):
    stopped = run(2, "failed", "cancelled at the keyboard")
    assert alerts.next_note(settings, Note("ok", 1, "", ()), [stopped, run(1, "success")], None) is None
    assert alerts.next_note(settings, None, [], None) is None


def test_webhook_and_command_get_the_sentence(settings, receiver, tmp_path):
    note = alerts.next_note(settings, None, [FAILED], None)
    assert note is not None
    alerts._write(settings, note)
    assert alerts.deliver(settings)
    assert [(each["path"], each["type"]) for each in receiver.received] == [("/services/T0/secret", "application/json")]
    assert "run 2 failed: fact_loans: division by zero" in str(receiver.received[0]["text"])
    assert (tmp_path / "output").read_text(encoding="utf-8").splitlines()[0] == "failed 2"
    assert "division by zero" in (tmp_path / "output").read_text(encoding="utf-8")
    # Delivered is delivered.
    assert alerts.deliver(settings)
    assert len(receiver.received) == 1


def test_a_delivery_that_fails_is_tried_again_and_the_other_way_is_not(settings, receiver, tmp_path, capfd):
    receiver.answers = [503, 500, 200]
    alerts._write(settings, Note("failed", 2, "text", alerts.ways(settings)))
    assert alerts.deliver(settings)
    assert len(receiver.received) == 3
    assert (tmp_path / "output").read_text(encoding="utf-8").count("failed 2") == 1
    output = capfd.readouterr().out
    assert "ALERT_WEBHOOK: it answered 503" in output
    assert "secret" not in output


def test_what_could_not_be_delivered_stays_for_the_next_run(settings, receiver):
    receiver.answers = [500] * alerts.ATTEMPTS
    alerts._write(settings, Note("failed", 2, "text", ("alert_webhook",)))
    assert not alerts.deliver(settings)
    assert len(receiver.received) == alerts.ATTEMPTS
    assert alerts.next_note(settings, alerts._read(settings), [FAILED], None) == Note(
        "failed", 2, "text", ("alert_webhook",)
    )
    assert alerts.deliver(settings)


def test_failed_deliveries_are_logged_without_the_webhook_address(settings, receiver, capfd):
    receiver.close()
    broken = settings.model_copy(update={"alert_command": "exit 7"})
    alerts._write(broken, Note("failed", 2, "text", alerts.ways(broken)))
    assert not alerts.deliver(broken)
    output = capfd.readouterr().out
    assert "ALERT_WEBHOOK: ConnectionError" in output
    assert "ALERT_COMMAND: exit code 7" in output
    assert receiver.url not in output


def test_a_damaged_note_is_no_obstacle(settings):
    alerts._path(settings).write_text('{"status": "fai', encoding="utf-8")
    assert alerts._read(settings) is None
    assert alerts.deliver(settings)


def test_nothing_is_noted_without_a_way(settings):
    without = settings.model_copy(update={"alert_command": None, "alert_webhook": None})
    assert alerts.notify(without, problem="the warehouse is away") is False
    assert not alerts._path(without).exists()
