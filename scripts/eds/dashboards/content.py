"""What the dashboards are: the files in infra/dashboards, read and checked."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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
Format = Literal["text", "money", "percent", "integer", "month", "datetime"]
Chart = Literal["number", "line", "bar", "row", "pie", "table"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Strict):
    """A column of a question's result: its label, and how its values are written."""

    label: str
    format: Format = "text"


class Filter(_Strict):
    """What a person may choose. values: the view and the column that the choices come from."""

    label: str
    type: Literal["text", "number"]
    values: str = Field(pattern=r"^\w+\.\w+$")

    @property
    def view(self) -> str:
        return self.values.split(".")[0]

    @property
    def column(self) -> str:
        return self.values.split(".")[1]


class Question(_Strict):
    """One query and how its result is shown. infra/dashboards/questions.yml describes the parts."""

    name: str
    description: str
    chart: Chart
    sql: str
    columns: dict[str, Column]
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

    def view_of_filter(self, name: str) -> str:
        """Return the view whose column a filter looks at: the one named last before the condition."""
        before = self.sql[: self.sql.index("{{" + name + "}}")]
        return str(VIEW.findall(before)[-1])

    @model_validator(mode="after")
    def _hangs_together(self) -> Question:
        named = [name for name in (self.x, self.series, *self.y) if name]
        for name in named:
            if name not in self.columns:
                raise ValueError(f"{name} is drawn but not among the columns")
        if self.chart == "number" and (len(self.y) != 1 or self.x):
            raise ValueError("a number has one y and no x")
        if self.chart in ("line", "bar", "row", "pie") and not (self.x and self.y):
            raise ValueError(f"a {self.chart} chart needs x and y")
        if self.series and len(self.y) != 1:
            raise ValueError("series splits one y")
        asked = set(CONDITION.findall(self.sql))
        if asked != set(self.filters) or CONDITION.sub("", self.sql).count("{{"):
            raise ValueError(
                f"the filters ({', '.join(self.filters) or 'none'}) are not those of the sql "
                f"({', '.join(sorted(asked)) or 'none'}), each written once as [[and {{{{name}}}}]]"
            )
        if not self.views:
            raise ValueError(f"the sql reads no view of schema {SCHEMA}")
        return self


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
    """Where a question stands on a dashboard, in cells of the grid."""

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
        """Every question with its place, row by row."""
        row = 0
        for line in self.layout:
            column = 0
            for question, width in line.questions.items():
                yield Placement(question=question, column=column, row=row, width=width, height=line.height)
                column += width
            row += line.height


class Collection(_Strict):
    """The folder that everything stands in."""

    name: str
    description: str


class Content(_Strict):
    """Everything in infra/dashboards: questions, filters and dashboards, by key."""

    collection: Collection
    database: str
    filters: dict[str, Filter]
    questions: dict[str, Question]
    dashboards: dict[str, Dashboard]

    def in_order(self) -> list[tuple[str, Dashboard]]:
        """Return the dashboards with their keys, as a person goes through them."""
        return sorted(self.dashboards.items(), key=lambda item: item[1].position)

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> Content:
        problems = []
        for key, question in self.questions.items():
            problems += [f"question {key}: no filter {name}" for name in question.filters if name not in self.filters]
        shown = set()
        for key, dashboard in self.dashboards.items():
            here = [place.question for place in dashboard.placements()]
            shown.update(here)
            problems += [f"dashboard {key}: {name} stands there twice" for name in set(here) if here.count(name) > 1]
            problems += [f"dashboard {key}: no question {name}" for name in here if name not in self.questions]
            for name in dashboard.filters:
                if name not in self.filters:
                    problems.append(f"dashboard {key}: no filter {name}")
                elif not any(name in self.questions[place].filters for place in here if place in self.questions):
                    problems.append(f"dashboard {key}: filter {name} applies to none of its questions")
        problems += [f"question {key} stands on no dashboard" for key in self.questions if key not in shown]
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
        return Content.model_validate(questions | {"dashboards": dashboards})
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            place = ".".join(str(part) for part in problem["loc"])
            lines.append(f"  {place + ': ' if place else ''}{str(problem['msg']).removeprefix('Value error, ')}")
        raise UserError(f"Wrong in the dashboards' files ({folder}):\n" + "\n".join(lines)) from error
