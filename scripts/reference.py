"""Write the list of commands, from their own declarations: `make`'s targets and help, and the README's table.

usage: reference.py [--check]

Every command of `python -m eds` and `python -m bench` that is in one of GROUPS is a target of make; its options,
their examples and its text are those of the command's declaration. Targets that are no command (tests, lint) are
described in the Makefile, and taken from there. --check writes nothing, and fails when a file differs.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer
import typer.main
from typer.core import TyperArgument, TyperGroup, TyperOption

from bench import commands as bench_commands
from eds import cli
from eds.base.settings import Settings
from eds.base.usage import make_name

ROOT = Path(__file__).resolve().parents[1]
COMMANDS, README, MAKEFILE = ROOT / "scripts" / "commands.mk", ROOT / "README.md", ROOT / "Makefile"
GROUPS = ("Platform", "Warehouse", "Operations", "Dashboards and documentation", "Loan book", "SQL", "Development")
BEGIN, END = "<!-- commands: written by `make reference` -->", "<!-- end of commands -->"
# One target per server: its text, and a role of it.
SERVERS = {
    "primary": (
        "psql on the primary, as a role that reads; without a terminal, runs standard input's SQL",
        "app_user",
    ),
    "replica1": ("psql on replica 1", "readonly_user"),
    "replica2": ("psql on replica 2", "readonly_user"),
    "warehouse": ("psql on the warehouse", "etl_writer"),
    "recovered": ("psql on the cluster that make pitr left", "readonly_user"),
}
# Settings that somebody looks for at a command.
SETTINGS = {"metabase": "METABASE_HOST METABASE_PORT", "docs": "DOCS_PORT"}
# Former names of options, for one version.
FORMER_OPTIONS = {("logs", "LINES"): "LINES_OF_LOG", ("simulate", "SEED"): "SIMULATION_SEED"}
FORMER_SETTINGS = ("WITHOUT",)
OTHER_VARIABLES = ("EDS_ENV_FILE", "EDS_SECRETS_DIR", "CHROMIUM", "METABASE_TEST_COMMAND")


@dataclass(frozen=True)
class Option:
    """An option of a target. kind: values, switches, arguments or words (see the Makefile)."""

    name: str
    kind: str
    flag: str
    example: str


@dataclass(frozen=True)
class Target:
    """A target of make. recipe: the command that it runs; hidden: works, and is in no list."""

    name: str
    group: str
    text: str
    recipe: str
    options: Sequence[Option]
    shown: str
    hidden: bool = False


def sentence(docstring: str | None) -> str:
    """Return what a command does, as one line without its example and without the full stop."""
    text = re.split(r" Examples?: ", " ".join((docstring or "").split()))[0]
    return text.removesuffix(".")


def option(command: str, parameter: TyperArgument | TyperOption) -> Option:
    """Return a parameter of a command as an option of make. Its metavar is an example of a value."""
    if isinstance(parameter, TyperArgument):
        name, kind, flag = str(parameter.name).upper(), "words" if parameter.nargs == -1 else "arguments", ""
    else:
        flag = parameter.opts[0]
        name = make_name(flag)
        if parameter.is_flag:
            return Option(name, "switches", flag, "1")
        kind = "values"
    if not parameter.metavar:
        raise SystemExit(f"{command}: its option {name} needs a metavar, an example of a value")
    return Option(name, kind, flag, parameter.metavar)


def shown_options(name: str, options: Sequence[Option]) -> str:
    """Return the options and settings of a target as somebody would type them."""
    return " ".join([*(f"{each.name}={each.example}" for each in options), *SETTINGS.get(name, "").split()])


def commands_of(application: typer.Typer, program: str) -> Iterator[Target]:
    """Yield the targets that an application's commands make."""
    group = typer.main.get_command(application)
    panels = {
        each.name or typer.main.get_command_name(getattr(each.callback, "__name__", "")): each
        for each in _registered(application)
    }
    commands = group.commands if isinstance(group, TyperGroup) else {next(iter(panels)): group}
    for name, command in commands.items():
        panel = panels[name].rich_help_panel
        panel = panel if isinstance(panel, str) else ""
        former = name in cli.ops.FORMER_NAMES
        if panel not in GROUPS and not former:
            continue
        text = sentence(inspect.getdoc(panels[name].callback))
        # The server is in the target's name; what is hidden is for programs.
        parameters = [
            each for each in command.params if isinstance(each, (TyperArgument, TyperOption)) and not each.hidden
        ]
        options = [option(name, each) for each in parameters if each.name not in ("help", "server")]
        if name == "psql":
            for server, (words, role) in SERVERS.items():
                own = [replace(each, example=role) if each.name == "ROLE" else each for each in options]
                recipe = f"{program} psql {server}"
                yield Target(f"psql-{server}", panel, words, recipe, own, shown_options(name, own))
            continue
        recipe = f"{program} {name}" if len(commands) > 1 else program
        yield Target(name, panel, text, recipe, options, shown_options(name, options), former)


