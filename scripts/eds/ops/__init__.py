"""What a database administrator does with the platform: look, check, back up, recover, fail over.

Each area is a module with its own commands (`app`), which the command line takes in as a whole. The servers are
reached by host and port (`eds.cluster.connections`), so the operations do not care where a server runs. What needs
a server's files or its process goes through the runtime (`eds.runtime.choice.Runtime`): the WAL archive, client
programs, a recovery beside the primary, the steps of a failover.
"""

from __future__ import annotations

import typer

from eds.ops import backup, concurrency, failover, pitr, replication, restore, rotate, verify, wal

app = typer.Typer()
for module in (verify, replication, backup, restore, wal, pitr, failover, concurrency, rotate):
    app.add_typer(module.app)
