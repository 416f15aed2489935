"""Backups: made under a temporary name, read back, then renamed; listed, verified again, and removed when old.

Logical ones are dumps of one database: backup_operational_… and backup_warehouse_…, as compressed SQL or in pg_dump's
own format. Physical ones, backup_physical_…, are base backups of the OLTP cluster, from which a point-in-time recovery
starts. Beside each stands a manifest: what it is of, its checksum, how many rows each table has. Dumps hold what the
database holds, so they are readable by their owner only.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from filelock import FileLock, Timeout
from rich.table import Table

from eds.base.console import AsCsv, AsJson, err, out, print_rows, step
from eds.base.disk import size
from eds.base.errors import UserError
from eds.base.files import sync_directory, write_atomically
from eds.base.settings import Settings, load
from eds.cluster.connections import Cluster, Server
from eds.cluster.queries import fetch_all, fetch_value
from eds.ops.wal import archived_files, clean_archives, segment_name
from eds.runtime.choice import select_runtime
from eds.runtime.client_programs import connection_args, program, run_program
from eds.runtime.member import Runtime

app = typer.Typer()

NAME = re.compile(r"backup_(operational|warehouse|physical)_(\d{8}_\d{6})(\.sql\.gz|\.dump)?")
SUFFIXES = {"sql": ".sql.gz", "custom": ".dump"}
READ_BYTES = 1024 * 1024
# pg_dump's last words; a dump without them is cut off.
COMPLETE = b"-- PostgreSQL database dump complete"
_COPY = re.compile(rb"COPY (.+?) \(.*\) FROM stdin;\n")
_TABLES = """
    select format('%I.%I', nsp.nspname, cls.relname)
    from pg_class as cls
    inner join pg_namespace as nsp on nsp.oid = cls.relnamespace
    where cls.relkind = 'r' and nsp.nspname !~ '^pg_' and nsp.nspname <> 'information_schema'
        and not exists (select from pg_depend as dep where dep.objid = cls.oid and dep.deptype = 'e')
    order by 1
"""


@dataclass(frozen=True)
class Backup:
    """A backup that is there. kind: operational, warehouse or physical. manifest: empty when there is none."""

    path: Path
    kind: str
    made_at: datetime
    manifest: dict[str, Any]

    @property
    def verified(self) -> bool:
        """Whether it could be read back when it was last checked."""
        return bool(self.manifest.get("verified"))

    @property
    def bytes(self) -> int:
        if self.path.is_dir():
            return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())
        return self.path.stat().st_size


def manifest_path(path: Path) -> Path:
    """Where a backup's manifest is."""
    return path.with_name(f"{path.name}.manifest.json")


