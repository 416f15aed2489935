"""Backups: dumps of a database, and pgBackRest's physical backups of the OLTP cluster.

Dumps, backup_operational_… and backup_warehouse_…, as compressed SQL or in pg_dump's own format, are made under a
temporary name, read back, then renamed; listed, verified again, and removed when old. Beside each stands a manifest:
what it is of, its checksum, how many rows each table has. They hold what the database holds, so they are readable by
their owner only. From physical backups a point-in-time recovery starts (`eds.ops.pitr`).
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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from filelock import FileLock, Timeout
from rich.markup import escape
from rich.table import Table

from eds.base.console import AsCsv, AsJson, age, err, out, print_rows, step
from eds.base.disk import size
from eds.base.errors import UserError
from eds.base.files import sync_directory, write_atomically
from eds.base.settings import Settings, load, with_home
from eds.cluster.connections import Cluster, Server
from eds.cluster.queries import count_rows
from eds.cluster.repository import BaseBackup
from eds.ops import wal
from eds.runtime.choice import select_runtime
from eds.runtime.client_programs import connection_args, run_program
from eds.runtime.member import Runtime
from eds.runtime.pgbackrest import Repository
from eds.warehouse.backup_record import record_check, recorded

app = typer.Typer()

NAME = re.compile(r"backup_(operational|warehouse)_(\d{8}_\d{6})(\.sql\.gz|\.dump)")
TYPES = ("full", "diff", "incr")
SUFFIXES = {"sql": ".sql.gz", "custom": ".dump"}
# How long to wait for a running scheduled backup; most are done by then.
LOCK_SECONDS = 30.0
# The last line that pg_dump writes; a dump without it is truncated.
COMPLETE = b"-- PostgreSQL database dump complete"
# A table without columns has no list of them.
_COPY = re.compile(rb"COPY (.+?) +(?:\(.*\) )?FROM stdin;\n")
# A table as format('%I.%I') writes it.
_TABLE_NAME = re.compile(r'(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")\.(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")')
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
    """A dump that is there. kind: operational or warehouse. manifest: empty when there is none."""

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
        return self.path.stat().st_size


def manifest_path(path: Path) -> Path:
    """Return where a backup's manifest is."""
    return path.with_name(f"{path.name}.manifest.json")


def _check_place(settings: Settings) -> None:
    """Raise UserError when the backup directory is, or lies below, what is no directory."""
    for place in (settings.backups, *settings.backups.parents):
        if place.is_dir():
            return
        if place.exists() or place.is_symlink():
            raise UserError(f"BACKUP_DIR is {settings.backups}, and {place} is no directory: name one in .env.")


def find(settings: Settings) -> list[Backup]:
    """Return the backups of the backup directory, newest first."""
    _check_place(settings)
    result = []
    for path in settings.backups.glob("backup_*"):
        if match := NAME.fullmatch(path.name):
            made = datetime.strptime(match[2], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
            result.append(Backup(path, match[1], made, _read_manifest(path)))
    return sorted(result, key=lambda backup: (backup.made_at, backup.path.name), reverse=True)


def named(settings: Settings, file: str) -> Backup:
    """Return the backup of this path, or of this name in the backup directory. Raises UserError when there is none."""
    for path in (with_home(Path(file)), settings.backups / file):
        if path.is_dir():
            raise UserError(
                f"{path} is a directory: expected the file of a dump, as `make backups` lists them. Physical backups "
                "are restored by `make pitr`, into a cluster of their own, and with PROMOTE=1 in place of the primary."
            )
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
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{manifest_path(path)} cannot be read: {error}") from error
    if wrong := _wrong_in_manifest(content):
        raise UserError(
            f"{manifest_path(path)} is no manifest of `make backup`: {wrong}. Put back the one that was made with the "
            "backup; without any, make restore asks for more."
        )
    return dict(content)


def _wrong_in_manifest(content: Any) -> str | None:
    """Return what is not as `make backup` writes it, or None. Names of tables become part of SQL."""
    if not isinstance(content, dict):
        return f"expected an object, found {type(content).__name__}"
    rows = content.get("rows")
    made_at = content.get("made_at")
    expected = {
        "kind": ("operational or warehouse", content.get("kind") in ("operational", "warehouse")),
        "sha256": ("64 hexadecimal digits", bool(re.fullmatch("[0-9a-f]{64}", str(content.get("sha256"))))),
        "made_at": ("a time with its zone", isinstance(made_at, str) and _is_time(made_at)),
        "rows": (
            "a number for each table",
            isinstance(rows, dict)
            and all(
                _TABLE_NAME.fullmatch(name) and isinstance(count, int) and not isinstance(count, bool) and count >= 0
                for name, count in rows.items()
            ),
        ),
    }
    for name, (what, holds) in expected.items():
        if not holds:
            return f"{name} should be {what}, found {str(content.get(name))[:80]!r}"
    return None


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    write_atomically(manifest_path(path), json.dumps(manifest, indent=2, default=str) + "\n", mode=0o600)


@contextmanager
def directory(settings: Settings) -> Iterator[Path]:
    """Yield the backup directory to one command at a time. What a killed one has left is removed."""
    _check_place(settings)
    folder = settings.backups
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            # A dump holds personal data, and the warehouse's holds the password of its reader.
            folder.chmod(0o700)
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):
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
        # Names have a resolution of one second.
        time.sleep(0.2)


