"""Every table of the dbt project declares its placement on a Citus cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from eds.base.settings import ROOT

PLACEMENTS = {"distributed", "reference", "coordinator"}


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _of_tables(suffix: str) -> list[Path]:
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
        for source in _read(path).get("sources", []):
            for table in source["tables"]:
                columns = {column["name"] for column in table["columns"]}
                result[table["name"]] = (table["config"]["meta"].get("placement"), columns)
    for path in [*_of_tables("yml"), *(ROOT / "snapshots").glob("*.yml")]:
        content = _read(path)
        for node in (*content.get("models", []), *content.get("snapshots", [])):
            columns = {column["name"] for column in node.get("columns", [])}
            result[node["name"]] = (node.get("config", {}).get("meta", {}).get("placement"), columns)
    return result


def test_every_table_declares_its_placement() -> None:
    tables = declared()
    marts = {path.stem for path in _of_tables("sql")}
    snapshots = {path.stem for path in (ROOT / "snapshots").glob("*.yml")}
    assert marts | snapshots | {"customers", "loan_products", "loans", "payments", "loan_installments"} == set(tables)
    assert {name: placement for name, (placement, _) in tables.items() if placement not in PLACEMENTS} == {}


def test_what_is_distributed_has_the_distribution_column() -> None:
    distributed = {name: columns for name, (placement, columns) in declared().items() if placement == "distributed"}
    # A snapshot's columns stand in its query.
    without = {name for name, columns in distributed.items() if columns and "loan_id" not in columns}
    assert distributed and without == set()


def test_personal_data_stays_on_the_coordinator() -> None:
    tables = {
        table["name"]: table
        for source in _read(ROOT / "models/staging/__sources.yml")["sources"]
        for table in source["tables"]
    }
    private = {
        name
        for name, table in tables.items()
        if any(column.get("config", {}).get("meta", {}).get("contains_pii") for column in table["columns"])
    }
    assert private == {"customers"}
    assert {tables[name]["config"]["meta"]["placement"] for name in private} == {"coordinator"}


def test_the_documentation_shows_where_each_table_is_stored() -> None:
    rows = [
        line
        for line in (ROOT / "docs/scaling.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(("| `distributed`", "| `reference`"))
    ]
    documented = {name: row.split("`")[1] for row in rows for name in re.findall(r"`[a-z]+\.([a-z_]+)`", row)}
    assert documented == {name: place for name, (place, _) in declared().items() if place != "coordinator"}
