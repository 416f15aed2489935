"""Questions and dashboards as Metabase wants them, and what differs between those and what it has."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

from eds.dashboards.content import Content, Dashboard, Filter, Question
from eds.dashboards.metabase_client import Json

DISPLAYS = {"number": "scalar", "line": "line", "bar": "bar", "row": "row", "pie": "pie", "table": "table"}
PARAMETER_TYPES = {"text": "string/=", "number": "number/=", "months": "date/all-options"}
SECTIONS = {"text": "string", "number": "number", "months": "date"}
# As on the local page, in its light colours.
COLOURS = {"primary": "#2f6bd8", "good": "#1c8a5f", "neutral": "#8793a6", "warning": "#c77700", "bad": "#c23b3b"}
OUR_IDS = uuid.UUID("6f1b3a52-58c4-4a0e-9c57-6f7a43b9d1ce")


def entity_id(key: str) -> str:
    """Return the 21 letters that name a question of ours on every Metabase."""
    return base64.urlsafe_b64encode(hashlib.sha256(f"question:{key}".encode()).digest())[:21].decode()


def own_id(*parts: str) -> str:
    """Return an id of ours (a filter of a dashboard, a template tag), the same on every Metabase."""
    return str(uuid.uuid5(OUR_IDS, ":".join(parts)))


# --- from the content to Metabase's words -----------------------------------------------------------------------------


def columns_with_choices(what: Content) -> set[str]:
    """Return the columns, as view.column, whose values Metabase offers to choose from."""
    return {
        f"{question.view_of_filter(name)}.{column}"
        for question in what.questions.values()
        for name, column in question.filters.items()
        if what.filters[name].type != "months"
    }


def column_settings(question: Question, currency: str) -> Json:
    """Return how each column of a question is written, in Metabase's settings."""
    found = {}
    for name, column in question.shown.items():
        settings: Json = {"column_title": column.label}
        if column.format == "money":
            decimals = 2 if question.chart in ("table", "number") else 0
            settings |= {"number_style": "currency", "currency": currency, "currency_style": "code"}
            settings |= {"currency_in_header": False, "decimals": decimals}
        elif column.format in ("percent", "change"):
            settings |= {"number_style": "percent", "scale": 0.01, "decimals": 2}
        elif column.format == "integer":
            settings |= {"number_style": "decimal", "decimals": 0}
        elif column.format == "month":
            settings |= {"date_style": "MMMM, YYYY", "date_abbreviate": True, "time_enabled": None}
        elif column.format == "date":
            settings |= {"date_style": "D MMMM, YYYY", "date_abbreviate": True, "time_enabled": None}
        elif column.format == "datetime":
            settings |= {"date_style": "D MMMM, YYYY", "date_abbreviate": True, "time_enabled": "minutes"}
            settings |= {"time_style": "HH:mm"}
        found[f'["name","{name}"]'] = settings
    return found


def visualization(question: Question, currency: str) -> Json:
    """Return a question's visualization settings."""
    settings: Json = {"column_settings": column_settings(question, currency)}
    labels = {name: column.label for name, column in question.columns.items()}
    colours = {name: COLOURS[colour] for name, colour in question.colours.items()}
    if question.chart == "number":
        settings["scalar.field"] = question.y[0]
    elif question.chart == "table":
        settings["table.columns"] = [{"name": name, "enabled": True} for name in question.shown]
    elif question.chart == "pie":
        settings |= {"pie.dimension": question.x, "pie.metric": question.y[0], "pie.show_legend": True}
        settings |= {"pie.show_total": True, "pie.percent_visibility": "legend", "pie.colors": colours}
    else:
        settings["graph.dimensions"] = [name for name in (question.x, question.series) if name]
        settings["graph.metrics"] = question.y
        settings["graph.x_axis.title_text"] = labels[question.x or ""]
        settings["graph.y_axis.title_text"] = labels[question.y[0]] if len(question.y) == 1 else ""
        settings["graph.show_values"] = question.chart == "row"
        if question.stacked:
            settings["stackable.stack_type"] = "stacked"
        if question.columns[question.x or ""].format == "month":
            settings["graph.x_axis.scale"] = "timeseries"
        settings["series_settings"] = {
            name: {"color": colour} | ({"title": labels[name]} if name in labels else {})
            for name, colour in colours.items()
        }
    return settings


