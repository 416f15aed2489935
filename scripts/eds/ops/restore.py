"""`make restore`: a dump becomes a new database beside the old one, is compared with its manifest, takes its place.

The old data is touched last, and then only renamed: a broken dump, a full disk, an interrupt cost nothing. The change
feed then says that every table was reloaded, so the next run of the warehouse compares everything.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from psycopg import sql
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from eds.base import journal, programs
from eds.base.console import confirm, err, out, step
from eds.base.errors import UserError
from eds.base.services import exclusive
from eds.base.settings import Settings, load
from eds.cluster import exchange, provision, tls
from eds.cluster.connections import SUPERUSER_OPTIONS, Cluster, Server
from eds.cluster.queries import answers, count_rows, current_position, execute, fetch_all, wait_for_replay
from eds.ops import backup
from eds.runtime.choice import select_runtime
from eds.runtime.client_programs import connection_args
from eds.runtime.member import Runtime
from eds.warehouse import runs

app = typer.Typer()

SWAP_ATTEMPTS = 10
REPLAY_SECONDS = 60.0
# The journal's name of the operation.
RESTORE = "restore"
# Why a database that an earlier restore replaced is dropped.
KEPT = "kept by an earlier restore"


def rows_now(server: Server) -> Counter[str]:
    """Return the rows of each table of a server's database, counted in one snapshot.

    The statistics would be quicker, and wrong: a crash of the server resets them.
    """
    tables = "select format('%I.%I', schemaname, relname) from pg_stat_user_tables order by 1"
    with server.connect() as connection:
        connection.execute("set transaction isolation level repeatable read, read only")
        return Counter(count_rows(connection, [table for (table,) in connection.execute(tables).fetchall()]))


def load_dump(settings: Settings, made: backup.Backup, server: Server, database: str) -> None:
    """Make a database from a dump and compare it with the manifest. On failure the new database is dropped again."""
    with server.connect("postgres", autocommit=True) as connection:
        # template0: the database contains only what is in the dump.
        connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(database)))
    try:
        _pipe(settings, made, server, database)
        with server.connect(database, autocommit=True) as connection:
            expected = made.manifest.get("rows", {})
            backup.check_rows(count_rows(connection, expected), expected)
            # Privileges on the database itself are not in a dump, and an old dump has an old schema.
            connection.execute("delete from platform.applied_file")
            provision.apply_files(
                connection, provision.SQL_FOLDERS["warehouse" if server.name == "warehouse" else "primary"]
            )
            connection.execute("analyze")
    except BaseException:
        with server.connect("postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(database)))
        raise


def _psql_restricts(version: str) -> bool:
    r"""Return whether a psql has \restrict. version: as `psql --version` prints it."""
    found = re.search(r"(\d+)\.(\d+)", version)
    major, minor = (int(found[1]), int(found[2])) if found else (0, 0)
    return major > 17 or minor >= {17: 6, 16: 10, 15: 14, 14: 19, 13: 22}.get(major, 1000)


@contextmanager
def _readable_ca(settings: Settings, account: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the variable that names the CA's certificate where another account can read it; none where none needs it.

    The state directory, where the certificate is, is closed to other accounts. account: that psql runs as.
    """
    if not settings.uses_tls or not account:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="platform-ca-") as folder:
        Path(folder).chmod(0o755)
        copy = Path(folder) / "ca.crt"
        shutil.copyfile(settings.ca_file, copy)
        copy.chmod(0o644)
        yield {"PGSSLROOTCERT": str(copy)}


