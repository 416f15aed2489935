"""What dbt has read of the project when the image of the scheduler was built (eds.warehouse.image).

A container starts with an empty target directory. dbt would read the whole project twice in each: for the runs, and for
the documentation, whose variables differ. What it finds it compares with the project, and with the settings of its
profile, and reads only what is different.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from eds.base.settings import ROOT

PARSED = "partial_parse.msgpack"
IMAGE = ROOT / "parsed"


def begin_with_parsed(target: Path, kind: str) -> None:
    """Give a target directory what the image holds, unless it has its own or there is none. kind: runs or docs."""
    found = IMAGE / kind / PARSED
    if found.exists() and not (target / PARSED).exists():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, target / PARSED)
