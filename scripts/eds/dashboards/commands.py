"""The commands of the dashboards and the pages."""

from __future__ import annotations

import typer

from eds.console import out, step
from eds.dashboards import page
from eds.settings import load


def dashboards() -> None:
    """Write the dashboards as one HTML page that needs no server and no network."""
    settings = load()
    with step("dashboards page"):
        path = page.refresh(settings)
    out.print(f"{path.as_uri()}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(dashboards)
