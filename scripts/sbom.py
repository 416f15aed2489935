"""Write a software bill of materials, CycloneDX 1.6 as JSON, from the lock files, the Dockerfiles and the Compose file.

usage: python scripts/sbom.py [OUT]     (default: target/sbom.cdx.json)

Python packages come with the hashes that pip checks at the installation. Container images are listed by their tag: a
digest is added where the engine of this machine knows the one that the tag stood for when it was pulled. The same files
give the same text, but for such digests.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

from eds.base import programs

ROOT = Path(__file__).resolve().parents[1]
# Which lock files a platform installs, and which only its development.
LOCKS = {
    "requirements.txt": "required",
    "requirements-embedded.txt": "optional",
    "requirements-dev.txt": "excluded",
    "requirements-bench.txt": "excluded",
}
PACKAGE = re.compile(r"(?m)^([A-Za-z0-9._-]+)==([^\s;\\]+)((?:[^\n]*\\\n)*[^\n]*)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
IMAGE = re.compile(r"(?m)^(?:FROM|\s+image:)\s+([a-z0-9./-]+:[A-Za-z0-9._-]+)")


def packages() -> list[dict[str, Any]]:
    """Return the Python packages of the lock files, each once, by the strongest of its uses."""
    found: dict[str, dict[str, Any]] = {}
    for file, scope in LOCKS.items():
        for name, version, rest in PACKAGE.findall((ROOT / file).read_text(encoding="utf-8")):
            normal = re.sub(r"[-_.]+", "-", name).lower()
            purl = f"pkg:pypi/{normal}@{version}"
            found.setdefault(
                purl,
                {
                    "type": "library",
                    "bom-ref": purl,
                    "name": normal,
                    "version": version,
                    "scope": scope,
                    "purl": purl,
                    "properties": [
                        {"name": "lock:file", "value": file},
                        *({"name": "lock:sha256", "value": digest} for digest in HASH.findall(rest)),
                    ],
                },
            )
    return list(found.values())


def digest_of(image: str) -> str | None:
    """Return the digest that a tag stood for when it was pulled, where an engine knows it."""
    if shutil.which("docker") is None:
        return None
    command = ["docker", "image", "inspect", "--format", '{{join .RepoDigests " "}}', image]
    found = re.search(r"sha256:[0-9a-f]{64}", programs.run(command, check=False).output)
    return found[0] if found else None


def image_names() -> list[str]:
    """Return the names and tags of the public images that the containers are, or are made from."""
    files = [ROOT / "infra" / "compose.yaml", *sorted((ROOT / "infra").glob("*/Dockerfile"))]
    return sorted({name for file in files for name in IMAGE.findall(file.read_text(encoding="utf-8"))})


def images() -> list[dict[str, Any]]:
    """Return these images as components."""
    result = []
    for name in image_names():
        repository, _, tag = name.rpartition(":")
        digest = digest_of(name)
        version = f"@{digest.replace(':', '%3A')}" if digest else ""
        purl = f"pkg:docker/{repository}{version}?tag={tag}" if digest else f"pkg:docker/{repository}@{tag}"
        result.append(
            {"type": "container", "bom-ref": purl, "name": repository, "version": digest or tag, "purl": purl}
        )
    return result


def bill() -> dict[str, Any]:
    """Return the bill of materials."""
    components = sorted([*packages(), *images()], key=lambda component: str(component["bom-ref"]))
    project = re.search(r'(?m)^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version = project[1] if project else "0"
    content = json.dumps([version, components], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "enterprise-data-platform", "version": version}},
        "components": components,
    }


def main() -> None:
    """Write the file that the command line names."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "target" / "sbom.cdx.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    made = bill()
    out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: {len(made['components'])} components")


if __name__ == "__main__":
    main()
