"""Every table of the dbt project declares its placement on a Citus cluster."""

from __future__ import annotations

import re

from eds.base.settings import ROOT
from support.placement import declared, files_of_tables, read

PLACEMENTS = {"distributed", "reference", "coordinator"}


def test_every_table_declares_its_placement() -> None:
    tables = declared()
    marts = {path.stem for path in files_of_tables("sql")}
    snapshots = {path.stem for path in (ROOT / "snapshots").glob("*.yml")}
    assert marts | snapshots | {"customers", "loan_products", "loans", "payments", "loan_installments"} == set(tables)
    assert {name: placement for name, (placement, _) in tables.items() if placement not in PLACEMENTS} == {}


def test_what_is_distributed_has_the_distribution_column() -> None:
    distributed = {name: columns for name, (placement, columns) in declared().items() if placement == "distributed"}
    # A snapshot's columns are those of its query.
    without = {name for name, columns in distributed.items() if columns and "loan_id" not in columns}
    assert distributed and without == set()


def test_personal_data_stays_on_the_coordinator() -> None:
    tables = {
        table["name"]: table
        for source in read(ROOT / "models/staging/__sources.yml")["sources"]
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