def find(settings: Settings) -> list[Backup]:
    """Return the backups of the backup directory, newest first."""
    result = []
    for path in settings.backups.glob("backup_*"):
        if match := NAME.fullmatch(path.name):
            made = datetime.strptime(match[2], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
            result.append(Backup(path, match[1], made, _read_manifest(path)))
    return sorted(result, key=lambda backup: (backup.made_at, backup.path.name), reverse=True)


def named(settings: Settings, file: str) -> Backup:
    """Return the backup of this path, or of this name in the backup directory. Raises UserError when there is none."""
    for path in (Path(file).expanduser(), settings.backups / file):
        if path.exists():
            match = NAME.fullmatch(path.name)
            manifest = _read_manifest(path)
            made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            return Backup(path.resolve(), match[1] if match else manifest.get("kind", ""), made, manifest)
    raise UserError(
        f"There is no backup {file}, neither as a path nor in {settings.backups}. `make backups` lists them."
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(manifest_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{manifest_path(path)} cannot be read: {error}") from error
    return dict(content)


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    write_atomically(manifest_path(path), json.dumps(manifest, indent=2, default=str) + "\n", mode=0o600)


@contextmanager
def directory(settings: Settings) -> Iterator[Path]:
    """Yield the backup directory to one command at a time. What a killed one has left is removed."""
    folder = settings.backups
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            # A dump holds personal data, and the warehouse's holds the password of its reader.
            folder.chmod(0o700)
        with FileLock(folder / ".lock", timeout=0):
            for leftover in [*folder.glob(".incoming.*"), *folder.glob(".removing.*")]:
                _remove(leftover)
            yield folder
    except Timeout as error:
        raise UserError(f"Another backup or restore is running in {folder}. Wait until it is done.") from error
    except PermissionError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Set BACKUP_DIR to a place that can.") from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _fresh_name(folder: Path, kind: str, suffix: str) -> str:
    while True:
        name = f"backup_{kind}_{datetime.now(UTC):%Y%m%d_%H%M%S}{suffix}"
        if not (folder / name).exists():
            return name
        # One name a second.
        time.sleep(0.2)


# --- logical ----------------------------------------------------------------------------------------------------------


def database_of(cluster: Cluster, kind: str) -> Server:
    """Return the server and database that a kind of logical backup is of."""
    return cluster.warehouse if kind == "warehouse" else cluster.primary


def dump(settings: Settings, kind: str, form: Literal["sql", "custom"]) -> Backup:
    """Dump a database (kind operational or warehouse) and read the dump back. On UserError nothing is left."""
    server = database_of(Cluster(settings), kind)
    with directory(settings) as folder:
        name = _fresh_name(folder, kind, SUFFIXES[form])
        temporary = folder / f".incoming.{name}"
        try:
            with server.connect() as connection:
                # Rows are counted in the very snapshot that is dumped.
                connection.execute("set transaction isolation level repeatable read, read only")
                connection.execute("set local idle_in_transaction_session_timeout = 0")
                row = connection.execute(
                    "select pg_export_snapshot(), clock_timestamp(), current_setting('server_version'), "
                    "(select system_identifier::text from pg_control_system())"
                ).fetchone()
                assert row is not None
                rows = {
                    table: connection.execute(f"select count(*) from {table}".encode()).fetchone()[0]  # type: ignore[index]  # noqa: S608
                    for (table,) in connection.execute(_TABLES).fetchall()
                }
                temporary.touch(mode=0o600)
                run_program(
                    settings,
                    "pg_dump",
                    [
                        *connection_args(server, database=server.database),
                        f"--format={'plain' if form == 'sql' else 'custom'}",
                        "--compress=6",
                        f"--snapshot={row[0]}",
                        f"--file={temporary}",
                    ],
                    password=server.superuser_password,
                    what=f"the dump of {server.database}",
                )
            check_rows(read_back(settings, temporary), rows)
            manifest = {
                "kind": kind,
                "format": form,
                "database": server.database,
                "made_at": row[1].isoformat(),
                "server_version": row[2],
                "system_identifier": row[3],
                "bytes": temporary.stat().st_size,
                "sha256": sha256(temporary),
                "rows": rows,
                "verified": True,
                "verified_at": datetime.now(UTC).isoformat(),
            }
            return _finish(folder, temporary, name, kind, manifest)
        except BaseException:
            _remove(temporary)
            manifest_path(folder / name).unlink(missing_ok=True)
            raise


def _finish(folder: Path, temporary: Path, name: str, kind: str, manifest: dict[str, Any]) -> Backup:
    """Give a complete backup its name. The manifest is there first: a backup never stands without."""
    if temporary.is_file():
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    _write_manifest(folder / name, manifest)
    temporary.replace(folder / name)
    sync_directory(folder)
    return Backup(folder / name, kind, datetime.fromisoformat(manifest["made_at"]), manifest)


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def sql_of(settings: Settings, path: Path) -> Iterator[Any]:
    """Yield a dump's SQL as a stream of lines of bytes, whatever its format. Raises UserError when it breaks off."""
    with path.open("rb") as file:
        beginning = file.read(5)
    if beginning.startswith(b"\x1f\x8b"):
        with gzip.open(path, "rb") as stream:
            try:
                yield stream
            except (OSError, EOFError) as error:
                raise UserError(f"{path} is damaged: {error}") from error
        return
    if beginning != b"PGDMP":
        raise UserError(f"{path} is no dump: expected gzip or pg_dump's format, found {beginning!r} at its beginning.")
    process = subprocess.Popen(
        [*program(settings, "pg_restore"), "--file=-", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout:
        yield process.stdout
    with process.stderr:
        words = process.stderr.read().decode(errors="replace").strip()
    if process.wait() != 0:
        raise UserError(f"{path} is damaged: {words}")


def read_back(settings: Settings, path: Path) -> Counter[str]:
    """Read a dump to its end. Returns the rows of each table in it; raises UserError when it is incomplete."""
    rows: Counter[str] = Counter()
    complete = False
    with sql_of(settings, path) as lines:
        table = None
        for line in lines:
            if table is None:
                complete = complete or line.startswith(COMPLETE)
                if match := _COPY.fullmatch(line):
                    table = match[1].decode()
                    rows[table] += 0
            elif line == b"\\.\n":
                table = None
            else:
                rows[table] += 1
    if not complete or table is not None:
        raise UserError(f"{path} breaks off: it does not end as a dump ends.")
    return rows


def check_rows(found: Counter[str] | dict[str, int], expected: dict[str, int]) -> None:
    """Raise UserError when a dump or database has other numbers of rows than its manifest says."""
    if wrong := [
        f"{table}: {found.get(table, 0)}, expected {count}"
        for table, count in expected.items()
        if found.get(table, 0) != count
    ]:
        raise UserError("Rows are missing or too many:\n  " + "\n  ".join(wrong))


# --- physical ---------------------------------------------------------------------------------------------------------


def base_backup(settings: Settings) -> Backup:
    """Make a base backup of the OLTP cluster and verify its checksums. Raises UserError; nothing is left then."""
    server = Cluster(settings).primary
    with directory(settings) as folder:
        name = _fresh_name(folder, "physical", "")
        temporary = folder / f".incoming.{name}"
        clock = "select clock_timestamp()"
        started = fetch_value(server, clock)
        try:
            run_program(
                settings,
                "pg_basebackup",
                [
                    f"--pgdata={temporary}",
                    *connection_args(server, "replicator"),
                    "--format=plain",
                    "--wal-method=stream",
                    "--checkpoint=fast",
                    "--manifest-checksums=SHA256",
                    f"--label={name}",
                    *([] if settings.pg_durable else ["--no-sync"]),
                ],
                password=settings.replicator_password.get_secret_value(),
                what="the base backup",
            )
            temporary.chmod(0o700)
            verify_physical(settings, temporary)
            finished, version, identifier = fetch_all(
                server,
                "select clock_timestamp(), current_setting('server_version'), "
                "(select system_identifier::text from pg_control_system())",
            )[0]
            ranges = json.loads((temporary / "backup_manifest").read_text(encoding="utf-8"))["WAL-Ranges"]
            bytes_each = int(fetch_value(server, "select setting from pg_settings where name = 'wal_segment_size'"))
            start = ranges[0]
            manifest = {
                "kind": "physical",
                "format": "plain",
                "database": None,
                "started_at": started.isoformat(),
                "made_at": finished.isoformat(),
                "server_version": version,
                "system_identifier": identifier,
                "timeline": start["Timeline"],
                "start_lsn": start["Start-LSN"],
                "end_lsn": ranges[-1]["End-LSN"],
                "start_segment": segment_name(start["Timeline"], _lsn(start["Start-LSN"]) // bytes_each, bytes_each),
                "bytes": sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file()),
                # PostgreSQL's own manifest has the checksum of every file.
                "sha256": sha256(temporary / "backup_manifest"),
                "verified": True,
                "verified_at": datetime.now(UTC).isoformat(),
            }
            return _finish(folder, temporary, name, "physical", manifest)
        except BaseException:
            _remove(temporary)
            manifest_path(folder / name).unlink(missing_ok=True)
            raise


def _lsn(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def verify_physical(settings: Settings, path: Path) -> None:
    """Check every file and the WAL of a base backup. Raises UserError."""
    run_program(settings, "pg_verifybackup", [path], what=f"the check of {path.name}")


# --- again ------------------------------------------------------------------------------------------------------------


def verify(settings: Settings, backup: Backup) -> Counter[str]:
    """Read a backup and check it against its manifest, and note what came of it. Raises UserError when it is damaged.

    Returns the rows of a dump's tables.
    """
    rows: Counter[str] = Counter()
    try:
        if backup.kind == "physical":
            if sha256(backup.path / "backup_manifest") != backup.manifest.get("sha256"):
                raise UserError(f"{backup.path.name}: its backup_manifest is not the one it was made with.")
            verify_physical(settings, backup.path)
        else:
            if backup.manifest and (found := sha256(backup.path)) != backup.manifest["sha256"]:
                raise UserError(
                    f"{backup.path.name} is damaged: its checksum is {found[:12]}…, "
                    f"the manifest says {backup.manifest['sha256'][:12]}…"
                )
            rows = read_back(settings, backup.path)
            check_rows(rows, backup.manifest.get("rows", {}))
    except (UserError, OSError):
        if backup.manifest:
            _write_manifest(backup.path, backup.manifest | {"verified": False})
        raise
    if backup.manifest:
        now = datetime.now(UTC).isoformat()
        _write_manifest(backup.path, backup.manifest | {"verified": True, "verified_at": now})
    return rows


def expire(runtime: Runtime, keep: int) -> list[str]:
    """Remove the backups of each kind that are older than the newest `keep` good ones, and the WAL that none needs.

    A damaged backup does not count as one that is kept. Returns the names of what was removed.
    """
    settings, removed = runtime.settings, []
    with directory(settings) as folder:
        good: Counter[str] = Counter()
        for backup in find(settings):
            if good[backup.kind] >= keep:
                hidden = folder / f".removing.{backup.path.name}"
                backup.path.replace(hidden)
                manifest_path(backup.path).unlink(missing_ok=True)
                _remove(hidden)
                removed.append(backup.path.name)
            elif backup.verified:
                good[backup.kind] += 1
        needed = [backup for backup in find(settings) if backup.kind == "physical"]
        # Without a manifest, nobody knows what a base backup needs.
        if needed and all("start_segment" in backup.manifest for backup in needed):
            oldest = min((backup.manifest["start_segment"] for backup in needed), key=lambda name: name[8:])
            before = len(archived_files(runtime))
            # It goes by the position alone: what any timeline has behind it stays.
            clean_archives(runtime, oldest)
            if gone := before - len(archived_files(runtime)):
                removed.append(f"{gone} WAL segments before {oldest}")
    return removed


# --- commands ---------------------------------------------------------------------------------------------------------


@app.command(name="backup")
def backup_command(
    kind: Annotated[
        str,
        typer.Option(
            metavar="logical|operational|warehouse|physical", help="logical: a dump of each of the two databases."
        ),
    ] = "logical",
    form: Annotated[str, typer.Option("--format", metavar="sql|custom", help="Of a dump; sql is compressed.")] = "sql",
    keep: Annotated[
        int | None, typer.Option(metavar="7", min=1, help="How many of each kind stay (default: BACKUP_KEEP).")
    ] = None,
) -> None:
    """Back up, read the backup back, remove what is too old. Example: make backup KIND=physical KEEP=7"""
    settings = load()
    kinds = {
        "logical": ("operational", "warehouse"),
        **{name: (name,) for name in ("operational", "warehouse", "physical")},
    }
    if kind not in kinds:
        raise UserError(f"KIND is {kind}: expected one of {', '.join(kinds)}.")
    if form not in ("sql", "custom"):
        raise UserError(f"FORMAT is {form}: expected sql or custom.")
    for each in kinds[kind]:
        with step(f"{each} backup, made and read back"):
            done = base_backup(settings) if each == "physical" else dump(settings, each, form)  # type: ignore[arg-type]
        out.print(f"{done.path}  {size(done.bytes)}", soft_wrap=True)
    for name in expire(select_runtime(settings)[0], keep or settings.backup_keep):
        err.print(f"removed: {name}")


@app.command(name="backups")
def backups_command(
    again: Annotated[bool, typer.Option("--verify", help="Read each one back again.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List the backups. VERIFY=1 reads each one back again. Exit code 1 when one is damaged."""
    settings = load()
    problems: dict[Path, str] = {}
    for backup in find(settings) if again else []:
        try:
            verify(settings, backup)
        except (UserError, OSError) as error:
            problems[backup.path] = str(error)
    found = find(settings)
    plain = [
        {
            "path": str(b.path),
            "kind": b.kind,
            "bytes": b.bytes,
            "made_at": b.made_at.isoformat(),
            "verified": b.verified,
        }
        for b in found
    ]
    if not print_rows(plain, as_json=as_json, as_csv=as_csv):
        table = Table(title=f"Backups in {settings.backups}, newest first")
        for column in ("name", "kind", "size", "age", "rows", "verified"):
            table.add_column(column, justify="right" if column in ("size", "age", "rows") else "left", no_wrap=True)
        for backup in found:
            rows = sum(backup.manifest.get("rows", {}).values())
            at_time = str(backup.manifest.get("verified_at", ""))[:16].replace("T", " ")
            table.add_row(
                backup.path.name,
                backup.kind,
                size(backup.bytes),
                _age(backup.made_at),
                str(rows or ""),
                f"[green]{at_time}[/]" if backup.verified else "[red]no[/]",
            )
        out.print(table if found else f"There is no backup in {settings.backups} yet: make backup")
        for problem in problems.values():
            out.print(f"[red]damaged[/] {problem}")
    raise typer.Exit(1 if any(backup.manifest and not backup.verified for backup in found) or problems else 0)


def _age(when: datetime) -> str:
    seconds = (datetime.now(UTC) - when).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
