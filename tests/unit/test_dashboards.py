"""The dashboards' files: what is refused, what follows from them, and what must agree with them."""

from __future__ import annotations

import copy
import json
import re
import socket
import stat
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from eds.base.errors import UserError
from eds.base.settings import ROOT, Settings
from eds.dashboards import content, export, metabase, metabase_spec, page, site, star_schema

GOOD: dict[str, Any] = {
    "collection": {"name": "C", "description": "D"},
    "database": "W",
    "filters": {"year": {"label": "Year", "type": "number", "column": "year"}},
    "questions": {
        "paid": {
            "name": "Paid",
            "description": "What was paid.",
            "chart": "bar",
            "x": "month",
            "y": ["total"],
            "sql": "select month, total from warehouse.vw_monthly_revenue where true [[and {{year}}]]",
            "filters": {"year": "year"},
            "columns": {"month": {"label": "Month"}, "total": {"label": "Total", "format": "money"}},
        }
    },
}
BOARD: dict[str, Any] = {
    "position": 1,
    "name": "B",
    "description": "D",
    "filters": ["year"],
    "layout": [{"height": 4, "questions": {"paid": 24}}],
}


def write(folder: Path, questions: dict[str, Any], board: dict[str, Any] = BOARD) -> Path:
    (folder / "questions.yml").write_text(yaml.safe_dump(questions, sort_keys=False), encoding="utf-8")
    (folder / "board.yml").write_text(yaml.safe_dump(board), encoding="utf-8")
    return folder


