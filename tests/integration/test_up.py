"""`make up` on a new checkout, and the commands that follow it in other shells."""

import contextlib
import csv
import io
import json
import re
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from eds.base.settings import BACKUP_SCHEDULES, Settings
from eds.cluster.connections import Cluster
from eds.dashboards import site
from eds.runtime.ports import free_ports
from eds.warehouse import runs
from eds.warehouse.dbt_parsed import PARSED
from support import commands
from support.webhook import Receiver, receiving

pytestmark = pytest.mark.disaster

PORTS = ("PRIMARY", "REPLICA1", "REPLICA2", "WAREHOUSE", "PGBOUNCER", "DOCS", "METABASE", "PGADMIN", "PITR")


class Checkout:
    """A platform of its own, seen from shells: nothing but what a test gives is in their environment."""

    def __init__(self, place: Path) -> None:
        self.env_file = place / "env"
        self.state = place / "state"

    def start(self, *arguments: str, **values: str) -> subprocess.Popen[str]:
        """Start a command in a new shell."""
        return commands.start(arguments, {"EDS_ENV_FILE": str(self.env_file)} | values)

    def eds(self, *arguments: str, code: int = 0, stdin: str = "", **values: str) -> str:
        """Run a command in a new shell. Returns what it wrote; fails the test at another exit code."""
        return commands.finish(self.start(*arguments, **values), code, stdin)

    def primary(self, statement: str) -> None:
        """Run a statement on the primary, as its superuser."""
        with Cluster(self.settings).primary.connect() as connection:
            connection.execute(statement.encode())

    def wait_for_a_run(self) -> runs.LiveRun:
        """Return the run that another process has started, once a session of it is seen."""
        for _ in range(300):
            if found := runs.live_run(Cluster(self.settings), 0.3):
                return found
            time.sleep(0.1)
        raise AssertionError("no run was seen")

    @property
    def settings(self) -> Settings:
        """The settings that `.env` alone gives."""
        return Settings(_env_file=self.env_file)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def first_up() -> Iterator[tuple[Checkout, dict[str, str], str]]:
    """Yield a checkout after its first `make up`, what its environment gave, and the output."""
    with tempfile.TemporaryDirectory(prefix="first-up-", dir="/tmp") as name:
        place = Path(name)
        # The servers' unprivileged account must get through.
        place.chmod(0o755)
        checkout = Checkout(place)
        given = {f"{name}_PORT": str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
        given |= {
            "RUNTIME": "local",
            "STATE_DIR": str(checkout.state),
            "SCALE": "empty",
            "PG_DURABLE": "false",
            "OLTP_MEMORY": "48MB",
            "WAREHOUSE_MEMORY": "128MB",
            "ETL_SCHEDULE": "0 0 1 1 *",
            **{name.upper(): "off" for name in BACKUP_SCHEDULES},
        }
        try:
            yield checkout, given, checkout.eds("up", code=0, stdin="", **given)
        finally:
            checkout.eds("nuke", "--force", code=0, stdin="", **given)


@pytest.fixture
def other_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear all settings from the environment of this process, as in a new shell."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_another_shell_finds_the_platform_that_the_first_up_was_given(first_up, other_shell):
    checkout, given, output = first_up
    for name, value in given.items():
        assert f"{name}={value}" in output
        assert str(getattr(checkout.settings, name.lower())).lower() == value.lower()
    assert f":{given['PRIMARY_PORT']} " in checkout.eds("ps")
    # Without a terminal it is a question without an answer.
    assert "  an empty loan book\n  the warehouse: 1 runs on record" in checkout.eds("nuke", code=1)


def test_the_project_is_read_before_the_first_run_while_the_servers_start(first_up, other_shell):
    checkout, _, _ = first_up
    with Cluster(checkout.settings).connect_as_writer() as connection:
        row = connection.execute("select min(run_started_at) from audit.etl_runs").fetchone()
    assert row and (checkout.state / "dbt-target" / PARSED).stat().st_mtime < row[0].timestamp()


def test_nothing_in_the_state_directory_is_for_other_accounts(first_up, other_shell):
    checkout, _, _ = first_up
    # As an earlier version left it.
    checkout.state.chmod(0o755)
    (checkout.state / "site").chmod(0o755)
    checkout.eds("up")
    # Through it, the servers' account reaches its data; nobody can list it.
    assert stat.S_IMODE(checkout.state.stat().st_mode) == 0o711
    open_to_all = [
        str(path)
        for path in checkout.state.iterdir()
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and path.name not in (".platform", "servers")
    ]
    assert open_to_all == []
    assert checkout.state.joinpath("servers").stat().st_mode & stat.S_IRWXO == 0
    assert stat.S_IMODE((checkout.state / "site" / "dashboards.html").stat().st_mode) == 0o600


def test_a_plain_up_leaves_the_empty_book_of_a_lender_empty(first_up, other_shell):
    checkout, _, output = first_up
    assert "wrote env with generated passwords" in output
    # As a version before had it, which knew fewer passwords.
    before = checkout.env_file.read_text(encoding="utf-8")
    fewer = [line for line in before.splitlines(keepends=True) if not line.startswith("BACKUP_REPO2_CIPHER_KEY=")]
    checkout.env_file.write_text("".join(fewer), encoding="utf-8")
    assert "added to env: new passwords" in checkout.eds("up")
    assert {line.partition("=")[0] for line in before.splitlines()} == {
        line.partition("=")[0] for line in checkout.env_file.read_text(encoding="utf-8").splitlines()
    }
    # Also where the settings ask for a demo: from a run on, an empty book is the lender's.
    output = checkout.eds("up", SCALE="small")
    assert "the loan book is empty" in output
    assert "SCALE" in output.split("for this command alone, from the environment: ")[1]
    with Cluster(checkout.settings).primary.connect() as connection:
        assert connection.execute("select count(*) from operational.customers").fetchone() == (0,)


def test_an_up_of_a_version_with_more_views_builds_them(first_up, other_shell):
    checkout, _, _ = first_up
    with Cluster(checkout.settings).warehouse.connect() as connection:
        connection.execute("drop view warehouse.vw_loans")
    assert "failed" not in checkout.eds("up")
    with Cluster(checkout.settings).warehouse.connect() as connection:
        assert connection.execute("select count(*) from warehouse.vw_loans").fetchone() == (0,)
        runs_so_far = connection.execute("select count(*) from audit.etl_runs").fetchone()
    checkout.eds("up")
    with Cluster(checkout.settings).warehouse.connect() as connection:
        assert connection.execute("select count(*) from audit.etl_runs").fetchone() == runs_so_far


def test_a_later_environment_is_not_kept(first_up, other_shell):
    checkout, _, _ = first_up
    before = checkout.env_file.read_text(encoding="utf-8")
    checkout.eds("up", ETL_FRESH_MINUTES="41")
    checkout.eds("up", STATE_DIR=str(checkout.state) + "-other", code=1)
    assert checkout.env_file.read_text(encoding="utf-8") == before


def test_the_log_of_a_healthy_first_start_has_no_refused_passwords(first_up, other_shell):
    checkout, _, _ = first_up
    logs = [path.read_text(encoding="utf-8") for path in checkout.state.glob("servers/log/*.log")]
    assert len(logs) >= 4
    assert [line for text in logs for line in text.splitlines() if "password authentication failed" in line] == []


def test_rows_for_people_and_for_programs(first_up, other_shell):
    checkout, _, _ = first_up
    query = "select 1 as a, 'x' as b union all select 2, null order by 1"
    assert checkout.eds("psql", "warehouse", stdin=query).split("\n")[:3] == [" a | b ", "---+---", " 1 | x"]
    assert checkout.eds("psql", "warehouse", "--tuples", stdin=query) == "1|x\n2|\n"
    assert checkout.eds("psql", "warehouse", "--csv", stdin=query) == "a,b\n1,x\n2,\n"
    assert "ask for one of them" in checkout.eds("psql", "warehouse", "--csv", "--tuples", stdin=query, code=1)
    for command, key in (("etl", "run_id"), ("ps", "name"), ("replication", "application_name")):
        listed = json.loads(checkout.eds(command, "--json"))
        rows = listed["replicas"] if command == "replication" else listed
        table = list(csv.DictReader(io.StringIO(checkout.eds(command, "--csv"))))
        assert [row[key] for row in table] == [str(row[key]) for row in rows]
        assert rows
    assert json.loads(checkout.eds("backups", "--json")) == []
    assert "ask for one of them" in checkout.eds("ps", "--csv", "--json", code=1)


def banner(checkout: Checkout) -> str:
    """Return the banner of the dashboards page, or nothing."""
    text = (checkout.settings.site / "dashboards.html").read_text(encoding="utf-8")
    found = re.search(r'<div class="banner" role="alert">(.*?)</div>', text, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def figures(checkout: Checkout) -> dict[str, float]:
    """Return what Prometheus reads at /metrics, by the name of the series."""
    with site.served(checkout.settings) as url:
        answer = requests.get(f"{url}metrics", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'eds_[a-z_]+(\{[a-z]+="[^"]*"\})? [0-9.e+-]+', line) for line in lines), answer.text
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}


