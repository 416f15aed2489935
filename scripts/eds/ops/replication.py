"""Replication: positions, lag, slots, and the WAL that is kept for the replicas."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from eds.base.console import AsCsv, AsJson, out, print_rows
from eds.base.disk import size
from eds.base.settings import load
from eds.cluster.connections import Cluster
from eds.cluster.queries import fetch_dicts

app = typer.Typer()

# A replica that is further behind than this (bytes of WAL) is reported.
MOST_LAG_BYTES = 64 * 1024 * 1024

_STREAMS = """
    select application_name, host(client_addr) || ':' || client_port as address, state, sync_state,
        sent_lsn::text, write_lsn::text, flush_lsn::text, replay_lsn::text,
        pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint as lag_bytes,
        round(extract(epoch from replay_lag)::numeric, 3)::float as lag_seconds
    from pg_stat_replication
    order by application_name
"""
_SLOTS = """
    select slot_name, slot_type, active, wal_status, restart_lsn::text,
        pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint as kept_bytes,
        safe_wal_size::bigint as bytes_until_lost
    from pg_replication_slots
    order by slot_name
"""
_WAL = "select count(*) as segments, coalesce(sum(size), 0)::bigint as bytes from pg_ls_waldir()"


def status(cluster: Cluster) -> dict[str, Any]:
    """Return replication as the primary sees it. Bytes are bytes of WAL, times are seconds."""
    primary = cluster.primary
    standby_names = fetch_dicts(primary, "select current_setting('synchronous_standby_names') as names")[0]["names"]
    return {
        "primary": primary.name,
        "synchronous": standby_names,
        "expected": list(cluster.replica_names),
        "replicas": fetch_dicts(primary, _STREAMS),
        "slots": fetch_dicts(primary, _SLOTS),
        "wal": fetch_dicts(primary, _WAL)[0],
    }


def missing(found: dict[str, Any]) -> list[str]:
    """Return the replicas that should stream and do not."""
    streaming = {stream["application_name"] for stream in found["replicas"] if stream["state"] == "streaming"}
    return [name for name in found["expected"] if name not in streaming]


@app.command(name="replication")
def replication_command(as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """Show how the replicas follow the primary: positions, lag, slots, WAL kept.

    Exit code 1 when one does not stream.
    """
    found = status(Cluster(load()))
    if as_json and not as_csv:
        print(json.dumps(found))
    elif not print_rows(found["replicas"], as_json=as_json, as_csv=as_csv):
        _show(found)
    raise typer.Exit(1 if missing(found) else 0)


def _show(found: dict[str, Any]) -> None:
    streams = Table(
        title=f"Followers of the primary ({found['primary']}), synchronous: {found['synchronous'] or 'off'}"
    )
    for name in ("application", "address", "state", "sent", "replayed", "lag", "lag (s)", "sync"):
        streams.add_column(name, justify="right" if name.startswith("lag") else "left")
    for stream in found["replicas"]:
        streams.add_row(
            # Any standby, such as somebody's copy, chooses its own name.
            escape(stream["application_name"]),
            stream["address"],
            f"[{'green' if stream['state'] == 'streaming' else 'yellow'}]{stream['state']}[/]",
            stream["sent_lsn"],
            stream["replay_lsn"],
            size(stream["lag_bytes"]),
            # PostgreSQL forgets it when a replica has been up to date for a while.
            "" if stream["lag_seconds"] is None else f"{stream['lag_seconds']:.3f}",
            stream["sync_state"],
        )
    out.print(streams)
    slots = Table(title=f"Slots; {found['wal']['segments']} WAL segments kept, {size(found['wal']['bytes'])}")
    for name in ("slot", "active", "WAL", "kept from", "kept", "until lost"):
        slots.add_column(name, justify="right" if name in ("kept", "until lost") else "left")
    for slot in found["slots"]:
        slots.add_row(
            slot["slot_name"],
            "[green]yes[/]" if slot["active"] else "[red]no[/]",
            slot["wal_status"],
            slot["restart_lsn"],
            size(slot["kept_bytes"]),
            size(slot["bytes_until_lost"]),
        )
    out.print(slots)
    if away := missing(found):
        out.print(f"[red]not streaming: {', '.join(away)}[/]; `make up` repairs it")
