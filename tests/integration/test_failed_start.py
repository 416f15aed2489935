"""A run that fails before dbt can record it is recorded all the same, and so reaches whoever has to know of it."""

from __future__ import annotations

import multiprocessing
import re
import sys
from pathlib import Path

import pytest

from eds import scheduler
from eds.ops.health import health
from eds.warehouse import failed_start, runs
from support.platform import Platform, project_copy

# What keeps dbt from reading the project: (file, what is appended to it), and what is said of it.
UNREADABLE = {
    "a seed in another encoding": (
        ("seeds/branches.csv", b"QQ01,Qu\xe9bec,Nord,CA\n"),
        r"^seeds/branches.csv, line \d+: expected UTF-8, found the byte 0xe9. Save the file as UTF-8",
    ),
    "YAML that is none": (
        ("models/staging/stg_payments.yml", b"  - [\n"),
        "^dbt cannot read the project: .*stg_payments.yml",
    ),
}


@pytest.mark.parametrize("why", UNREADABLE)
def test_whatever_keeps_dbt_from_reading_the_project_is_the_reason(
    all_servers: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    (name, more), _ = UNREADABLE[why]
    project = project_copy(tmp_path / "project")
    with (project / name).open("ab") as file:
        file.write(more)
    monkeypatch.setattr(failed_start, "ROOT", project)
    monkeypatch.setattr(runs, "ROOT", project)
    monkeypatch.setattr(runs, "target_directory", lambda *_: tmp_path / "target")
    said = failed_start.reason(all_servers.settings)
    assert re.search(UNREADABLE[why][1], said, re.S), said
    assert "Traceback" not in said


def test_a_run_that_ended_without_a_record_is_recorded_once_and_is_the_last_one(
    small_book: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = small_book
    context = multiprocessing.get_context("fork")
    told: list[str | None] = []

    def ends_at_once(*_: object) -> multiprocessing.process.BaseProcess:
        child = context.Process(target=sys.exit, args=(1,))
        child.start()
        return child

    monkeypatch.setattr(scheduler, "spawn_dbt", ends_at_once)
    monkeypatch.setattr(scheduler.alerts, "notify", lambda _settings, problem=None: told.append(problem))
    monkeypatch.setattr(failed_start, "reason", lambda _: "models/x.yml: not YAML")
    assert not scheduler.Scheduler(platform.settings).run_once(full=False)
    last = runs.last_finished(platform.cluster)
    assert last is not None
    assert (last.status, last.error_message, last.run_trigger) == ("failed", "models/x.yml: not YAML", "schedule")
    assert told == [None]
    assert "the last run (2) failed: models/x.yml: not YAML" in health(platform.runtime)["problems"]
    # There is one record of each run, and none of a start that was refused.
    assert not failed_start.record(platform.cluster, last.started_by, "schedule")
    platform.warehouse(
        "insert into audit.refused_starts (holder_run_id, run_trigger, started_by, dbt_invocation_id) "
        "values (1, 'manual', 'somebody', 'x')"
    )
    assert not failed_start.record(platform.cluster, "somebody", "manual")
    platform.build()
    assert (again := runs.last_finished(platform.cluster)) and again.status == "success"