def _pipe(settings: Settings, made: backup.Backup, server: Server, database: str) -> None:
    """Feed a dump's SQL to psql, in one transaction that the first error ends.

    psql runs as an account without rights where that can be, and restricted by a key that the dump cannot know: it
    runs SQL, and no command of its own.
    """
    psql, account = select_runtime(settings)[0].script_psql()
    restricts = _psql_restricts(programs.run([*psql, "--version"], check=False, identity=account).output)
    if not restricts and not made.manifest:
        raise UserError(
            f"{made.path} has no manifest, and this psql cannot be prevented from running commands in the file: "
            "install the newest minor release of PostgreSQL's client programs."
        )
    command = [
        *psql,
        *connection_args(server, database=database),
        "--no-psqlrc",
        "--quiet",
        "--single-transaction",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
    ]
    with _readable_ca(settings, account) as ca:
        process = subprocess.Popen(
            command,
            env=os.environ
            | {
                "PGPASSWORD": server.superuser_password,
                "LC_ALL": "C",
                # Without this account's psqlrc and history: psql may run as another account.
                "HOME": "/nonexistent",
                "PGOPTIONS": f"-c client_min_messages=warning {SUPERUSER_OPTIONS}",
                **tls.client_environment(settings),
                **ca,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **account,
        )
        assert process.stdin is not None
        assert process.stderr is not None
        broken: UserError | None = None
        try:
            if restricts:
                process.stdin.write(f"\\restrict {secrets.token_hex(16)}\n".encode())
            with backup.sql_of(settings, made.path) as stream:
                for line in backup.without_commands(stream, made.path, ours=bool(made.manifest)):
                    process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            # psql has ended; its output says why.
            pass
        except UserError as error:
            broken = error
            process.kill()
        with suppress(BrokenPipeError):
            process.stdin.close()
        with process.stderr:
            words = process.stderr.read().decode(errors="replace").strip()
        code = process.wait()
    if broken:
        raise broken
    if code != 0:
        raise UserError(f"The dump could not be loaded (nothing was changed):\n{words}")


def swap(cluster: Cluster, server: Server, database: str, replaced: str) -> None:
    """Give a new database the name of the present one, which becomes `replaced`. Nobody gets in between."""
    name = server.database
    with server.connect("postgres", autocommit=True) as connection:
        limit = sql.SQL("alter database {} connection limit {}")

        def rename_both() -> None:
            for each in (name, database):
                connection.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", (each,)
                )
            with connection.transaction():
                for old, new in ((name, replaced), (database, name)):
                    connection.execute(
                        sql.SQL("alter database {} rename to {}").format(sql.Identifier(old), sql.Identifier(new))
                    )

        # Only superusers pass a connection limit of 0.
        connection.execute(limit.format(sql.Identifier(name), sql.Literal(0)))
        connection.execute(limit.format(sql.Identifier(database), sql.Literal(0)))
        try:
            # A superuser may connect in between.
            Retrying(
                stop=stop_after_attempt(SWAP_ATTEMPTS),
                wait=wait_fixed(0.2),
                retry=retry_if_exception_type(psycopg.errors.ObjectInUse),
                reraise=True,
            )(rename_both)
        except BaseException:
            connection.execute(limit.format(sql.Identifier(name), sql.Literal(-1)))
            raise
        if server.name != "warehouse":
            exchange.announce(server)
        connection.execute(limit.format(sql.Identifier(name), sql.Literal(-1)))
    if server.name != "warehouse":
        _reconnect_readers(cluster, replaced)


def _reconnect_readers(cluster: Cluster, replaced: str) -> None:
    """End the sessions on the replicas that still read the replaced database (PgBouncer keeps some)."""
    position = current_position(cluster.primary)
    for server in cluster.replicas:
        if not answers(server):
            continue
        wait_for_replay(server, position, REPLAY_SECONDS)
        execute(
            server,
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
            (replaced,),
            database="postgres",
        )


def _unused_names(server: Server) -> tuple[str, str]:
    """Return the names of a database to load and of the one that it replaces, of a second that no restore has used."""
    while True:
        now = f"{datetime.now(UTC):%Y%m%d_%H%M%S}"
        names = f"{server.database}_restore_{now}", f"{server.database}_replaced_{now}"
        used = "select 1 from pg_database where datname = any(%s)"
        if not fetch_all(server, used, (list(names),), database="postgres"):
            return names
        time.sleep(0.2)


def restore(runtime: Runtime, made: backup.Backup, server: Server) -> str:
    """Put a dump in place of a database. Returns the name under which the old database is kept.

    An older database kept by a restore before is dropped. Raises UserError with nothing changed.
    """
    settle(runtime)
    new, replaced = _unused_names(server)
    with journal.entered(runtime.settings, RESTORE, server=server.name, new=new, replaced=replaced):
        try:
            _restore(runtime, made, server, new, replaced)
        except BaseException:
            # Not after a kill, or when the server is gone: then the next `make up` does it.
            with contextlib.suppress(UserError, psycopg.Error):
                settle(runtime)
            raise
    return replaced


