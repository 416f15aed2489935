"""Who reaches whom, tried from inside: a process in each container's own network opens connections."""

from __future__ import annotations

import json
import time

import pytest

from .conftest import Stack, docker

PORTS = {
    "primary": 5432,
    "replica1": 5432,
    "replica2": 5432,
    "warehouse": 5432,
    "pgbouncer": 6432,
    "metabase": 3000,
    "pgadmin": 5050,
    "docs": 8080,
}
OLTP = {"primary", "replica1", "replica2"}
# From each container, what it reaches; whatever is not here, it must not.
REACHES = {
    "primary": {"replica1", "replica2", "warehouse", "pgbouncer", "pgadmin"},
    "replica1": {"primary", "replica2", "warehouse", "pgbouncer", "pgadmin"},
    "replica2": {"primary", "replica1", "warehouse", "pgbouncer", "pgadmin"},
    "warehouse": {*OLTP, "metabase", "pgadmin"},
    "pgbouncer": OLTP,
    "scheduler": {"warehouse", "metabase"},
    "metabase": {"warehouse"},
    "pgadmin": {*OLTP, "warehouse"},
    "docs": set(),
}
TRY = """
import concurrent.futures, json, socket, sys
def reaches(host, port):
    try:
        socket.create_connection((host, port), 1.5).close()
        return True
    except OSError:
        return False
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(json.dumps(list(pool.map(lambda place: reaches(*place), json.loads(sys.argv[1])))))
"""


def tried(stack: Stack, source: str, places: list[tuple[str, int]]) -> list[bool]:
    """Try to connect to each place from the network of a container."""
    output = docker(
        *("run", "--rm", "--network", f"container:{stack.container(source)}", "python:3.11-slim-bookworm"),
        *("python", "-c", TRY, json.dumps(places)),
    )
    answers: list[bool] = json.loads(output)
    return answers


def addresses(stack: Stack, name: str) -> list[str]:
    networks = stack.inspect(name)["NetworkSettings"]["Networks"]
    return [network["IPAddress"] for network in networks.values() if network["IPAddress"]]


@pytest.mark.parametrize("source", REACHES)
def test_network(stack: Stack, source: str) -> None:
    running = stack.runtime.services
    if source not in running:
        pytest.skip(f"no image of {source} on this machine")
    others = set(running) & set(PORTS) - {source}
    must = sorted(REACHES[source] & others)
    must_not = sorted(others - REACHES[source])
    reached = dict(zip(must, tried(stack, source, [(name, PORTS[name]) for name in must]), strict=True))
    assert reached == dict.fromkeys(must, True)
    # Neither by name, nor by any address of the other, nor by the port that is published for this machine.
    forbidden = [(name, PORTS[name]) for name in must_not]
    forbidden += [(address, PORTS[name]) for name in must_not for address in addresses(stack, name)]
    own = stack.inspect(source)["NetworkSettings"]["Networks"].values()
    gateways = {network["Gateway"] for network in own if network["Gateway"]}
    forbidden += [
        (gateway, getattr(stack.settings, f"{name}_port")) for name in must_not for gateway in sorted(gateways)
    ]
    assert len(forbidden) >= 2 * len(must_not)
    for _ in range(3):
        found = dict(zip(forbidden, tried(stack, source, forbidden), strict=True))
        if not any(found.values()):
            break
        # The engine takes its isolation rules away for a moment whenever anybody makes a network on this machine.
        time.sleep(1)
    assert found == dict.fromkeys(forbidden, False)


def test_another_name_of_the_warehouse(stack: Stack) -> None:
    assert tried(stack, "scheduler", [("warehouse-db", 5432)]) == [True]


def test_the_network_to_the_replicas_is_no_way_out(stack: Stack) -> None:
    network = json.loads(docker("network", "inspect", f"{stack.project}_replication_read"))[0]
    assert network["Internal"] is True
    members = {container["Name"] for container in network["Containers"].values()}
    assert members == {stack.container(name) for name in (*OLTP, "warehouse")}
