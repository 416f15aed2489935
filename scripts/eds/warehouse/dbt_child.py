"""dbt in children of a warm process.

The parent imports dbt, reads the project once and compiles its macros. Each run is a child forked from it, which finds
all that in memory: it starts in a fraction of the time of a new process, and a crash or a leak of a run is gone with
the child. The parent has one thread, so forking it is safe.
"""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from eds.base.console import log
from eds.base.settings import ROOT, Settings
from eds.warehouse import runs
from eds.warehouse.dbt_parsed import begin_with_parsed
from eds.warehouse.row_values import without_row_values


def dbt_arguments(
    settings: Settings, *command: str, project: Path = ROOT, target_path: Path | None = None
) -> list[str]:
    """Return dbt's arguments for a command that runs unattended. target_path: the base of its target directory.

    dbt itself writes no log: what goes wrong is reported by `log`, and the record of the run (audit.etl_runs and
    audit.model_runs) has each node's time and message. Its own logs would cost a tenth of a run without a change.
    """
    variables = yaml.safe_load(command[command.index("--vars") + 1]) if "--vars" in command else None
    target = runs.target_directory(settings, variables, base=target_path)
    return [
        *("--log-level", "none", "--log-level-file", "none", "--log-path", str(settings.state / "dbt-logs")),
        # dbt's static parser is a compiled library with threads of its own: used before a fork, it hangs after it.
        *("--no-use-colors", "--no-static-parser", "--no-write-json", *command),
        *("--project-dir", str(project), "--profiles-dir", str(project)),
        *("--target-path", str(target)),
    ]


def warm_up(settings: Settings, *, project: Path = ROOT, target_path: Path | None = None) -> None:
    """Import dbt into this process, read the project and compile its macros, so that each child finds them in memory.

    A project that cannot be read is no error here: the run that follows says what is wrong with it.
    """
    with _environment(runs.dbt_environment(settings)):
        # Importing it would already read a .env file, which that environment forbids.
        from dbt.adapters.postgres import connections  # noqa: F401
        from dbt.cli.main import dbtRunner
        from dbt.task import build  # noqa: F401

        from eds.warehouse.dbt_results import keep_constants
        from eds.warehouse.dbt_templates import compile_project, find_macros_quickly, keep_compiled

        keep_compiled()
        find_macros_quickly()
        keep_constants()
        begin_with_parsed(runs.target_directory(settings, base=target_path), "runs")
        arguments = dbt_arguments(settings, "parse", project=project, target_path=target_path)
        # Reading unit tests uses dbt's static parser whatever its options say, so a child does it. This process reads
        # what the child has written, as every run will, and compiles the readers for that.
        child = multiprocessing.get_context("fork").Process(target=_parse, args=(arguments,))
        child.start()
        child.join()
        if child.exitcode == 0 and (parsed := dbtRunner().invoke(arguments)).success:
            manifest = parsed.result
            compile_project(manifest)
            # A class compiles what turns its objects into dictionaries when it is first asked to: a tenth of a run
            # without a change.
            for node in (*manifest.nodes.values(), *manifest.sources.values(), *manifest.exposures.values()):
                node.to_dict(omit_none=True)
            del manifest, parsed
        # dbt asks who has called it, for which Python makes a list of all modules the first time.
        inspect.getmodule(sys._getframe())
    gc.collect()
    # Keep the garbage collector of the children from visiting, and so copying, what exists here.
    gc.freeze()


def _parse(arguments: list[str]) -> None:
    """In a child: read the project and exit with 0 when it can be read."""
    from dbt.cli.main import dbtRunner

    sys.exit(0 if dbtRunner().invoke(arguments).success else 1)


def spawn_dbt(arguments: Sequence[str], environment: dict[str, str]) -> multiprocessing.process.BaseProcess:
    """Start dbt in a child forked from this process. arguments: dbt's own. Returns the started child."""
    child = multiprocessing.get_context("fork").Process(target=_run_dbt, args=(list(arguments), environment))
    child.start()
    return child


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set these environment variables, for a while."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _say(message: Any) -> None:
    """Write an event of dbt into our log when it is an error or a warning."""
    if message.info.level in ("error", "warn"):
        log("dbt", level=message.info.level, message=without_row_values(message.info.msg).strip())


def _run_dbt(arguments: Sequence[str], environment: dict[str, str]) -> None:
    """In the child: run dbt and exit with its code."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    os.environ.update(environment)
    # dbt's locks are counted by a tracker process, which would write a complaint about them between our JSON lines.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    from dbt.cli.main import dbtRunner

    from eds.warehouse.dbt_connections import keep_connections
    from eds.warehouse.dbt_events import drop_unseen_events
    from eds.warehouse.dbt_results import write_no_sql

    keep_connections()
    drop_unseen_events()
    if "compile" not in arguments:
        write_no_sql()
    try:
        result = dbtRunner(callbacks=[_say]).invoke(list(arguments))
        # The work is done: a request to stop is fulfilled anyway.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        os._exit(130)
    if result.exception is not None:
        log("dbt", level="error", message=without_row_values(str(result.exception)).strip())
    # Locks that dbt made go with its objects, not with the process.
    success = result.success
    del result
    gc.collect()
    sys.exit(0 if success else 1)
