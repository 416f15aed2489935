"""The dashboards as one HTML page that needs no server and no network: its data, styles and scripts are in it.

The page holds the grains that the questions are computed from: views with the figures of every combination of the
dimensions that a filter takes. Its script adds them up, in whole cents, as the question's SQL does; a test compares
both.
Of a question with SQL of its own it holds the results for every choice of its filters.
"""

from __future__ import annotations

import itertools
import json
import math
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from psycopg import sql

from eds.base.errors import UserError
from eds.base.files import write_atomically
from eds.base.settings import Settings
from eds.cluster.connections import Cluster, connect
from eds.cluster.queries import has_relation
from eds.dashboards import content
from eds.dashboards.content import CONDITION, Content, Filter, Question
from eds.warehouse import runs

FILE_NAME = "dashboards.html"
RUNS_SHOWN = 40
# The most combinations of a question's filter values; each is a query, and a part of the page.
MOST_CHOICES = 400
# The most combinations of a grain's dimensions; each takes some 40 bytes.
MOST_ROWS = 100_000
# The dbt project, as the lineage names it.
PROJECT = "enterprise_data_platform"
FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"


def reader_conninfo(cluster: Cluster) -> str:
    """Return a connection string of the dashboards' role on the warehouse."""
    return cluster.conninfo(cluster.warehouse, "warehouse_reader")


def environment() -> Environment:
    """Jinja with the folder's templates. `inline(name)` puts a file of static/ into the page as it is."""
    env = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals["inline"] = lambda name: Markup((STATIC / name).read_text(encoding="utf-8"))
    env.policies["json.dumps_kwargs"] = {"default": plain, "separators": (",", ":")}
    return env


def write(path: Path, text: str) -> None:
    """Write a page complete or not at all: whoever reads it sees the old one or the new one.

    It is for whom its place is: in the state directory for this account, in a place that everybody can list for all.
    """
    missing = []
    place = path.parent
    while not place.exists():
        missing.append(place)
        place = place.parent
    public = bool(place.stat().st_mode & stat.S_IROTH)
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755 if public else 0o700)
    write_atomically(path, text, mode=0o644 if public else 0o600)


