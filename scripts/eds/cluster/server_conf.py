"""What the settings mean in the servers' own configuration files: the same on either runtime.

What never changes is in infra/postgres and infra/pgbouncer; here is what depends on `.env` and on where things are.
"""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from psycopg.conninfo import make_conninfo

from eds.base.settings import ROOT, Settings, size_in_kb
from eds.cluster.connections import MEMBERS

INFRA = ROOT / "infra"
# What depends on how a server was built is asked of that server: this script does it, with this file on standard input.
CHOOSE_SETTINGS = INFRA / "postgres" / "choose_settings.sh"
BUILD_SETTINGS = INFRA / "postgres" / "build.settings"
# The file in a server's configuration that takes the script's answer.
BUILD_CONF = "15-build.conf"


@dataclass(frozen=True)
class Places:
    """Where a server finds what its configuration names.

    scripts: the folder of restore_wal.sh. repository_conf: pgBackRest's configuration; None where there is no
    pgBackRest, and so no WAL archive. passfile: libpq's password file with replicator's password. tls: the directory of
    its certificate, its key and the CA's certificate, where sessions are encrypted.
    """

    scripts: Path
    repository_conf: Path | None
    passfile: Path
    tls: Path | None = None


@dataclass(frozen=True)
class RepositoryPlaces:
    """Where pgBackRest of one member finds its things, as that member's programs see them.

    repository, second: the directories of the repositories. work: logs, locks, spool. data: the data directory.
    """

    repository: Path
    second: Path | None
    work: Path
    data: Path
    port: int


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


def restore_command(places: Places, purpose: Literal["replica", "recovery"], directory: Path | None = None) -> str:
    """Return how a server fetches WAL from the repository, and from a directory what the repository does not have."""
    assert places.repository_conf is not None
    parts = [_quoted(places.scripts / "restore_wal.sh"), _quoted(places.repository_conf), purpose, '%f "%p"']
    return " ".join(parts + ([_quoted(directory)] if directory else []))


def archive_lines(places: Places, *, takes_writes: bool) -> list[str]:
    """Return how a member archives its WAL: into the repository when it is the primary.

    One that was promoted by accident keeps its WAL: in the repository, its timeline would mislead the replicas.
    """
    if places.repository_conf is None:
        return []
    push = f'pgbackrest --config={_quoted(places.repository_conf)} --stanza={STANZA} archive-push "%p"'
    refuse = "echo 'this member is not the primary: its WAL is not archived' >&2; exit 1"
    return [
        f"archive_command = {conf(push if takes_writes else refuse)}",
        f"restore_command = {conf(restore_command(places, 'replica'))}",
    ]


# The stanza of the OLTP cluster: whichever member is the primary, its backups and its WAL are in it.
STANZA = "oltp"


def repository_conf(settings: Settings, places: RepositoryPlaces) -> str:
    """Return pgBackRest's configuration. It holds the second repository's secrets: for the servers' account alone."""
    lines = [
        "[global]",
        f"repo1-path={places.repository}",
        "repo1-bundle=y",
        f"log-path={places.work / 'log'}",
        f"lock-path={places.work / 'lock'}",
        f"spool-path={places.work / 'spool'}",
        "log-level-console=warn",
        "log-level-file=off",
        "compress-type=zst",
        "compress-level=3",
        "process-max=2",
        "start-fast=y",
        "archive-timeout=60",
        *_second_repository(settings, places),
    ]
    for number in (1, 2) if settings.backup_repo2 else (1,):
        kind = "time" if settings.backup_window_days else "count"
        keep = settings.backup_window_days or settings.backup_keep_full
        lines += [f"repo{number}-retention-full-type={kind}", f"repo{number}-retention-full={keep}"]
    lines += [
        "",
        "[global:archive-push]",
        "archive-async=y",
        "",
        f"[{STANZA}]",
        f"pg1-path={places.data}",
        f"pg1-port={places.port}",
        "pg1-user=postgres",
    ]
    return "\n".join(lines) + "\n"


def _second_repository(settings: Settings, places: RepositoryPlaces) -> list[str]:
    """Return the options of the second repository, as the settings BACKUP_REPO2 and BACKUP_REPO2_… give them."""
    kind = settings.backup_repo2
    if not kind:
        return []
    key = settings.backup_repo2_cipher_key.get_secret_value()
    path = places.second if kind == "posix" else settings.backup_repo2_path or "/"
    options = {"type": kind, "path": path, "bundle": "y", "cipher-type": "aes-256-cbc", "cipher-pass": key}
    return [f"repo2-{name}={value}" for name, value in (options | settings.repository_options).items()]


