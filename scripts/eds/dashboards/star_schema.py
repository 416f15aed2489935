"""The star schema as a picture, drawn from the project's manifest: facts in the middle, dimensions beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BOX_WIDTH = 284
GAP_X = 140
GAP_Y = 26
MARGIN = 16
HEAD = 30
LINE = 19
FOOT = 8


@dataclass(frozen=True)
class Reference:
    """A column of a fact that leads to a dimension."""

    fact: str
    column: str
    dimension: str
    path: str = ""


@dataclass
class Box:
    """A table in the picture: its columns as (name, type, mark), with the place of its upper left corner."""

    name: str
    description: str
    columns: list[tuple[str, str, str]]
    x: int = 0
    y: int = 0

    @property
    def height(self) -> int:
        return HEAD + LINE * len(self.columns) + FOOT

    def middle(self, column: str) -> int:
        """Return the height of a column's line."""
        names = [name for name, _, _ in self.columns]
        return self.y + HEAD + LINE * names.index(column) + LINE // 2


@dataclass
class Star:
    """The picture: boxes with their places, references with their paths, and its size."""

    boxes: list[Box] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    width: int = 0
    height: int = 0

    @property
    def words(self) -> str:
        """What the picture says, for those who do not see it."""
        parts = []
        for fact in sorted({reference.fact for reference in self.references}):
            names = sorted({one.dimension for one in self.references if one.fact == fact})
            parts.append(f"{fact} refers to {', '.join(names)}")
        return "Star schema: " + "; ".join(parts) + "."


def _key(node: Mapping[str, Any]) -> str | None:
    for constraint in node.get("constraints") or []:
        if constraint["type"] == "primary_key":
            return str(constraint["columns"][0])
    return None


def references(manifest: Mapping[str, Any]) -> list[Reference]:
    """Return which column of which fact leads to which dimension.

    A relationship test says so; so does a name that ends in a dimension's key, such as maturity_date_sk in date_sk.
    """
    nodes = {node["name"]: node for node in manifest["nodes"].values() if node["resource_type"] == "model"}
    keys = {key: name for name, node in nodes.items() if name.startswith("dim_") and (key := _key(node))}
    found = {}
    for node in manifest["nodes"].values():
        test = node.get("test_metadata") or {}
        if test.get("name") != "relationships":
            continue
        fact = node["attached_node"].split(".")[-1]
        named = [unique_id.split(".")[-1] for unique_id in node["depends_on"]["nodes"]]
        other = next((name for name in named if name != fact), "")
        if fact.startswith("fact_") and other.startswith("dim_"):
            found[fact, node["column_name"]] = other
    for name, node in nodes.items():
        if name.startswith("fact_"):
            for column in node["columns"]:
                ending = next((key for key in keys if column == key or column.endswith(f"_{key}")), None)
                if ending:
                    found.setdefault((name, column), keys[ending])
    return [Reference(fact, column, dimension) for (fact, column), dimension in sorted(found.items())]


def draw(manifest: Mapping[str, Any]) -> Star:
    """Place the boxes and the lines. manifest: dbt's manifest.json."""
    links = references(manifest)
    leads = {(one.fact, one.column) for one in links}
    nodes = {node["name"]: node for node in manifest["nodes"].values() if node["resource_type"] == "model"}
    boxes = {}
    for name in sorted({one.fact for one in links} | {one.dimension for one in links}):
        node = nodes[name]
        key = _key(node)
        boxes[name] = Box(
            name,
            " ".join(node["description"].split()),
            [
                (
                    column,
                    str(described.get("data_type") or ""),
                    "key" if column == key else "reference" if (name, column) in leads else "",
                )
                for column, described in node["columns"].items()
            ],
        )
    columns: dict[int, list[Box]] = {0: [], 1: [], 2: []}
    columns[1] = sorted((box for box in boxes.values() if box.name.startswith("fact_")), key=lambda box: -box.height)
    for box in sorted((box for box in boxes.values() if box.name.startswith("dim_")), key=lambda box: -box.height):
        # The larger ones first, each to the side that is lower.
        side = min((0, 2), key=lambda column: sum(one.height + GAP_Y for one in columns[column]))
        columns[side].append(box)
    star = Star()
    heights = {number: sum(box.height for box in stack) + GAP_Y * (len(stack) - 1) for number, stack in columns.items()}
    star.height = max(heights.values()) + 2 * MARGIN
    star.width = 3 * BOX_WIDTH + 2 * GAP_X + 2 * MARGIN
    for number, stack in columns.items():
        y = MARGIN + (star.height - 2 * MARGIN - heights[number]) // 2
        for box in stack:
            box.x, box.y = MARGIN + number * (BOX_WIDTH + GAP_X), y
            y += box.height + GAP_Y
            star.boxes.append(box)
    for link in links:
        fact, dimension = boxes[link.fact], boxes[link.dimension]
        left = dimension.x < fact.x
        start_x, end_x = (fact.x, dimension.x + BOX_WIDTH) if left else (fact.x + BOX_WIDTH, dimension.x)
        start_y, end_y = fact.middle(link.column), dimension.middle(_key(nodes[link.dimension]) or "")
        half = (start_x + end_x) // 2
        path = f"M{start_x},{start_y} C{half},{start_y} {half},{end_y} {end_x},{end_y}"
        star.references.append(Reference(link.fact, link.column, link.dimension, path))
    return star