def test_a_folder_as_it_should_be_is_read(tmp_path):
    what = content.load(write(tmp_path, GOOD))
    assert list(what.dashboards) == ["board"]
    assert [place.width for place in what.dashboards["board"].placements()] == [24]


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (("chart",), "donut", r"questions\.paid\.chart: Input should be"),
        (("colour",), "red", r"questions\.paid\.colour: Extra inputs are not permitted"),
        (("y",), ["sum"], "sum is drawn but not among the columns"),
        (("x",), None, "a bar chart needs x and y"),
        (("chart",), "number", "a number has one y and no x"),
        (("filters",), {}, r"the filters \(none\) are not those of the sql \(year\)"),
        (("sql",), "select 1 as month, 2 as total {{year}}", "each written once as"),
        (("sql",), "select month, total from public.x where true [[and {{year}}]]", "reads no view of schema"),
    ],
)
def test_a_slip_in_a_question_is_named(tmp_path, place, value, sentence):
    questions = copy.deepcopy(GOOD)
    questions["questions"]["paid"][place[0]] = value
    with pytest.raises(UserError, match=sentence):
        content.load(write(tmp_path, questions))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layout": [{"height": 4, "questions": {"paid": 20}}]}, "the widths of a row add up to 24"),
        ({"layout": [{"height": 4, "questions": {"owed": 24}}]}, "no question owed"),
        ({"layout": [{"height": 4, "questions": {"paid": 24}}] * 2}, "paid is placed twice"),
        ({"filters": ["branch"]}, "no filter branch"),
    ],
)
def test_a_slip_in_a_dashboard_is_named(tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        content.load(write(tmp_path, GOOD, BOARD | change))


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / "board.yml").write_text("a: [", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        content.load(tmp_path)


def test_the_conditions_of_filters_that_are_not_chosen_drop_out(tmp_path):
    what = content.load(write(tmp_path, GOOD))
    question = what.questions["paid"]
    unfiltered = page.bound_sql(question, {}, what.filters).as_string(None)
    chosen = page.bound_sql(question, {"year": 2026}, what.filters).as_string(None)
    assert unfiltered == "select month, total from warehouse.vw_monthly_revenue where true "
    assert chosen == unfiltered + 'and "year" = 2026'


@pytest.mark.parametrize(
    ("kind", "value", "condition"),
    [
        ("text", "x' or true", "and \"c\" = 'x'' or true'"),
        ("text", ["a", "b'"], "and \"c\" in ('a', 'b''')"),
        ("months", ["2026-01-01", "2026-03-01"], "and \"c\" >= '2026-01-01' and \"c\" <= '2026-03-01'"),
        ("months", [None, "2026-03-01"], "and \"c\" <= '2026-03-01'"),
        ("months", ["2026-03-01", None], "and \"c\" >= '2026-03-01'"),
    ],
)
def test_a_value_of_a_filter_is_quoted(kind, value, condition):
    choice = content.Filter(label="L", type=kind, column="c")
    assert page.condition(choice, "c", value).as_string(None) == condition


# --- questions on a grain ---------------------------------------------------------------------------------------------

ON_A_GRAIN: dict[str, Any] = GOOD | {
    "filters": {
        "branch": {"label": "Branch", "type": "text", "column": "branch"},
        "segment": {"label": "Segment", "type": "text", "column": "segment"},
        "product": {"label": "Product", "type": "text", "column": "product"},
    },
    "grains": {"vw_g": {"dimensions": ["branch", "segment", "status"]}},
    "questions": {
        "rates": {
            "name": "Rates",
            "description": "D",
            "chart": "table",
            "view": "vw_g",
            "sort": ["-rate"],
            "columns": {
                "branch": {"label": "Branch"},
                "rate": {"label": "Rate", "format": "percent", "percent": ["bad", "all"]},
                "bad": {"label": "Bad", "sum": "loans", "where": {"status": ["lost", "o'dd"]}},
                "all": {"label": "All", "sum": "loans"},
            },
        }
    },
}
GRAIN_BOARD = BOARD | {"filters": ["branch", "segment"], "layout": [{"height": 4, "questions": {"rates": 24}}]}


def test_a_question_on_a_grain_has_its_sql_and_every_filter_that_the_grain_takes(tmp_path):
    question = content.load(write(tmp_path, ON_A_GRAIN, GRAIN_BOARD)).questions["rates"]
    assert question.filters == {"branch": "branch", "segment": "segment"}
    assert question.views == ["vw_g"]
    bad, loans = "coalesce(sum(loans) filter (where status in ('lost', 'o''dd')), 0)", "coalesce(sum(loans), 0)"
    assert question.sql.splitlines() == [
        "select",
        "    branch,",
        f"    round(100.0 * {bad} / nullif({loans}, 0), 2) as rate,",
        f"    {bad} as bad,",
        f"    {loans} as all",
        "from warehouse.vw_g",
        "where true [[and {{branch}}]] [[and {{segment}}]]",
        "group by branch",
        f"having {bad} <> 0 or {loans} <> 0",
        "order by rate desc nulls last",
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"view": "vw_other"}, "vw_other is not among the grains"),
        ({"sql": "select 1"}, "either sql or the view of a grain"),
        ({"ignores": ["colour"]}, "no filter colour"),
        ({"sort": ["-worst"]}, "worst is drawn but not among the columns"),
        ({"where": {"product": ["auto"]}}, "product is no dimension of vw_g"),
        ({"filters": {"branch": "branch"}}, "takes the filters of its grain"),
        ({"columns": {"officer": {"label": "O"}}, "sort": []}, "officer is no dimension of vw_g"),
        ({"columns": {"n": {"label": "N", "sum": "n", "share": "n"}}, "sort": []}, "one of sum, percent"),
        ({"chart": "row", "x": "branch", "y": ["rate"], "totals": True}, "totals are a table's"),
    ],
)
def test_a_slip_in_a_question_on_a_grain_is_named(tmp_path, change, sentence):
    questions = copy.deepcopy(ON_A_GRAIN)
    questions["questions"]["rates"] |= change
    with pytest.raises(UserError, match=sentence):
        content.load(write(tmp_path, questions, GRAIN_BOARD))


def test_a_filter_that_acts_on_no_question_of_its_dashboard_is_named(tmp_path):
    with pytest.raises(UserError, match="filter product applies to none of its questions"):
        content.load(write(tmp_path, ON_A_GRAIN, GRAIN_BOARD | {"filters": ["product"]}))


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", {}),
        ("branch=NRB01", {"branch": ["NRB01"]}),
        ("?branch=NRB01|KSM01&segment=sme", {"branch": ["NRB01", "KSM01"], "segment": ["sme"]}),
        ("officer=Anne+Wanyama", {"officer": ["Anne Wanyama"]}),
        ("product=Buy %26 Build %2B 5%25|Car", {"product": ["Buy & Build + 5%", "Car"]}),
        ("months=2026-01~2026-06", {"months": ["2026-01-01", "2026-06-01"]}),
        ("months=2026-01~", {"months": ["2026-01-01", None]}),
        ("months=2026-01", {"months": ["2026-01-01", "2026-01-01"]}),
    ],
)
def test_an_export_takes_the_filters_of_an_address(text, chosen):
    assert export.chosen_filters(text, content.load()) == chosen


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("colour=red", "no filter colour; the filters are months, region, branch"),
        ("NRB01", "no filter NRB01|names no filter"),
        ("product=Buy & Build", "no filter  Build; .* In a value, & is written as %26 and"),
        ("months=2026-13", "expected 2026-01~2026-06"),
        ("months=June", "expected 2026-01~2026-06"),
    ],
)
def test_unknown_filter_is_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        export.chosen_filters(text, content.load())


