"""Say what is wrong with a command line: expected, found, what to do, in the names that `make` has for the options."""

from __future__ import annotations

from typing import Any

import typer
from pydantic import ValidationError

# The base class of typer's BadParameter: any mistake in a command line.
UsageError: type[Exception] = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "UsageError")
_KINDS = {int: "a whole number", float: "a number"}


def make_name(flag: str) -> str:
    """Return what make calls an option: MASS_DELETE for --mass-delete."""
    return flag.removeprefix("--").replace("-", "_").upper()


def explain(error: Any) -> str:
    """Return a mistake in a command line (a UsageError) as a sentence; nothing when it was to show the help."""
    if not error.format_message():
        return ""
    parameter, cause = getattr(error, "param", None), error.__cause__
    if isinstance(cause, ValidationError) and parameter is not None:
        name, found = make_name(parameter.opts[0]), cause.errors()[0]["input"]
        kind = _KINDS.get(parameter.get_runtime_param().annotation)
        if kind:
            example = f" Example: {name}={parameter.metavar}" if parameter.metavar else ""
            return f"{name}={found}: expected {kind}{_bounds(parameter.min, parameter.max)}.{example}"
    program = error.ctx.command_path if error.ctx else "python -m eds"
    return f"{error.format_message()}\nAvailable commands: make help, or {program} --help"


def _bounds(least: float | None, greatest: float | None) -> str:
    if least is not None and greatest is not None:
        return f" from {least:,} to {greatest:,}"
    if least is not None:
        return f", {least:,} or more"
    return "" if greatest is None else f", at most {greatest:,}"