def _registered(application: typer.Typer) -> Iterator[typer.models.CommandInfo]:
    yield from application.registered_commands
    for group in application.registered_groups:
        if group.typer_instance:
            yield from _registered(group.typer_instance)


def other_targets() -> Iterator[Target]:
    """Yield the targets that the Makefile itself describes."""
    heading = ""
    for line in MAKEFILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("##@ "):
            heading = line.removeprefix("##@ ")
        elif heading and (found := re.match(r"([a-z0-9-]+):[^#=]*## (.*?)(?: ## (.*))?$", line)):
            yield Target(found[1], heading, found[2], "", (), found[3] or "")


def every_target() -> list[Target]:
    """Return all targets in the order of the lists."""
    targets = [
        *commands_of(cli.app, ".venv/bin/python -m eds"),
        *commands_of(bench_commands.app, ".venv/bin/python -m bench"),
        *other_targets(),
    ]
    return sorted(targets, key=lambda each: GROUPS.index(each.group) if each.group in GROUPS else len(GROUPS))


def commands_mk(targets: Sequence[Target]) -> str:
    """Return the Makefile's part about the commands."""
    secrets = Settings.secret_names()
    plain = [name.upper() for name in Settings.model_fields if name.upper() not in secrets]
    lines = [
        "# Written by `make reference` from the commands' declarations; `make lint` compares the two.",
        "# NAME:--flag, by kind: values, switches (1 or 0), arguments; words go where the recipe says.",
        f"settings := {' '.join([*plain, *FORMER_SETTINGS, *OTHER_VARIABLES])}",
        f"secrets := {' '.join(secrets)}",
    ]
    group = ""
    for target in targets:
        if not target.recipe:
            continue
        if target.group != group and not target.hidden:
            group = target.group
            lines += ["", f"##@ {group}"]
        elif target.hidden:
            lines += ["", "# a former name"]
        for kind in ("values", "switches", "arguments", "words"):
            named = [f"{each.name}:{each.flag}".rstrip(":") for each in target.options if each.kind == kind]
            named += [
                f"{former}:{each.flag}"
                for each in target.options
                if each.kind == kind and (former := FORMER_OPTIONS.get((target.name, each.name)))
            ]
            if named:
                lines.append(f"{target.name}.{kind} := {' '.join(named)}")
        words = "".join(f" $(call given,{each.name})" for each in target.options if each.kind == "words")
        # The first sentence says what it does; the README has the others.
        first = target.text.split(". ")[0]
        text = "" if target.hidden else f" ## {first}{' ## ' if target.shown else ''}{target.shown}"
        lines += [
            f".PHONY: {target.name}",
            f"{target.name}: venv{text}",
            f"\t@{target.recipe} $(call flags,{target.name}){words}",
        ]
    return "\n".join(lines) + "\n"


def readme_table(targets: Sequence[Target]) -> str:
    """Return the README's table of commands."""
    lines = ["| command | does | options |", "| --- | --- | --- |"]
    group = ""
    for target in targets:
        if target.hidden:
            continue
        if target.group != group:
            group = target.group
            lines.append(f"| **{group}** | | |")
        options = [f"`{each.name}={each.example}`" for each in target.options]
        options += [f"`{each}`" for each in SETTINGS.get(target.name, "").split()]
        shown = " ".join(options) or (f"`{target.shown}`" if target.shown else "")
        text, shown = (cell.replace("|", "\\|") for cell in (target.text, shown))
        lines.append(f"| `make {target.name}` | {text} | {shown} |")
    return "\n".join(lines)


def main() -> int:
    """Write the files, or with --check name those that differ. Returns the exit code."""
    targets = every_target()
    readme = README.read_text(encoding="utf-8")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = {
        COMMANDS: commands_mk(targets),
        README: f"{before}{BEGIN}\n{readme_table(targets)}\n{END}{after}",
    }
    different = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in different:
            print(f"{path.relative_to(ROOT)} differs from the commands' declarations: run `make reference`")
        return int(bool(different))
    for path in different:
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
