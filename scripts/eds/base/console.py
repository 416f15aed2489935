"""What a person sees: colour and moving progress on a terminal, plain lines in logs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from eds.base.errors import UserError

# A log has no width: wide enough that a table's row stays on one line.
LOG_WIDTH = 180

out = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else LOG_WIDTH)


def confirm(text: str, word: str, force: bool) -> None:
    """Say what will go and ask for a word. Raises UserError when it is not given. force: a script has decided."""
    out.print(text, markup=False)
    if force:
        return
    if not sys.stdin.isatty():
        raise UserError("Not done: there is no terminal to ask at. Scripts say FORCE=1.")
    if typer.prompt(f"Type {word} to continue", default="", show_default=False) != word:
        raise UserError("Not done: the word was not typed.")


@contextmanager
def step(label: str) -> Iterator[None]:
    """Show a piece of work without a measurable length: a spinner on a terminal, one line in a log."""
    if err.is_terminal:
        with err.status(label):
            yield
        err.print(f"[green]✓[/] {label}")
    else:
        yield
        err.print(f"ok: {label}")


@contextmanager
def bar(label: str, total: float | None = None) -> Iterator[Callable[[float, str | None], None]]:
    """Show a piece of work with a length. Yields `advance(amount, new_label)`.

    total: the number of units, or None when it is not known beforehand.
    """
    if not err.is_terminal:
        err.print(f"{label} …")

        def ignore(amount: float, new_label: str | None = None) -> None:
            pass

        yield ignore
        err.print(f"ok: {label}")
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
    ) as progress:
        task = progress.add_task(label, total=total)

        def advance(amount: float, new_label: str | None = None) -> None:
            progress.update(task, advance=amount, description=new_label or label)

        yield advance
