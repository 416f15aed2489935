"""Pin the public images by digest: write to .env what each tag stands for today, by which `make up` then takes them.

usage: python scripts/pin_images.py

Each tag is pulled; the digest is the one that the registry answered with. Nothing is written unless all have one.
"""

from __future__ import annotations

import sys

import sbom
from eds.base import programs
from eds.base.console import err, step
from eds.base.errors import UserError
from eds.base.settings import ensure_env_file, env_file, keep_in_env_file

# The setting that holds the digest, where it is not named after the repository.
SETTINGS = {"pgadmin4": "PGADMIN_DIGEST"}


def setting(image: str) -> str:
    """Return the name of the setting that pins an image."""
    repository = image.rpartition(":")[0].rpartition("/")[2]
    return SETTINGS.get(repository, f"{repository.upper()}_DIGEST")


def newest(image: str) -> str:
    """Pull an image by its tag. Returns its digest; raises UserError when there is none."""
    programs.run(["docker", "pull", "--quiet", image], what=f"docker pull {image}")
    digest = sbom.digest_of(image)
    if digest is None:
        raise UserError(f"The engine knows no digest of {image}: it was built on this machine, not pulled.")
    return digest


def main() -> None:
    """Pin all images."""
    found = {}
    for image in sbom.image_names():
        with step(image):
            found[setting(image)] = newest(image)
    ensure_env_file()
    keep_in_env_file(found)
    print(
        f"{', '.join(found)} in {env_file()}; `make up` takes them from now on. Once more `make pin-images` takes newer"
    )
    print("builds; an empty value means the tag again.")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        err.print(str(error), markup=False)
        sys.exit(1)
