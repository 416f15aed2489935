"""What a database administrator does with the platform: look, check, back up, recover, fail over.

Each area is a module with its own commands (`app`), which the command line includes. The servers are
reached by host and port (`eds.cluster.connections`), so the operations do not care where a server runs. What needs
a server's files or its process goes through the runtime (`eds.runtime.member.Runtime`): the WAL archive, client
programs, a recovery beside the primary, the steps of a failover.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer

from eds.base.console import err
from eds.ops import (
    backup,
    concurrency,
    drill,
    failover,
    health,
    pitr,
    replication,
    restore,
    rotate,
    service,
    verify,
    wal,
)

# Former names, for one version.
FORMER_NAMES = {"lost": "failover-diff", "rotate": "rotate-password"}


def _under_former_name(command: Callable[..., Any], former: str, name: str) -> Callable[..., Any]:
    """Return the same command with a notice of its new name in front."""

    @functools.wraps(command)
    def renamed(*arguments: Any, **options: Any) -> Any:
        err.print(f"make {former} is now make {name}; the next version removes the former name")
        return command(*arguments, **options)

    return renamed


app = typer.Typer()
for module in (
    verify,
    health,
    replication,
    backup,
    restore,
    wal,
    pitr,
    drill,
    failover,
    concurrency,
    rotate,
    service,
):
    for registered in module.app.registered_commands:
        registered.rich_help_panel = "Operations"
    app.add_typer(module.app)
    for former, name in FORMER_NAMES.items():
        for registered in module.app.registered_commands:
            if registered.name == name and registered.callback:
                app.command(former, hidden=True)(_under_former_name(registered.callback, former, name))
