"""Pictures of the pages, for the README. Needs the development environment and a Chromium of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eds.base.errors import UserError
from eds.base.settings import ROOT, Settings
from eds.dashboards import site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = ROOT / "docs/images"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Picture:
    """One picture: its file, the page, the window, and what to wait for before it is taken."""

    name: str
    page: str
    width: int
    height: int
    scheme: str
    wait_for: str


PICTURES = (
    Picture("portfolio.png", "dashboards.html#portfolio", 1280, 1000, "light", "#portfolio .chart svg"),
    Picture("collections.png", "dashboards.html#collections", 1280, 900, "dark", "#collections .chart svg"),
    Picture(
        "lineage.png",
        "lineage/index.html#!/overview?g_v=1&g_i=%2Bvw_monthly_revenue",
        1280,
        660,
        "light",
        "canvas >> nth=0",
    ),
    Picture("star-schema.png", "star-schema.svg", 1180, 1180, "light", "svg"),
)


def find_chromium() -> Path | None:
    """Return the Chromium of this machine: CHROMIUM, or one on the PATH. None when there is none."""
    if named := os.environ.get("CHROMIUM"):
        return Path(named)
    return next((Path(found) for name in CHROMIUM if (found := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """Yield a headless Chromium. Raises UserError when this machine has none."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        raise UserError(
            "There is no Chromium on this machine (Debian: apt-get install chromium), nor does CHROMIUM name one."
        )
    # Its sandbox does not work for root, and the pages are our own.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(path), args=arguments)
        try:
            yield running
        finally:
            running.close()


def take(settings: Settings) -> list[Path]:
    """Take every picture of the site as it is. Returns their files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    taken = []
    with site.served(settings) as address, browser() as chromium:
        for picture in PICTURES:
            page = chromium.new_page(
                viewport={"width": picture.width, "height": picture.height},
                color_scheme="dark" if picture.scheme == "dark" else "light",
            )
            page.goto(address + picture.page)
            page.locator(picture.wait_for).first.wait_for()
            # Wait until dbt's graph has moved to its place.
            page.wait_for_timeout(1500 if "lineage" in picture.page else 200)
            whole = page.locator("svg") if picture.page.endswith(".svg") else page
            whole.screenshot(path=FOLDER / picture.name, animations="disabled")
            page.close()
            taken.append(FOLDER / picture.name)
    return taken
