"""When backups are due, what is too old, and what a person hears of a scheduled backup that fails."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eds.backup_scheduler import JOBS, BackupScheduler, due
from eds.base.errors import UserError
from eds.base.settings import BACKUP_SCHEDULES, OFF, Settings, ensure_env_file
from eds.warehouse import alerts, backup_record
from eds.warehouse.backup_record import Last, Protection

FULL, DIFF, DUMP, CHECK, DRILL = BACKUP_SCHEDULES
# A Sunday.
SUNDAY = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NIGHTLY = {FULL: "30 0 * * 0", DIFF: "30 0 * * 1-6", DUMP: "30 1 * * *", CHECK: "30 2 * * *", DRILL: "30 3 * * 0"}


@pytest.fixture(autouse=True)
def _default_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment contain no schedule, as it does beside tests of real servers."""
    for name in BACKUP_SCHEDULES:
        monkeypatch.delenv(name.upper(), raising=False)


def make_settings(tmp_path: Path, text: str = "", **values: object) -> Settings:
    env_file = tmp_path / "env"
    ensure_env_file(env_file)
    env_file.write_text(env_file.read_text(encoding="utf-8") + text, encoding="utf-8")
    (tmp_path / "state").mkdir(exist_ok=True)
    return Settings(_env_file=env_file, state_dir=tmp_path / "state", **values)  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        # Served up to now: nothing is due.
        (dict.fromkeys(NIGHTLY, SUNDAY), []),
        # A night without the machine: everything once, and the full backup is enough.
        (dict.fromkeys(NIGHTLY, SUNDAY - timedelta(days=30)), [FULL, DUMP, CHECK, DRILL]),
        (dict.fromkeys(NIGHTLY, SUNDAY) | {DUMP: SUNDAY - timedelta(hours=12)}, [DUMP]),
        # Where no full backup was ever made, one is due at once; nothing else is.
        ({DIFF: SUNDAY, DUMP: SUNDAY, CHECK: SUNDAY, DRILL: SUNDAY}, [FULL]),
        ({}, [FULL]),
        # A clock that was ahead.
        (dict.fromkeys(NIGHTLY, SUNDAY + timedelta(days=900)), []),
    ],
)
def test_what_came_due_is_made_once(since: dict[str, datetime], expected: list[str]) -> None:
    assert due(NIGHTLY, since, SUNDAY) == expected


def test_a_schedule_that_is_off_is_never_due() -> None:
    old = dict.fromkeys(NIGHTLY, SUNDAY - timedelta(days=30))
    assert due({DIFF: NIGHTLY[DIFF]}, old, SUNDAY) == [DIFF]
    assert due({}, {}, SUNDAY) == []


def test_blank_or_off_turns_a_schedule_off(tmp_path: Path) -> None:
    assert set(make_settings(tmp_path).backup_schedules) == set(BACKUP_SCHEDULES) == set(JOBS)
    changed = make_settings(tmp_path, f"{FULL.upper()}=\n{DIFF.upper()}=off\n{DUMP.upper()}=0 5 * * *\n")
    assert changed.backup_schedules == {DUMP: "0 5 * * *", CHECK: NIGHTLY[CHECK], DRILL: NIGHTLY[DRILL]}
    with pytest.raises(ValueError, match="five cron fields"):
        make_settings(tmp_path, f"{FULL.upper()}=weekly\n")


def test_the_environment_wins_over_a_blank_schedule_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FULL.upper(), "0 6 * * *")
    assert make_settings(tmp_path, f"{FULL.upper()}=\n").backup_schedules[FULL] == "0 6 * * *"
    monkeypatch.setenv(FULL.upper(), "")
    assert getattr(make_settings(tmp_path), FULL) == OFF


def test_what_was_served_is_kept_and_a_damaged_note_is_no_obstacle(tmp_path: Path) -> None:
    scheduler = BackupScheduler(make_settings(tmp_path, runtime="docker"))
    scheduler.note(DUMP, SUNDAY)
    scheduler.note(DIFF, SUNDAY)
    assert scheduler.done_until() == {DUMP: SUNDAY, DIFF: SUNDAY}
    for damaged in ("", "{", "[]", '{"backup_dump_schedule": 7}'):
        scheduler.notes.write_text(damaged, encoding="utf-8")
        assert scheduler.done_until() == {}


def test_a_backup_that_fails_and_its_next_success_are_alerted_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "_start_delivery", lambda settings: None)
    output = tmp_path / "output"
    settings = make_settings(tmp_path, alert_command=f'{{ echo "$ALERT_STATUS"; cat; }} >>"{output}"')
    for name, problem in (
        ("full backup", None),
        ("full backup", "the repository is full"),
        ("full backup", "the repository is full"),
        ("restore drill", "a segment is missing"),
        ("full backup", None),
    ):
        alerts.notify_of_backup(settings, name, problem)
        assert alerts.deliver(settings)
    lines = output.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line in ("ok", "failed")] == ["failed", "failed", "ok"]
    assert [line.partition(": ")[2] for line in lines if ": the" in line] == [
        "the full backup failed: the repository is full",
        "the restore drill failed: a segment is missing",
        "the full backup succeeded again",
    ]


def test_what_is_missing_too_old_or_failed_is_warned_of(tmp_path: Path) -> None:
    settings, now = make_settings(tmp_path), datetime.now(UTC)
    young, old = Last(now - timedelta(hours=5), True), Last(now - timedelta(days=40), True)
    assert backup_record.warnings(settings, Protection(young, young, young, check=young)) == []
    found = backup_record.warnings(
        settings, Protection(Last(young.at, False, "no space\nleft"), old, Last(), check=Last(old.at, False, "a file"))
    )
    assert found == [
        "physical backup: the newest attempt failed: no space",
        "dumps of both databases: the last one 40 days ago, expected within 50 hours; make backup",
        "proven restore: none yet; make drill",
        "check of backups and archive: the last one 40 days ago, expected within 360 hours; make backups VERIFY=1",
    ]
    # Where there is no pgBackRest, dumps are all there is.
    assert backup_record.warnings(settings, Protection(dump=young, check=young), "pgBackRest is not installed") == []


def test_what_the_last_check_found_is_named_until_the_next_one_finds_nothing() -> None:
    checked = datetime.now(UTC) - timedelta(hours=5)
    found = [f"segment {number} is damaged" for number in range(5)]
    protection = Protection(check=Last(None, False, found[0]), checked_at=checked, findings=tuple(found))
    shown = backup_record.damage(protection)
    assert [each.partition(" (")[0] for each in shown] == [*found[:3], "2 more: make backups VERIFY=1 names them"]
    assert all("checked 5 hours ago" in each for each in shown)
    assert backup_record.damage(Protection(check=Last(checked, True), checked_at=checked)) == []


def test_a_backup_is_made_although_the_warehouse_cannot_record_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_settings(tmp_path, warehouse_port=1)
    with backup_record.recorded(settings, "dump", "loans_db", "sql", scheduled=True) as attempt:
        attempt.name = "made"
    with (
        pytest.raises(UserError, match="the reason"),
        backup_record.recorded(settings, "dump", "loans_db", "sql", scheduled=True),
    ):
        raise UserError("the reason")
    assert capsys.readouterr().err.count("not recorded in audit.backups") == 2


def test_notes_of_schedules_are_times_as_json(tmp_path: Path) -> None:
    scheduler = BackupScheduler(make_settings(tmp_path, runtime="docker"))
    scheduler.note(DUMP, SUNDAY)
    assert json.loads(scheduler.notes.read_text(encoding="utf-8")) == {DUMP: SUNDAY.isoformat()}
