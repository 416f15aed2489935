"""A full disk is named: with the path, and with what is free there."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eds import cli
from eds.base import disk, services
from eds.base.errors import UserError
from eds.base.settings import Settings, ensure_env_file


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ensure_env_file(tmp_path / "env")
    return Settings(_env_file=tmp_path / "env", state_dir=tmp_path / "not/yet/there")  # type: ignore[call-arg]


def test_each_file_system_is_named_once_by_a_path_that_is_there(settings):
    found = list(disk.places(settings))
    assert found[0].exists()
    assert len({path.stat().st_dev for path in found}) == len(found)


def test_too_little_space_is_named_with_path_and_figures(settings):
    free = shutil.disk_usage("/tmp").free
    assert disk.short_of(settings, 1) == []
    short = disk.short_of(settings, 1000 * free)
    assert any(str(settings.state.parents[2]) in line and "free of" in line for line in short)


def test_a_full_repository_is_named_and_keeps_nothing_from_starting(settings, tmp_path, monkeypatch):
    repository = tmp_path / "mounted"
    repository.mkdir()
    settings = settings.model_copy(update={"backup_repo2": "posix", "backup_repo2_path": str(repository)})
    usage = shutil.disk_usage
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage(path)._replace(free=10 if path == repository else 2**50)
    )
    # A file system of its own.
    stat = Path.stat
    elsewhere = os.stat_result((0o40755, 1, -1, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda self, **how: elsewhere if self == repository else stat(self, **how))
    assert [line.partition(":")[0] for line in disk.short_of(settings, archives=True)] == [str(repository)]
    disk.check(settings)


@pytest.mark.parametrize("needed", ["FIRST_BYTES", "NEEDED_BYTES"])
def test_up_does_not_start_on_a_full_disk(settings, monkeypatch, needed):
    if needed == "NEEDED_BYTES":
        # The servers' data is there: what creating it takes is not needed again.
        services.state_directory(settings)
        services.embedded_note(settings).write_text("servers\n", encoding="utf-8")
    for name in ("FIRST_BYTES", "NEEDED_BYTES"):
        monkeypatch.setattr(disk, name, 2**62 if name == needed else 1)
    with pytest.raises(UserError, match="Nothing was started") as refused:
        disk.check(settings)
    assert str(next(disk.places(settings))) in str(refused.value)
    monkeypatch.setattr(disk, needed, 1)
    disk.check(settings)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_that_failed_for_want_of_space_names_the_place(settings, tmp_path, code):
    named = disk.explain(OSError(code, os.strerror(code), str(tmp_path / "a/b")), settings)
    assert named.startswith(f"{tmp_path / 'a/b'} could not be written, the disk is full. {tmp_path}: ")
    assert "free of" in disk.explain(OSError(code, os.strerror(code)), settings)


@pytest.mark.parametrize(
    ("code", "todo"),
    [
        (errno.EACCES, "Let this account do so"),
        (errno.EROFS, "read-only"),
        (errno.EEXIST, "Something else is there"),
        (errno.ENOTDIR, "no directory"),
        (errno.EISDIR, "name a file"),
        (errno.EIO, "Correct it"),
    ],
)
def test_another_error_names_the_file_and_what_to_do(settings, code, todo):
    message = disk.explain(OSError(code, os.strerror(code), "/etc/shadow"), settings)
    assert message.startswith(f"Expected to read or write /etc/shadow, found: {os.strerror(code)}. ")
    assert todo in message
    assert "[Errno" not in message


def test_an_error_without_a_file_stays_as_it_is(settings):
    for error in (OSError("what a library says"), OSError(errno.EPIPE, "Broken pipe")):
        assert disk.explain(error, settings) == str(error)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_does_not_keep_somebody_from_stopping_what_runs(settings, monkeypatch, code):
    def full(*_: object, **__: object) -> bool:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(services, "write_atomically", full)
    # Only who holds the lock is not known to others.
    refused = pytest.raises(UserError, match="Another command of this checkout is running")
    with services.exclusive(settings, "down"), refused, services.exclusive(settings, "up"):
        pass


def test_another_failure_to_write_is_not_passed_over(settings, monkeypatch):
    def denied(*_: object, **__: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(services, "write_atomically", denied)
    with pytest.raises(PermissionError), services.exclusive(settings, "down"):
        pass


def test_a_command_that_meets_a_full_disk_ends_with_a_sentence():
    program = (
        "import typer; from eds import cli; app = typer.Typer()\n"
        "@app.command()\n"
        "def fill():\n"
        "    with open('/dev/full', 'w') as file: file.write('x')\n"
        "cli.main(app)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_page_that_finds_no_space_after_a_run_is_explained(settings, monkeypatch, capsys):
    def full(_: Settings) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cli.alerts, "notify", lambda _: None)
    monkeypatch.setattr(cli.page, "refresh", full)
    cli._after_run(settings.model_copy(update={"runtime": "local"}))
    shown = " ".join(capsys.readouterr().err.split())
    assert "the dashboards page was not written: The disk is full" in shown
    assert "[Errno" not in shown
