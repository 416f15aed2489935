"""The pages: an index, the dashboards, dbt's lineage and the star schema, in one folder that any web server serves."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psycopg

from eds.base.console import age
from eds.base.errors import UserError
from eds.base.settings import Settings
from eds.cluster.connections import Cluster
from eds.dashboards import content, page, star_schema
from eds.runtime.ports import bind_error
from eds.warehouse import backup_record, dbt_docs, metrics

# The names under which this machine answers itself.
OWN_HOSTS = ("127.0.0.1", "localhost", "[::1]")
LINEAGE = "lineage/index.html"
STAR = "star-schema.svg"
INDEX = "index.html"
# Markers around the part of the index that is about backups.
PROTECTION = ("<!-- backups -->", "<!-- end of backups -->")
# dbt's page is its own; nothing that it loads or calls may come from elsewhere.
POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'self' data: blob: 'unsafe-inline' "
    "'unsafe-eval'; base-uri 'none'\">"
)

# What is corrected in dbt's page: references to files that are not there, and the colour of the graph's edges, which is
# almost that of its background.
CORRECTIONS = {
    "#006f8a": "#a8e2f2",
    "#027599": "#a8e2f2",
    "href=\"${require('./assets/favicons/favicon.ico')}\"": 'href="data:,"',
    '<use xlink:href="{{': '<use ng-attr-xlink:href="{{',
}

# The link back from dbt's page, which knows of no other page.
LINKS = (
    '<nav aria-label="Data platform" style="position:fixed;top:0;right:24px;z-index:9999;padding:6px 14px;'
    'border-radius:0 0 8px 8px;background:#00495f;font:600 14px/1.4 system-ui,sans-serif">'
    + " · ".join(
        f'<a href="../{target}" style="color:#fff">{name}</a>'
        for name, target in (("Index", "index.html"), ("Dashboards", page.FILE_NAME))
    )
    + "</nav>"
)


def _wanted(settings: Settings) -> str:
    """Return what the documentation is made of, as one short text."""
    code = [page.FOLDER, content.FOLDER]
    return dbt_docs.digest(code, dbt_docs.project_digest(), dbt_docs.schema_digest(settings))


def _stamp(settings: Settings) -> Path:
    return settings.state / "dbt-docs" / "site-made-of"


def is_current(settings: Settings) -> bool:
    """Return whether the documentation is there and of the present project and schema."""
    stamp = _stamp(settings)
    there = all((settings.site / name).exists() for name in (INDEX, LINEAGE, STAR))
    return there and stamp.exists() and stamp.read_text(encoding="utf-8") == _wanted(settings)


def generate(settings: Settings, stopping: threading.Event | None = None) -> None:
    """Rebuild lineage, star schema and index. stopping: ends it early with dbt_docs.CancelledError."""
    site = settings.site
    wanted = _wanted(settings)
    folder = dbt_docs.generate(settings, stopping)
    text = (folder / "static_index.html").read_text(encoding="utf-8")
    if "<head>" not in text:
        raise UserError("dbt's documentation has no <head>: this version of dbt is not known.")
    for slip, correction in CORRECTIONS.items():
        text = text.replace(slip, correction)
    text = text.replace("<head>", f"<head>{POLICY}", 1).replace("</body>", f"{LINKS}</body>", 1)
    page.write(site / LINEAGE, text)
    for name in ("manifest.json", "catalog.json"):
        page.write(site / "lineage" / name, (folder / name).read_text(encoding="utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    star = star_schema.draw(manifest)
    templates = page.environment()
    page.write(
        site / STAR,
        templates.get_template("star-schema.svg.j2").render(
            star=star, width=star_schema.BOX_WIDTH, head=star_schema.HEAD, line=star_schema.LINE
        ),
    )
    page.write(
        site / INDEX,
        templates.get_template("index.html.j2").render(what=content.load(), star=star, counts=_counts(manifest)),
    )
    refresh_protection(settings)
    page.write(_stamp(settings), wanted)


def refresh_protection(settings: Settings) -> None:
    """Bring the index's part on backups up to date: it ages, while everything else on that page stays as it is."""
    path, now = settings.site / INDEX, datetime.now(UTC)
    try:
        with Cluster(settings).connect_as_writer() as connection:
            found = backup_record.protection(connection)
    except (UserError, psycopg.Error):
        # The page names the time of its figures.
        return
    shown = [
        (name, last, age(last.at), last.at is None or (now - last.at).total_seconds() > limit)
        for name, last, limit in backup_record.rows(settings, found)
    ]
    part = page.environment().get_template("protection.html.j2").render(rows=shown, found=found, now=now)
    begin, end = PROTECTION
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    page.write(path, f"{before}{begin}{part}{end}{after}")


def _counts(manifest: dict[str, Any]) -> dict[str, int]:
    """Return how much there is in the project, by kind."""
    kinds = [node["resource_type"] for node in manifest["nodes"].values()]
    found = {kind: kinds.count(kind) for kind in ("model", "snapshot", "seed", "test")}
    return found | {"source": len(manifest["sources"]), "unit_test": len(manifest.get("unit_tests") or {})}


def refresh(settings: Settings, stopping: threading.Event | None = None) -> bool:
    """Rewrite the dashboards page, and the documentation when project or schema changed.

    Returns whether the documentation was made. Each page is replaced in one step.
    """
    page.refresh(settings)
    if is_current(settings):
        refresh_protection(settings)
        return False
    generate(settings, stopping)
    return True


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of the site; folders without an index and hidden files are not shown."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def __init__(self, *arguments: Any, settings: Settings, **options: Any) -> None:
        self.settings = settings
        super().__init__(*arguments, **options)

    def parse_request(self) -> bool:
        """Refuse a request for another host: a page of the Internet whose name leads here must not read these."""
        if not super().parse_request():
            return False
        host = re.fullmatch(r"(\[[0-9a-f:]+\]|[^:\[\]]*)(:[0-9]+)?", self.headers.get("Host") or "", re.IGNORECASE)
        if len(self.headers.get_all("Host", [])) == 1 and host and host[1].lower() in OWN_HOSTS:
            return True
        self.send_error(HTTPStatus.MISDIRECTED_REQUEST, f"This server answers for {' and '.join(OWN_HOSTS)} alone")
        return False

    def do_GET(self) -> None:
        """Answer with a page, or with the present figures for Prometheus."""
        if self.path != f"/{metrics.FILE_NAME}":
            super().do_GET()
            return
        body = metrics.render(self.settings).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", metrics.CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_head(self) -> Any:
        if "/." in self.path:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a person looks at pages, nobody at this log."""


def server(settings: Settings, port: int | None = None) -> http.server.ThreadingHTTPServer:
    """Return a web server of the site for this machine alone, listening. Raises UserError when the port is taken.

    port: default DOCS_PORT; 0 takes a free one.
    """
    handler = functools.partial(_Handler, settings=settings, directory=str(settings.site))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", settings.docs_port if port is None else port), handler)
    except OSError as error:
        why = bind_error("127.0.0.1", settings.docs_port) or error.strerror
        raise UserError(
            f"DOCS_PORT={settings.docs_port} cannot be used: {why}. Stop what is there, or set another one "
            "in .env or the environment."
        ) from error


@contextlib.contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Return the site's address on a free port, for as long as the block lasts."""
    with server(settings, port=0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}/"
        finally:
            running.shutdown()
            thread.join()
