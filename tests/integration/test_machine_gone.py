"""The machine is gone: the second repository and its key bring the loan book back on another one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from eds.base.services import SIDE
from eds.base.settings import BACKUP_SCHEDULES, OFF, Settings, ensure_env_file
from eds.cluster import provision
from eds.cluster.queries import fetch_all, fetch_value
from eds.ops import backup, pitr, wal
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.pgbackrest import Repository
from eds.runtime.ports import free_ports
from support import commands, needs
from support.book import add_customer, add_loan, pay
from support.platform import Platform, separate_settings

pytestmark = [pytest.mark.disaster, needs.pgbackrest]

KEY = "BACKUP_REPO2_CIPHER_KEY"


@pytest.fixture(scope="module")
def repository() -> Iterator[Path]:
    """Yield a directory away from either machine, such as a mounted one."""
    with tempfile.TemporaryDirectory(prefix="second-repository-", dir="/tmp") as name:
        path = Path(name) / "repository"
        path.mkdir()
        path.parent.chmod(0o755)
        # The servers' account writes there.
        path.chmod(0o777)
        yield path


@pytest.fixture(scope="module")
def gone(repository: Path) -> Iterator[tuple[str, set[str], str]]:
    """Yield what is left of a machine that archived there: its key, its customers, its newest commit."""
    names = ("backed up", "archived", "the last one archived")
    values = {"backup_repo2": "posix", "backup_repo2_path": str(repository)}
    with separate_settings("machine-gone-", oltp_memory="32MB", **values) as settings:
        runtime = LocalRuntime(settings)
        try:
            runtime.prepare()
            runtime.up_primary()
            provision.provision_oltp(runtime.cluster)
            platform = Platform(runtime)
            with platform.app() as connection:
                pay(connection, add_loan(connection, add_customer(connection, names[0])))
            backup.physical(runtime, "full")
            for name in names[1:]:
                with platform.app() as connection:
                    add_customer(connection, name)
                wal.switch_and_wait(runtime, 60)
            archive = Repository(runtime)
            info = archive.info()
            # Everything is in both: each alone would do.
            assert {each.repository for each in info.backups} == {1, 2}
            assert archive.timelines(info, 1)[1].segments.keys() == archive.timelines(info, 2)[1].segments.keys()
            newest = str(fetch_value(runtime.cluster.primary, "select max(change_time) from operational.audit_log"))
        finally:
            runtime.stop_all(mode="immediate")
            runtime.destroy()
        yield settings.backup_repo2_cipher_key.get_secret_value(), set(names), newest


@pytest.fixture
def machine(repository: Path) -> Iterator[dict[str, str]]:
    """Yield another machine: a checkout without data, as the settings of a shell."""
    place = Path(tempfile.mkdtemp(prefix="other-machine-", dir="/tmp"))
    place.chmod(0o755)
    services = ("PRIMARY", "REPLICA1", "REPLICA2", "WAREHOUSE", "PGBOUNCER", "DOCS", "METABASE", "PGADMIN", "PITR")
    values = {f"{name}_PORT": str(port) for name, port in zip(services, free_ports(len(services)), strict=True)}
    values |= {
        "EDS_ENV_FILE": str(place / "env"),
        "STATE_DIR": str(place / "state"),
        "RUNTIME": "local",
        "PG_DURABLE": "false",
        "OLTP_MEMORY": "32MB",
        "WAREHOUSE_MEMORY": "96MB",
        "ETL_SCHEDULE": "0 0 1 1 *",
        "BACKUP_REPO2": "posix",
        "BACKUP_REPO2_PATH": str(repository),
        **dict.fromkeys(map(str.upper, BACKUP_SCHEDULES), OFF),
    }
    try:
        yield values
    finally:
        eds(values, "nuke", "--force")
        shutil.rmtree(place, ignore_errors=True)


def eds(values: dict[str, str], *arguments: str, code: int = 0) -> str:
    """Run a command as a shell with these settings does. Returns what it wrote."""
    return commands.finish(commands.start(arguments, values), code, timeout=300)


def test_the_second_repository_is_unreadable_without_its_key(
    gone: tuple[str, set[str], str], repository: Path, machine: dict[str, str]
) -> None:
    files = [path for path in repository.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if not path.read_bytes().startswith(b"Salted__")] == []
    # Another key is not made in its place.
    refused = eds(machine, "restore-machine", code=1)
    assert f"{KEY} is missing" in refused
    assert "repo2.env" in refused
    assert not Path(machine["EDS_ENV_FILE"]).exists()
    refused = eds(machine | {KEY: "another one"}, "restore-machine", code=1)
    assert "holds no backup that can be read with BACKUP_REPO2_CIPHER_KEY" in refused
    assert "Traceback" not in refused
    assert gone[0] not in refused


def assert_each_repository_makes_up_for_the_other(runtime: LocalRuntime, second: Path) -> None:
    """Put one segment's content in another one's place: it can be decompressed, and is handed out by archive-get."""
    other, name = ("", "")
    for number in range(2):
        with Platform(runtime).app() as connection:
            add_customer(connection, f"in segment {number}")
        other, name = name, wal.switch_and_wait(runtime, 60)[0]
    member, target = runtime.member("primary"), runtime.home.path / "pgbackrest" / "fetched"

    def copies(segment: str) -> list[Path]:
        return [next(place.rglob(f"{segment}-*")) for place in (runtime.home.path / "repository", second)]

    def fetched() -> tuple[int, bytes | None]:
        target.unlink(missing_ok=True)
        assert member.places.repository_conf is not None
        script = member.places.scripts / "restore_wal.sh"
        done = member.run([script, member.places.repository_conf, "recovery", name, target], check=False)
        return done.code, target.read_bytes() if target.exists() else None

    sound = fetched()
    assert (sound[0], len(sound[1] or b"")) == (0, 16 * 1024 * 1024)
    kept = {path: path.read_bytes() for path in copies(name)}
    for harmed, exchanged in zip(copies(name), copies(other), strict=True):
        harmed.write_bytes(exchanged.read_bytes())
        assert fetched() == sound
        found = pitr.recover(runtime, pitr.Target())
        assert found.shortfall is None
        assert found.rows["customers"] == fetch_value(
            runtime.cluster.primary, "select count(*) from operational.customers"
        )
        harmed.write_bytes(kept[harmed])
    for path, exchanged in zip(copies(name), copies(other), strict=True):
        path.write_bytes(exchanged.read_bytes())
    assert fetched() == (126, None)
    # With a name that fits the content, the place that the segment gives itself does not.
    for path, exchanged in zip(copies(name), copies(other), strict=True):
        path.rename(path.with_name(f"{name}{exchanged.name[24:]}"))
    assert fetched() == (126, None)
    for path in copies(name):
        path.unlink()
    assert fetched() == (1, None)
    for path, content in kept.items():
        path.write_bytes(content)
        path.chmod(0o644)
    runtime.member(SIDE).remove()
    # A directory that was emptied, or is not mounted: what archiving needs is made there again.
    backups = second / "backup"
    backups.rename(second.parent / "lost")
    assert any(
        "repository 2 holds no backup" in each.text for each in wal.check(Repository(runtime)) if each.is_current
    )
    (second.parent / "lost").rename(backups)
    assert not any("holds no backup" in each.text for each in wal.check(Repository(runtime)))


def test_one_command_brings_the_book_back_on_another_machine(
    gone: tuple[str, set[str], str], machine: dict[str, str], repository: Path
) -> None:
    key, customers, newest = gone
    env_file = Path(machine["EDS_ENV_FILE"])
    # What was kept of the other machine: the key. All other passwords are new.
    env_file.write_text(f"{KEY}={key}\n", encoding="utf-8")
    output = eds(machine, "restore-machine")
    assert key not in output
    assert "all invariants hold" in output
    assert f"RPO: what was committed after {newest[:16]}" in output
    assert "RTO: " in output
    assert f"grep '^BACKUP_REPO2' {env_file}" in output
    values = {name.lower(): value for name, value in machine.items()}
    runtime = LocalRuntime(Settings(_env_file=env_file, **values))  # type: ignore[call-arg, arg-type]
    # The application logs in with the password of this machine, and the warehouse has the book.
    with Platform(runtime).app() as connection:
        found = {row[0] for row in connection.execute("select full_name from operational.customers").fetchall()}
        assert found == customers
        add_customer(connection, "on the new machine")
    assert fetch_all(runtime.cluster.warehouse, "select count(*) from warehouse.fact_payments") == [(1,)]
    assert not runtime.home.data(SIDE).exists()
    # Archive and backups continue, in both repositories.
    wal.switch_and_wait(runtime, 60)
    backup.physical(runtime, "full")
    info = Repository(runtime).info()
    assert {each.repository for each in info.backups if each.timeline > 1} == {1, 2}
    assert_each_repository_makes_up_for_the_other(runtime, repository)
    assert "has a loan book already" in eds(machine, "restore-machine", code=1)


def test_a_directory_that_is_not_mounted_is_named_before_anything_starts(tmp_path: Path) -> None:
    ensure_env_file(tmp_path / "env")
    values = {"EDS_ENV_FILE": str(tmp_path / "env"), "STATE_DIR": str(tmp_path / "state"), "RUNTIME": "local"}
    lost = {"BACKUP_REPO2": "posix", "BACKUP_REPO2_PATH": str(tmp_path / "nowhere")}
    for command in ("up", "restore-machine"):
        assert "which is no directory" in eds(values | lost, command, code=1)
    assert not (tmp_path / "nowhere").exists()
