"""Reads the dbt project once for all containers. Run when the image of the scheduler is built.

usage: python -m eds.warehouse.image
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from eds.base.settings import load
from eds.warehouse import dbt_docs
from eds.warehouse.dbt_parsed import IMAGE, PARSED


def main() -> None:
    """Keep what dbt reads of the project for the runs and for the documentation. Needs no server."""
    # There are no passwords yet; they are no part of what dbt compares.
    settings = load()
    with tempfile.TemporaryDirectory() as folder:
        for kind, variables in (("runs", "{}"), ("docs", dbt_docs.VARIABLES)):
            target = Path(folder) / kind
            dbt_docs.run(settings, ["parse"], target, variables=variables)
            (IMAGE / kind).mkdir(parents=True)
            shutil.copy(target / PARSED, IMAGE / kind / PARSED)


if __name__ == "__main__":
    main()
