"""What dbt keeps of statements and answers: no copies in files, and constants that are made once.

In a run without a change, dbt spends a tenth of its time on writing the SQL of each model and test into its target
directory, where nobody looks for that of an unattended run (`dbt compile` writes the same), and a twentieth on the
constants for dates in words, which it makes again for each answer whose types it guesses. Another thirtieth is spent on
the name of the module that declares the flags of an adapter, which is looked for in the stack for each flag.
"""

from __future__ import annotations

from functools import cache

import parsedatetime
from dbt.contracts.graph.nodes import ParsedNode
from dbt_common.behavior_flags import BehaviorFlagRendered


def _write_nothing(node: ParsedNode, project_root: str, compiled_path: str, compiled_code: str) -> None:
    """Take the place of what writes the SQL of a node into a file."""


def write_no_sql() -> None:
    """Let dbt in this process write no SQL into files."""
    setattr(ParsedNode, "write_node", _write_nothing)  # noqa: B010 - mypy lets no method be assigned


def keep_constants() -> None:
    """Let dbt in this process, and in children forked from it, make these constants only once."""
    if not hasattr(parsedatetime.Constants, "cache_info"):
        setattr(parsedatetime, "Constants", cache(parsedatetime.Constants))  # noqa: B010
    parsedatetime.Constants(localeID=None)
    if not hasattr(BehaviorFlagRendered._default_source, "cache_info"):
        name = staticmethod(cache(BehaviorFlagRendered._default_source))
        setattr(BehaviorFlagRendered, "_default_source", name)  # noqa: B010
