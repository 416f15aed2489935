"""What a person sees: colour and moving progress on a terminal, plain lines in logs."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from eds.base.errors import UserError

# A log has no width: make it wide enough for a table's row to stay on one line.
LOG_WIDTH = 180

out = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else LOG_WIDTH)


class _Output(io.TextIOWrapper):
    """Standard output that goes nowhere once its reader has gone."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._go_nowhere()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._go_nowhere()

    def _go_nowhere(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()


def outlive_the_reader() -> None:
    """Let a command go on when nobody reads its output any more (`make health | head -1`): its exit code is its own."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        encoding, errors, is_immediate = sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering
        sys.stdout = _Output(sys.stdout.detach(), encoding, errors, line_buffering=is_immediate)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")]


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool, as_csv: bool) -> bool:
    """Print rows for a program. Returns whether either form was asked for; both at once raise UserError.

    rows: with the same keys. Times and the like are written as text.
    """
    if as_json and as_csv:
        raise UserError("JSON and CSV are two forms of the same: ask for one of them.")
    if as_json:
        print(json.dumps(list(rows), default=str))
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        if rows:
            writer.writeheader()
        writer.writerows(rows)
    return as_json or as_csv


def confirm(
    text: str, word: str, force: bool, otherwise: str = "A script gives FORCE=1 on make's command line."
) -> None:
    """Show what will be destroyed and ask for a word. Raises UserError when it is not given.

    force: a script has decided. otherwise: what a script can do, in the error.
    """
    out.print(text, markup=False)
    if force:
        return
    if not sys.stdin.isatty():
        raise UserError(f"Not done: there is no terminal to ask at. {otherwise}")
    if typer.prompt(f"Type {word} to continue", default="", show_default=False) != word:
        raise UserError("Not done: the word was not typed.")


def done(label: str) -> None:
    """Show that a piece of work is done."""
    if err.is_terminal:
        err.print(f"[green]✓[/] {escape(label)}")
    else:
        err.print(f"ok: {label}", markup=False)


@contextmanager
def step(label: str) -> Iterator[None]:
    """Show a piece of work without a measurable length: a spinner on a terminal, one line in a log."""
    if err.is_terminal:
        with err.status(escape(label)):
            yield
    else:
        yield
    done(label)


@contextmanager
def bar(label: str, total: float | None = None) -> Iterator[Callable[..., None]]:
    """Show a piece of work with a length. Yields `advance(amount, new_label=None, total=None)`.

    total: the number of units, or None when it is not known beforehand.
    """
    if not err.is_terminal:
        err.print(f"{label} …", markup=False)

        def ignore(amount: float, new_label: str | None = None, total: float | None = None) -> None:
            pass

        yield ignore
        done(label)
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
    ) as progress:
        task = progress.add_task(label, total=total)

        def advance(amount: float, new_label: str | None = None, total: float | None = None) -> None:
            progress.update(task, advance=amount, description=new_label or label, total=total)

        yield advance


def age(since: datetime | None) -> str:
    """Return how long ago something was; None: it never was."""
    if since is None:
        return "never"
    seconds = max((datetime.now(UTC) - since).total_seconds(), 0)
    units = (("days", 86400), ("hours", 3600), ("minutes", 60))
    unit, length = next(((unit, length) for unit, length in units if seconds >= 2 * length), ("seconds", 1))
    return f"{seconds / length:.0f} {unit} ago"


def log(event: str, **fields: Any) -> None:
    """Print an event as one line of JSON on standard output: the log of a process that runs unattended."""
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    # Write the line in one call: dbt's threads write lines too.
    sys.stdout.write(json.dumps(record, default=str) + "\n")
    sys.stdout.flush()