def native_query(question: Question, key: str, what: Content, database: int, fields: Mapping[str, int]) -> Json:
    """Return a question's query. fields: ids of the views' columns by view.column."""
    tags = {}
    for name, column in question.filters.items():
        kind = what.filters[name]
        tags[name] = {
            "id": own_id("tag", key, name),
            "name": name,
            "display-name": kind.label,
            "type": "dimension",
            "dimension": ["field", {}, fields[f"{question.view_of_filter(name)}.{column}"]],
            "widget-type": PARAMETER_TYPES[kind.type],
        }
    stage: Json = {"lib/type": "mbql.stage/native", "native": question.sql.strip()}
    if tags:
        stage["template-tags"] = tags
    return {"lib/type": "mbql/query", "database": database, "stages": [stage]}


def target(name: str) -> list[Any]:
    return ["dimension", ["template-tag", name]]


def card_description(question: Question) -> str:
    """Return what a card says of itself: also that a long table shows its first rows only."""
    cut = question.limit if question.chart == "table" else None
    return question.description + (f" These are the first {cut:,}." if cut else "")


def card_parameters(question: Question, key: str, what: Content) -> list[Json]:
    """Return the filters that a question shows when it is looked at alone."""
    return [
        {"id": own_id("tag", key, name), "target": target(name), **_parameter(what.filters[name], name)}
        for name in question.filters
    ]


def _parameter(kind: Filter, slug: str) -> Json:
    return {"name": kind.label, "slug": slug, "type": PARAMETER_TYPES[kind.type]}


def dashboard_parameters(dashboard: Dashboard, key: str, what: Content) -> list[Json]:
    """Return the filters of a dashboard."""
    return [
        {
            "id": own_id("filter", key, name),
            "sectionId": SECTIONS[what.filters[name].type],
            "values_query_type": "list",
            **_parameter(what.filters[name], name),
        }
        for name in dashboard.filters
    ]


def way_to_loans(question: Question, key: str, what: Content, boards: Mapping[str, Json]) -> Json:
    """Return the settings of a question's place on a dashboard: a click leads to the loans behind it, where any are.

    key: of the dashboard. boards: the dashboards on the server, by key.
    """
    goal = what.grains[question.view].leads_to if question.view else None
    if goal is None or goal not in boards:
        return {}
    mapping: Json = {}
    for name in what.dashboards[goal].filters:
        kind = what.filters[name]
        if kind.column in question.dimensions:
            source = {"type": "column", "id": kind.column, "name": question.columns[kind.column].label}
        elif name in what.dashboards[key].filters:
            source = {"type": "parameter", "id": own_id("filter", key, name), "name": kind.label}
        else:
            continue
        parameter = own_id("filter", goal, name)
        mapping[parameter] = {"id": parameter, "source": source, "target": {"type": "parameter", "id": parameter}}
    click: Json = {
        "type": "link",
        "linkType": "dashboard",
        "targetId": boards[goal]["id"],
        "parameterMapping": mapping,
    }
    if question.chart != "table":
        return {"click_behavior": click}
    # In a table, a column is clicked.
    first = question.dimensions[0]
    return {"column_settings": {f'["name","{first}"]': {"click_behavior": click}}}


# --- comparing --------------------------------------------------------------------------------------------------------


def comparable_query(query: Any) -> Any:
    """Return a card's query without what Metabase adds or writes in another way from version to version."""
    if not isinstance(query, dict) or not query.get("stages"):
        return query
    stages = []
    for stage in query["stages"]:
        tags = stage.get("template-tags") or {}
        tags = list(tags.values()) if isinstance(tags, dict) else tags
        stages.append(
            {
                "native": stage.get("native"),
                "tags": {
                    tag["name"]: {
                        key: _field_id(tag.get(key)) if key == "dimension" else tag.get(key)
                        for key in ("id", "display-name", "type", "dimension", "widget-type", "default", "required")
                    }
                    | {"required": bool(tag.get("required"))}
                    for tag in tags
                },
            }
        )
    return {"database": query.get("database"), "stages": stages}


def _field_id(dimension: Any) -> Any:
    return next((part for part in dimension[1:] if isinstance(part, int)), None) if dimension else None


def contains(found: Any, wanted: Any) -> bool:
    """Return whether `found` says what `wanted` says: keys that a server adds do not count, and empty is as missing."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(contains(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(contains(one, other) for one, other in zip(found, wanted, strict=True))
        ) or (not wanted and not found)
    return bool(found == wanted or (found in (None, "") and wanted in (None, "")))


def same_target(found: Any, wanted: Any) -> bool:
    """Return whether two mappings lead to the same template tag; newer servers add a third part."""
    return isinstance(found, list) and found[:2] == wanted[:2]