def alert_text(receiver: Receiver, number: int) -> str:
    """Return the text of an alert, once it has come."""
    for _ in range(300):
        if len(receiver.received) >= number:
            return str(receiver.received[number - 1]["text"])
        time.sleep(0.05)
    raise AssertionError(f"{len(receiver.received)} alerts came")


def test_a_failed_run_is_reported_everywhere_and_so_is_the_next_success(first_up, other_shell):
    checkout, _, _ = first_up
    sentence = "The source has changed: column"
    with receiving() as receiver:
        hook = {"ALERT_WEBHOOK": receiver.url}
        checkout.primary("alter table operational.payments rename column notes to remarks")
        try:
            for _ in range(2):
                output = checkout.eds("etl", "--now", code=1, **hook)
        finally:
            checkout.primary("alter table operational.payments rename column remarks to notes")
        assert re.search(rf"run \d+ failed: {sentence}", output)
        failed = json.loads(checkout.eds("etl", "--json", "--limit", "1"))[0]
        assert failed["reason"].startswith(sentence)
        health: dict[str, Any] = json.loads(checkout.eds("health", "--json", code=1))
        assert (health["healthy"], health["last_run_status"]) == (False, "failed")
        assert health["last_run_message"].startswith(sentence)
        assert health["data_age_minutes"] >= 0
        assert health["test_warnings"] == []
        assert "The last run failed" in banner(checkout)
        assert sentence in banner(checkout)
        seen = figures(checkout)
        assert (seen["eds_last_run_success"], seen['eds_runs_total{status="failed"}']) == (0, 2)
        assert "failed: " + sentence in alert_text(receiver, 1)
        checkout.eds("etl", "--now", **hook)
        assert "succeeded" in alert_text(receiver, 2)
        # Two failures in a row were one alert.
        assert len(receiver.received) == 2
    assert banner(checkout) == ""
    assert json.loads(checkout.eds("health", "--json"))["last_run_status"] == "success"
    seen = figures(checkout)
    assert seen["eds_last_run_success"] == 1
    assert seen['eds_replica_streaming{replica="replica1"}'] == 1
    assert seen["eds_data_age_seconds"] > 0
    assert {"eds_wal_kept_bytes", "eds_wal_archive_failing", 'eds_slot_kept_bytes{slot="replica2"}'} <= seen.keys()


