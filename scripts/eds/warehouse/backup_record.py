"""The record of backups and restore drills in the warehouse: what health, metrics and pages show of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg

from eds.base.console import age, err
from eds.base.errors import UserError
from eds.base.settings import Settings
from eds.cluster.connections import Cluster
from eds.cluster.queries import has_relation

_LAST = """
    with newest as (
        -- Each database has dumps of its own: the older one of the two counts.
        -- What is stamped ahead of now (the clock was wrong) would pass for young until that time has come: of such a
        -- success nobody knows how old it is, and the last one before it counts.
        select kind, database_name,
            max(finished_at) filter (
                where succeeded and finished_at <= clock_timestamp() + interval '1 minute'
            ) as finished_at,
            (array_agg(succeeded order by backup_id desc))[1] as succeeded,
            (array_agg(error_message order by backup_id desc))[1] as error_message
        from audit.backups
        group by kind, database_name
    )
    select
        kind,
        case when bool_and(finished_at is not null) and (kind <> 'dump' or count(*) > 1) then min(finished_at) end,
        bool_and(succeeded),
        string_agg(error_message, '; ') filter (where not succeeded)
    from newest
    group by kind
"""
_DRILLS = """
    select max(drilled_at) filter (where succeeded and drilled_at <= clock_timestamp() + interval '1 minute'),
        (array_agg(succeeded order by drill_id desc))[1],
        (array_agg(array_to_string(findings, '; ') order by drill_id desc))[1],
        (array_agg(rpo_seconds::float order by drill_id desc) filter (where succeeded))[1],
        (array_agg(rto_seconds::float order by drill_id desc) filter (where succeeded))[1]
    from audit.drills
"""
_CHECKS = """
    select max(checked_at) filter (where succeeded and checked_at <= clock_timestamp() + interval '1 minute'),
        (array_agg(succeeded order by check_id desc))[1],
        (array_agg(array_to_string(findings, E'\\n') order by check_id desc))[1],
        (array_agg(array_to_string(older_findings, E'\\n') order by check_id desc))[1],
        (array_agg(checked_at order by check_id desc))[1]
    from audit.backup_checks
