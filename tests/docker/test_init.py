"""A server's first start: all or nothing, and never two servers on one volume."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .conftest import Stack, docker, until


@pytest.fixture
def lone(stack: Stack) -> Iterator[list[str]]:
    """Yield the command line of a warehouse server on a volume of its own, and the name that it has."""
    name = f"{stack.project}_lone_{os.urandom(2).hex()}"
    folder = stack.runtime.files.folder
    secret = "warehouse_postgres_password"
    yield [
        *("--name", name, "--init", "--user", "postgres", "--network", "none", "--shm-size", "256m"),
        *("--volume", f"{name}:/var/lib/postgresql/data", "--volume", f"{folder}/warehouse:/etc/platform:ro"),
        *("--volume", f"{folder}/secrets/{secret}:/run/secrets/{secret}:ro"),
        *("--volume", f"{folder}/tls/warehouse:/run/tls:ro"),
        *("--entrypoint", "/etc/platform/entrypoint.sh", "postgres:15-bookworm", "warehouse", secret),
    ]
    docker("rm", "--force", name, check=False)
    docker("volume", "rm", "--force", name, check=False)


def healthy(name: str) -> bool:
    check = ("exec", name, "sh", "-c", "/etc/platform/health.sh warehouse warehouse_postgres_password && echo well")
    return docker(*check, check=False) == "well"


def test_an_init_that_was_killed_is_reported_and_repeated(lone: list[str]) -> None:
    name = lone[1]
    # Slowly, so that the kill comes before its end.
    docker("run", "--detach", "--cpus", "0.2", *lone)
    begun = "test -e /var/lib/postgresql/data/incoming/base && echo begun"
    until(lambda: docker("exec", name, "sh", "-c", begun, check=False) == "begun", 60, "initdb")
    docker("kill", name)
    docker("update", "--cpus", "2", name)
    assert "ready to accept" not in docker("logs", name)
    docker("start", name)
    until(lambda: healthy(name), 60, "the server")
    assert "did not finish" in docker("logs", name)
    assert "incoming" not in docker("exec", name, "ls", "/var/lib/postgresql/data").split()


def test_an_init_without_room_fails_and_says_why_instead_of_starting_on_half_of_it(lone: list[str]) -> None:
    name = lone[1]
    volume = lone.index(f"{name}:/var/lib/postgresql/data")
    small = [*lone[: volume - 1], "--tmpfs", "/var/lib/postgresql/data:size=8m,uid=999", *lone[volume + 1 :]]
    docker("run", *small, check=False)
    log = docker("logs", name)
    assert "No space left on device" in log
    assert "ready to accept" not in log
    assert docker("inspect", "--format", "{{.State.ExitCode}}", name) != "0"


def test_a_second_server_on_a_volume_refuses_to_start(stack: Stack) -> None:
    secret = stack.runtime.files.folder / "secrets" / "warehouse_postgres_password"
    output = docker(
        *("run", "--rm", "--user", "postgres", "--network", "none"),
        *("--volume", f"{stack.project}_warehouse_data:/var/lib/postgresql/data"),
        *("--volume", f"{stack.runtime.files.folder}/warehouse:/etc/platform:ro"),
        *("--volume", f"{secret}:/run/secrets/warehouse_postgres_password:ro"),
        *("--entrypoint", "/etc/platform/entrypoint.sh", "postgres:15-bookworm"),
        *("warehouse", "warehouse_postgres_password"),
        check=False,
    )
    assert "another container works on this volume" in output
    assert stack.value("warehouse", "select 1") == 1


def test_no_new_cluster_is_made_beside_older_data(lone: list[str]) -> None:
    """As an exchange leaves it that was interrupted between its two renames (`make pitr PROMOTE=1`)."""
    name = lone[1]
    left = ("pgdata.aside-20260131T143205Z", "incoming")
    script = f"mkdir {left[0]} {left[1]}; touch {left[0]}/PG_VERSION {left[1]}/PG_VERSION"
    place = "/var/lib/postgresql/data"
    helper = ("run", "--rm", "--user", "postgres", "--volume", f"{name}:{place}", "--workdir", place)
    docker(*helper, "postgres:15-bookworm", "bash", "-c", script)
    docker("run", *lone, check=False)
    log = docker("logs", name)
    assert f"older data is there: {place}/{left[0]}" in log
    assert "Rename the one that should serve to pgdata" in log
    assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "1"
    docker("rm", name)
    found = docker(*helper, "postgres:15-bookworm", "ls").split()
    assert set(left) <= set(found)
    assert "pgdata" not in found
