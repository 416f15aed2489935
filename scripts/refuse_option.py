"""Say why a variable of make's command line is refused: what it may have been meant to be, and what there is.

usage: refuse_option.py NAME TARGET...

Reads the lists of options from commands.mk and the Makefile; needs nothing but Python, so that a fresh machine refuses
a typing error before it installs anything.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTS = re.compile(r"^(?:([a-z0-9-]+)\.(?:values|switches|arguments|words)|(settings|secrets)) := (.*)$", re.MULTILINE)
# How alike two names must be (0 to 1).
LIKENESS = 0.6


def read_options() -> dict[str, list[str]]:
    """Return the names that each target takes, and those of the settings and the secrets."""
    found: dict[str, list[str]] = {"settings": [], "secrets": []}
    for file in ("scripts/commands.mk", "Makefile"):
        for target, group, names in LISTS.findall((ROOT / file).read_text(encoding="utf-8")):
            found.setdefault(target or group, []).extend(name.partition(":")[0] for name in names.split())
    return found


def explain(name: str, targets: list[str], options: dict[str, list[str]]) -> str:
    """One sentence, without the full stop that make adds."""
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
    for candidates in (taken, options["settings"], everything):
        if close := difflib.get_close_matches(name.upper(), candidates, 1, LIKENESS):
            return f"{name}: did you mean {close[0]}? {takes}"
    return f"{name}: there is no such option; {takes}, and the settings of .env.example"


if __name__ == "__main__":
    print(explain(sys.argv[1], sys.argv[2:], read_options()))
