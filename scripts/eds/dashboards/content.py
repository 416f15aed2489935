"""What the dashboards are: the files in infra/dashboards, read and checked."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from eds.base.errors import UserError
from eds.base.settings import ROOT

FOLDER = ROOT / "infra/dashboards"
QUESTIONS = "questions.yml"
GRID_COLUMNS = 24
SCHEMA = "warehouse"

# [[and {{name}}]] in a question's SQL: the condition of a filter, which drops out while the filter has no value.
CONDITION = re.compile(r"\[\[and \{\{(\w+)\}\}\]\]")
VIEW = re.compile(rf"\b{SCHEMA}\.(\w+)")

Colour = Literal["primary", "good", "neutral", "warning", "bad"]
Format = Literal["text", "money", "percent", "change", "integer", "month", "calendar_month", "date", "datetime"]
Chart = Literal["number", "line", "bar", "row", "pie", "table"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Strict):
    """A column of a question's result: its label, and how its values are written.

    A question on a grain says of each column how it is made; one without any of these is a column of the view by which
    the rows are grouped.

    sum: the view's columns that are added up, over the rows that `where` allows (values by column)
    percent, change, average: two other columns of the question, a and b: 100 a / b, 100 (a - b) / b, a / b
    share: another column of the question: 100 times its value by that of all rows
    running: of a sum, whether it is added up along x, for each value of series
    hidden: other columns are made of it, and nobody sees it
    """

    label: str
    format: Format = "text"
    sum: list[str] = []
    where: dict[str, list[str | int]] = {}
    percent: tuple[str, str] | None = None
    change: tuple[str, str] | None = None
    average: tuple[str, str] | None = None
    share: str | None = None
    running: bool = False
    hidden: bool = False

    @property
    def quotient(self) -> tuple[str, str] | None:
        """The two columns that it divides, if it does."""
        return self.percent or self.change or self.average

    @property
    def is_measure(self) -> bool:
        return bool(self.sum or self.quotient or self.share)

    @field_validator("sum", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_made_in_one_way(self) -> Column:
        if sum(map(bool, (self.sum, self.percent, self.change, self.average, self.share))) > 1:
            raise ValueError("a column is one of sum, percent, change, average and share")
        if self.running and not self.sum:
            raise ValueError("a running column is a sum")
        return self


class Filter(_Strict):
    """What a person may choose: values of a column that every grain names alike; of months, from one to another."""

    label: str
    type: Literal["text", "number", "months"]
    column: str


class Grain(_Strict):
    """A view that holds figures by several dimensions, from which the page computes what a filter leaves.

    dimensions: the columns that rows are grouped and filtered by
    drop: those of them that the page leaves out, in this order, when there are too many combinations for a page
    leads_to: the dashboard that lists the loans behind a figure
    order, most: of a view with one row per thing, how many of them the page holds, and which ones: an SQL order
    """

    dimensions: list[str]
    drop: list[str] = []
    leads_to: str | None = None
    order: str | None = None
    most: int | None = None


class Question(_Strict):
    """One query and how its result is shown. infra/dashboards/questions.yml describes the parts."""

    name: str
    description: str
    chart: Chart
    columns: dict[str, Column]
    sql: str = ""
    view: str | None = None
    where: dict[str, list[str | int]] = {}
    sort: list[str] = []
    limit: int | None = None
    totals: bool = False
    ignores: list[str] = []
    x: str | None = None
    y: list[str] = []
    series: str | None = None
    stacked: bool = False
    filters: dict[str, str] = {}
    colours: dict[str, Colour] = {}

    @property
    def views(self) -> list[str]:
        """The views it reads, in the order of the text, each once."""
        return list(dict.fromkeys(VIEW.findall(self.sql)))

    @property
    def dimensions(self) -> list[str]:
        """The columns that are no measures."""
        return [name for name, column in self.columns.items() if not column.is_measure]

    @property
    def is_running(self) -> bool:
        """Whether one of its columns is added up along x."""
        return any(column.running for column in self.columns.values())

    @property
    def shown(self) -> dict[str, Column]:
        """The columns that its result has."""
        return {name: column for name, column in self.columns.items() if not column.hidden}

    def view_of_filter(self, name: str) -> str:
        """Return the view whose column a filter looks at: the one named last before the condition."""
        before = self.sql[: self.sql.index("{{" + name + "}}")]
        return str(VIEW.findall(before)[-1])

    def on(self, grain: Grain, filters: Mapping[str, Filter]) -> Question:
        """Return a question on a grain with its SQL and with the filters that its grain takes."""
        taken = {
            name: kind.column
            for name, kind in filters.items()
            if kind.column in grain.dimensions and name not in self.ignores
        }
        return self.model_copy(update={"sql": query(self, taken, grain), "filters": taken})

    @model_validator(mode="after")
    def _hangs_together(self) -> Question:
        named = [name for name in (self.x, self.series, *self.y) if name]
        named += [name.removeprefix("-") for name in self.sort]
        for column in self.columns.values():
            named += [*(column.quotient or ()), *([column.share] if column.share else [])]
        for name in named:
            if name not in self.columns:
                raise ValueError(f"{name} is drawn but not among the columns")
        if self.chart == "number" and (len(self.y) != 1 or self.x):
            raise ValueError("a number has one y and no x")
        if self.chart in ("line", "bar", "row", "pie") and not (self.x and self.y):
            raise ValueError(f"a {self.chart} chart needs x and y")
        if self.is_running and not self.x:
            raise ValueError("a running column is added up along an x")
        if self.totals and self.chart != "table":
            raise ValueError("totals are a table's")
        if self.series and len(self.y) != 1:
            raise ValueError("series splits one y")
        if bool(self.sql) == bool(self.view):
            raise ValueError("a question has either sql or the view of a grain")
        if self.view:
            if self.filters:
                raise ValueError("a question on a grain takes the filters of its grain: it names only those it ignores")
            return self
        if any(column.is_measure for column in self.columns.values()):
            raise ValueError("a question with sql computes its columns there")
        asked = set(CONDITION.findall(self.sql))
        if asked != set(self.filters) or CONDITION.sub("", self.sql).count("{{"):
            raise ValueError(
                f"the filters ({', '.join(self.filters) or 'none'}) are not those of the sql "
                f"({', '.join(sorted(asked)) or 'none'}), each written once as [[and {{{{name}}}}]]"
            )
        if not self.views:
            raise ValueError(f"the sql reads no view of schema {SCHEMA}")
        return self


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _allowed(where: Mapping[str, list[str | int]]) -> str:
    return " and ".join(f"{name} in ({', '.join(map(_literal, values))})" for name, values in where.items())


def _expression(question: Question, column: Column) -> str:
    """Return the SQL of a measure."""
    if column.share:
        whole = _expression(question, question.columns[column.share])
        return f"round(100.0 * {whole} / nullif(sum({whole}) over (), 0), 2)"
    if column.quotient:
        one, other = (_expression(question, question.columns[name]) for name in column.quotient)
        above = f"100.0 * ({one} - {other})" if column.change else f"100.0 * {one}" if column.percent else one
        return f"round({above} / nullif({other}, 0), 2)"
    condition = f" filter (where {_allowed(column.where)})" if column.where else ""
    plain = f"coalesce(sum({' + '.join(column.sum)}){condition}, 0)"
    if not column.running:
        return plain
    within = f"partition by {question.series} " if question.series else ""
    return f"sum({plain}) over ({within}order by {question.x} rows unbounded preceding)"


def query(question: Question, filters: Mapping[str, str], grain: Grain) -> str:
    """Return the SQL of a question on a grain, with the conditions of its filters.

    Groups in which every sum is 0 are left out, but not of running sums, which go on there. With `totals`, a table's
    last row is all of them.
    """
    conditions = [_allowed(question.where) or "true", *(f"[[and {{{{{name}}}}}]]" for name in filters)]
    totalled = question.dimensions[0] if question.totals else None
    chosen = [
        f"{_expression(question, column)} as {name}"
        if column.is_measure
        else f"case when grouping({name}) = 1 then 'Total' else {name} end as {name}"
        if name == totalled
        else name
        for name, column in question.shown.items()
    ]
    lines = [
        "select",
        "    " + ",\n    ".join(chosen),
        f"from {SCHEMA}.{question.view}",
        f"where {' '.join(conditions)}",
    ]
    order = [
        f"{name.removeprefix('-')}{' desc nulls last' if name.startswith('-') else ''}"
        for name in question.sort or question.dimensions
    ]
    dimensions = question.dimensions
    if grain.order is None and dimensions:
        groups = ", ".join(dimensions)
        if question.totals:
            lines.append(f"group by grouping sets (({groups}), ())")
            order.insert(0, f"grouping({dimensions[0]})")
        else:
            lines.append(f"group by {groups}")
        if not question.is_running:
            sums = [_expression(question, column) for column in question.columns.values() if column.sum]
            kept = " or ".join(f"{one} <> 0" for one in sums)
            lines.append(f"having {kept}" + (f" or grouping({dimensions[0]}) = 1" if question.totals else ""))
    if dimensions:
        lines.append(f"order by {', '.join(order)}")
    if question.limit:
        lines.append(f"limit {question.limit}")
    return "\n".join(lines) + "\n"


class LayoutRow(_Strict):
    """Questions side by side: their keys with the width of each, of 24 columns."""

    height: int = Field(ge=1, le=30)
    questions: dict[str, int]

    @model_validator(mode="after")
    def _fits(self) -> LayoutRow:
        if sum(self.questions.values()) != GRID_COLUMNS or min(self.questions.values()) < 1:
            raise ValueError(f"the widths of a row add up to {GRID_COLUMNS}")
        return self


class Placement(_Strict):
    """The place of a question on a dashboard, in cells of the grid."""

    question: str
    column: int
    row: int
    width: int
    height: int


class Dashboard(_Strict):
    """A named arrangement of questions with filters in common. position: where it stands among the others."""

    position: int
    name: str
    description: str
    filters: list[str]
    layout: list[LayoutRow]

    def placements(self) -> Iterator[Placement]:
        """Yield every question with its place, row by row."""
        row = 0
        for line in self.layout:
            column = 0
            for question, width in line.questions.items():
                yield Placement(question=question, column=column, row=row, width=width, height=line.height)
                column += width
            row += line.height


class Collection(_Strict):
    """The folder of the files."""

    name: str
    description: str


class Content(_Strict):
    """Everything in infra/dashboards: questions, filters and dashboards, by key."""

    collection: Collection
    database: str
    filters: dict[str, Filter]
    grains: dict[str, Grain] = {}
    questions: dict[str, Question]
    dashboards: dict[str, Dashboard]

    def in_order(self) -> list[tuple[str, Dashboard]]:
        """Return the dashboards with their keys, as a person goes through them."""
        return sorted(self.dashboards.items(), key=lambda item: item[1].position)

    def _takes(self, question: Question, name: str) -> bool:
        """Return whether a filter acts on a question."""
        if question.view is None:
            return name in question.filters
        grain = self.grains.get(question.view)
        return grain is not None and self.filters[name].column in grain.dimensions and name not in question.ignores

    def _problems_of_grain(self, key: str, question: Question) -> list[str]:
        if question.view is None:
            return []
        grain = self.grains.get(question.view)
        if grain is None:
            return [f"question {key}: {question.view} is not among the grains"]
        if grain.order is not None:
            return []
        used = [*question.dimensions, *question.where]
        used += [name for column in question.columns.values() for name in column.where]
        return [
            f"question {key}: {name} is no dimension of {question.view}"
            for name in used
            if name not in grain.dimensions
        ]

    def completed(self) -> Content:
        """Return the content with the SQL and the filters of the questions on grains."""
        return self.model_copy(
            update={
                "questions": {
                    key: question.on(self.grains[question.view], self.filters) if question.view else question
                    for key, question in self.questions.items()
                }
            }
        )

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> Content:
        problems = [
            f"grain {view}: no dashboard {grain.leads_to}"
            for view, grain in self.grains.items()
            if grain.leads_to and grain.leads_to not in self.dashboards
        ]
        for key, question in self.questions.items():
            asked = [*question.filters, *question.ignores]
            problems += [f"question {key}: no filter {name}" for name in asked if name not in self.filters]
            problems += self._problems_of_grain(key, question)
        shown = set()
        for key, dashboard in self.dashboards.items():
            here = [place.question for place in dashboard.placements()]
            shown.update(here)
            problems += [f"dashboard {key}: {name} is placed twice" for name in set(here) if here.count(name) > 1]
            problems += [f"dashboard {key}: no question {name}" for name in here if name not in self.questions]
            for name in dashboard.filters:
                if name not in self.filters:
                    problems.append(f"dashboard {key}: no filter {name}")
                elif not any(self._takes(self.questions[place], name) for place in here if place in self.questions):
                    problems.append(f"dashboard {key}: filter {name} applies to none of its questions")
        problems += [f"question {key} is placed on no dashboard" for key in self.questions if key not in shown]
        names = [question.name for question in self.questions.values()]
        problems += [f"two questions are named {name}" for name in set(names) if names.count(name) > 1]
        if problems:
            raise ValueError("; ".join(problems))
        return self


@functools.cache
def load(folder: Path = FOLDER) -> Content:
    """Return the content of a folder of YAML files. Raises UserError that names the file and what is wrong in it."""
    try:
        parts = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yml"))}
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"The dashboards' files in {folder} cannot be read: {error}") from error
    if not isinstance(parts.get(QUESTIONS), dict):
        raise UserError(f"{folder / QUESTIONS} is missing or holds no questions.")
    questions = parts.pop(QUESTIONS)
    dashboards = {name.removesuffix(".yml"): part for name, part in parts.items()}
    try:
        return Content.model_validate(questions | {"dashboards": dashboards}).completed()
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            place = ".".join(str(part) for part in problem["loc"])
            lines.append(f"  {place + ': ' if place else ''}{str(problem['msg']).removeprefix('Value error, ')}")
        raise UserError(f"Wrong in the dashboards' files ({folder}):\n" + "\n".join(lines)) from error
