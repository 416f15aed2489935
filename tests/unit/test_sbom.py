"""The bill of materials has everything that the lock files and the containers have; every image can be pinned."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from eds.base.settings import ROOT, Settings


def script(name: str) -> ModuleType:
    """Return a script of the project as a module."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


sbom = script("sbom")
pin_images = script("pin_images")


def test_every_locked_package_is_in_it_with_the_hashes_that_pip_checks():
    made = sbom.bill()
    by_purl = {component["purl"]: component for component in made["components"]}
    assert len(by_purl) == len(made["components"])
    hashes = 0
    for file in ROOT.glob("requirements*.txt"):
        text = file.read_text(encoding="utf-8")
        for name, version in re.findall(r"(?m)^([A-Za-z0-9._-]+)==([0-9][^\s;\\]*)", text):
            assert f"pkg:pypi/{re.sub('[-_.]+', '-', name).lower()}@{version}" in by_purl, (file, name)
        if file.name == "requirements.txt":
            hashes = text.count("--hash=sha256:")
            required = [each for each in made["components"] if each.get("scope") == "required"]
            found = [each for part in required for each in part["properties"] if each["name"] == "lock:sha256"]
            assert len(found) == hashes > 100


def test_every_image_is_in_it():
    names = {component["name"] for component in sbom.bill()["components"] if component["type"] == "container"}
    assert {"postgres", "debian", "python", "nginx", "metabase/metabase", "dpage/pgadmin4"} <= names


def test_the_same_files_give_the_same_text(tmp_path: Path):
    assert json.dumps(sbom.bill()) == json.dumps(sbom.bill())
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", sbom.bill()["serialNumber"])


@pytest.mark.parametrize("image", sbom.image_names())
def test_an_image_has_a_setting_for_its_digest_wherever_it_is_named(image: str):
    name = pin_images.setting(image)
    assert name.lower() in Settings.model_fields
    uses = 0
    for path in [ROOT / "infra" / "compose.yaml", *(ROOT / "infra").glob("*/Dockerfile")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(rf"(FROM|image:) {re.escape(image)}", line):
                uses += 1
                assert f"{image}${{{name}:+@" in line, (path, line)
    assert uses


@pytest.mark.parametrize("engine", ["#!/bin/sh\necho 'registry: connection refused' >&2\nexit 1\n", None])
def test_images_that_cannot_be_pulled_are_a_sentence_and_change_nothing(tmp_path: Path, engine: str | None):
    if engine:
        (tmp_path / "docker").write_text(engine, encoding="utf-8")
        (tmp_path / "docker").chmod(0o755)
    settings = tmp_path / "settings.env"
    found = subprocess.run(
        [sys.executable, ROOT / "scripts" / "pin_images.py"],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(ROOT / "scripts"), "EDS_ENV_FILE": str(settings)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert found.returncode == 1, found.stderr
    assert "Traceback" not in found.stderr
    assert ("connection refused" if engine else "docker") in found.stderr
    assert not settings.exists()
