"""Fixtures: a throw-away platform, in its own directory, on its own ports. Nothing of a running one is touched."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from eds.base.settings import BACKUP_SCHEDULES, OFF, Settings, ensure_env_file
from eds.book.demo import fill
from eds.cluster import provision
from eds.cluster.connections import connect
from eds.runtime.local.binaries import find_pgbouncer
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.ports import free_ports
from eds.warehouse.dbt_child import warm_up
from support.platform import Platform, fill_small_book, project_copy
from support.saved_state import SavedState, begin_with


@pytest.fixture(scope="session")
def runtime() -> Iterator[LocalRuntime]:
    """Yield a LocalRuntime with nothing started yet, in its own directory and on free ports."""
    state = Path(tempfile.mkdtemp(prefix="platform-test-", dir="/tmp"))
    # The servers' unprivileged account must get through.
    state.chmod(0o755)
    names = ("PRIMARY", "REPLICA1", "REPLICA2", "WAREHOUSE", "PGBOUNCER", "METABASE", "PGADMIN", "DOCS")
    env_file = state / "test.env"
    ensure_env_file(env_file)
    values = {f"{name}_PORT": str(port) for name, port in zip(names, free_ports(len(names)), strict=True)}
    values |= {
        "RUNTIME": "local",
        "STATE_DIR": str(state / "state"),
        "EDS_ENV_FILE": str(env_file),
        "PG_DURABLE": "false",
        "OLTP_MEMORY": "48MB",
        "WAREHOUSE_MEMORY": "128MB",
        "ETL_SOURCE_WAIT_SECONDS": "5",
        # Backups are made when a test makes them.
        **dict.fromkeys(map(str.upper, BACKUP_SCHEDULES), OFF),
    }
    # Settings of the shell that started the tests must not reach them.
    for name in [field.upper() for field in Settings.model_fields]:
        if name not in ("PG_BINDIR", "PG_OS_USER"):
            os.environ.pop(name, None)
    os.environ.update(values)
    settings = Settings(_env_file=env_file)  # type: ignore[call-arg]
    runtime = LocalRuntime(settings, extra_conf=("autovacuum_naptime = 5s", "max_prepared_transactions = 10"))
    # `make test` may be the first command on a machine without PostgreSQL.
    runtime.prepare()
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "eds", "watchdog", str(os.getpid())],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield runtime
    finally:
        runtime.stop_all(mode="immediate")
        watchdog.kill()
        watchdog.wait()
        shutil.rmtree(runtime.home.path, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def primary_server(runtime: LocalRuntime) -> LocalRuntime:
    """Provide the primary, started and provisioned."""
    runtime.up_primary()
    provision.provision_oltp(runtime.cluster)
    return runtime


@pytest.fixture(scope="session")
def oltp(primary_server: LocalRuntime) -> Platform:
    """Provide the primary alone."""
    return Platform(primary_server)


@pytest.fixture
def empty_book(oltp: Platform) -> Platform:
    """Provide the primary with an empty loan book."""
    oltp.empty_book()
    return oltp


@pytest.fixture(scope="session")
def all_servers(primary_server: LocalRuntime) -> Platform:
    """Provide the whole cluster, the warehouse and PgBouncer, started and provisioned."""
    for name in ("replica1", "replica2"):
        primary_server.up_replica(name)
    primary_server.up_warehouse()
    provision.provision_warehouse(primary_server.cluster)
    if find_pgbouncer():
        primary_server.start_pgbouncer()
    platform = Platform(primary_server)
    with connect(platform.servers["warehouse"].superuser_conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"create database warehouse_template template {platform.settings.warehouse_db}")
        connection.execute("revoke all on database warehouse_template from public")
    warm_up(platform.settings)
    return platform


@pytest.fixture
def platform(all_servers: Platform) -> Platform:
    """Provide the whole platform with an empty loan book and a warehouse that has never run."""
    all_servers.empty_book()
    all_servers.empty_warehouse()
    all_servers.wait_for_replicas()
    return all_servers


@pytest.fixture(scope="session")
def saved_states() -> dict[str, SavedState]:
    """Books with their warehouses, made once for all tests that begin with them."""
    return {}


@pytest.fixture
def small_book(all_servers: Platform, saved_states: dict[str, SavedState]) -> Platform:
    """Provide the platform with six loans of three payments each, and one run done."""
    return begin_with(all_servers, saved_states, "small_book", fill_small_book)


@pytest.fixture(scope="session")
def project_to_spoil(all_servers: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a copy of the dbt project for negative controls, of which dbt reads only what each of them changes."""
    make_schemas()
    return project_copy(tmp_path_factory.mktemp("spoiled") / "project")


def make_schemas() -> None:
    """Make the schemas by which dbt checks what it reads: each child would make them again, a third of its reading."""
    # Importing dbt reads a .env file, unless the platform is there, whose environment forbids it.
    from dbt.artifacts.resources import ExposureConfig, ModelConfig
    from dbt.contracts.graph import nodes, unparsed

    for checked in (
        ExposureConfig,
        ModelConfig,
        nodes.GenericTestNode,
        nodes.ModelNode,
        unparsed.UnparsedExposure,
        unparsed.UnparsedMacroUpdate,
        unparsed.UnparsedModelUpdate,
    ):
        checked.json_schema()


@pytest.fixture
def chance() -> random.Random:
    """Random numbers; RANDOM_SEED repeats the same. pytest shows the seed when the test fails."""
    given = os.environ.get("RANDOM_SEED") or str(random.randrange(10**6))
    try:
        seed = int(given)
    except ValueError:
        pytest.exit(f"RANDOM_SEED: expected a whole number, found {given!r}", returncode=2)
    print(f"RANDOM_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def demo_platform(all_servers: Platform, saved_states: dict[str, SavedState]) -> Platform:
    """Provide the whole platform with a small demo book, built; for tests that only look at it."""

    def make(platform: Platform) -> None:
        with connect(platform.superuser_conninfo) as connection:
            fill.fill(connection, fill.Scale.parse("3000"))
        platform.wait_for_replicas()
        platform.build()

    return begin_with(all_servers, saved_states, "demo_book", make)