@pytest.mark.parametrize(
    ("names", "sheets"),
    [
        (["a/b:c", "A b c"], ["a b c", "A b c 2"]),
        (["x" * 40, "x" * 40], ["x" * 31, "x" * 27 + " 2"]),
        (["[?]", "*"], ["Sheet", "Sheet 2"]),
    ],
)
def test_a_sheet_has_a_name_that_excel_takes(names, sheets):
    taken: set[str] = set()
    assert [export.sheet_name(name, taken) for name in names] == sheets


def test_what_a_spreadsheet_takes_for_a_formula_is_text(tmp_path):
    columns = {"a": content.Column(label="A"), "b": content.Column(label="B", format="money")}
    question = content.Question(
        name="Q", description="D", chart="table", columns=columns, sql="select from warehouse.v"
    )
    rows = [{"a": text, "b": Decimal(-5)} for text in ("=1+1", "+1", "-1", "@x", "name")]
    export.write_csv_files(tmp_path / "files", [("q", question, rows)], [], "KES")
    lines = (tmp_path / "files/q.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines == ['A,"B, KES"', "'=1+1,-5", "'+1,-5", "'-1,-5", "'@x,-5", "name,-5"]


def test_exposures_name_the_views_that_the_dashboards_read():
    what = content.load()
    exposures = yaml.safe_load((ROOT / "models/marts/dashboards/__exposures.yml").read_text(encoding="utf-8"))
    assert {one["name"]: (one["label"], set(one["depends_on"])) for one in exposures["exposures"]} == {
        key: (
            board.name,
            {f"ref('{view}')" for place in board.placements() for view in what.questions[place.question].views},
        )
        for key, board in what.dashboards.items()
    }


# What people read with their own tools; the dashboards show the same figures from the grains of their filters.
FOR_QUERIES = {
    "vw_arrears_ageing",
    "vw_branch_performance",
    "vw_collections_by_month",
    "vw_expected_collections",
    "vw_ifrs9_stages",
    "vw_loan_classification",
    "vw_loan_migration",
    "vw_loan_status_distribution",
    "vw_monthly_revenue",
    "vw_officer_performance",
    "vw_payment_by_method",
    "vw_portfolio_at_risk",
    "vw_portfolio_at_risk_by_month",
    "vw_restated_months",
    "vw_schedule_coverage",
    "vw_vintages",
    "vw_write_offs",
}


def test_every_view_has_its_place_on_a_dashboard():
    read = {view for question in content.load().questions.values() for view in question.views}
    files = {path.stem for path in (ROOT / "models/marts/dashboards").rglob("*.sql")} - {"portfolio_as_of"}
    assert read | FOR_QUERIES == files
    assert not read & FOR_QUERIES


def test_every_view_reads_what_is_published_and_nothing_else():
    """Else it would show a state that is not tested, or not of the same run as the others."""
    for path in (ROOT / "models/marts/dashboards").rglob("*.sql"):
        assert set(re.findall(r"\bref\('(\w+)'\)", path.read_text(encoding="utf-8"))) <= {"published_state"}, path.name


def test_every_filter_acts_on_every_card_of_portfolio_quality():
    """But for reports, which are kept by branch; and for the months, of which the present day is not one."""
    what = content.load()
    acting = set(what.dashboards["quality"].filters) - {"months"}
    assert acting == {"region", "branch", "officer", "product", "segment"}
    for place in what.dashboards["quality"].placements():
        expected = {"region", "branch"} if place.question == "restated_months" else acting
        assert set(what.questions[place.question].filters) & acting == expected, place.question


def test_ids_are_the_same_on_every_machine_and_differ_from_each_other():
    questions = content.load().questions
    ids = [metabase_spec.entity_id(key) for key in questions]
    assert len(set(ids)) == len(questions)
    assert metabase_spec.entity_id("outstanding") == "7SN-4lO3iqjFovEWDWfP_"
    assert all(len(one) == 21 for one in ids)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, False), (0, False), (0.0, False), ("0.00", False), (-0.5, True), (10, True), ("x", True)],
)
def test_what_is_nothing_follows_no_filter(value, expected):
    assert metabase._is_something(value) is expected


