"""`make restore-machine`: the machine is gone; the loan book comes back from the second repository, on another one.

What is needed is that repository and its key. The book is recovered beside the place of a primary that is not there
yet, checked, and put into that place; `make up` then makes everything else around it, as on a new machine.
"""

from __future__ import annotations

from eds.base import journal
from eds.base.console import step
from eds.base.errors import UserError
from eds.base.settings import env_file, not_given
from eds.cluster.repository import Info
from eds.ops import pitr, recovery
from eds.runtime.member import Runtime
from eds.runtime.pgbackrest import Repository

SECOND = 2
KEY = "BACKUP_REPO2_CIPHER_KEY"


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


def recover(runtime: Runtime) -> pitr.Recovery:
    """Recover the newest state of the second repository beside the place of the primary. Raises UserError."""
    archive = Repository(runtime)
    runtime.prepare_recovery()
    info = archive.info()
    _backups(info)
    target, timeline = pitr.Target(), max(archive.timelines(info, SECOND), default=1)
    return pitr.recover_from(runtime, pitr.plans(archive, target, timeline), target, timeline)


def install(runtime: Runtime) -> None:
    """Put what was recovered into the place of the primary. Safe to repeat after an interrupt."""
    with step("the recovered cluster is the primary's"):
        journal.enter(runtime.settings, recovery.PITR)
        runtime.cluster.set_primary("primary")
        recovery.exchange(runtime)
        journal.remove(runtime.settings, recovery.PITR)
