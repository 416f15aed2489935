"""What a database administrator does with the platform: look, check, back up, recover, fail over.

Each area is a module with its own commands (`app`), which the command line takes in as a whole. The servers are reached
by host and port (`eds.db.servers`), so the operations do not care where a server runs. What needs a server's data
directory or its process goes through the runtime, which must offer:

- `primary`, `replicas`: which member of the cluster takes the writes, and the others
- `states()`: the services and whether they run
- `home`, `archives()`: where data, logs and the WAL archives lie, for programs of this machine
- `run(command)`, `bindir`: run a program of PostgreSQL as the servers' account
- `up_primary()`, `up_replica(name)`, `up_pgbouncer()`, `server_pid(name)`, `stop_server(name, mode)`: start and stop
- `promote(name)`, `repoint(name)`, `rejoin(name)`, `commits_beyond(name, lsn)`: failover
- `side_cluster(...)`, `install_primary(directory)`: point-in-time recovery
"""

from __future__ import annotations

import typer

from eds.ops import backup, concurrency, failover, pitr, replication, restore, rotate, verify, wal

app = typer.Typer()
for module in (verify, replication, backup, restore, wal, pitr, failover, concurrency, rotate):
    app.add_typer(module.app)
