"""Settings: where they come from, and what a wrong one is answered with."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from eds import settings
from eds.errors import UserError
from eds.settings import Settings, ensure_env_file


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh .env in a directory of its own, and an environment without any of our variables."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    path = tmp_path / ".env"
    ensure_env_file(path)
    monkeypatch.setenv("EDS_ENV_FILE", str(path))
    settings.load.cache_clear()
    return path


@pytest.fixture(autouse=True)
def _fresh() -> None:
    settings.load.cache_clear()


def test_a_new_env_file_is_private_and_has_a_different_password_for_everybody(env_file: Path) -> None:
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    loaded = settings.load()
    passwords = {getattr(loaded, name.lower()).get_secret_value() for name in Settings.secret_names()}
    assert len(passwords) == len(Settings.secret_names())
    assert min(map(len, passwords)) >= 30


def test_a_second_call_changes_nothing_and_a_missing_secret_is_added(env_file: Path) -> None:
    before = env_file.read_text(encoding="utf-8")
    assert ensure_env_file(env_file) is False
    assert env_file.read_text(encoding="utf-8") == before
    shorter = "\n".join(line for line in before.splitlines() if not line.startswith("ETL_WRITER_PASSWORD=")) + "\n"
    env_file.write_text(shorter, encoding="utf-8")
    assert ensure_env_file(env_file) is True
    after = env_file.read_text(encoding="utf-8")
    assert after.startswith(shorter.rstrip("\n"))
    assert "ETL_WRITER_PASSWORD=" in after


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with env_file.open("a", encoding="utf-8") as file:
        file.write("PRIMARY_PORT=7001\nREPLICA1_PORT=7002\n")
    monkeypatch.setenv("PRIMARY_PORT", "8001")
    loaded = settings.load()
    assert (loaded.primary_port, loaded.replica1_port, loaded.replica2_port) == (8001, 7002, 5434)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRIMARY_PORT", "0"),
        ("PRIMARY_PORT", "seven"),
        ("WAREHOUSE_PORT", "70000"),
        ("ETL_SCHEDULE", "banana"),
        ("ETL_MAX_DELETE_SHARE", "2"),
        ("WAREHOUSE_MEMORY", "lots"),
        ("RUNTIME", "cloud"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        settings.load()
    assert name in str(caught.value)
    assert value in str(caught.value)


def test_every_wrong_value_is_named_at_once_and_no_password_is_shown(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIMARY_PORT", "x")
    monkeypatch.setenv("ETL_SCHEDULE", "y")
    password = settings_password(env_file)
    with pytest.raises(UserError) as caught:
        settings.load()
    assert "PRIMARY_PORT" in str(caught.value)
    assert "ETL_SCHEDULE" in str(caught.value)
    assert password not in str(caught.value)


def settings_password(env_file: Path) -> str:
    line = next(
        line for line in env_file.read_text(encoding="utf-8").splitlines() if line.startswith("POSTGRES_PASSWORD=")
    )
    return line.split("=", 1)[1]


def test_two_services_on_one_port_are_told(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE_PORT", "5432")
    with pytest.raises(UserError, match="5432"):
        settings.load()


def test_without_an_env_file_a_person_is_told_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDS_ENV_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="make up"):
        settings.load()
