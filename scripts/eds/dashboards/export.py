"""Dashboards as files: an Excel workbook of each, or a folder of CSV files, with the figures that the database answers.

The page makes such files too, of what it holds; here every loan is in them.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

import psycopg

from eds.base.errors import UserError
from eds.base.settings import Settings
from eds.cluster.connections import Cluster, connect
from eds.dashboards import content, page
from eds.dashboards.content import Column, Content, Dashboard, Filter, Question

Kind = Literal["xlsx", "csv"]
# The rows of an Excel sheet, its header included.
MOST_SHEET_ROWS = 1_048_576
LONGEST_SHEET_NAME = 31
NUMBER_FORMATS = {
    "money": "#,##0.00",
    "percent": "0.00",
    "change": "0.00",
    "integer": "#,##0",
    "month": "mmm yyyy",
    "date": "yyyy-mm-dd",
    "datetime": "yyyy-mm-dd hh:mm",
}
# What a spreadsheet takes for the beginning of a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def chosen_filters(text: str, what: Content) -> dict[str, Any]:
    """Return the filters of an address (branch=NRB01&months=2026-01~2026-06) as values by name. Raises UserError."""
    chosen: dict[str, Any] = {}
    for name, value in parse_qsl(text.removeprefix("?"), keep_blank_values=True):
        kind = what.filters.get(name)
        if kind is None:
            hint = " In a value, & is written as %26 and + as %2B." if "&" in text else ""
            raise UserError(f"There is no filter {name}; the filters are {', '.join(what.filters)}.{hint}")
        if not value:
            raise UserError(f"The filter {name} has no value: expected something like 'branch=NRB01&segment=sme'.")
        if name in chosen:
            raise UserError(f"The filter {name} is given twice: of several values any may hold, {name}=ONE|OTHER.")
        chosen[name] = _months(value) if kind.type == "months" else value.split("|")
    if text and not chosen:
        raise UserError(f"{text!r} names no filter: expected something like 'branch=NRB01&segment=sme'.")
    return chosen


def _months(value: str) -> list[str | None]:
    first, separator, last = value.partition("~")
    edges = [first, last if separator else first]
    try:
        return [datetime.strptime(edge, "%Y-%m").date().isoformat() if edge else None for edge in edges]
    except ValueError:
        raise UserError(f"Months {value!r}: expected 2026-01~2026-06, or one of the two ends.") from None


def known_values(
    connection: psycopg.Connection, board: Dashboard, what: Content, chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the choices with their complete values: a code stands for the branch that has it. Raises UserError."""
    found = dict(chosen)
    questions = [what.questions[place.question] for place in board.placements()]
    for name, values in chosen.items():
        kind = what.filters[name]
        if kind.type == "months":
            continue
        views = sorted({question.view for question in questions if question.view and name in question.filters})
        present = {value for view in views for value in _values(connection, view, kind)}
        complete = []
        for value in values:
            fits = [each for each in present if each == value] or [
                each for each in present if each.endswith(f" ({value})")
            ]
            if views and not fits:
                raise UserError(f"No loan has the {kind.label.lower()} {value}; {len(present)} are known.")
            complete += fits[:1]
        found[name] = complete
    return found


def _values(connection: psycopg.Connection, view: str, kind: Filter) -> list[str]:
    query = page.sql.SQL("select distinct {0} from {1} where {0} is not null").format(
        page.sql.Identifier(kind.column), page.sql.Identifier(content.SCHEMA, view)
    )
    return [str(row[0]) for row in connection.execute(query).fetchall()]


def unlimited(question: Question, what: Content) -> Question:
    """Return a question that lists things without the limit that Metabase needs."""
    grain = what.grains.get(question.view or "")
    if grain is None or grain.order is None:
        return question
    return question.model_copy(update={"limit": None}).on(grain, what.filters)