# --- logical ----------------------------------------------------------------------------------------------------------


def database_of(cluster: Cluster, kind: str) -> Server:
    """Return the server and database that a kind of logical backup is of."""
    return cluster.warehouse if kind == "warehouse" else cluster.primary


def dump(cluster: Cluster, kind: str, form: Literal["sql", "custom"]) -> Backup:
    """Dump a database (kind operational or warehouse) and read the dump back. On UserError nothing is left."""
    settings, server = cluster.settings, database_of(cluster, kind)
    with directory(settings) as folder:
        name = _fresh_name(folder, kind, SUFFIXES[form])
        temporary = folder / f".incoming.{name}"
        try:
            with server.connect() as connection:
                # Rows are counted in the same snapshot that is dumped.
                connection.execute("set transaction isolation level repeatable read, read only")
                connection.execute("set local idle_in_transaction_session_timeout = 0")
                row = connection.execute(
                    "select pg_export_snapshot(), clock_timestamp(), current_setting('server_version'), "
                    "(select system_identifier::text from pg_control_system())"
                ).fetchone()
                assert row is not None
                rows = count_rows(connection, [table for (table,) in connection.execute(_TABLES).fetchall()])
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
            except BrokenPipeError:
                # Not an error of the file: the process that was reading it has ended.
                raise
            except (OSError, EOFError) as error:
                raise UserError(f"{path} is damaged: {error}") from error
        return
    if beginning != b"PGDMP":
        found = f"{beginning!r} at its beginning" if beginning else "an empty file"
        raise UserError(
            f"{path} is no dump: expected gzip or pg_dump's format, found {found}. `make backups` lists the backups."
        )
    command = [*select_runtime(settings)[0].client("pg_restore"), "--file=-", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout:
        yield process.stdout
    with process.stderr:
        words = process.stderr.read().decode(errors="replace").strip()
    if process.wait() != 0:
        raise UserError(f"{path} is damaged: {words}")


# What pg_dump puts around its SQL, so that psql runs no command of its own between the two.
_RESTRICTION = re.compile(rb"\\(un)?restrict [A-Za-z0-9]+\n")


def without_commands(lines: Iterable[bytes], path: Path, *, ours: bool) -> Iterator[bytes]:
    r"""Yield a dump's lines without its own \restrict and \unrestrict: whoever feeds psql restricts it by another key.

    ours: the dump is as its manifest says. Else a line that begins as a command of psql does raises UserError, before
    psql sees it; one within a line is what the restriction is for.
    """
    in_copy = False
    for line in lines:
        if in_copy:
            in_copy = line.rstrip(b"\r\n") != b"\\."
        elif _COPY.fullmatch(line):
            in_copy = True
        elif _RESTRICTION.fullmatch(line):
            continue
        elif not ours and line.lstrip().startswith(b"\\"):
            shown = line.decode(errors="replace").strip()[:60]
            raise UserError(f"{path} holds a command of psql, which no dump of a database does: {shown!r}.")
        yield line


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


def physical(runtime: Runtime, kind: str) -> BaseBackup:
    """Make a physical backup of the OLTP cluster in each repository: full, diff or incr.

    Returns the one in the first repository. Where no full one is there yet, it is full. pgBackRest removes what the
    retention no longer keeps, with the WAL that only it needed. Raises UserError.
    """
    archive = Repository(runtime)
    archive.check_available()
    with directory(runtime.settings):
        # Not by their times alone: a clock may have been ahead when an earlier one was made.
        earlier = {backup.label for backup in archive.info().backups}
        for number in archive.numbers:
            archive.backup(kind, number)
    return max(
        (each for each in archive.info().backups if each.repository == 1 and each.label not in earlier),
        key=lambda backup: backup.finished_at,
    )


# --- verification -----------------------------------------------------------------------------------------------------


def verify(settings: Settings, backup: Backup) -> Counter[str]:
    """Read a backup and check it against its manifest, and note what came of it. Raises UserError when it is damaged.

    Returns the rows of a dump's tables.
    """
    rows: Counter[str] = Counter()
    try:
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


def check_all(archive: Repository) -> list[wal.Finding]:
    """Read all dumps, physical backups and archived WAL again. What another backup would resolve comes first."""
    settings = archive.runtime.settings
    result, kinds = [], set()
    for backup in find(settings):
        try:
            verify(settings, backup)
        except (UserError, OSError) as error:
            again = f" Make another one: make backup KIND={backup.kind}" if backup.kind not in kinds else ""
            result.append(wal.Finding(f"{error}{again}", is_current=backup.kind not in kinds))
        kinds.add(backup.kind)
    if not archive.runtime.why_no_repository:
        result += wal.check(archive)
    return sorted(result, key=lambda each: not each.is_current)


def expire(settings: Settings, keep: int, made: Sequence[Backup]) -> list[str]:
    """Remove the dumps that are older than the newest `keep` good ones of their kind. Returns their names.

    made: the dumps that were just made; they stay whatever the clock was when the others were made, and only dumps of
    their kinds are removed. A damaged dump does not count as one that is kept.
    """
    removed = []
    with directory(settings) as folder:
        present = {backup.path for backup in made}
        good = Counter(backup.kind for backup in made)
        for backup in find(settings):
            if backup.kind not in good or backup.path in present:
                continue
            if good[backup.kind] >= keep:
                hidden = folder / f".removing.{backup.path.name}"
                backup.path.replace(hidden)
                manifest_path(backup.path).unlink(missing_ok=True)
                _remove(hidden)
                removed.append(backup.path.name)
            elif backup.verified:
                good[backup.kind] += 1
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
    form: Annotated[
        str, typer.Option("--format", metavar="sql|custom", help="Of a dump (default: sql, which is compressed).")
    ] = "",
    keep: Annotated[
        int | None,
        typer.Option(metavar="7", min=1, max=10_000, help="How many dumps of each kind stay (default: BACKUP_KEEP)."),
    ] = None,
    type_: Annotated[
        str, typer.Option("--type", metavar="full|diff|incr", help="Of a physical backup (default: diff).")
    ] = "",
    scheduled: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Back up, read the backup back, remove what is too old. Example: make backup KIND=physical TYPE=full"""
    settings = load()
    kinds = {
        "logical": ("operational", "warehouse"),
        **{name: (name,) for name in ("operational", "warehouse", "physical")},
    }
    if kind not in kinds:
        raise UserError(f"KIND is {kind}: expected one of {', '.join(kinds)}.")
    if form not in ("", "sql", "custom"):
        raise UserError(f"FORMAT is {form}: expected sql or custom.")
    if type_ not in ("", *TYPES):
        raise UserError(f"TYPE is {type_}: expected one of {', '.join(TYPES)}.")
    # Who asks for a full backup and gets a dump would find out on the day on which it is needed.
    if type_ and kind != "physical":
        raise UserError(f"TYPE={type_} is a physical backup's, not a dump's: make backup KIND=physical TYPE={type_}")
    if kind == "physical" and (form or keep):
        raise UserError(
            "FORMAT and KEEP are a dump's, not a physical backup's: make backup KIND=logical. How many physical "
            "backups stay is BACKUP_KEEP_FULL in .env."
        )
    form, type_ = form or "sql", type_ or "diff"
    runtime = select_runtime(settings)[0]
    if kind == "physical":
        database = settings.oltp_db
        with step("physical backup"), recorded(settings, "physical", database, type_, scheduled=scheduled) as attempt:
            done = physical(runtime, type_)
            attempt.name, attempt.bytes = done.label, done.database_bytes
        out.print(f"{done.label}  {size(done.database_bytes)}, {size(done.repository_bytes)} of it written now")
        return
    made = []
    for each in kinds[kind]:
        database = database_of(runtime.cluster, each).database
        with (
            step(f"{each} backup, made and read back"),
            recorded(settings, "dump", database, form, scheduled=scheduled) as attempt,
        ):
            made.append(dump(runtime.cluster, each, form))  # type: ignore[arg-type]
            attempt.name, attempt.bytes = made[-1].path.name, made[-1].bytes
        out.print(f"{made[-1].path}  {size(made[-1].bytes)}", soft_wrap=True, markup=False)
    for name in expire(settings, keep or settings.backup_keep, made):
        err.print(f"removed: {name}", markup=False)


@app.command(name="backups")
def backups_command(
    again: Annotated[
        bool, typer.Option("--verify", help="Read each one, and the WAL archive, back again; record the outcome.")
    ] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    scheduled: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """List the backups. VERIFY=1 reads each one back again. Exit code 1 when one is damaged."""
    settings = load()
    archive = Repository(select_runtime(settings)[0])
    skipped = archive.runtime.why_no_repository
    wrong = check_all(archive) if again else []
    if again:
        texts = ([each.text for each in wrong if each.is_current], [each.text for each in wrong if not each.is_current])
        record_check(settings, *texts, scheduled=scheduled)
    found = find(settings)
    physicals = [] if skipped else archive.info().backups[::-1]
    plain: list[dict[str, Any]] = [
        {
            "path": str(each.path),
            "kind": each.kind,
            "bytes": each.bytes,
            "made_at": each.made_at.isoformat(),
            "verified": each.verified,
        }
        for each in found
    ]
    plain += [
        {
            "path": each.label,
            "kind": f"physical {each.type}, repository {each.repository}",
            "bytes": each.database_bytes,
            "made_at": each.finished_at.isoformat(),
            "verified": not each.error,
        }
        for each in physicals
    ]
    if not print_rows(plain, as_json=as_json, as_csv=as_csv):
        table = Table(title=f"Backups in {settings.backups}, newest first")
        for column in ("name", "kind", "size", "age", "rows", "verified"):
            table.add_column(column, justify="right" if column in ("size", "age", "rows") else "left", no_wrap=True)
        for backup in found:
            rows = sum(backup.manifest.get("rows", {}).values())
            at_time = str(backup.manifest.get("verified_at", ""))[:16].replace("T", " ")
            table.add_row(
                escape(backup.path.name),
                backup.kind,
                size(backup.bytes),
                age(backup.made_at),
                str(rows or ""),
                f"[green]{at_time}[/]" if backup.verified else "[red]no[/]",
            )
        out.print(table if found else escape(f"There is no backup in {settings.backups} yet: make backup"))
        _show_physical(physicals, skipped)
        for each in wrong:
            out.print(f"[red]damaged[/] {escape(each.text)}", soft_wrap=True)
    bad = any(backup.manifest and not backup.verified for backup in found) or any(each.error for each in physicals)
    raise typer.Exit(1 if bad or wrong else 0)


def _show_physical(backups: Sequence[BaseBackup], skipped: str | None) -> None:
    """Show the physical backups, or why there are none."""
    if skipped:
        out.print(f"skipped: physical backups ({skipped})")
        return
    if not backups:
        out.print("There is no physical backup yet: make backup KIND=physical")
        return
    table = Table(title="Physical backups of the OLTP cluster, newest first")
    for column in ("label", "type", "repository", "size", "stored", "age", "pages"):
        table.add_column(column, justify="right" if column in ("size", "stored", "age") else "left", no_wrap=True)
    for each in backups:
        table.add_row(
            each.label,
            each.type,
            str(each.repository),
            size(each.database_bytes),
            size(each.repository_bytes),
            age(each.finished_at),
            "[red]damaged[/]" if each.error else "[green]checked[/]",
        )
    out.print(table)