def test_a_second_run_is_refused_in_one_sentence_and_an_interrupted_one_leaves_no_complaint(first_up, other_shell):
    checkout, _, _ = first_up
    # The run waits for this session, so that it is still running when it is interrupted.
    with Cluster(checkout.settings).warehouse.connect() as connection:
        connection.execute("lock table operational.loan_products, operational.payments in access exclusive mode")
        first = checkout.start("etl", "--now")
        running = checkout.wait_for_a_run()
        refused = checkout.eds("etl", "--now", code=1)
        first.send_signal(signal.SIGINT)
        output, _ = first.communicate()
    assert refused.startswith(f"Error: Refused to start: run {running.run_id} (manual ")
    assert len(refused.splitlines()) == 1
    assert first.returncode == 130
    for word in ("resource_tracker", "Traceback"):
        assert word not in output
    assert "interrupted; dashboards keep the last tested state" in output
    assert json.loads(checkout.eds("etl", "--json", "--limit", "1"))[0]["reason"] == "cancelled at the keyboard"


def test_a_selection_that_matches_nothing_fails(first_up, other_shell):
    checkout, _, _ = first_up
    assert "nosuch" in checkout.eds("build", "--select", "nosuch", code=2)


def test_a_metabase_that_is_not_there_is_named_at_once(first_up, other_shell):
    checkout, _, _ = first_up
    assert "METABASE_JAR" in checkout.eds("metabase", code=1)


def test_a_taken_port_of_the_pages_is_named_before_they_are_reported_as_served(first_up, other_shell):
    checkout, given, _ = first_up
    with contextlib.closing(socket.create_server(("127.0.0.1", int(given["DOCS_PORT"])))):
        output = checkout.eds("docs", code=1)
    assert output.startswith(f"Error: DOCS_PORT={given['DOCS_PORT']} cannot be used")
    assert "serves" not in output


def test_rejoin_does_not_ask_when_there_is_nothing_to_rejoin(first_up, other_shell):
    checkout, _, _ = first_up
    assert checkout.eds("rejoin") == "Every replica follows the primary; nothing to do.\n"


@pytest.mark.parametrize("moment", ["yesterday", "Today", "midnight", "2026-13-45", "31.01.2026", "14:32"])
def test_invalid_time_is_refused_before_anything_is_replayed(first_up, other_shell, moment):
    checkout, _, _ = first_up
    assert f"TO is {moment!r}: expected a point in time" in checkout.eds("pitr", "--to", moment, code=1)
