"""Runs that failed before dbt could record them: they are recorded here, so that everybody hears of them.

dbt reads the whole project before anything of it runs, and records nothing when it cannot.
"""

from __future__ import annotations

import os
from pathlib import Path

import psycopg

from eds.base.errors import UserError
from eds.base.programs import run
from eds.base.settings import ROOT, Settings
from eds.cluster.connections import Cluster
from eds.warehouse import runs
from eds.warehouse.row_values import without_row_values

PARSE_SECONDS = 120.0
# So many lines of dbt's output are recorded.
LINES = 4


def record(cluster: Cluster, who: str, trigger: str) -> bool:
    """Record the run that `who` tried to start as failed, with the reason, unless there is a record of it already.

    Returns whether there was none. A start that was refused, because another run was active, is no failure.
    """
    try:
        # dbt reads the project between the two statements: no transaction stays open meanwhile.
        with cluster.connect_as_writer(autocommit=True) as connection:
            known = connection.execute(
                "select exists (select from audit.etl_runs where started_by = %(who)s) "
                "or exists (select from audit.refused_starts where started_by = %(who)s)",
                {"who": who},
            ).fetchone()
            if known == (True,):
                return False
            connection.execute(
                "insert into audit.etl_runs "
                "(run_finished_at, status, error_message, run_trigger, started_by, command, dbt_invocation_id) "
                "values (clock_timestamp(), 'failed', %s, %s, %s, 'dbt build', %s)",
                (reason(cluster.settings), trigger, who, who),
            )
            return True
    except (UserError, psycopg.Error):
        # The warehouse is away, or has no record yet: whoever asks for the outcome finds that.
        return False


def reason(settings: Settings) -> str:
    """Return why dbt cannot read the project, in a few lines; that it can, when it can."""
    for path in sorted((ROOT / "seeds").glob("*.csv")):
        if problem := _not_utf8(path):
            return problem
    environment = os.environ | runs.dbt_environment(settings)
    done = run(runs.parse_command(settings), check=False, cwd=ROOT, env=environment, merge=True, timeout=PARSE_SECONDS)
    if done.ok:
        return "dbt ended before the run began, although it can read the project: its output says why (make etl NOW=1)"
    lines = [line.rstrip() for line in (done.output or done.errors).splitlines() if line.strip()]
    # Behind a traceback, its last line is what went wrong.
    is_traceback = any(line.lstrip().startswith("Traceback ") for line in lines)
    said = lines[-1:] if is_traceback else lines[:LINES]
    return without_row_values("dbt cannot read the project: " + "\n".join(said))


def _not_utf8(path: Path) -> str | None:
    """Return what is wrong with a text file that is not UTF-8, None when it is."""
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return (
            f"{path.relative_to(ROOT)}, line {line}: expected UTF-8, found the byte 0x{content[error.start]:02x}. "
            "Save the file as UTF-8 (in Excel: CSV UTF-8)"
        )
    return None
