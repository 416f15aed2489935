"""The benchmark needs no environment file, and makes none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import commands
from eds.base.settings import Settings, ensure_env_file


def test_without_an_environment_file_the_benchmark_has_passwords_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDS_ENV_FILE", str(tmp_path / "absent.env"))
    monkeypatch.setenv("MEMORY", "6GB")
    one, other = commands._settings(), commands._settings()
    assert one.memory == "6GB"
    for name in Settings.secret_names():
        secret = getattr(one, name.lower()).get_secret_value()
        assert len(secret) >= 16
        assert secret != getattr(other, name.lower()).get_secret_value()
    assert list(tmp_path.iterdir()) == []


def test_with_an_environment_file_its_settings_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "present.env"
    ensure_env_file(path)
    path.write_text(path.read_text(encoding="utf-8") + "\nMEMORY=7GB\n", encoding="utf-8")
    monkeypatch.setenv("EDS_ENV_FILE", str(path))
    monkeypatch.delenv("MEMORY", raising=False)
    assert commands._settings().memory == "7GB"
