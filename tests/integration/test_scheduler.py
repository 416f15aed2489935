"""The scheduler as a process: what it runs, what it writes, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eds.base.settings import ROOT
from eds.cluster.connections import connect
from eds.scheduler import Scheduler
from eds.warehouse.runs import DATA_BUILD
from support.book import add_customer, add_loan, pay
from support.oracle import assert_views_equal_the_oltp
from support.waiting import wait_until

# Runs come when a test asks for them, not with the next quarter of an hour.
QUIET = {"ETL_SCHEDULE": "0 0 1 1 *", "ETL_RECONCILE_SCHEDULE": "0 0 2 1 *"}


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Return a scheduler of the throw-away platform, whose settings are in this process's environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "eds", "scheduler", *arguments],
        env=os.environ | QUIET | environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def events(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Return its own events; every line of its output must be JSON, dbt's lines included."""
    output, _ = process.communicate(timeout=60)
    return [line for line in map(json.loads, output.splitlines()) if "event" in line]


def until_the_run(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Return its own events up to the end of a run."""
    seen = []
    assert process.stdout is not None
    for line in process.stdout:
        record = json.loads(line)
        if "event" in record:
            seen.append(record)
            if record["event"] == "run":
                return seen
    raise AssertionError(f"the scheduler ended without a run: {seen}")


def wait_for_row(platform: Any, query: str, seconds: float = 60.0) -> None:
    known = "select true where to_regclass('audit.etl_runs') is not null"
    wait_until(lambda: platform.warehouse(known) and platform.warehouse(query), seconds, pause=0.1)


def test_it_runs_at_start_logs_json_lines_and_leaves_on_sigterm(platform):
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection)))
    platform.wait_for_replicas()
    process = start("--at-start")
    seen = until_the_run(process)
    process.send_signal(signal.SIGTERM)
    seen += events(process)
    assert process.returncode == 0
    assert [event["event"] for event in seen] == ["started", "tick", "run", "stopping", "stopped"]
    assert seen[2]["status"] == "success"
    assert seen[2]["rows_inserted"] > 0
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_it_makes_up_for_what_was_due_while_it_was_stopped(platform):
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection)))
    platform.wait_for_replicas()
    # A year's schedule: nothing is due by itself. First without any success, then with one of long ago.
    for changed in ("select 1", "update audit.etl_runs set run_finished_at = run_finished_at - interval '400 days'"):
        platform.warehouse(changed)
        process = start("--catch-up")
        run = until_the_run(process)[-1]
        process.terminate()
        process.communicate(timeout=60)
        assert run["status"] == "success"
    fresh = start("--catch-up")
    assert fresh.stdout is not None
    assert json.loads(fresh.stdout.readline())["event"] == "started"
    fresh.terminate()
    assert "tick" not in [event["event"] for event in events(fresh)]


@pytest.mark.proof
def test_sigterm_cancels_the_running_build_marks_it_and_leaves_within_ten_seconds(platform):
    platform.build()
    with connect(platform.warehouse_conninfo) as lock:
        lock.execute("lock table warehouse.fact_loans in access exclusive mode")
        process = start("--at-start")
        wait_for_row(
            platform,
            "select 1 from pg_locks where not granted and relation = 'warehouse.fact_loans'::regclass",
        )
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        events(process)
        # A promise to the person who stops it, not a measurement: ten seconds.
        assert time.monotonic() - asked < 10
        assert platform.warehouse("select status, error_message from audit.etl_runs order by run_id desc limit 1") == [
            ("failed", "cancelled: the scheduler was stopped")
        ]
        assert platform.warehouse("select count(*) from pg_stat_activity where query like '/* invocation%'") == [(0,)]
    platform.build()


@pytest.mark.proof
def test_it_survives_a_warehouse_that_is_away_and_runs_when_it_is_back(platform):
    platform.runtime.postmaster.stop("warehouse")
    try:
        process = start("--at-start", ETL_SCHEDULE="* * * * *")
        # Its first run fails while the server is away.
        assert until_the_run(process)[-1]["status"] in ("failed", "not started")
    finally:
        platform.runtime.postmaster.start("warehouse")
    wait_for_row(platform, "select 1 from audit.etl_runs where status = 'success'", seconds=100)
    process.send_signal(signal.SIGTERM)
    events(process)
    assert process.returncode == 0


def until(process: subprocess.Popen[str], name: str) -> list[dict[str, Any]]:
    """Return its own events up to the first one of this name."""
    seen = []
    assert process.stdout is not None
    for line in process.stdout:
        record = json.loads(line)
        seen.append(record)
        if record.get("event") == name:
            return [one for one in seen if "event" in one]
    raise AssertionError(f"the scheduler ended without {name}: {seen}")


@pytest.mark.proof
def test_it_writes_the_pages_after_the_run_and_the_documentation_when_it_is_out_of_date(platform, tmp_path):
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection)))
    platform.wait_for_replicas()
    process = start("--at-start", DOCS_DIR=str(tmp_path / "site"))
    seen = until(process, "documentation")
    assert [event["event"] for event in seen] == ["started", "tick", "run", "documentation"]
    process.send_signal(signal.SIGTERM)
    assert [event["event"] for event in events(process)] == ["stopping", "stopped"]
    text = (tmp_path / "site/dashboards.html").read_text(encoding="utf-8")
    data = json.loads(text.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    (as_of,) = platform.warehouse("select data_as_of from warehouse.vw_data_as_of")[0]
    assert data["data_as_of"] == as_of.isoformat(timespec="seconds")
    assert data["runs"][0]["status"] == "success"
    assert (tmp_path / "site/lineage/index.html").exists()


@pytest.mark.proof
def test_pages_that_cannot_be_written_are_reported_and_fail_no_run(platform, tmp_path):
    (tmp_path / "file").touch()
    process = start("--at-start", DOCS_DIR=str(tmp_path / "file/site"))
    seen = until(process, "pages")
    # The metrics are beside the pages, and are written whenever they are due.
    reported = [(event["event"], event.get("status")) for event in seen[2:] if event["event"] != "metrics"]
    assert reported == [("run", "success"), ("pages", "failed")]
    assert str(tmp_path / "file/site") in seen[-1]["message"]
    process.send_signal(signal.SIGTERM)
    assert [event["event"] for event in events(process)] == ["stopping", "stopped"]
    assert process.returncode == 0


def test_a_setting_of_the_lenders_figures_reaches_the_next_run(platform, tmp_path, monkeypatch, capsys):
    file = tmp_path / "own.env"
    kept = Path(os.environ["EDS_ENV_FILE"]).read_text(encoding="utf-8")
    monkeypatch.setenv("EDS_ENV_FILE", str(file))
    scheduler = Scheduler(platform.settings)

    def zones() -> Any:
        return platform.warehouse(
            "select prosrc like '%Africa/Nairobi%' from pg_proc where proname = 'portfolio_as_of'"
        )

    for more, expected in (("", False), ("BUSINESS_TIMEZONE=Africa/Nairobi\n", True), ("CLOSE_DAY=never\n", False)):
        file.write_text(f"{kept}\n{more}", encoding="utf-8")
        capsys.readouterr()
        assert scheduler.run_once(full=False) is True
        assert zones() == [(expected,)]
    # What cannot be read is said, and the settings of the start are kept.
    assert '"event": "settings", "status": "kept"' in capsys.readouterr().out


def test_a_run_that_was_refused_is_not_reported_as_the_one_before_it(platform, capsys):
    scheduler = Scheduler(platform.settings)
    assert scheduler.run_once(full=False) is True
    with connect(platform.warehouse_conninfo) as lock:
        lock.execute("lock table warehouse.fact_loans in access exclusive mode")
        other = platform.start_dbt(*DATA_BUILD)
        wait_for_row(platform, "select 1 from audit.etl_runs where status = 'running'")
        capsys.readouterr()
        assert scheduler.run_once(full=False) is False
    other.join()
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"event": "run"' in line]
    assert [event["status"] for event in seen] == ["not started"]
