"""One version of the platform, and one of dbt, wherever they are named."""

from __future__ import annotations

import re
import tomllib

import yaml

from eds.base.settings import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DBT_PROJECT = yaml.safe_load((ROOT / "dbt_project.yml").read_text(encoding="utf-8"))


def test_the_platform_has_one_version_and_the_changelog_knows_it() -> None:
    version = PYPROJECT["project"]["version"]
    assert DBT_PROJECT["version"] == version
    assert f"\n## {version} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_dbt_project_requires_the_minor_version_that_is_installed() -> None:
    (required,) = [item for item in PYPROJECT["project"]["dependencies"] if item.startswith("dbt-core")]
    minor = re.fullmatch(r"dbt-core==(\d+)\.(\d+)\.\*", required)
    assert minor, required
    major, number = int(minor[1]), int(minor[2])
    assert DBT_PROJECT["require-dbt-version"] == [f">={major}.{number}.0", f"<{major}.{number + 1}.0"]
    locked = re.search(
        r"^dbt-core==(\d+\.\d+)\.", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert locked is not None
    assert locked[1] == f"{major}.{number}"