def plain(value: object) -> object:
    """Return a value of the database as JSON has it: numbers, and times as ISO text in UTC.

    JSON has no NaN and no infinity, and a page that holds one draws nothing: they are shown as no value.
    """
    if isinstance(value, Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in the page")


def condition(kind: Filter, column: str, value: object) -> sql.Composable:
    """Return the condition of a chosen filter: a value, several of them, or of months a pair (None: no bound)."""
    name = sql.Identifier(column)
    if kind.type == "months":
        first, last = value if isinstance(value, list | tuple) else (value, value)
        parts = [sql.SQL("and {} >= {}").format(name, sql.Literal(first))] if first else []
        parts += [sql.SQL("and {} <= {}").format(name, sql.Literal(last))] if last else []
        return sql.SQL(" ").join(parts)
    if isinstance(value, list | tuple):
        return sql.SQL("and {} in ({})").format(name, sql.SQL(", ").join(map(sql.Literal, value)))
    return sql.SQL("and {} = {}").format(name, sql.Literal(value))


def bound_sql(question: Question, chosen: Mapping[str, Any], filters: Mapping[str, Filter]) -> sql.Composed:
    """Return a question's SQL with the conditions of the chosen filters, and without the others."""
    parts: list[sql.Composable] = []
    end = 0
    for found in CONDITION.finditer(question.sql):
        parts.append(sql.SQL(question.sql[end : found.start()]))
        name = found.group(1)
        if name in chosen:
            parts.append(condition(filters[name], question.filters[name], chosen[name]))
        end = found.end()
    return sql.Composed([*parts, sql.SQL(question.sql[end:])])


def choices(question: Question, values: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every choice of a question's filters, from none chosen to all chosen."""
    names = list(question.filters)
    if math.prod(len(values[name]) + 1 for name in names) > MOST_CHOICES:
        # Too many for a page: only the unfiltered answer.
        yield {}
        return
    for combination in itertools.product(*[[None, *values[name]] for name in names]):
        yield {name: value for name, value in zip(names, combination, strict=True) if value is not None}


def key_of(chosen: Mapping[str, Any]) -> str:
    """Return how the page finds the result of a choice: the filters' values as a JSON list of pairs, by name."""
    return json.dumps(sorted([name, str(value)] for name, value in chosen.items()), separators=(",", ":"))


@dataclass(frozen=True)
class Grain:
    """A grain as the page holds it: text by dictionary, numbers in whole units of their last decimal.

    columns: by name, either values and codes (a number of the values for each row), or scale and numbers
    left_out: the dimensions that would have made too many rows
    complete: whether every row of the view is there
    is_list: whether a row is a thing of its own, and not a sum
    leads_to: the dashboard that shows the loans behind a figure
    """

    size: int
    columns: dict[str, dict[str, Any]]
    left_out: list[str]
    complete: bool
    is_list: bool = False
    leads_to: str | None = None


def read_grain(connection: psycopg.Connection, view: str, what: Content) -> Grain:
    """Read a view as the questions on it need it: their dimensions, those of the filters, and sums over the rest."""
    grain = what.grains[view]
    questions = [question for question in what.questions.values() if question.view == view]
    relation = sql.Identifier(content.SCHEMA, view)
    if grain.order is not None:
        names = list(dict.fromkeys([*grain.dimensions, *(name for one in questions for name in one.columns)]))
        query = sql.SQL("select {} from {} order by {} limit {}").format(
            sql.SQL(", ").join(map(sql.Identifier, names)),
            relation,
            sql.SQL(grain.order),
            (grain.most or MOST_ROWS) + 1,
        )
        things = connection.execute(query).fetchall()
        complete = len(things) <= (grain.most or MOST_ROWS)
        return replace(_encoded(names, things[: grain.most], set(), [], complete), is_list=True)
    measures = list(dict.fromkeys(name for one in questions for column in one.columns.values() for name in column.sum))
    rows: list[Any] = []
    for step in range(len(grain.drop) + 1):
        left_out = grain.drop[:step]
        # When nothing more can be left out, the page is large rather than wrong.
        most = MOST_ROWS if step < len(grain.drop) else None
        names = [name for name in grain.dimensions if name not in left_out]
        query = sql.SQL("select {}, {} from {} group by {}{}").format(
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(sql.SQL("sum({})").format(sql.Identifier(name)) for name in measures),
            relation,
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(" limit {}").format(most + 1) if most else sql.SQL(""),
        )
        rows = connection.execute(query).fetchall()
        if most and len(rows) <= most:
            break
    return replace(_encoded([*names, *measures], rows, set(measures), left_out, True), leads_to=grain.leads_to)


def _encoded(names: list[str], rows: list[Any], measures: set[str], left_out: list[str], complete: bool) -> Grain:
    columns = {}
    for position, name in enumerate(names):
        found = [row[position] for row in rows]
        if name in measures or any(isinstance(value, Decimal) for value in found):
            scale = max((_decimals(value) for value in found), default=0)
            columns[name] = {"scale": scale, "numbers": [_units(value, scale) for value in found]}
        else:
            values = sorted({value for value in found if value is not None})
            code = {value: number for number, value in enumerate(values)} | {None: -1}
            columns[name] = {"values": values, "codes": [code[value] for value in found]}
    return Grain(size=len(rows), columns=columns, left_out=left_out, complete=complete)


def _decimals(value: object) -> int:
    if isinstance(value, Decimal) and value.is_finite():
        exponent = value.as_tuple().exponent
        return max(0, -exponent) if isinstance(exponent, int) else 0
    return 0


def _units(value: Any, scale: int) -> int | None:
    return None if value is None or not Decimal(value).is_finite() else int(Decimal(value).scaleb(scale))


def _missing(connection: psycopg.Connection, views: set[str]) -> list[str]:
    return sorted(view for view in views if not has_relation(connection, f"{content.SCHEMA}.{view}"))


def missing_views(cluster: Cluster) -> list[str]:
    """Return the views that the dashboards read and the warehouse does not have yet."""
    with connect(reader_conninfo(cluster)) as connection:
        return _missing(connection, {view for each in content.load().questions.values() for view in each.views})


def read(cluster: Cluster, what: Content) -> dict[str, Any]:
    """Read all results of one instant: in one transaction, as the dashboards' role."""
    with connect(reader_conninfo(cluster)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        views = {view for question in what.questions.values() for view in question.views}
        if missing := _missing(connection, views):
            raise UserError(
                f"The warehouse has no {', '.join(missing)} yet: the first dbt build makes the views (make etl NOW=1)."
            )
        (as_of,) = connection.execute("select data_as_of from warehouse.vw_data_as_of").fetchone() or (None,)
        grains = {view: read_grain(connection, view, what) for view in what.grains if view in views}
        values = {name: _values(kind, grains) for name, kind in what.filters.items()}
        questions = {}
        for key, question in what.questions.items():
            shown = question.model_dump(exclude={"sql"}) | {"views": question.views}
            if question.view is None:
                shown["results"] = {
                    key_of(chosen): rows_of(connection, key, question, chosen, what)
                    for chosen in choices(question, values)
                }
            questions[key] = shown
        return {
            "data_as_of": as_of.astimezone(UTC) if as_of else None,
            "filters": {
                name: kind.model_dump() | {"values": [plain_text(value) for value in values[name]]}
                for name, kind in what.filters.items()
            },
            "boards": {key: {"filters": board.filters} for key, board in what.dashboards.items()},
            "grains": {view: vars(grain) for view, grain in grains.items()},
            "questions": questions,
        }


def rows_of(
    connection: psycopg.Connection, key: str, question: Question, chosen: Mapping[str, Any], what: Content
) -> list[dict[str, Any]]:
    """Return what the database answers to a question. Raises UserError when its columns are not those described."""
    cursor = connection.execute(bound_sql(question, chosen, what.filters))
    names = [column.name for column in cursor.description or ()]
    if set(names) != set(question.shown):
        raise UserError(
            f"Question {key} in {content.FOLDER / content.QUESTIONS} describes the columns "
            f"{', '.join(question.shown)}, and its sql gives {', '.join(names)}."
        )
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def plain_text(value: object) -> str:
    """Return a value of a filter as the page and its address write it; a month as its first day."""
    return str(plain(value) if isinstance(value, date) else value)


def _values(kind: Filter, grains: Mapping[str, Grain]) -> list[Any]:
    """Return the choices of a filter: the values of its column in all grains."""
    columns = [grain.columns[kind.column] for grain in grains.values() if kind.column in grain.columns]
    return sorted({value for column in columns for value in column["values"]})


def _runs(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the newest runs, newest first, as the page shows them."""
    return [
        {
            "run_id": run.run_id,
            "started": run.run_started_at.astimezone(UTC),
            "seconds": run.seconds,
            "status": run.status,
            "trigger": run.run_trigger,
            "extraction": run.extraction_mode or "",
            "source": run.source_host or "",
            "inserted": run.rows_inserted,
            "updated": run.rows_updated,
            "deleted": run.rows_deleted,
            "message": runs.reason(run.error_message),
        }
        for run in runs.history(cluster, RUNS_SHOWN)
    ]


def render(settings: Settings) -> str:
    """Return the page, as text. Raises UserError when the warehouse is away or has no views yet."""
    what, cluster = content.load(), Cluster(settings)
    finished, _ = runs.last_success(cluster)
    data = read(cluster, what) | {
        "currency": settings.currency,
        "fresh_minutes": settings.etl_fresh_minutes,
        "last_success": finished,
        "runs": _runs(cluster),
        "generated_at": datetime.now(UTC),
    }
    ended = [run for run in data["runs"] if run["status"] != "running"]
    failed = ended[0] if ended and ended[0]["status"] == "failed" else None
    template = environment().get_template("dashboards.html.j2")
    return template.render(what=what, data=data, failed=failed, schedule=settings.etl_schedule, project=PROJECT)


def refresh(settings: Settings) -> Path:
    """Rewrite the page, in one step. Returns where it is."""
    path = settings.site / FILE_NAME
    write(path, render(settings))
    return path
