"""The commands of the dashboards and the pages."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Annotated, cast

import typer

from eds.base.console import err, out, step
from eds.base.errors import UserError
from eds.base.settings import load, with_home
from eds.dashboards import export as exports
from eds.dashboards import metabase as provisioning
from eds.dashboards import page, site
from eds.runtime.choice import select_runtime
from eds.runtime.member import Runtime

app = typer.Typer()

PANEL = "Dashboards and documentation"
CONNECT_SECONDS = 3.0


@app.command(rich_help_panel=PANEL)
def dashboards() -> None:
    """Write the dashboards as one HTML page (the scheduler does it after each run)."""
    settings = load()
    with step("dashboards page"):
        path = page.refresh(settings)
    out.print(f"{path.as_uri()}", soft_wrap=True)


@app.command(rich_help_panel=PANEL)
def export(
    board: Annotated[str | None, typer.Option(metavar="portfolio", help="One dashboard; all when left out.")] = None,
    format: Annotated[
        str, typer.Option(metavar="csv", help="xlsx: a workbook for each dashboard; csv: a folder of files.")
    ] = "xlsx",
    to: Annotated[Path, typer.Option(metavar="exports", help="Where they are written.")] = Path("exports"),
    filters: Annotated[
        str, typer.Option(metavar="'branch=NRB01&segment=sme'", help="Filters, as in the page's address.")
    ] = "",
) -> None:
    """Write the dashboards' figures to Excel workbooks or CSV files."""
    if format not in ("xlsx", "csv"):
        raise UserError(f"FORMAT={format}: expected xlsx or csv.")
    settings = load()
    with step("export"):
        written = exports.export(settings, [board] if board else [], cast(exports.Kind, format), with_home(to), filters)
    for path in written:
        out.print(str(path), soft_wrap=True)


def provision_metabase(runtime: Runtime, *, check: bool | None = True) -> bool:
    """Provision Metabase and say what was done. Returns whether every question and filter works.

    check: also run every question and filter (None: when anything changed, and each filter once per view).
    """
    # The warehouse as Metabase sees it, which runs beside it.
    settings = runtime.inside.settings
    with step(f"Metabase at {provisioning.address(settings)}"):
        report = provisioning.provision(settings, check=check)
    for change in report.changes:
        out.print(f"  {change}", markup=False)
    for name in report.empty:
        err.print(f"[yellow]no rows:[/] {name}")
    for problem in report.problems:
        err.print("[red]does not work:[/] ", end="")
        err.print(problem, markup=False)
    out.print(
        f"{report.dashboards} dashboards, {report.questions} questions, {len(report.changes) or 'no'} changes; "
        f"{provisioning.address(settings)} as {settings.metabase_admin_email}, password in .env"
    )
    return not report.problems


def answers_at(host: str, port: int) -> bool:
    """Return whether something listens at an address."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=CONNECT_SECONDS):
        return True
    return False


@app.command(rich_help_panel=PANEL)
def metabase() -> None:
    """Bring Metabase to what infra/dashboards/*.yml say. Exit code 1 when a question or a filter does not work."""
    runtime, _ = select_runtime(load())
    settings = runtime.settings
    if not runtime.is_running("metabase") and not answers_at(settings.metabase_host, settings.metabase_port):
        raise UserError(
            f"There is no Metabase at {provisioning.address(settings)}, and the platform runs none. On the embedded "
            "runtime, METABASE_JAR=/path/to/metabase.jar in .env lets make up start one (it needs Java 21); in Docker, "
            "Metabase is left out when DISABLED_SERVICES names it or its image cannot be pulled. METABASE_HOST and "
            "METABASE_PORT name one that runs elsewhere."
        )
    if not provision_metabase(runtime):
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def docs(
    generate_only: Annotated[bool, typer.Option("--generate-only", help="Write the pages and end.")] = False,
) -> None:
    """Serve dashboards, lineage and star schema on DOCS_PORT; rebuild first what is out of date."""
    settings = load()
    runtime, _ = select_runtime(settings)
    if not generate_only and runtime.name == "docker" and runtime.is_running("docs"):
        out.print(
            f"http://127.0.0.1:{settings.docs_port}/ is served by the service docs, from the volume that the scheduler "
            "writes them to after each run",
            soft_wrap=True,
        )
        return
    # The port first: a taken one is named before any work, and before "serves" is printed.
    with contextlib.nullcontext() if generate_only else site.server(settings) as running:
        with step("pages (lineage only when the project or the schema changed)"):
            site.refresh(settings)
        if running is None:
            out.print(str(settings.site), soft_wrap=True, markup=False)
            return
        out.print(
            f"http://127.0.0.1:{settings.docs_port}/ serves {settings.site}; Ctrl-C ends it",
            soft_wrap=True,
            markup=False,
        )
        with contextlib.suppress(KeyboardInterrupt):
            running.serve_forever()


@app.command(rich_help_panel="For programs")
def screenshots() -> None:
    """Take the README's pictures of this checkout's pages, with a headless Chromium."""
    from eds.dashboards import screenshots as pictures

    settings = load()
    with step("pages"):
        site.refresh(settings)
    for path in pictures.take(settings):
        out.print(str(path), soft_wrap=True)