def _restore(runtime: Runtime, made: backup.Backup, server: Server, new: str, replaced: str) -> None:
    """Load a dump into a new database and put it in place of the present one."""
    with step(f"loaded into {new}, compared with the manifest"):
        load_dump(runtime.settings, made, server, new)
    with step(f"{server.database} swapped"):
        swap(runtime.cluster, server, new, replaced)
    runtime.provision()
    with server.connect("postgres", autocommit=True) as connection:
        _, kept = exchange.leftovers(server, exchange.limits(connection))
        _drop(connection, [name for name in kept if name != replaced], KEPT)


def _drop(connection: psycopg.Connection, names: Sequence[str], why: str) -> None:
    """Drop databases, whoever is in them, and say why."""
    for name in names:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
        err.print(f"dropped {name}, {why}")


def settle(runtime: Runtime) -> None:
    """Resume or undo a restore that was interrupted, by what is found on the servers; nothing when there was none.

    Before the exchange of the two databases it is undone, after it it is completed. The command's lock must be held:
    nobody works on what is found then.
    """
    cluster = runtime.cluster
    noted = journal.entries(runtime.settings).get(RESTORE, {}).get("server")
    for server in (cluster.primary, cluster.warehouse):
        for line in (reopened := exchange.reopen(server)):
            err.print(line)
        with server.connect("postgres", autocommit=True) as connection:
            loading, replaced = exchange.leftovers(server, exchange.limits(connection))
            _drop(connection, loading, "which a restore was loading that was interrupted")
            if (reopened or noted == server.name) and replaced and not loading:
                if server.name != "warehouse":
                    _reconnect_readers(cluster, replaced[-1])
                _drop(connection, replaced[:-1], KEPT)
    journal.remove(runtime.settings, RESTORE)


@app.command(name="restore")
def restore_command(
    file: Annotated[
        str, typer.Option("--file", metavar="backup_….sql.gz", help="A backup's path, or its name in the directory.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Do not ask.")] = False,
    without_manifest: Annotated[
        bool, typer.Option("--without-manifest", help="The file has none, and its SQL may run as the superuser.")
    ] = False,
) -> None:
    """Put a dump in place of its database, after checking it and asking. Example: make restore FILE=backup_….sql.gz"""
    if not file:
        raise UserError(
            "Which backup? `make backups` lists them. Example: make restore FILE=backup_operational_….sql.gz"
        )
    settings = load()
    made = backup.named(settings, file)
    if made.kind not in ("operational", "warehouse"):
        raise UserError(
            f"{made.path} is called neither backup_operational_… nor backup_warehouse_…, nor does a manifest say."
        )
    runtime = select_runtime(settings)[0]
    server = backup.database_of(runtime.cluster, made.kind)
    with step("the backup is read and checked"):
        rows = backup.verify(settings, made)
    if not made.manifest:
        confirm(
            f"{made.path} has no manifest beside it: nobody knows whether it is complete, or who made it. Its SQL runs "
            "as the superuser of the server.",
            "trust",
            without_manifest,
            otherwise="A script gives WITHOUT_MANIFEST=1 on make's command line, after a look at the file.",
        )
    present = rows_now(server)
    lines = [
        f"  {table}: {present[table]} rows now, {rows[table]} in the backup"
        for table in sorted(rows.keys() | present.keys())
        if rows[table] != present[table]
    ]
    confirm(
        f"This replaces database {server.database} at {server.host}:{server.port} by the backup of "
        f"{made.manifest.get('made_at', made.made_at)}:\n"
        + "\n".join(lines or ["  as many rows in each table"])
        + "\nWhat was written since is lost to the applications. The old database is kept beside it until the next "
        "restore.",
        "restore",
        force,
    )
    with exclusive(settings, "restore"), backup.directory(settings):
        runs.wait_for_run(runtime.cluster)
        replaced = restore(runtime, made, server)
    out.print(f"restored {server.database}; the old one is kept as {replaced}")
    if server.name != "warehouse":
        out.print(
            "The next run of the warehouse compares everything: make etl NOW=1\n"
            "(with MASS_DELETE=1 when the backup has less than half of a table's rows)"
        )
