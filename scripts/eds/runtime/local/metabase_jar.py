"""Metabase as a process of this machine, for the embedded runtime: what METABASE_JAR names, run by Java 21 or later."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from eds.base import programs
from eds.base.errors import UserError
from eds.base.settings import Settings, from_root

JAVA_MAJOR = 21
# In the environment of a Metabase that the platform started: the state directory to which it belongs.
MARK = "EDS_METABASE_OF"


def find_java() -> Path:
    """Java 21 or later: JAVA_HOME's, or the one on the PATH. Raises UserError that says what was found instead."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin/java") if home else shutil.which("java")
    wanted = f"METABASE_JAR is set, and Metabase runs on Java {JAVA_MAJOR} or later"
    hint = "Install it, name it in JAVA_HOME, or unset METABASE_JAR."
    if found is None:
        raise UserError(f"{wanted}: there is no java on the PATH. {hint}")
    answer = programs.run([found, "-version"], check=False, merge=True)
    version = re.search(r'version "(\d+)', answer.output)
    if version is None or int(version.group(1)) < JAVA_MAJOR:
        lines = (answer.output or answer.errors).strip().splitlines()
        raise UserError(f"{wanted}: {found} is {lines[0] if lines else 'no Java'}. {hint}")
    return Path(found)


def command(settings: Settings) -> list[str]:
    """Return the command that runs it. Raises UserError when the jar or Java is missing."""
    if settings.metabase_jar is None:
        raise UserError("METABASE_JAR is not set.")
    jar = from_root(settings.metabase_jar)
    if not jar.is_file():
        raise UserError(f"METABASE_JAR names {jar}, which is not there. Correct it, or unset it.")
    return [str(find_java()), "--add-opens", "java.base/java.nio=ALL-UNNAMED", "-jar", str(jar)]


def folder(settings: Settings) -> Path:
    """Return where it keeps its own database and plug-ins."""
    return settings.state / "metabase"


def environment(settings: Settings) -> dict[str, str]:
    """Return its settings, beside this process's environment."""
    return {
        MARK: str(settings.state),
        "MB_JETTY_HOST": settings.metabase_host,
        "MB_JETTY_PORT": str(settings.metabase_port),
        "MB_DB_TYPE": "h2",
        "MB_DB_FILE": str(folder(settings) / "metabase.db"),
        "MB_PLUGINS_DIR": str(folder(settings) / "plugins"),
        "MB_ANON_TRACKING_ENABLED": "false",
        "MB_CHECK_FOR_UPDATES": "false",
        "MB_LOAD_SAMPLE_CONTENT": "false",
    }
