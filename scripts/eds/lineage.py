"""The dbt project's own description: its manifest, and the lineage site that dbt makes of it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from eds import etl
from eds.errors import UserError
from eds.settings import ROOT, Settings

PROJECT = ("dbt_project.yml", "profiles.yml", "models", "macros", "seeds", "snapshots", "tests/sql")


def digest(paths: Iterable[Path], *more: str) -> str:
    """One short text for the content of files (folders: of all in them), and for further texts."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found.update(f"{file.relative_to(ROOT)}\n".encode())
                found.update(file.read_bytes())
    for text in more:
        found.update(text.encode())
    return found.hexdigest()


def project_digest() -> str:
    """What the dbt project is made of."""
    return digest(ROOT / part for part in PROJECT)


def run_dbt(settings: Settings, arguments: Sequence[str], target: Path) -> None:
    """Run a dbt command that builds nothing, with its files in `target`. Raises UserError with what it says."""
    command = [str(etl.dbt_executable()), "--quiet", "--no-use-colors", "--log-path", str(target), *arguments]
    done = subprocess.run(
        [*command, "--project-dir", str(ROOT), "--target-path", str(target)],
        env=os.environ | etl.dbt_environment(settings),
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise UserError(f"dbt {' '.join(arguments)} failed:\n{(done.stdout + done.stderr).strip()}")


def manifest(settings: Settings) -> Path:
    """The project's manifest.json, made anew when the project has changed. Needs no server."""
    folder = settings.state / "dbt-docs"
    stamp, wanted = folder / "parsed", project_digest()
    path = folder / "manifest.json"
    if not path.exists() or not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        run_dbt(settings, ["parse"], folder)
        stamp.write_text(wanted, encoding="utf-8")
    return path
