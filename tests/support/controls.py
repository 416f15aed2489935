"""Negative controls: each mechanism switched off once: the promise it carries must then be seen to break.

A test of a promise is worth something only when it can fail. Every control spoils one mechanism, in a copy of the dbt
project or on the source, runs a test of the promise that the mechanism is there for, and expects it to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eds.base.settings import ROOT
from eds.cluster.connections import connect
from eds.warehouse.dbt_parsed import PARSED
from support.platform import Platform

PUBLISH = "macros/materializations/publish.sql"
# Publish what was built, tested or not.
UNTESTED = (PUBLISH, "    {% do assert_state_is_tested(untested) %}\n", "")


def run(platform: Platform) -> None:
    """Build when the replicas have everything, and fail when the build does."""
    platform.wait_for_replicas()
    platform.build()


@dataclass(frozen=True)
class Scenario:
    """A scenario that begins with the state of a fixture, built unspoiled, which is put back in a moment.

    What a control spoils acts in the runs after it: a rule that a mart is made of makes the next run compute it again.
    """

    fixture: str
    steps: Callable[..., object]
    arguments: tuple[Any, ...] = ()

    def __call__(self, platform: Platform) -> None:
        self.steps(platform, *self.arguments)


def on_a_small_book(test: Callable[..., object], *arguments: Any) -> Scenario:
    """Return a test that takes the fixture small_book, as a scenario."""
    return Scenario("small_book", test, arguments)


@dataclass(frozen=True)
class Control:
    """A mechanism, how it is spoiled, the scenario it carries, and words of the failure that is expected.

    edits: (file of the project, text in it, what replaces it); source: SQL that spoils the OLTP side.
    with_tests: the builds run the generic tests of the project, and publish only what passed them; otherwise the tests
    might stop the spoiled build before the loss can be seen. A copy of the project has no singular tests.
    """

    mechanism: str
    scenario: Callable[[Platform], None]
    failure: str
    edits: tuple[tuple[str, str, str], ...] = ()
    source: str = ""
    with_tests: bool = False


@contextmanager
def edited(project: Path, edits: tuple[tuple[str, str, str], ...]) -> Iterator[None]:
    """Yield the project with some texts replaced, for a while."""
    originals = {name: (project / name).read_text(encoding="utf-8") for name, _, _ in edits}
    try:
        for name, text, spoiled in edits:
            present = (project / name).read_text(encoding="utf-8")
            assert present.count(text) == 1, f"{name} no longer holds the text that this control spoils: {text}"
            (project / name).write_text(present.replace(text, spoiled), encoding="utf-8")
        yield
    finally:
        for name, original in originals.items():
            (project / name).write_text(original, encoding="utf-8")


@contextmanager
def read_again_from(target: Path) -> Iterator[None]:
    """Put back, at the end, what dbt had read of the project: what was spoiled meanwhile need not be read once more."""
    before = {path: path.read_bytes() for path in target.rglob(PARSED)}
    try:
        yield
    finally:
        for path in target.rglob(PARSED):
            if path in before:
                path.write_bytes(before[path])
            else:
                path.unlink()


@contextmanager
def spoiled_source(platform: Platform, statement: str) -> Iterator[None]:
    """Yield the OLTP side with something spoiled, for a while: as if its files had made it so, and without a note."""
    with connect(platform.superuser_conninfo) as connection:
        event_triggers = "select evtname from pg_event_trigger where evtname like 'note%'"
        for (name,) in connection.execute(event_triggers).fetchall():
            connection.execute(f"alter event trigger {name} disable")
        connection.execute(statement.encode())
        for (name,) in connection.execute(event_triggers).fetchall():
            connection.execute(f"alter event trigger {name} enable always")
        connection.execute("select etl.record_feed_parts()")
    try:
        yield
    finally:
        with connect(platform.superuser_conninfo) as connection:
            # What the spoiled book accepted would keep its bounds from coming back.
            connection.execute("delete from operational.payments where amount = 'NaN'")
            connection.execute((ROOT / "infra/primary/sql/020_change_feed.sql").read_text(encoding="utf-8"))


def assert_the_promise_breaks(request: pytest.FixtureRequest, project: Path, control: Control) -> None:
    """Run a control's scenario with its mechanism spoiled, and expect it to fail. project: a copy, to spoil."""
    begins_with = control.scenario.fixture if isinstance(control.scenario, Scenario) else "platform"
    platform = request.getfixturevalue(begins_with)
    spoiled = platform.of_project(project, *(() if control.with_tests else ("--exclude-resource-type", "test")))
    edits = control.edits if control.with_tests else (*control.edits, UNTESTED)
    source = spoiled_source(platform, control.source) if control.source else nullcontext()
    read = read_again_from(spoiled.target_path)
    with read, edited(project, edits), source, pytest.raises(AssertionError, match=control.failure):
        control.scenario(spoiled)
