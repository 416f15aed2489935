"""What a container's target directory begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from eds.warehouse import dbt_parsed
from eds.warehouse.dbt_parsed import PARSED, begin_with_parsed


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dbt_parsed, "IMAGE", tmp_path / "parsed")
    for kind in ("runs", "docs"):
        (tmp_path / "parsed" / kind).mkdir(parents=True)
        (tmp_path / "parsed" / kind / PARSED).write_text(kind, encoding="utf-8")
    return tmp_path / "parsed"


def test_an_empty_target_begins_with_what_the_image_holds(image: Path, tmp_path: Path) -> None:
    for kind in ("runs", "docs"):
        begin_with_parsed(tmp_path / "state" / kind, kind)
        assert (tmp_path / "state" / kind / PARSED).read_text(encoding="utf-8") == kind


def test_what_a_target_has_already_stays(image: Path, tmp_path: Path) -> None:
    (tmp_path / PARSED).write_text("newer", encoding="utf-8")
    begin_with_parsed(tmp_path, "runs")
    assert (tmp_path / PARSED).read_text(encoding="utf-8") == "newer"


def test_outside_of_an_image_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbt_parsed, "IMAGE", tmp_path / "parsed")
    begin_with_parsed(tmp_path / "target", "runs")
    assert not (tmp_path / "target").exists()
