"""dbt's arguments for a run in a child of a warm process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eds.base.settings import Settings, ensure_env_file
from eds.warehouse.dbt_child import dbt_arguments
from eds.warehouse.runs import DATA_BUILD, RECONCILE_VARS


def target_of(settings: Settings, *command: str, target_path: Path | None = None) -> Path:
    arguments = dbt_arguments(settings, *command, target_path=target_path)
    return Path(arguments[arguments.index("--target-path") + 1])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    env_file = tmp_path / ".env"
    ensure_env_file(env_file)
    return Settings(_env_file=env_file, state_dir=tmp_path / "state")  # type: ignore[call-arg]


def test_a_run_with_other_variables_does_not_replace_what_dbt_has_read_for_those_without(settings: Settings) -> None:
    """dbt would read the whole project again, in that run and in the next one."""
    plain = target_of(settings, *DATA_BUILD)
    nightly = target_of(settings, *DATA_BUILD, "--vars", json.dumps(RECONCILE_VARS))
    other = target_of(settings, *DATA_BUILD, "--vars", json.dumps({"accept_mass_delete": True}))
    assert len({plain, nightly, other}) == 3
    assert plain == settings.state / "dbt-target"
    # Below it, so that `make clean` removes them, and servers' accounts reach none.
    assert nightly.parent == other.parent == plain
    assert nightly == target_of(settings, *DATA_BUILD, "--vars", "{full_tests: true, reconcile: true}")


def test_a_target_path_that_is_given_holds_all_of_them(settings: Settings, tmp_path: Path) -> None:
    for command in (("parse",), (*DATA_BUILD, "--vars", "{}")):
        assert target_of(settings, *command, target_path=tmp_path / "other") == tmp_path / "other"
    nightly = target_of(settings, *DATA_BUILD, "--vars", "{reconcile: true}", target_path=tmp_path / "other")
    assert nightly.parent == tmp_path / "other"
