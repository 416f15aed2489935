"""`make restore-machine`: the machine is gone; the loan book comes back from the second repository, on another one.

What is needed is that repository and its key. The book is recovered beside the place of a primary that is not there
yet, checked, and put into that place; `make up` then makes everything else around it, as on a new machine.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from eds.base import journal
from eds.base.console import err, step
from eds.base.errors import UserError
from eds.base.services import SIDE
from eds.base.settings import env_file, not_given
from eds.book import invariants
from eds.cluster.connections import wait_until_accepting
from eds.cluster.queries import fetch_value
from eds.cluster.repository import Info
from eds.ops import pitr, recovery
from eds.runtime.member import Runtime
from eds.runtime.pgbackrest import Repository

SECOND = 2
KEY = "BACKUP_REPO2_CIPHER_KEY"
START_SECONDS = 120.0
_LAST_COMMIT = re.compile(r"last completed transaction was at log time (\S+ \S+)")


@dataclass(frozen=True)
class Recovered:
    """What was recovered beside the place of the primary.

    newest: the commit time of the newest transaction, by the server's log and by the trail. began: when this began.
    """

    label: str
    made_at: datetime
    newest: datetime | None
    end: str
    rows: dict[str, int]
    broken: dict[str, int]
    shortfall: str | None
    began: float


def check_given() -> None:
    """Raise UserError when the second repository or its key was not given, before another key is made in its place."""
    if missing := not_given(("BACKUP_REPO2", KEY)):
        raise UserError(
            f"{' and '.join(missing)} is missing, in {env_file()} and in the environment; nothing was changed. "
            "On the lost machine, `make up` asked you to store the lines BACKUP_REPO2… of its .env elsewhere "
            f"(repo2.env, in its example). Put them all into {env_file()}; without {KEY} nothing can be restored "
            "(docs/runbooks.md, The machine is gone)."
        )


def check_possible(runtime: Runtime) -> None:
    """Raise UserError where pgBackRest is missing, or where there is a loan book already."""
    Repository(runtime).check_available()
    for name in runtime.cluster.servers:
        if name != "warehouse" and recovery.has_data(runtime.member(name)):
            raise UserError(
                f"This checkout has a loan book already, in {runtime.member(name).data} of {name}: restore-machine is "
                "for a machine without one. `make pitr TO=latest` recovers beside it, `make nuke` destroys it."
            )


def _backups(info: Info) -> None:
    """Raise UserError when the second repository holds no backup that can be read."""
    if any(backup.repository == SECOND for backup in info.backups):
        return
    reasons = [problem for problem in info.problems if problem.startswith(f"repository {SECOND}")] or info.problems
    raise UserError(
        f"The second repository holds no backup that can be read with {KEY} of .env"
        + (f" ({'; '.join(reasons)})" if reasons else "")
        + ". Is the key the one of that repository, and BACKUP_REPO2_… its place?"
    )


def recover(runtime: Runtime) -> Recovered:
    """Recover the newest state of the second repository beside the place of the primary. Raises UserError."""
    began = time.monotonic()
    archive = Repository(runtime)
    runtime.prepare_recovery()
    info = archive.info()
    _backups(info)
    timeline = max(archive.timelines(info, SECOND), default=1)
    candidates = pitr.plans(archive, pitr.Target(), timeline)
    side, server = runtime.member(SIDE), runtime.cluster.recovered

    def attempt(plan: pitr.Plan) -> None:
        with step(f"recovered from backup {plan.base.label} of the second repository to the end of its WAL"):
            recovery.start_recovery(runtime, plan.base, pitr.Target().conf(str(timeline)))
            recovery.wait_until_promoted(runtime)

    with recovery.beside(runtime):
        plan, unreadable = pitr.first_that_leads(candidates, attempt, pitr.Target())
        for each in unreadable:
            err.print(f"could not be restored: {each}", markup=False)
        with step("started with the password of this machine"):
            found = [match[1] for line in side.tail(200) if (match := _LAST_COMMIT.search(line))]
            side.stop()
            # The book has the passwords of the machine that is gone.
            side.adopt_superuser_password()
            side.start()
            wait_until_accepting(server.superuser_conninfo(), START_SECONDS)
        _, end = recovery.fork(server)
        by_log = datetime.fromisoformat(found[-1]).replace(tzinfo=UTC) if found else None
        by_trail = fetch_value(server, "select max(change_time) from operational.audit_log")
        newest = max((each for each in (by_log, by_trail) if each), default=None)
        return Recovered(
            label=plan.base.label,
            made_at=plan.base.finished_at,
            newest=newest,
            end=end,
            rows=pitr.rows_of_the_book_on(server),
            broken=invariants.violations(server),
            shortfall=pitr.shortfall(plan, end),
            began=began,
        )


def install(runtime: Runtime) -> None:
    """Put what was recovered into the place of the primary. Safe to repeat after an interrupt."""
    with step("the recovered cluster is the primary's"):
        journal.enter(runtime.settings, recovery.PITR)
        runtime.cluster.set_primary("primary")
        recovery.exchange(runtime)
        journal.remove(runtime.settings, recovery.PITR)