def static_files(name: str, *, tls: bool = False) -> dict[str, str]:
    """Return the configuration of a server that hardly a setting changes: file name and text.

    tls: who connects must encrypt.
    """
    postgres = INFRA / "postgres"
    kind = "warehouse" if name == "warehouse" else "oltp"
    hba = (postgres / "pg_hba.conf").read_text(encoding="utf-8")
    return {
        "10-common.conf": (postgres / "common.conf").read_text(encoding="utf-8"),
        "20-role.conf": (postgres / f"{kind}.conf").read_text(encoding="utf-8"),
        "pg_hba.conf": re.sub(r"(?m)^host ", "hostssl ", hba) if tls else hba,
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
        lines += [
            f"archive_mode = {'on' if places.repository_conf else 'off'}",
            f"max_slot_wal_keep_size = {conf(settings.max_slot_wal_keep_size)}",
        ]
        if settings.synchronous == "on":
            # The same on each member, so that whichever becomes the primary continues with it.
            lines.append(f"synchronous_standby_names = 'ANY 1 ({', '.join(MEMBERS)})'")
    if places.tls:
        lines += [
            "ssl = on",
            f"ssl_cert_file = {conf(places.tls / f'{name}.crt')}",
            f"ssl_key_file = {conf(places.tls / f'{name}.key')}",
            "ssl_min_protocol_version = 'TLSv1.2'",
        ]
    if not settings.pg_durable:
        # Full pages in the WAL stay: pg_rewind needs them.
        lines.append("fsync = off")
    return lines


def part_lines(name: str, places: Places, follows: Address | None) -> list[str]:
    """Return the lines of a member's configuration that a failover changes. All of them take effect by a reload.

    What a standby's data needs of max_prepared_transactions is no such line: see `replay_options`.

    follows: the primary, when the member is a replica of it.
    """
    lines = archive_lines(places, takes_writes=follows is None)
    if follows:
        conninfo = make_conninfo(
            host=follows.host,
            port=follows.port,
            user="replicator",
            passfile=str(places.passfile),
            application_name=name,
            connect_timeout=5,
            **({"sslmode": "verify-full", "sslrootcert": str(places.tls / "ca.crt")} if places.tls else {}),
        )
        lines += [
            f"primary_conninfo = {conf(conninfo)}",
            f"primary_slot_name = {conf(name)}",
        ]
    return lines


def replay_options(control: str) -> list[str]:
    """Return the options of postgres with which a standby's data can be started.

    A standby does not start with a lower max_prepared_transactions than its primary had. Ours has 0, so that a replica
    needs no more, and is a primary that refuses PREPARE TRANSACTION as soon as it is promoted; only behind one
    that had more (of an earlier version of the platform) does its data ask for it. control: pg_controldata's output.
    """
    needed = re.search(r"max_prepared_xacts setting:\s+(\d+)", control)
    return ["-c", f"max_prepared_transactions={needed[1]}"] if needed and needed[1] != "0" else []


def set_password_statements(password: str) -> str:
    """Return what a server in single-user mode reads to give its superuser a password, one statement a line."""
    literal = password.replace("'", "''")
    # A copy for inspection takes no writes by default.
    return (
        "set standard_conforming_strings = on\nset default_transaction_read_only = off\n"
        f"alter role postgres password '{literal}'\n"
    )


def pgpass(entries: Iterable[tuple[Address, str, str]]) -> str:
    """Return libpq's password file. entries: address, role, password."""

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace(":", "\\:")

    return "".join(
        f"{escaped(place.host)}:{place.port}:*:{escaped(role)}:{escaped(password)}\n"
        for place, role, password in entries
    )


def pgbouncer_ini(settings: Settings, tls: Path | None = None, **values: object) -> str:
    """Return PgBouncer's configuration.

    values: what infra/pgbouncer/pgbouncer.ini.template needs beside the settings.

    tls: the directory of its certificate, its key and the CA's, where sessions are encrypted.
    """
    template = string.Template((INFRA / "pgbouncer" / "pgbouncer.ini.template").read_text(encoding="utf-8"))
    # substitute() would stumble over the $1 of auth_query; safe_substitute leaves it as it is.
    text = template.safe_substitute(values, oltp_db=settings.oltp_db)
    if tls is None:
        return text
    return text + "".join(
        f"{name} = {value}\n"
        for name, value in (
            ("client_tls_sslmode", "require"),
            ("client_tls_cert_file", tls / "pgbouncer.crt"),
            ("client_tls_key_file", tls / "pgbouncer.key"),
            # No client has a certificate; unset, it does not start where the system has no file of CAs.
            ("client_tls_ca_file", tls / "ca.crt"),
            ("server_tls_sslmode", "verify-full"),
            ("server_tls_ca_file", tls / "ca.crt"),
        )
    )


def pgbouncer_userlist(settings: Settings) -> str:
    """Return PgBouncer's file of passwords: that of its look-up role alone, which finds all others."""
    password = settings.pgbouncer_lookup_password.get_secret_value().replace('"', '""')
    return f'"pgbouncer_lookup" "{password}"\n'
