"""The steps of failovers and recoveries, the same on either runtime: expressed in what a `Member` can do."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from eds.base import disk, journal
from eds.base.console import step
from eds.base.errors import UserError
from eds.base.services import SIDE
from eds.cluster import members, provision, server_conf
from eds.cluster.connections import Server, WrongPasswordError, wait_until_accepting
from eds.cluster.queries import fetch_value
from eds.cluster.repository import BaseBackup
from eds.cluster.server_conf import conf
from eds.runtime import pgbackrest
from eds.runtime.member import Member, Runtime
from eds.runtime.ports import check_addresses

# The journal's names of these operations: a cluster beside the primary, and the exchange of the two.
BESIDE, PITR = "pitr beside", "pitr"
# How long a copy of a member's data may take until it accepts connections.
START_SECONDS = 120
# A server that replays WAL stops where its primary had a higher max_prepared_transactions: it has room for the WAL of a
# primary of an earlier version of the platform. What is put in the primary's place starts with 0.
REPLAYS_PREPARED = 10
# What a server logs at the end of its recovery, in UTC (infra/postgres/common.conf).
_LAST_COMMIT = re.compile(r"last completed transaction was at log time (\S+ \S+)")
_STOPPED_BEFORE = re.compile(r"recovery stopping before (?:commit|abort) of transaction \d+, time (\S+ \S+)")

# --- a member and the primary -----------------------------------------------------------------------------------------


def has_data(member: Member) -> bool:
    """Return whether a member has a data directory."""
    return member.exists(member.data / "PG_VERSION")


def commits_after(member: Member, position: str, timeline: int) -> list[str] | None:
    """Return the transactions that a stopped server committed after a position of its timeline, one line each.

    A line is pg_waldump's: its number, its position, the time of the commit. None: the WAL is not there, or cannot be
    read.
    """
    if not has_data(member):
        return None
    # Where the WAL of a killed server breaks off, pg_waldump ends with an error.
    found = member.run(
        [
            "pg_waldump",
            f"--path={member.data / 'pg_wal'}",
            f"--timeline={timeline}",
            f"--start={position}",
            "--rmgr=Transaction",
        ],
        check=False,
    )
    return members.parse_commits(found.output + found.errors)


def fork(server: Server) -> tuple[int, str]:
    """Return the timeline that a promoted or recovered server has left, and the position where."""
    history = fetch_value(
        server,
        "select pg_read_file('pg_wal/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '.history')",
    )
    timeline, position, *_ = [line for line in history.splitlines() if line.strip()][-1].split("\t")
    return int(timeline), position


def rewind(runtime: Runtime, name: str, seconds: float | None = None) -> None:
    """Bring a stopped member back to where it left the primary's history. Raises UserError when that is impossible.

    seconds: the longest that it may take.
    """
    member, primary = runtime.member(name), runtime.member(runtime.cluster.primary_name)
    member.configure()
    # After a kill in between, its data is of two histories: without this file nothing starts it, and it is cloned.
    member.run(["rm", "-f", member.data / "standby.signal"])
    member.run(
        [
            "pg_rewind",
            f"--target-pgdata={member.data}",
            f"--config-file={member.conf_file}",
            f"--source-server=host={primary.address.host} port={primary.address.port} user=postgres dbname=postgres",
            *(["--restore-target-wal"] if member.places.repository_conf else []),
            *([] if runtime.settings.pg_durable else ["--no-sync"]),
        ],
        env={"PGPASSWORD": runtime.cluster.primary.superuser_password},
        what=f"pg_rewind of {name}",
        timeout=seconds,
    )
    member.write(member.data / "standby.signal", "")


def start_replica(runtime: Runtime, name: str) -> str | None:
    """Start a member that has a replica's data. Returns why it does not follow the primary, or None."""
    member = runtime.member(name)
    try:
        member.start()
    except UserError as error:
        return members.last_complaint(member) or str(error)
    return members.why_not_following(runtime.cluster, name, member)


# --- a cluster beside the primary -------------------------------------------------------------------------------------


def start_recovery(runtime: Runtime, backup: BaseBackup, target: Sequence[str]) -> None:
    """Restore a physical backup beside the primary, and start to recover it. It archives nothing.

    target: recovery settings, as lines of a configuration. Returns before the recovery has ended.
    """
    side, primary = runtime.member(SIDE), runtime.cluster.primary_name
    side.remove()
    free = free_bytes(side.run(["df", "-Pk", side.data.parent], what="looking for free space").output)
    if free < backup.database_bytes + disk.NEEDED_BYTES:
        raise UserError(
            f"The recovery needs {disk.size(backup.database_bytes)} beside the primary, {disk.size(free)} are free: "
            "a full disk would stop the primary. Make room where the servers' data is."
        )
    # The WAL that a primary which is down had not archived yet.
    directory = None if runtime.member(primary).is_running() else side.data_of(primary) / "pg_wal"
    restore = server_conf.restore_command(side.places, "recovery", directory)
    lines = [
        f"restore_command = {conf(restore)}",
        "recovery_target_action = promote",
        f"max_prepared_transactions = {REPLAYS_PREPARED}",
        *target,
    ]

    def restore_into(data: Path) -> list[str | Path]:
        return pgbackrest.command(
            side,
            f"--pg1-path={data}",
            f"--set={backup.label}",
            f"--repo={backup.repository}",
            "--type=none",
            "restore",
        )

    _fill_side(runtime, side, restore_into, lines)
    # A first repository that is new (on a new machine) must be known as this cluster's, or reading from it is an error.
    pgbackrest.ensure_stanza(side)
    side.write(_signal(side), "")
    side.start()


