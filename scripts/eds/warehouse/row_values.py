"""Messages of PostgreSQL without the values of rows: the rule of the dbt project, for what does not pass through it.

The record of the runs gets its messages from the project itself, whoever starts dbt (macros/run/finish_run.sql).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from eds.base.settings import ROOT

RULE = ROOT / "macros" / "run" / "without_row_values.sql"


@cache
def _rule() -> Any:
    # Only processes that run dbt, which has loaded it, get messages of its nodes.
    from jinja2 import Environment

    template = Environment().from_string(RULE.read_text(encoding="utf-8"), globals={"modules": {"re": re}})
    return getattr(template.module, RULE.stem)


def without_row_values(message: str) -> str:
    """Return a message of dbt or PostgreSQL without the values of rows that it quotes."""
    return str(_rule()(message))
