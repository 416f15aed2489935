"""The demonstration of concurrency control: every outcome is as it should be, and the books are untouched."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from eds.base.errors import UserError
from eds.base.settings import ROOT
from eds.cluster.connections import connect
from eds.ops import concurrency, privileges
from eds.ops.sandbox import Sandbox
from support.book import add_customer, add_loan
from support.waiting import wait_until

TRACES = """
    select count(*), max(log_id) from operational.audit_log
    union all select count(*), max(loan_id) from operational.loans
    union all select count(*), 0 from pg_namespace where nspname like 'concurrency%'
"""


@pytest.fixture
def book(empty_book):
    with empty_book.app() as connection:
        add_loan(connection, add_customer(connection), amount="5000.00")
    return empty_book


def test_every_scenario_comes_out_as_it_should_and_the_books_are_untouched(book, capsys):
    before = book.primary(TRACES)
    outcomes = concurrency.run_scenarios(book.cluster, list(concurrency.SCENARIOS), plain=True)
    assert [(name, what) for name, what, holds in outcomes if not holds] == []
    assert {name for name, _, _ in outcomes} == set(concurrency.SCENARIOS)
    assert len(outcomes) == 36
    assert book.primary(TRACES) == before
    output = capsys.readouterr().out
    # Plain lines say who, what, who waits and what went wrong.
    assert re.search(r"^ +\d+\.\d{3} s  B: … waits for A$", output, re.MULTILINE)
    for code in ("40001", "40P01", "55P03", "23514"):
        assert f"→ {code} " in output
    assert len(re.findall(r"session +\d+ waited .* █", output)) == 20


def test_an_outcome_that_is_not_as_expected_fails_the_command(book, monkeypatch):
    def wrong(sandbox: Sandbox) -> None:
        """Expect what does not happen"""
        session = sandbox.session("A")
        sandbox.check("the balance is negative", session.value(concurrency.READ.format(1)) < 0)
        session.do("select no_such_column from loans")

    monkeypatch.setitem(concurrency.SCENARIOS, "wrong", wrong)
    outcomes = concurrency.run_scenarios(book.cluster, ["wrong"], plain=True)
    assert [holds for _, _, holds in outcomes] == [False, False]
    assert "no_such_column" in outcomes[1][1]
    assert book.primary(TRACES)[2] == (0, 0)


def test_its_sandbox_is_in_the_matrix_of_privileges_while_it_runs(book, monkeypatch):
    found = []

    def look(sandbox: Sandbox) -> None:
        """Look at the privileges"""
        with connect(book.superuser_conninfo) as connection:
            found.extend(privileges.differences(connection, privileges.OLTP)[0])

    monkeypatch.setitem(concurrency.SCENARIOS, "look", look)
    concurrency.run_scenarios(book.cluster, ["look"], plain=True)
    assert found == []


def test_scenarios_are_chosen_by_name(book):
    assert concurrency.select_scenarios(None) == list(concurrency.SCENARIOS)
    assert concurrency.select_scenarios("mvcc, deadlock") == ["mvcc", "deadlock"]
    with pytest.raises(UserError, match="no scenario nothing"):
        concurrency.select_scenarios("mvcc nothing")
    done = subprocess.run(
        [sys.executable, "-m", "eds", "concurrency", "--only", "rollback", "--plain"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 scenarios, 4 outcomes as expected, 0 not" in done.stdout


def test_the_file_for_two_windows_does_what_its_marks_say(book):
    text = (ROOT / "docs/concurrency.sql").read_text(encoding="utf-8")
    setup = text.split("-- setup\n")[1].split("-- end of setup")[0]
    steps = re.findall(r"^/\* ([AB]) ?(.*?) ?\*/ (.*;)$", text, re.MULTILINE)
    assert len(steps) == text.count("/*")
    parts = set(re.findall(r"^-- ## ([a-z-]+):", text, re.MULTILINE))
    # Twenty sessions are too many for two windows.
    assert parts == concurrency.SCENARIOS.keys() - {"crowd"}
    with connect(book.superuser_conninfo, autocommit=True) as admin:
        admin.execute(setup)
        windows = {name: psycopg.connect(book.superuser_conninfo, autocommit=True) for name in "AB"}
        threads = {name: ThreadPoolExecutor(1) for name in "AB"}
        pending: dict[str, Future[Any]] = {}
        try:
            for window, mark, statement in steps:
                if window in pending:
                    pending.pop(window).result(30)
                running = threads[window].submit(windows[window].execute, statement)
                if mark == "waits":
                    pid = windows[window].info.backend_pid
                    query = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"

                    def waits(pid: int = pid, query: str = query) -> bool:
                        return admin.execute(query.encode(), (pid,)).fetchone() == (True,)

                    wait_until(
                        waits,
                        30,
                        f"{statement} waits",
                    )
                    pending[window] = running
                elif mark == "deadlocks":
                    codes = []
                    for name, each in (("A", pending.pop("A")), ("B", running)):
                        try:
                            each.result(30)
                        except psycopg.Error as error:
                            codes.append(error.sqlstate)
                            windows[name].execute("rollback")
                    assert codes == ["40P01"]
                elif mark:
                    with pytest.raises(psycopg.Error) as caught:
                        running.result(30)
                    assert f"fails {caught.value.sqlstate}" == mark, statement
                else:
                    running.result(30)
            assert pending == {}
        finally:
            admin.execute("drop schema if exists concurrency_by_hand cascade")
            for name in "AB":
                threads[name].shutdown()
                windows[name].close()
