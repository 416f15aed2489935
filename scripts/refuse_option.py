"""Say why a variable or a target of make's command line is refused: what it may have been meant to be, what there is.

usage: refuse_option.py NAME TARGET...
       refuse_option.py --target NAME

Reads the lists of targets and options from commands.mk and the Makefile; needs nothing but Python, so that a fresh
machine refuses a typing error before it installs anything.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTS = re.compile(r"^(?:([a-z0-9-]+)\.(?:values|switches|arguments|words)|(settings|secrets)) := (.*)$", re.MULTILINE)
TARGETS = re.compile(r"^([a-z0-9-]+):(?!=)", re.MULTILINE)
# How alike two names must be (0 to 1); of names that the target does not take, it has to be plain which is meant.
LIKENESS, GREAT_LIKENESS = 0.6, 0.75


def read_options() -> dict[str, list[str]]:
    """Return the names that each target takes, and those of the settings and the secrets."""
    found: dict[str, list[str]] = {"settings": [], "secrets": []}
    for target, group, names in LISTS.findall(read_files()):
        found.setdefault(target or group, []).extend(name.partition(":")[0] for name in names.split())
    return found


def read_files() -> str:
    """Return the text of the two makefiles."""
    return "\n".join((ROOT / file).read_text(encoding="utf-8") for file in ("scripts/commands.mk", "Makefile"))


def explain_target(name: str, targets: list[str]) -> str:
    """Return one sentence about a target that there is not, without the full stop that make adds."""
    meant = [target for target in targets if target.startswith(f"{name.lower()}-") or target == name.lower()]
    meant = meant or difflib.get_close_matches(name.lower(), targets, 3, LIKENESS)
    hint = f"did you mean {' or '.join(meant)}? " if meant else ""
    return f"there is no make {name}: {hint}make alone lists what there is"


def explain(name: str, targets: list[str], options: dict[str, list[str]]) -> str:
    """Return one sentence, without the full stop that make adds."""
    command = f"make {' '.join(targets)}"
    taken = [option for target in targets for option in options.get(target, [])]
    takes = f"{command} takes {' '.join(taken) or 'no option of its own'}"
    if name in options["secrets"]:
        return f"{name}: a secret does not belong on a command line, where others can read it; .env holds it"
    if name.upper() in taken or name.upper() in options["settings"]:
        return f"{name}: did you mean {name.upper()}? {takes}"
    others = [f"make {target}" for target, names in options.items() if name.upper() in names]
    if others:
        return f"{name} is an option of {', '.join(others)}, not of {command}; {takes}"
    everything = sorted({each for names in options.values() for each in names})
    for candidates, likeness in ((taken, LIKENESS), (options["settings"], LIKENESS), (everything, GREAT_LIKENESS)):
        if close := difflib.get_close_matches(name.upper(), candidates, 1, likeness):
            return f"{name}: did you mean {close[0]}? {takes}"
    return f"{name}: there is no such option; {takes}, and the settings of .env.example"


if __name__ == "__main__":
    there_are = TARGETS.findall(read_files())
    if unknown := [target for target in sys.argv[2:] if target not in there_are]:
        print(explain_target(unknown[0], there_are))
    else:
        print(explain(sys.argv[1], sys.argv[2:], read_options()))
