"""A lock that another process holds is waited for with a word, and not for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import Timeout

from eds.base import file_lock
from eds.base.errors import UserError
from eds.warehouse import dbt_docs
from support.waiting import wait_until

HOLDER = (
    "import pathlib, sys; from eds.base.file_lock import hold\n"
    "with hold(pathlib.Path(sys.argv[1]), 'it'): print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Provide a lock, and the process that holds it."""
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield path, process
        process.kill()


def test_a_wait_names_what_is_waited_for_who_holds_it_and_how_to_end_it(held, monkeypatch):
    path, process = held
    monkeypatch.setattr(file_lock, "SILENT_SECONDS", 0.0)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        assert process.stdin is not None
        process.stdin.close()

    with file_lock.hold(path, "the files", say=say):
        pass
    assert len(said) == 1
    assert said[0].startswith(f"waiting for the files, which process {process.pid} (")
    assert f"(`kill {process.pid}` ends it)" in said[0]


def test_a_wait_ends_with_a_sentence_and_says_how_a_suspended_process_ends(held):
    path, process = held
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: "kill -CONT" in file_lock._holder(path)[1])
    expected = pytest.raises(UserError, match=r"for the files, which process \d+ .* suspended: .*kill -KILL")
    with expected, file_lock.hold(path, "the files", limit=0.1):
        pass


def test_a_process_that_was_killed_leaves_nothing_to_wait_for(held):
    path, process = held
    process.kill()
    process.wait()
    with file_lock.hold(path, "the files", limit=10):
        pass
    assert file_lock._holder(path)[0] == "another process"


def test_whoever_is_to_end_waits_no_more(held):
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(Timeout), file_lock.hold(held[0], "the files", stopping=stopping):
        pass


def test_the_documentation_is_waited_for_in_that_way(tmp_path, monkeypatch):
    class State:
        state = tmp_path

    (tmp_path / "dbt-docs").mkdir()
    monkeypatch.setattr(file_lock, "LIMIT_SECONDS", 0.1)
    stopping = threading.Event()
    stopping.set()
    with file_lock.hold(tmp_path / "dbt-docs" / "lock", "a test"):
        with pytest.raises(UserError, match="for the documentation's files, which process"):
            dbt_docs.manifest(State())  # type: ignore[arg-type]
        with pytest.raises(dbt_docs.CancelledError):
            dbt_docs.generate(State(), stopping)  # type: ignore[arg-type]
