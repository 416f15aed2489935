"""Where each table of the dbt project is stored on a Citus cluster, as its YAML declares it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from eds.base.settings import ROOT


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def files_of_tables(suffix: str) -> list[Path]:
    """Return the files of the models that are tables: the marts, and the intermediate models that are kept."""
    views = ("stable_view", "stored_function")
    models = [
        path
        for folder in ("marts", "intermediate")
        for path in (ROOT / "models" / folder).rglob("*.sql")
        if "dashboards" not in path.parts and not path.stem.endswith("_to_snapshot")
    ]
    return [
        path.with_suffix(f".{suffix}") for path in models if not any(f"'{view}'" in path.read_text() for view in views)
    ]


def declared() -> dict[str, tuple[str | None, set[str]]]:
    """Return what each table says of its place, and its columns as far as the YAML lists them."""
    result = {}
    for path in (ROOT / "models").rglob("*.yml"):
        for source in read(path).get("sources", []):
            for table in source["tables"]:
                columns = {column["name"] for column in table["columns"]}
                result[table["name"]] = (table["config"]["meta"].get("placement"), columns)
    for path in [*files_of_tables("yml"), *(ROOT / "snapshots").glob("*.yml")]:
        content = read(path)
        for node in (*content.get("models", []), *content.get("snapshots", [])):
            columns = {column["name"] for column in node.get("columns", [])}
            result[node["name"]] = (node.get("config", {}).get("meta", {}).get("placement"), columns)
    return result
