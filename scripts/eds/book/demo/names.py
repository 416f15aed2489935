"""What the demo book is made of, as names.yml has it: names, branches, and how often each kind of row occurs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eds.base.errors import UserError
from eds.base.settings import ROOT

BRANCHES_FILE = ROOT / "seeds" / "branches.csv"
_DATA: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Country:
    """Names of a country's people, and its telephone code."""

    name: str
    dial_code: str
    first_names: tuple[str, ...]
    family_names: tuple[str, ...]


# In the order of the numbers 1, 2, 3 … that the statements use.
SEGMENTS = tuple(_DATA["segments"])
SEGMENT_WEIGHTS = tuple(_DATA["segments"].values())
METHODS = tuple(_DATA["methods"]["retail"])
METHOD_WEIGHTS = {segment: tuple(weights.values()) for segment, weights in _DATA["methods"].items()}
PRODUCT_WEIGHTS: dict[str, dict[str, float]] = _DATA["products"]
WEEKLY_WEIGHTS: dict[str, float] = _DATA["weekly"]
BASE_RATES: dict[str, float] = _DATA["base_rates"]
CITY_WEIGHTS: dict[str, float] = _DATA["cities"]
COUNTRIES = tuple(
    Country(each["name"], each["dial_code"], tuple(each["first_names"].split()), tuple(each["family_names"].split()))
    for each in _DATA["countries"]
)
TRADES, TRADE_ENDINGS, COMPANY_NAMES, INDUSTRIES, COMPANY_ENDINGS = (
    tuple(_DATA[name]) for name in ("trades", "trade_endings", "company_names", "industries", "company_endings")
)


@dataclass(frozen=True)
class Branch:
    """One branch of the lender, as seeds/branches.csv has it."""

    branch_code: str
    branch_name: str
    city: str
    region: str
    country: str


def read_branches() -> list[Branch]:
    """Return the lender's branches, in the order of the file. Raises UserError when the file cannot be used."""
    columns = list(Branch.__dataclass_fields__)
    try:
        with BRANCHES_FILE.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != columns:
                raise UserError(
                    f"Expected the columns {', '.join(columns)} in {BRANCHES_FILE}, found "
                    f"{', '.join(reader.fieldnames or [])}. Correct the file's first line."
                )
            branches = [Branch(**row) for row in reader]
    except OSError as error:
        raise UserError(
            f"Expected the list of branches in {BRANCHES_FILE}, found: {error.strerror}. Restore the file."
        ) from error
    known = {country.name for country in COUNTRIES}
    strange = sorted({branch.country for branch in branches} - known)
    if strange or not branches:
        raise UserError(
            f"Expected branches in {', '.join(sorted(known))} in {BRANCHES_FILE}, found "
            f"{', '.join(strange) or 'none'}. Correct the file, or add the country's names to "
            "scripts/eds/book/demo/names.yml."
        )
    return branches
