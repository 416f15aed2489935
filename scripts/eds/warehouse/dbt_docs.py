"""The dbt project's own description: its manifest, and the lineage site that dbt makes of it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout

from eds.base import file_lock
from eds.base.console import log
from eds.base.errors import UserError
from eds.base.settings import ROOT, Settings
from eds.cluster.connections import Cluster
from eds.warehouse import runs
from eds.warehouse.dbt_parsed import begin_with_parsed

PROJECT = ("dbt_project.yml", "profiles.yml", "models", "macros", "seeds", "snapshots", "tests/sql")
STOP_SECONDS = 3.0
# The lineage shows where figures come from, not what is built after what.
VARIABLES = json.dumps({"build_order": False})


class CancelledError(UserError):
    """dbt was ended because this process is to end."""


def digest(paths: Iterable[Path], *more: str) -> str:
    """Return one short text for the content of files (folders: of all in them), and for further texts."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(f"{file.relative_to(ROOT)}\n".encode())
                found.update(file.read_bytes())
    for text in more:
        found.update(text.encode())
    return found.hexdigest()


def project_digest() -> str:
    """Return what the dbt project is made of."""
    return digest(ROOT / part for part in PROJECT)


def schema_digest(settings: Settings) -> str:
    """Return which tables and columns the warehouse has, and what it says of them, as one short text."""
    with Cluster(settings).connect_as_writer() as connection:
        row = connection.execute(
            "select md5(coalesce(string_agg(concat_ws(' ', class.oid::regclass, class.relkind, attname, atttypid, "
            "atttypmod, col_description(class.oid, attnum), obj_description(class.oid, 'pg_class')), ',' "
            "order by class.oid::regclass::text, attnum), '')) "
            "from pg_class as class inner join pg_attribute on attrelid = class.oid "
            "where attnum > 0 and not attisdropped and relkind in ('r', 'v', 'p', 'f') and relnamespace::regnamespace "
            "in (select oid from pg_namespace where nspname <> 'information_schema' and nspname !~ '^pg_')"
        ).fetchone()
    return str(row[0]) if row else ""


def run(
    settings: Settings,
    arguments: Sequence[str],
    target: Path,
    stopping: threading.Event | None = None,
    *,
    variables: str = VARIABLES,
) -> None:
    """Run a dbt command that builds nothing, with its files in `target`. Raises UserError with what it says."""
    process = subprocess.Popen(
        [
            str(runs.dbt_executable()),
            *("--quiet", "--no-use-colors", "--log-path", str(target)),
            *arguments,
            *("--project-dir", str(ROOT), "--target-path", str(target), "--vars", variables),
        ],
        env=os.environ | runs.dbt_environment(settings),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if stopping and stopping.is_set():
                    raise CancelledError(f"dbt {' '.join(arguments)} was cancelled") from None
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
    if process.returncode != 0:
        raise UserError(f"dbt {' '.join(arguments)} failed:\n{output.strip()}")


@contextmanager
def _folder(settings: Settings, stopping: threading.Event | None = None) -> Iterator[Path]:
    """Yield the folder of dbt's files for the documentation, for one process at a time.

    stopping: of a process that runs unattended, whose words go into its log.
    """
    folder = settings.state / "dbt-docs"
    folder.mkdir(parents=True, exist_ok=True)
    more: dict[str, Any] = {"say": _log_wait, "stopping": stopping} if stopping else {}
    with ExitStack() as held:
        try:
            held.enter_context(file_lock.hold(folder / "lock", "the documentation's files", **more))
        except Timeout:
            raise CancelledError("the documentation was cancelled") from None
        begin_with_parsed(folder, "docs")
        yield folder


def _log_wait(text: str) -> None:
    log("documentation", status="waiting", message=text)


def manifest(settings: Settings) -> Path:
    """Return the project's manifest.json, rebuilt when the project has changed. Needs no server."""
    with _folder(settings) as folder:
        stamp, wanted = folder / "parsed", project_digest()
        path = folder / "manifest.json"
        if not path.exists() or not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            run(settings, ["parse"], folder)
            stamp.write_text(wanted, encoding="utf-8")
        return path


def generate(settings: Settings, stopping: threading.Event | None = None) -> Path:
    """Make dbt's documentation: manifest.json, catalog.json and static_index.html. Returns the folder they are in.

    stopping: ends it early with CancelledError when it is set. Needs the warehouse.
    """
    with _folder(settings, stopping) as folder:
        wanted = project_digest()
        run(settings, ["docs", "generate", "--static"], folder, stopping)
        (folder / "parsed").write_text(wanted, encoding="utf-8")
        return folder
