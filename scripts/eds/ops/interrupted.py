"""Operations that were killed midway: `make up` resumes or undoes them, by the journal and by what it finds."""

from __future__ import annotations

from eds.base import journal
from eds.base.console import err
from eds.base.services import SIDE
from eds.ops import failover, recovery, restore
from eds.runtime.member import Runtime


def before_start(runtime: Runtime) -> None:
    """Bring data directories that were being exchanged or rewound to a state that can be started."""
    settings = runtime.settings
    for name, details in journal.entries(settings).items():
        if name == recovery.BESIDE:
            if runtime.member(SIDE).remove():
                err.print("removed a cluster beside the primary: the recovery or the copy of it was interrupted")
            journal.remove(settings, name)
        elif name == recovery.PITR:
            err.print("resuming a promotion of a recovered cluster that was interrupted")
            aside = recovery.exchange(runtime)
            err.print(f"the primary is the recovered cluster now; the old data: {aside}", markup=False)
        elif name.startswith(failover.REJOIN):
            member = runtime.member(details["name"])
            member.stop()
            # Like the rewind itself: data of two histories is cloned again, not started.
            member.run(["rm", "-f", member.data / "standby.signal"], check=False)
            err.print(f"{details['name']} was being brought back as a replica when that was interrupted: it is cloned")
        elif name == failover.FAILOVER:
            decided = failover.interrupted(runtime)
            what = "resuming a failover that was interrupted" if decided else "a failover was interrupted early"
            err.print(f"{what}: the primary is {runtime.cluster.primary_name}")


def after_start(runtime: Runtime) -> None:
    """Complete or undo what needs the servers; everything runs and follows now."""
    restore.settle(runtime)
    for name in journal.entries(runtime.settings):
        journal.remove(runtime.settings, name)
