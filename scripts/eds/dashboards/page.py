"""The dashboards as one HTML page that needs no server and no network: its data, styles and scripts are in it.

The page holds the result of every question for every choice of its filters: a filter shows what the database returned
and computes nothing itself.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
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
from eds.dashboards import content
from eds.dashboards.content import CONDITION, Content, Question
from eds.warehouse import runs

FILE_NAME = "dashboards.html"
RUNS_SHOWN = 40
# All choices of a question's filters together; each is a query, and a part of the page.
MOST_CHOICES = 400
FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"


def reader_conninfo(settings: Settings) -> str:
    """Return a connection string of the dashboards' role on the warehouse."""
    cluster = Cluster(settings)
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
    """Write a page whole or not at all: whoever reads it sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


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


def bound_sql(question: Question, chosen: Mapping[str, Any]) -> sql.Composed:
    """Return a question's SQL with the conditions of the chosen filters, and without the others."""
    parts: list[sql.Composable] = []
    end = 0
    for found in CONDITION.finditer(question.sql):
        parts.append(sql.SQL(question.sql[end : found.start()]))
        name = found.group(1)
        if name in chosen:
            parts.append(
                sql.SQL("and {} = {}").format(sql.Identifier(question.filters[name]), sql.Literal(chosen[name]))
            )
        end = found.end()
    return sql.Composed([*parts, sql.SQL(question.sql[end:])])


def choices(question: Question, values: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Every choice of a question's filters, from none chosen to all chosen."""
    names = list(question.filters)
    if math.prod(len(values[name]) + 1 for name in names) > MOST_CHOICES:
        # What is too much for a page: the whole alone.
        yield {}
        return
    for combination in itertools.product(*[[None, *values[name]] for name in names]):
        yield {name: value for name, value in zip(names, combination, strict=True) if value is not None}


def key_of(chosen: Mapping[str, Any]) -> str:
    """How the page finds the result of a choice: the filters' values as a JSON list of pairs, by name."""
    return json.dumps(sorted([name, str(value)] for name, value in chosen.items()), separators=(",", ":"))


def read(settings: Settings, what: Content) -> dict[str, Any]:
    """All results, of one instant: they are read in one transaction, as the dashboards' role."""
    with connect(reader_conninfo(settings)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        views = {view for question in what.questions.values() for view in question.views}
        missing = sorted(
            view
            for view in views
            if not _one(connection, "select to_regclass(%s) is not null", (f"{content.SCHEMA}.{view}",))
        )
        if missing:
            raise UserError(
                f"The warehouse has no {', '.join(missing)} yet: the first dbt build makes the views (make etl NOW=1)."
            )
        as_of = _one(connection, "select data_as_of from warehouse.vw_data_as_of")
        values = {name: _values(connection, found.view, found.column) for name, found in what.filters.items()}
        questions = {}
        for key, question in what.questions.items():
            results = {}
            for chosen in choices(question, values):
                cursor = connection.execute(bound_sql(question, chosen))
                names = [column.name for column in cursor.description or ()]
                if set(names) != set(question.columns):
                    raise UserError(
                        f"Question {key} in {content.FOLDER / content.QUESTIONS} describes the columns "
                        f"{', '.join(question.columns)}, and its sql gives {', '.join(names)}."
                    )
                results[key_of(chosen)] = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            questions[key] = question.model_dump(exclude={"sql"}) | {"results": results}
        return {
            "data_as_of": as_of.astimezone(UTC) if as_of else None,
            "filters": {
                name: {"label": what.filters[name].label, "values": [str(value) for value in found]}
                for name, found in values.items()
            },
            "questions": questions,
        }


def _one(connection: psycopg.Connection, query: str, parameters: Any = None) -> Any:
    row = connection.execute(query, parameters).fetchone()
    return row[0] if row else None


def _values(connection: psycopg.Connection, view: str, column: str) -> list[Any]:
    query = sql.SQL("select distinct {0} from {1} where {0} is not null order by 1").format(
        sql.Identifier(column), sql.Identifier(content.SCHEMA, view)
    )
    return [row[0] for row in connection.execute(query).fetchall()]


def _runs(settings: Settings) -> list[dict[str, Any]]:
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
        for run in runs.history(settings, RUNS_SHOWN)
    ]


def render(settings: Settings) -> str:
    """Return the page, as text. Raises UserError when the warehouse is away or has no views yet."""
    what = content.load()
    finished, _ = runs.last_success(settings)
    data = read(settings, what) | {
        "currency": settings.currency,
        "fresh_minutes": settings.etl_fresh_minutes,
        "last_success": finished,
        "runs": _runs(settings),
        "generated_at": datetime.now(UTC),
    }
    ended = [run for run in data["runs"] if run["status"] != "running"]
    failed = ended[0] if ended and ended[0]["status"] == "failed" else None
    template = environment().get_template("dashboards.html.j2")
    return template.render(what=what, data=data, failed=failed, schedule=settings.etl_schedule)


def refresh(settings: Settings) -> Path:
    """Rewrite the page, in one step. Returns where it is."""
    path = settings.site / FILE_NAME
    write(path, render(settings))
    return path