def about(board: Dashboard, what: Content, as_of: datetime | None, chosen: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the figures are of, for whoever finds the file later."""
    lines = [
        ("Dashboard", board.name),
        ("Data as of", f"{as_of.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if as_of else "no data yet"),
        (
            "Filters",
            " · ".join(
                f"{what.filters[name].label}: {' to '.join(value or '…' for value in values)}"
                if what.filters[name].type == "months"
                else f"{what.filters[name].label}: {', '.join(values)}"
                for name, values in chosen.items()
            )
            or "none",
        ),
    ]
    for place in board.placements():
        question = what.questions[place.question]
        idle = [what.filters[name].label for name in chosen if name not in question.filters]
        if idle:
            lines.append((question.name, f"not filtered by {', '.join(idle)}"))
    return lines


def heading(column: Column, currency: str) -> str:
    """Return the head of a column, with its unit."""
    unit = {"money": f", {currency}", "percent": " (%)", "change": " (%)"}
    return column.label + unit.get(column.format, "")


def export(settings: Settings, boards: list[str], kind: Kind, folder: Path, filters: str = "") -> list[Path]:
    """Write each dashboard to a file (xlsx) or a folder (csv) below `folder`, complete or not at all. Returns them."""
    what = content.load()
    for key in boards:
        if key not in what.dashboards:
            raise UserError(f"There is no dashboard {key}; there are {', '.join(key for key, _ in what.in_order())}.")
    wanted = chosen_filters(filters, what)
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    with connect(page.reader_conninfo(Cluster(settings))) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        row = connection.execute("select data_as_of from warehouse.vw_data_as_of").fetchone()
        as_of = row[0] if row else None
        for key in boards or [key for key, _ in what.in_order()]:
            board = what.dashboards[key]
            chosen = known_values(connection, board, what, wanted)
            sheets = []
            for place in board.placements():
                question = unlimited(what.questions[place.question], what)
                here = {name: value for name, value in chosen.items() if name in question.filters}
                sheets.append(
                    (place.question, question, page.rows_of(connection, place.question, question, here, what))
                )
            notes = about(board, what, as_of, chosen)
            name = f"{key}-{as_of.astimezone(UTC):%Y-%m-%d}" if as_of else key
            target = folder / (f"{name}.xlsx" if kind == "xlsx" else name)
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as temporary:
                made = Path(temporary) / target.name
                if kind == "xlsx":
                    write_workbook(made, sheets, notes, settings.currency)
                else:
                    write_csv_files(made, sheets, notes, settings.currency)
                    if target.is_dir():
                        shutil.rmtree(target)
                made.replace(target)
            written.append(target)
    return written


Sheet = tuple[str, Question, list[dict[str, Any]]]


def write_csv_files(folder: Path, sheets: list[Sheet], notes: list[tuple[str, str]], currency: str) -> None:
    """Write a CSV file for each question, and about.csv."""
    folder.mkdir()
    for key, question, rows in sheets:
        columns = question.shown
        with (folder / f"{key}.csv").open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(heading(column, currency) for column in columns.values())
            writer.writerows([_csv_field(row[name]) for name in columns] for row in rows)
    with (folder / "about.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(notes)


def _csv_field(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return value.astimezone(UTC).isoformat(timespec="seconds") if isinstance(value, datetime) else value


def write_workbook(path: Path, sheets: list[Sheet], notes: list[tuple[str, str]], currency: str) -> None:
    """Write a workbook with a sheet for each question, and one that says what they are of."""
    import xlsxwriter  # type: ignore[import-untyped, import-not-found, unused-ignore]

    # Text stays text, whatever it begins with; times are UTC, as everywhere.
    options = {
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
        "remove_timezone": True,
    }
    with xlsxwriter.Workbook(path, options) as book:
        bold = book.add_format({"bold": True})
        formats = {name: book.add_format({"num_format": code}) for name, code in NUMBER_FORMATS.items()}
        taken: set[str] = set()
        for _, question, rows in sheets:
            columns = question.shown
            if len(rows) >= MOST_SHEET_ROWS:
                raise UserError(
                    f"{question.name} has {len(rows):,} rows, and a sheet of Excel holds {MOST_SHEET_ROWS - 1:,}: "
                    "FORMAT=csv writes them all, and FILTERS asks for fewer."
                )
            sheet = book.add_worksheet(sheet_name(question.name, taken))
            sheet.freeze_panes(1, 0)
            sheet.write_row(0, 0, [heading(column, currency) for column in columns.values()], bold)
            for number, row in enumerate(rows, start=1):
                for place, (name, column) in enumerate(columns.items()):
                    value = row[name]
                    if isinstance(value, datetime):
                        value = value.astimezone(UTC)
                    if isinstance(value, Decimal) and not value.is_finite():
                        value = str(value)
                    if value is not None:
                        sheet.write(number, place, value, formats.get(column.format))
            sheet.autofit()
        sheet = book.add_worksheet(sheet_name("About", taken))
        for number, line in enumerate(notes):
            sheet.write_row(number, 0, line)
        sheet.autofit()


def sheet_name(name: str, taken: set[str]) -> str:
    """Return a name that Excel takes: short, without some characters, and not there yet."""
    clean = "".join(" " if letter in r"\/?*[]:" else letter for letter in name).strip() or "Sheet"
    found, number = clean[:LONGEST_SHEET_NAME], 2
    while found.lower() in taken:
        found = f"{clean[: LONGEST_SHEET_NAME - 4]} {number}"
        number += 1
    taken.add(found.lower())
    return found