def _signal(side: Member) -> Path:
    """Return the file that makes a server recover; the server removes it at the end of its recovery."""
    return side.data / "recovery.signal"


def free_bytes(listing: str) -> int:
    """Return the free space in the output of `df -Pk` on one directory."""
    return int(listing.splitlines()[-1].split()[3]) * 1024


@contextmanager
def beside(runtime: Runtime) -> Iterator[None]:
    """Keep in the journal that a cluster is being made beside the primary. On any error it is removed again.

    Also at an interrupt: what is left there would be taken for one that is complete.
    """
    with journal.entered(runtime.settings, BESIDE):
        try:
            yield
        except BaseException:
            runtime.member(SIDE).remove()
            journal.remove(runtime.settings, BESIDE)
            raise


def wait_until_promoted(runtime: Runtime) -> None:
    """Wait until the recovery has ended; it may take as long as it takes. Raises UserError when the server ends.

    By its files, because its superuser may have another password (see `let_in`). The control file of an online backup
    says "in production" from the start, but the server removes the signal before it writes that again.
    """
    side = runtime.member(SIDE)
    while True:
        # Neither may raise: a container that ends takes the programs in it along.
        control = side.run(["pg_controldata", side.data], check=False).output
        in_production = re.search(r"Database cluster state:\s+in production", control)
        if in_production and side.run(["test", "-e", _signal(side)], check=False).code == 1:
            return
        if not side.is_running():
            raise UserError("The recovery failed:\n" + "\n".join(side.tail(15)))
        time.sleep(0.3)


def newest_commit(side: Member) -> datetime | None:
    """Return the commit time of the newest transaction that a recovery replayed, by its log; None without one.

    A restart of the server forgets it.
    """
    return _newest_time(_LAST_COMMIT, side.tail(200))


def stopped_before(side: Member) -> datetime | None:
    """Return the time of the transaction before which a recovery to a time stopped, by its log; None without one."""
    return _newest_time(_STOPPED_BEFORE, side.tail(200))


def _newest_time(message: re.Pattern[str], log: Sequence[str]) -> datetime | None:
    found = [match[1] for line in log if (match := message.search(line))]
    return datetime.fromisoformat(found[-1]).replace(tzinfo=UTC) if found else None


def let_in(runtime: Runtime) -> None:
    """Let every role log in to the cluster beside the primary with the password of the settings.

    Its data has the passwords of the time, and of the machine, that it comes from.
    """
    side, conninfo = runtime.member(SIDE), runtime.cluster.recovered.superuser_conninfo("postgres")
    try:
        wait_until_accepting(conninfo, START_SECONDS)
    except WrongPasswordError:
        with step("started with the superuser's present password"):
            side.stop()
            side.adopt_superuser_password()
            side.start()
            wait_until_accepting(conninfo, START_SECONDS)
    provision.adopt_passwords(runtime.cluster.recovered, runtime.settings)


def start_copy(runtime: Runtime, name: str) -> None:
    """Start a copy of a stopped member's data beside the primary, to look at. It takes no writes."""
    side, member = runtime.member(SIDE), runtime.member(name)
    if member.is_running():
        raise UserError(f"{name} runs: there is no need for a copy of it.")
    if not has_data(member):
        raise UserError(f"{name} has no data: there is nothing to copy.")
    _fill_side(runtime, side, name, ["default_transaction_read_only = on"])
    try:
        side.start()
        let_in(runtime)
    except UserError as error:
        raise UserError(f"The copy of {name} does not start: {error}\n" + "\n".join(side.tail(15))) from error


def _fill_side(
    runtime: Runtime, side: Member, source: str | Callable[[Path], list[str | Path]], lines: Sequence[str]
) -> None:
    """Give the cluster beside the primary a data directory, in place of an earlier one (see `Member.fill`)."""
    side.remove()
    server = runtime.cluster.recovered
    check_addresses({"pitr": (server.host, server.port)}, ())
    own = [f"cluster_name = {conf(SIDE)}", "archive_mode = off", "synchronous_standby_names = ''"]
    side.fill(source, [*own, *lines])


def exchange(runtime: Runtime) -> str:
    """Put the recovered cluster's data in place of the primary's; both are stopped. Safe to repeat after an interrupt.

    The recovery must have ended. Returns where the old data is kept.
    """
    side, primary = runtime.member(SIDE), runtime.member(runtime.cluster.primary_name)
    if has_data(side):
        side.stop()
        # Without the new timeline in the archive, no later recovery can follow it.
        pgbackrest.archive_new_timeline(side)
    primary.stop()
    aside = primary.replace_data(side)
    side.remove()
    return aside


def install_recovered(runtime: Runtime) -> str:
    """Put the recovered cluster in place of the primary, and clone the replicas from it. See `exchange`."""
    cluster = runtime.cluster
    primary = runtime.member(cluster.primary_name)
    with journal.entered(runtime.settings, PITR):
        with step(f"{primary.name} stopped, the recovered cluster in its place"):
            aside = exchange(runtime)
            primary.start()
            runtime.provision()
        for name in cluster.replica_names:
            with step(f"{name} cloned"):
                runtime.member(name).clone()
        runtime.start_pgbouncer()
    return aside