def query(tags: Any, **stage: Any) -> dict[str, Any]:
    return {"database": 2, "stages": [{"native": "select 1", "template-tags": tags, **stage}]}


def test_a_query_is_compared_by_what_it_says_and_not_by_how_a_server_writes_it():
    tag = {"id": "1", "name": "year", "display-name": "Year", "type": "dimension", "widget-type": "number/="}
    sent = query({"year": tag | {"dimension": ["field", {}, 7]}})
    kept = query([tag | {"dimension": ["field", {"lib/uuid": "x"}, 7], "default": None}], **{"lib/type": "native"})
    older = query({"year": tag | {"dimension": ["field", 7, None]}})
    other = query([tag | {"dimension": ["field", {}, 8]}])
    assert (
        metabase_spec.comparable_query(sent)
        == metabase_spec.comparable_query(kept)
        == metabase_spec.comparable_query(older)
    )
    assert metabase_spec.comparable_query(sent) != metabase_spec.comparable_query(other)


def test_a_relationship_test_or_the_name_of_a_key_makes_a_line_of_the_star():
    def model(name: str, columns: list[str], key: str | None = None) -> dict[str, Any]:
        return {
            "name": name,
            "resource_type": "model",
            "description": "",
            "columns": {column: {"data_type": "bigint"} for column in columns},
            "constraints": [{"type": "primary_key", "columns": [key]}] if key else [],
        }

    nodes = {
        "model.p.fact_x": model("fact_x", ["buyer", "start_date_sk", "amount"]),
        "model.p.dim_date": model("dim_date", ["date_sk"], "date_sk"),
        "model.p.dim_person": model("dim_person", ["person_sk"], "person_sk"),
        "test.p.t": {
            "name": "t",
            "resource_type": "test",
            "test_metadata": {"name": "relationships"},
            "attached_node": "model.p.fact_x",
            "column_name": "buyer",
            "depends_on": {"nodes": ["model.p.dim_person", "model.p.fact_x"]},
        },
    }
    star = star_schema.draw({"nodes": nodes})
    assert [(one.column, one.dimension) for one in star.references] == [
        ("buyer", "dim_person"),
        ("start_date_sk", "dim_date"),
    ]
    assert star.words == "Star schema: fact_x refers to dim_date, dim_person."


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Decimal("1.50"), 1.5),
        (Decimal("NaN"), None),
        (Decimal("Infinity"), None),
        (date(9999, 12, 31), "9999-12-31"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59+00:00"),
        (datetime.min.replace(tzinfo=UTC), "0001-01-01T00:00:00+00:00"),
    ],
)
def test_every_value_of_a_view_is_one_that_a_browser_reads(value: object, shown: object) -> None:
    assert page.plain(value) == shown
    json.loads(json.dumps(page.plain(value)), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Host: 127.0.0.1"], 200),
        (["Host: 127.0.0.1:8080"], 200),
        (["Host: localhost:8080"], 200),
        (["Host: LOCALHOST"], 200),
        (["Host: [::1]:8080"], 200),
        (["Host: rebound.example"], 421),
        (["Host: rebound.example:8080"], 421),
        (["Host: 127.0.0.1.rebound.example"], 421),
        (["Host: localhost@rebound.example"], 421),
        (["Host: localhost:8080:1"], 421),
        (["Host: 127.0.0.1", "Host: rebound.example"], 421),
        (["Host:"], 421),
        ([], 421),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_docs_server_answers_for_its_own_names_alone(tmp_path, headers, status, method):
    settings = Settings.model_construct(docs_dir=tmp_path, state_dir=tmp_path)
    (tmp_path / "index.html").write_text("figures", encoding="utf-8")
    with site.served(settings) as address:
        port = int(address.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            lines = [f"{method} /index.html HTTP/1.1", *headers, "Connection: close", "", ""]
            connection.sendall("\r\n".join(lines).encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
    assert answer.split()[1] == str(status)
    assert ("figures" in answer) == (status == 200 and method == "GET")


@pytest.mark.parametrize(("mode", "private"), [(0o711, True), (0o700, True), (0o755, False)])
def test_a_page_is_for_whom_its_place_is(tmp_path, mode, private):
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(mode)
    written = place / "site" / "lineage" / "index.html"
    page.write(written, "x")
    for each in (written, written.parent, written.parent.parent):
        assert (stat.S_IMODE(each.stat().st_mode) & 0o077 == 0) is private