"""
# The check of backups, as a person calls it, and its command.
CHECK, CHECK_COMMAND = "check of backups and archive", "make backups VERIFY=1"
# How many findings are shown; the command lists them all.
SHOWN_FINDINGS = 3


@dataclass(frozen=True)
class Last:
    """The last success of one kind, and how the newest attempt ended (None: there was none)."""

    at: datetime | None = None
    succeeded: bool | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Protection:
    """The last physical backup, dumps of both databases and proven restore. rpo, rto: of that restore, in seconds.

    check: the last time that all backups and the WAL archive were read again, which found nothing; checked_at: the last
    time at all. findings: what it found that a recovery from the newest backup meets; older_findings: the rest.
    """

    physical: Last = field(default_factory=Last)
    dump: Last = field(default_factory=Last)
    restore: Last = field(default_factory=Last)
    rpo: float | None = None
    rto: float | None = None
    check: Last = field(default_factory=Last)
    checked_at: datetime | None = None
    findings: tuple[str, ...] = ()
    older_findings: tuple[str, ...] = ()


def protection(connection: psycopg.Connection) -> Protection:
    """Return what the record says. connection: to the warehouse, as a role that may read the schema audit."""
    if not has_relation(connection, "audit.backup_checks"):
        return Protection()
    kinds = {row[0]: Last(*row[1:]) for row in connection.execute(_LAST).fetchall()}
    row = connection.execute(_DRILLS).fetchone()
    assert row is not None
    check = connection.execute(_CHECKS).fetchone()
    assert check is not None
    findings, older = (tuple((text or "").splitlines()) for text in check[2:4])
    return Protection(
        kinds.get("physical", Last()),
        kinds.get("dump", Last()),
        Last(*row[:3]),
        row[3],
        row[4],
        Last(check[0], check[1], findings[0] if findings else None),
        check[4],
        findings,
        older,
    )


def rows(settings: Settings, found: Protection, why_no_physical: str | None = None) -> list[tuple[str, Last, float]]:
    """Return what should be young: its name for a person, the last one, and from which age in seconds on it is too old.

    why_no_physical: why there are no physical backups on this machine, and so nothing that a drill could restore.
    """
    backups, drills = settings.backup_fresh_hours * 3600.0, settings.drill_fresh_days * 86400.0
    physical = [] if why_no_physical else [("physical backup", found.physical, backups)]
    proven = [] if why_no_physical else [("proven restore", found.restore, drills)]
    return [*physical, ("dumps of both databases", found.dump, backups), *proven, (CHECK, found.check, drills)]


def warnings(settings: Settings, found: Protection, why_no_physical: str | None = None) -> list[str]:
    """Return a sentence for each backup or proven restore that is missing or too old, or whose last attempt failed."""
    now, result = datetime.now(UTC), []
    commands = {"physical backup": "make backup KIND=physical", "proven restore": "make drill", CHECK: CHECK_COMMAND}
    for name, last, limit in rows(settings, found, why_no_physical):
        command = commands.get(name, "make backup")
        # What the check found is a problem of its own, see `damage`.
        if last.succeeded is False and name != CHECK:
            result.append(f"{name}: the newest attempt failed: {(last.reason or 'the log says why').splitlines()[0]}")
        if last.at is None:
            result.append(f"{name}: none yet; {command}")
        elif (now - last.at).total_seconds() > limit:
            result.append(f"{name}: the last one {age(last.at)}, expected within {limit / 3600:.0f} hours; {command}")
    return result + [f"no longer needed by the newest backup: {each}" for each in _shown(found.older_findings)]


def damage(found: Protection) -> list[str]:
    """Return a sentence for each thing that the last check found and that a recovery from the newest backup meets."""
    when = age(found.checked_at)
    return [f"{each} (checked {when}; once repaired, {CHECK_COMMAND})" for each in _shown(found.findings)]


def _shown(findings: Sequence[str]) -> list[str]:
    """Return the first ones, and how many there are more."""
    more = len(findings) - SHOWN_FINDINGS
    return [*findings[:SHOWN_FINDINGS], *([f"{more} more: {CHECK_COMMAND} names them"] if more > 0 else [])]


def record_check(settings: Settings, findings: Sequence[str], older: Sequence[str], *, scheduled: bool) -> None:
    """Record what reading all backups and the archive again came to. The warehouse need not answer for it."""
    values = {
        "started_by": "schedule" if scheduled else "manual",
        "succeeded": not findings,
        # One line each, as they are shown.
        "findings": [" ".join(each.split()) for each in findings],
        "older_findings": [" ".join(each.split()) for each in older],
    }
    _insert(settings, "audit.backup_checks", values)


def _insert(settings: Settings, table: str, values: Mapping[str, Any]) -> None:
    """Add a row to a table of ours in the warehouse, or report that it does not answer."""
    columns, places = ", ".join(values), ", ".join(f"%({name})s" for name in values)
    try:
        with Cluster(settings).connect_as_writer() as connection:
            connection.execute("set local lock_timeout = '5s'")
            connection.execute(f"insert into {table} ({columns}) values ({places})".encode(), values)  # noqa: S608
    except (UserError, psycopg.Error) as error:
        err.print(f"not recorded in {table}: {str(error).strip().splitlines()[0]}", markup=False)


@dataclass
class Attempt:
    """A backup that is being made; name and bytes are set when it is there."""

    name: str | None = None
    bytes: int | None = None


@contextmanager
def recorded(
    settings: Settings, kind: Literal["physical", "dump"], database: str, type_: str, *, scheduled: bool
) -> Iterator[Attempt]:
    """Record in the warehouse what the block made, or why it failed. The warehouse need not answer for it."""
    began, attempt = datetime.now(UTC), Attempt()

    def record(problem: BaseException | None) -> None:
        values: dict[str, Any] = {
            "kind": kind,
            "database_name": database,
            "backup_type": type_,
            "started_by": "schedule" if scheduled else "manual",
            "started_at": began,
            "succeeded": problem is None,
            "backup_name": attempt.name,
            "size_bytes": attempt.bytes,
            "error_message": None if problem is None else str(problem) or type(problem).__name__,
        }
        _insert(settings, "audit.backups", values)

    try:
        yield attempt
    except Exception as error:
        record(error)
        raise
    record(None)
