"""What the settings mean in the servers' own configuration files: the same on either runtime.

What never changes stands in infra/postgres and infra/pgbouncer; here is what depends on `.env` and on where things are.
"""

from __future__ import annotations

import shlex
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from eds.base.settings import ROOT, Settings, size_in_kb
from eds.cluster.connections import MEMBERS

INFRA = ROOT / "infra"
# What depends on how a server was built is asked of that server: this script does it, with this file on standard input.
CHOOSE_SETTINGS = INFRA / "postgres" / "choose_settings.sh"
BUILD_SETTINGS = INFRA / "postgres" / "build.settings"
# The file in a server's configuration that takes the script's answer.
BUILD_CONF = "15-build.conf"


# A server that replays WAL does not start with a lower max_prepared_transactions than its primary had when it wrote it.
REPLAYS_PREPARED = 10


@dataclass(frozen=True)
class Places:
    """Where a server finds what its configuration names.

    scripts: the folder of archive_wal.sh and restore_wal.sh. own_archive: where it archives its WAL to. archive: where
    it restores WAL from. passfile: libpq's password file with replicator's password.
    """

    scripts: Path
    own_archive: Path
    archive: Path
    passfile: Path


@dataclass(frozen=True)
class Address:
    """Where a server is, as seen by whoever connects to it."""

    host: str
    port: int


def conf(value: object) -> str:
    """Return a value in the syntax of postgresql.conf, which knows both '' and backslash escapes."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def _quoted(path: Path) -> str:
    """Quote a path for a command that PostgreSQL gives to a shell after replacing %p and %f (and %% by %)."""
    return shlex.quote(str(path)).replace("%", "%%")


def restore_command(scripts: Path, places: Iterable[Path]) -> str:
    """How a recovery fetches WAL from these directories, the first that has a file."""
    return f'{_quoted(scripts / "restore_wal.sh")} %f "%p" {" ".join(map(_quoted, places))}'


def static_files(name: str) -> dict[str, str]:
    """Return the configuration of a server that no setting changes: file name and text."""
    postgres = INFRA / "postgres"
    kind = "warehouse" if name == "warehouse" else "oltp"
    return {
        "10-common.conf": (postgres / "common.conf").read_text(encoding="utf-8"),
        "20-role.conf": (postgres / f"{kind}.conf").read_text(encoding="utf-8"),
        "pg_hba.conf": (postgres / "pg_hba.conf").read_text(encoding="utf-8"),
    }


# Of shared_buffers: what one sort or hash may take, of which a statement has several and a run two statements at once;
# and what making an index may. With least and most, in kB.
WORK_MEM = (16, 64 * 1024, 256 * 1024)
MAINTENANCE = (4, 256 * 1024, 1024 * 1024)


def _share(memory_kb: int, part: int, least: int, most: int) -> int:
    return min(max(memory_kb // part, least), most)


def settings_lines(settings: Settings, name: str, places: Places) -> list[str]:
    """Return the lines of a server's configuration that follow from the settings, whatever its part in the cluster."""
    memory_kb = size_in_kb(settings.warehouse_memory if name == "warehouse" else settings.oltp_memory) or 0
    lines = [
        f"cluster_name = {conf(name)}",
        f"shared_buffers = {memory_kb}kB",
        f"effective_cache_size = {max(memory_kb, min(memory_kb * 4, (size_in_kb(settings.memory) or 0) * 3 // 4))}kB",
    ]
    if name == "warehouse":
        lines += [
            f"work_mem = {min(memory_kb // 4, _share(memory_kb, *WORK_MEM))}kB",
            f"maintenance_work_mem = {min(memory_kb, _share(memory_kb, *MAINTENANCE))}kB",
        ]
    else:
        archive_command = f'{_quoted(places.scripts / "archive_wal.sh")} "%p" {_quoted(places.own_archive)}'
        lines += [
            f"archive_command = {conf(archive_command)}",
            f"max_slot_wal_keep_size = {conf(settings.max_slot_wal_keep_size)}",
        ]
        if settings.synchronous == "on":
            # The same on each member, so that whichever becomes the primary continues with it.
            lines.append(f"synchronous_standby_names = 'ANY 1 ({', '.join(MEMBERS)})'")
    if not settings.pg_durable:
        # Full pages in the WAL stay: pg_rewind needs them.
        lines.append("fsync = off")
    return lines


def part_lines(name: str, places: Places, follows: Address | None) -> list[str]:
    """Return the lines of a member's configuration that a failover changes. All of them take effect by a reload.

    follows: the primary, when the member is a replica of it.
    """
    lines = [f"restore_command = {conf(restore_command(places.scripts, [places.archive]))}"]
    if follows:
        conninfo = make_conninfo(
            host=follows.host,
            port=follows.port,
            user="replicator",
            passfile=str(places.passfile),
            application_name=name,
            connect_timeout=5,
        )
        lines += [
            f"primary_conninfo = {conf(conninfo)}",
            f"primary_slot_name = {conf(name)}",
            f"max_prepared_transactions = {REPLAYS_PREPARED}",
        ]
    return lines


def pgpass(entries: Iterable[tuple[Address, str, str]]) -> str:
    """libpq's password file. entries: address, role, password."""

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace(":", "\\:")

    return "".join(
        f"{escaped(place.host)}:{place.port}:*:{escaped(role)}:{escaped(password)}\n"
        for place, role, password in entries
    )


def pgbouncer_ini(settings: Settings, **values: object) -> str:
    """PgBouncer's configuration. values: what infra/pgbouncer/pgbouncer.ini.template asks for, beside the settings."""
    template = string.Template((INFRA / "pgbouncer" / "pgbouncer.ini.template").read_text(encoding="utf-8"))
    # substitute() would stumble over the $1 of auth_query; safe_substitute leaves it as it is.
    return template.safe_substitute(values, oltp_db=settings.oltp_db)


def pgbouncer_userlist(settings: Settings) -> str:
    """PgBouncer's file of passwords: that of its look-up role alone, which finds all others."""
    password = settings.pgbouncer_lookup_password.get_secret_value().replace('"', '""')
    return f'"pgbouncer_lookup" "{password}"\n'
