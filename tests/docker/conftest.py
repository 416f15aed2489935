"""A throw-away platform in containers: its own Compose project, ports and state. Nothing of a running one is touched.

Run by `make test-docker`; a machine without an engine fails these tests instead of passing over them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eds.base.settings import BACKUP_SCHEDULES, OFF, OPTIONAL_SERVICES, Settings, ensure_env_file
from eds.cluster.connections import Server, connect
from eds.runtime.docker.engine import why_not_docker
from eds.runtime.docker.runtime import ComposeRuntime
from eds.runtime.ports import free_ports
from support import commands
from support.waiting import wait_until

METABASE_IMAGE = "metabase/metabase:v0.65.4.x"
OLTP = ("primary", "replica1", "replica2")
DATABASES = (*OLTP, "warehouse")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.docker)
            # A first test builds images and starts everything, on a machine that may be busy with as much again.
            item.add_marker(pytest.mark.timeout(1500))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what the database servers of its stack wrote last."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(stack, Stack):
        for name in DATABASES:
            log = docker("logs", "--timestamps", "--tail", "60", stack.container(name), check=False)
            report.sections.append((f"log of {name}", log))
    return report


def docker(*arguments: str, check: bool = True, stdin: str = "", environment: dict[str, str] | None = None) -> str:
    """Run a docker command. Returns what it wrote, to either stream."""
    done = subprocess.run(
        ["docker", *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=180,
        env=os.environ | (environment or {}),
    )
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}"
    return done.stdout.strip()


def until(condition: Callable[..., Any], seconds: float, what: str) -> Any:
    """Wait as wait_until does; each question is a command of its own here."""
    return wait_until(condition, seconds, what, pause=0.3)


class Stack:
    """One platform in containers, as tests see it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env_file = directory / "env"
        ensure_env_file(self.env_file)
        names = (*DATABASES, "pgbouncer", "pitr", *OPTIONAL_SERVICES)
        ports = free_ports(len(names))
        self.values = {f"{name.upper()}_PORT": str(port) for name, port in zip(names, ports, strict=True)}
        self.values |= {
            "RUNTIME": "docker",
            "COMPOSE_PROJECT_NAME": f"edstest{os.urandom(3).hex()}",
            "STATE_DIR": str(directory / "state"),
            "EDS_ENV_FILE": str(self.env_file),
            "SCALE": "5000",
            # Runs come when a test asks for them.
            "ETL_SCHEDULE": "0 0 1 1 *",
            # Backups are made when a test makes them.
            **dict.fromkeys(map(str.upper, BACKUP_SCHEDULES), OFF),
        }
        if not docker("images", "--quiet", METABASE_IMAGE):
            self.values["DISABLED_SERVICES"] = "metabase"

    @property
    def settings(self) -> Settings:
        """The settings as `make` sees them."""
        with pytest.MonkeyPatch.context() as patch:
            for name in (field.upper() for field in Settings.model_fields):
                patch.delenv(name, raising=False)
            for name, value in self.values.items():
                patch.setenv(name, value)
            return Settings(_env_file=self.env_file)  # type: ignore[call-arg]

    @property
    def runtime(self) -> ComposeRuntime:
        return ComposeRuntime(self.settings)

    @property
    def project(self) -> str:
        return self.values["COMPOSE_PROJECT_NAME"]

    @property
    def servers(self) -> dict[str, Server]:
        return self.runtime.cluster.servers

    def start(self, *arguments: str, **values: str) -> subprocess.Popen[str]:
        """Start a command as `make` does. values: further settings of the environment."""
        return commands.start(arguments, self.values | values)

    def eds(self, *arguments: str, code: int = 0, stdin: str = "", **values: str) -> str:
        """Run a command as `make` does, to its end. Returns what it wrote; fails the test at another exit code."""
        return commands.finish(self.start(*arguments, **values), code, stdin, timeout=1200)

    def up(self, **values: str) -> str:
        return self.eds("up", code=0, stdin="", **values)

    def container(self, service: str) -> str:
        return self.runtime.compose.container(service)

    def inspect(self, service: str) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return result

    def exec(self, service: str, *command: str, check: bool = True) -> str:
        """Run a command in a service's container."""
        return docker("exec", self.container(service), *command, check=check)

    def log(self, service: str) -> str:
        return docker("logs", self.container(service))

    def healthy(self, service: str) -> bool:
        state = self.inspect(service)["State"]
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    def runs(self) -> bool:
        """Return whether a container of each database server runs."""
        return {self.container(name) for name in DATABASES} <= set(docker("ps", "--format", "{{.Names}}").split())

    def wait_healthy(self, *services: str, seconds: float = 90) -> None:
        for service in services or self.runtime.services:
            until(lambda service=service: self.healthy(service), seconds, f"{service} healthy")

    def query(self, server: str, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, from this machine."""
        with connect(self.servers[server].superuser_conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def value(self, server: str, statement: str) -> Any:
        return self.query(server, statement)[0][0]

    def app_conninfo(self, port: int, database: str = "loans_db") -> str:
        """Return the application's role at a port of this machine."""
        password = self.settings.app_user_password.get_secret_value()
        place = self.servers["primary"]
        return Server("", place.host, port, database, "").conninfo("app_user", password)

    def assert_warehouse_equals_book(self) -> None:
        """Run now, and assert that the dashboards show what the book has."""
        self.eds("etl", "--now")
        book = self.query("primary", "select count(*), sum(amount) from operational.payments")
        shown = self.query(
            "warehouse", "select sum(payment_count), sum(total_revenue) from warehouse.vw_monthly_revenue"
        )
        assert shown == book


@pytest.fixture(scope="session")
def engine() -> None:
    """Provide a Docker engine that answers."""
    if why := why_not_docker():
        pytest.fail(f"These tests need a Docker engine with Compose, but {why}.")


@contextmanager
def throw_away() -> Iterator[Stack]:
    """Yield a stack of which nothing has been started; nothing of it is left at the end."""
    directory = Path(tempfile.mkdtemp(prefix="platform-docker-test-"))
    stack = Stack(directory)
    # Made now: at the end, a test may have destroyed the settings too.
    runtime = stack.runtime
    try:
        yield stack
    finally:
        if runtime.files.folder.exists():
            runtime.destroy()
        images = [f"{stack.project}_{name}" for name in ("etl_pipeline", "pgbouncer", "postgres")]
        docker("rmi", *images, check=False)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def new_stack(engine: None) -> Iterator[Stack]:
    """Yield a stack of which nothing has been started. Its sessions are encrypted from the beginning."""
    with throw_away() as stack:
        stack.values["TLS"] = "on"
        yield stack


@pytest.fixture(scope="session")
def first_up(new_stack: Stack) -> str:
    """Provide the output of the first `make up`."""
    began = time.monotonic()
    output = new_stack.up()
    print(f"\nfirst make up, images included: {time.monotonic() - began:.0f} s")
    return output


@pytest.fixture
def stack(new_stack: Stack, first_up: str) -> Stack:
    """Provide the stack, up; what a failed test left stopped is started again."""
    if not new_stack.runs():
        new_stack.up()
    return new_stack
