"""When a run is tried again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tenacity import wait_none

from eds.warehouse import runs

CLUSTER: Any = SimpleNamespace(settings=SimpleNamespace(etl_attempts=3))


@pytest.fixture
def transient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "failed_transiently", lambda cluster, who: True)
    monkeypatch.setattr(runs, "wait_exponential", lambda **limits: wait_none())


def codes(*values: int) -> Callable[[], int]:
    left = list(values)
    return lambda: left.pop(0)


def test_a_transient_failure_is_tried_again_until_it_succeeds(transient: None) -> None:
    failed: list[int] = []
    assert runs.with_retries(CLUSTER, "me", codes(1, 1, 0), on_retry=failed.append) == 0
    assert failed == [1, 2]


def test_the_tries_are_bounded_and_the_last_code_is_returned(transient: None) -> None:
    assert runs.with_retries(CLUSTER, "me", codes(1, 2, 3, 0)) == 3


def test_another_failure_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "failed_transiently", lambda cluster, who: False)
    assert runs.with_retries(CLUSTER, "me", codes(2, 0)) == 2


def test_nothing_is_tried_again_after_a_stop(transient: None) -> None:
    stopping = threading.Event()

    def attempt() -> int:
        stopping.set()
        return 1

    assert runs.with_retries(CLUSTER, "me", attempt, stopping=stopping) == 1
