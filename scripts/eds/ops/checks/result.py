"""How one check ends, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from eds.base.errors import UserError
from eds.cluster.connections import Cluster
from eds.runtime.member import Runtime


class Failed(Exception):
    """A check found something that is not as it should be."""


class Warned(Exception):
    """A check found something that a person should know, and that stops nothing."""


class Skipped(Exception):
    """A check that does not apply here, and why."""


@dataclass(frozen=True)
class Result:
    """What came of one check. status: PASS, WARN, SKIP or FAIL."""

    group: str
    name: str
    status: str
    detail: str


@dataclass
class Verification:
    """Runs checks one after the other; what one raises is its result and never ends the others."""

    runtime: Runtime
    report: Callable[[Result], None] = lambda result: None
    results: list[Result] = field(default_factory=list)

    @property
    def cluster(self) -> Cluster:
        """The servers that are checked."""
        return self.runtime.cluster

    def check(self, group: str, name: str, action: Callable[[], str | None]) -> bool:
        """Run one check: `action` returns what it saw. Returns whether it did not fail."""
        try:
            result = Result(group, name, "PASS", action() or "")
        except Warned as found:
            result = Result(group, name, "WARN", str(found))
        except Skipped as reason:
            result = Result(group, name, "SKIP", str(reason))
        except (Failed, UserError, psycopg.Error, OSError) as error:
            result = Result(group, name, "FAIL", str(error).strip() or type(error).__name__)
        self.results.append(result)
        self.report(result)
        return result.status != "FAIL"

    def count(self, status: str) -> int:
        """Count the checks that ended so."""
        return sum(result.status == status for result in self.results)


def must(condition: object, message: str) -> None:
    """Raise Failed with the message unless the condition holds."""
    if not condition:
        raise Failed(message)
