"""The platform starts at boot: a unit of systemd, or a line of cron; both can be taken back."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from eds.base.errors import UserError
from eds.base.settings import ROOT, Settings, ensure_env_file
from eds.ops import service

# Programs that do what the real ones do with what they are given, in a directory of the test.
SYSTEMCTL = 'echo "$*" >>"$OUTPUT"'
CRONTAB = 'case $1 in -l) cat "$OUTPUT.cron" 2>/dev/null || exit 1;; -) cat >"$OUTPUT.cron";; esac'


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a machine that has these programs and no others of the kind. Returns the file that they write into."""

    def make(**programs: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, body in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
            (folder / name).chmod(0o755)
        for needed in ("cat", "sh"):
            (folder / needed).symlink_to(str(shutil.which(needed)))
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setenv("OUTPUT", str(tmp_path / "output"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.delenv("EDS_ENV_FILE", raising=False)
        return tmp_path / "output"

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ensure_env_file(tmp_path / "env")
    return Settings(_env_file=tmp_path / "env", state_dir=tmp_path / "state 100%")  # type: ignore[call-arg]


def test_systemd_starts_it_where_it_manages_the_services_of_the_account(machine, settings):
    log = machine(systemctl=SYSTEMCTL, loginctl=SYSTEMCTL, crontab=CRONTAB)
    for _ in range(2):
        assert str(service.unit_path()) in service.install(settings)
    text = service.unit_path().read_text(encoding="utf-8")
    assert f'ExecStart="{ROOT}/.venv/bin/python" -m eds up\n' in text
    assert f'ExecStop="{ROOT}/.venv/bin/python" -m eds down\n' in text
    calls = log.read_text(encoding="utf-8")
    assert f"--user enable {service.unit_name()}" in calls
    assert f"--user start --no-block {service.unit_name()}" in calls
    assert "enable-linger" in calls
    assert service.remove() == [str(service.unit_path())]
    assert not service.unit_path().exists()
    assert f"--user disable {service.unit_name()}" in log.read_text(encoding="utf-8")
    assert service.remove() == []


def test_lingering_that_needs_root_is_named(machine, settings):
    machine(systemctl=SYSTEMCTL, loginctl="exit 1")
    assert "sudo loginctl enable-linger" in service.install(settings)


def test_nothing_is_asked_of_root_for_an_account_that_lingers(machine, settings):
    machine(systemctl=SYSTEMCTL, loginctl='[ "$1" = show-user ] && echo yes')
    assert "linger" not in service.install(settings)


def test_cron_starts_it_where_there_is_no_systemd_and_other_lines_stay(machine, settings):
    table = machine(systemctl="exit 1", crontab=CRONTAB).with_name("output.cron")
    table.write_text("0 5 * * * backup\n", encoding="utf-8")
    for _ in range(2):
        assert "crontab" in service.install(settings)
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "0 5 * * * backup"
    assert len(lines) == 2
    assert lines[1].startswith(f"@reboot cd {ROOT} && PATH=")
    assert r"state 100\%/boot.log" in lines[1]
    assert service.remove() == ["the line of the crontab"]
    assert table.read_text(encoding="utf-8") == "0 5 * * * backup\n"
    assert service.remove() == []


def test_on_a_machine_with_neither_the_message_names_what_to_do(machine, settings):
    machine()
    with pytest.raises(UserError, match="Neither systemd nor cron"):
        service.install(settings)
    assert service.remove() == []


def test_the_unit_is_one_that_systemd_reads(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    path = tmp_path / service.unit_name()
    path.write_text(service.unit(), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(path)], capture_output=True, text=True, check=False
    )
    assert "Unknown" not in done.stderr
    assert "Invalid" not in done.stderr
