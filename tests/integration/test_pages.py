"""The pages in a real browser: what a person sees is what the views say, on every screen, without the network."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode
from xml.etree import ElementTree

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from psycopg import sql

from eds.base.errors import UserError
from eds.cluster.connections import connect
from eds.dashboards import content, export, page, site
from eds.dashboards.screenshots import browser
from eds.warehouse import runs
from support import needs
from support.book import add_customer, add_loan, pay
from support.platform import Platform

WIDTHS = {360: 780, 1280: 800, 1440: 900}
# A customer whose name would do harm if it were taken for HTML.
HOSTILE = "</script><img src=x onerror=\"document.title='hurt'\">"


@dataclass
class Seen:
    """What a page did besides showing itself."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def platform(demo_platform: Platform) -> Platform:
    """Provide the demo book with one more customer, who has paid most."""
    with demo_platform.app() as connection:
        loan = add_loan(connection, add_customer(connection, HOSTILE), "90000000.00", branch_code="NRB02")
        pay(connection, loan, principal="80000000.00")
    demo_platform.wait_for_replicas()
    demo_platform.build()
    return demo_platform


@pytest.fixture(scope="module")
def address(platform: Platform) -> Iterator[str]:
    """Yield the site, made and served."""
    assert site.refresh(platform.settings) is True
    with site.served(platform.settings) as served:
        yield served


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@contextmanager
def opened(
    chromium: Browser, url: str, width: int = 1440, scheme: Any = "light", **options: Any
) -> Iterator[tuple[Page, Seen]]:
    context = chromium.new_context(
        viewport={"width": width, "height": WIDTHS.get(width, 900)}, color_scheme=scheme, **options
    )
    shown, seen = context.new_page(), Seen()
    shown.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    shown.on("pageerror", lambda error: seen.errors.append(str(error)))
    shown.on("request", lambda request: seen.requests.append(request.url))
    shown.goto(url)
    try:
        yield shown, seen
    finally:
        context.close()


def value(shown: Page, dashboard: str, question: str) -> str:
    found = shown.locator(f"#{dashboard}-{question}").get_attribute("data-value")
    assert found is not None
    return found


def cells(shown: Page, card: str) -> list[list[str]]:
    """Return the body of a card's table, also of one that is folded away."""
    rows: list[list[str]] = shown.locator(f"#{card} tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return rows


def money(amount: Decimal) -> str:
    return f"KES\u00a0{amount:,.2f}"


def plain_money(amount: Decimal) -> str:
    """Format an amount as in a table, whose head has the currency."""
    return f"{amount:,.2f}"


def change(now: Decimal, before: Decimal) -> str:
    percent = round(100 * (now - before) / before, 2)
    return f"{percent:+.2f} %" if percent else "0.00 %"


def answers(platform: Platform, key: str, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask the database a question, without the limit of a list and the total of a table."""
    what = content.load()
    question = export.unlimited(what.questions[key], what)
    with connect(page.reader_conninfo(platform.cluster)) as connection:
        rows = page.rows_of(connection, key, question, chosen, what)
    return rows[:-1] if question.totals else rows


# --- every screen -----------------------------------------------------------------------------------------------------


# The texts of the charts that are not wholly within their picture.
CUT_LABELS = """() => [...document.querySelectorAll(".chart svg text")].filter((label) => {
    const [text, picture] = [label, label.closest("svg")].map((each) => each.getBoundingClientRect());
    return text.width && (text.left < picture.left - 1 || text.right > picture.right + 1
        || text.top < picture.top - 1 || text.bottom > picture.bottom + 1);
}).map((label) => label.textContent)"""


@pytest.mark.browser
@needs.chromium
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (540, "dark"), (1140, "light"), (1440, "dark")])
def test_every_chart_is_drawn_on_every_screen_without_errors_or_the_network(chromium, address, width, scheme):
    what = content.load()
    for key, dashboard in what.dashboards.items():
        with opened(chromium, f"{address}dashboards.html#{key}", width, scheme) as (shown, seen):
            charts = 0
            for place in dashboard.placements():
                card = shown.locator(f"#{key}-{place.question}")
                kind = what.questions[place.question].chart
                assert card.is_visible()
                if kind not in ("number", "table"):
                    charts += 1
                    box = card.locator(".chart svg").bounding_box()
                    assert box and box["width"] > 200 and box["height"] > 150
                    # One mark for each row at least, or one line for each series.
                    marks = card.locator(
                        ".chart svg path[fill]:not([fill='none']), .chart svg path[stroke-width='2.5']"
                    )
                    wanted = len(what.questions[place.question].y) if kind == "line" else 1
                    assert marks.count() >= wanted
            assert shown.locator(f"#{key} .chart svg").count() == charts
            assert charts > 0 or key in ("loans", "arrears")
            assert shown.evaluate(CUT_LABELS) == []
            # Nothing makes the page wider than the screen.
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            assert seen.errors == []
            assert [url for url in seen.requests if not url.startswith((address, "data:"))] == []


@pytest.mark.browser
@needs.chromium
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1440, "dark")])
def test_a_screen_reader_finds_everything_named(chromium, address, width, scheme):
    boards = [f"dashboards.html#{key}" for key in content.load().dashboards]
    for place in ("index.html", "dashboards.html#runs", *boards):
        with opened(chromium, address + place, width, scheme) as (shown, _):
            result = Axe().run(shown)
            assert result.violations_count == 0, f"{place}: {result.generate_report()}"
            # The rules were really tried.
            assert {"color-contrast", "document-title"} <= {rule["id"] for rule in result.response["passes"]}


@pytest.mark.browser
@needs.chromium
def test_a_chart_says_its_figures_and_its_table_has_them_all(chromium, address, platform):
    rows = platform.view("vw_payment_by_method")
    with opened(chromium, f"{address}dashboards.html#collections") as (shown, _):
        chart = shown.locator("#collections-payment_methods .chart")
        label = chart.get_attribute("aria-label") or ""
        assert chart.get_attribute("role") == "img"
        assert f"{rows[0]['method_name']} with {money(rows[0]['total_amount'])}" in label
        assert cells(shown, "collections-payment_methods") == [
            [
                row["method_name"],
                plain_money(row["total_amount"]),
                f"{row['payment_count']:,}",
                f"{row['pct_of_total']:.2f} %",
            ]
            for row in rows
            if row["payment_count"]
        ]


@pytest.mark.browser
@needs.chromium
def test_it_is_used_with_the_keyboard_alone(chromium, address):
    with opened(chromium, f"{address}dashboards.html") as (shown, _):
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.className") == "skip"
        names = []
        for _ in range(40):
            shown.keyboard.press("Tab")
            names.append(shown.evaluate("document.activeElement.dataset.filter ?? document.activeElement.textContent"))
        for name in ("Portfolio", "Collections", "Runs", "segment", "branch", "CSV", "⋯", "Figures as a table"):
            assert any(name in found for found in names)
        shown.locator("header nav a", has_text="Collections").press("Enter")
        shown.locator("#collections .chart svg").first.wait_for()
        assert shown.locator("#portfolio").is_hidden()
        assert "Collections" in shown.title()


@pytest.mark.browser
@needs.chromium
def test_light_and_dark_follow_the_system_and_the_button_overrides_it(chromium, address):
    def colour(shown: Page) -> str:
        found: str = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        return found

    with (
        opened(chromium, f"{address}dashboards.html") as (light, _),
        opened(chromium, f"{address}dashboards.html", scheme="dark") as (dark, _),
    ):
        assert colour(light) != colour(dark)
        axis = "#portfolio-outstanding_by_segment .chart svg text"
        assert light.locator(axis).first.get_attribute("fill") != dark.locator(axis).first.get_attribute("fill")
        light.locator("#theme").click()
        light.locator("#theme").click()
        assert colour(light) == colour(dark)
        light.reload()
        assert colour(light) == colour(dark)


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.browser
@needs.chromium
def test_the_figures_of_the_portfolio_are_those_of_the_views(chromium, address, platform):
    status = platform.view("vw_loan_status_distribution")
    branches = platform.view("vw_branch_performance")
    with opened(chromium, f"{address}dashboards.html#portfolio") as (shown, seen):
        outstanding = sum(row["total_outstanding"] for row in status)
        assert Decimal(value(shown, "portfolio", "outstanding")) == outstanding
        assert shown.locator("#portfolio-outstanding .exact").text_content() == money(outstanding)
        active = sum(row["loan_count"] for row in status if row["loan_status"] == "active")
        assert shown.locator("#portfolio-active_loans .big").text_content() == f"{active:,}"
        bad = sum(row["loan_count"] for row in status if row["loan_status"] in ("defaulted", "written_off"))
        out = sum(row["loan_count"] for row in status if row["loan_status"] != "pending")
        rate = round(Decimal(100 * bad) / out, 2)
        assert shown.locator("#portfolio-default_rate .big").text_content() == f"{rate:.2f} %"
        by_status: dict[str, int] = {}
        for row in status:
            by_status[row["loan_status"]] = by_status.get(row["loan_status"], 0) + row["loan_count"]
        assert {row[0]: row[1] for row in cells(shown, "portfolio-loans_by_status")} == {
            name.replace("_", " ").capitalize(): f"{count:,}" for name, count in by_status.items()
        }
        worst = sorted(branches, key=lambda row: row["default_rate"], reverse=True)[:15]
        shown_rates = cells(shown, "portfolio-branches_by_default_rate")
        assert [row[1] for row in shown_rates] == [f"{row['default_rate']:.2f} %" for row in worst]
        # The denominator is shown beside each rate.
        for row in shown_rates:
            assert row[1] == f"{round(Decimal(100 * int(row[2])) / int(row[3]), 2):.2f} %"
        assert (
            shown.locator("#portfolio-default_rate .beside").text_content() == f"Defaulted: {bad:,} · Paid out: {out:,}"
        )
        customers = cells(shown, "portfolio-top_customers")
        assert [(row[0], row[1], row[6]) for row in customers] == [
            (str(rank), row["full_name"], plain_money(row["total_paid"]))
            for rank, row in enumerate(platform.view("vw_top_customers")[:20], start=1)
        ]
        # A name is text, whatever is in it.
        assert customers[0][1] == HOSTILE
        assert "hurt" not in shown.title()
        assert seen.errors == []


@pytest.mark.browser
@needs.chromium
def test_the_figures_of_the_collections_are_those_of_the_views(chromium, address, platform):
    months = platform.view("vw_monthly_revenue")
    as_of = platform.view("vw_data_as_of")[0]["data_as_of"]
    with opened(chromium, f"{address}dashboards.html#collections") as (shown, _):
        assert Decimal(value(shown, "collections", "collected")) == sum(row["total_revenue"] for row in months)
        assert int(value(shown, "collections", "payments")) == sum(row["payment_count"] for row in months)
        income = sum(row["total_interest"] + row["total_penalty"] for row in months)
        assert Decimal(value(shown, "collections", "interest_earned")) == income
        assert Decimal(value(shown, "collections", "collected_this_month")) == sum(
            row["total_revenue"] for row in months if (row["year"], row["month"]) == (as_of.year, as_of.month)
        )
        assert [row[1:] for row in cells(shown, "collections-monthly_collections")] == [
            [plain_money(row[name]) for name in ("total_revenue", "total_principal", "total_interest")]
            for row in months
        ]
        # The bars themselves are as long as their figures say.
        lengths = shown.locator("#collections-branches_by_collections .chart svg path[fill]:not([fill='none'])")
        widths = [
            box["width"] for box in map(lambda bar: bar.bounding_box(), lengths.all()) if box and box["width"] > 1
        ]
        best = sorted((row["total_collected"] for row in platform.view("vw_branch_performance")), reverse=True)[:15]
        assert widths[0] / widths[-1] == pytest.approx(float(best[0] / best[len(widths) - 1]), rel=0.05)
    with opened(chromium, f"{address}dashboards.html#portfolio") as (shown, _):
        branches = platform.view("vw_branch_performance")
        names = dict(platform.warehouse("select branch_code, branch_name from warehouse.dim_branch"))
        table = cells(shown, "portfolio-branch_performance")
        assert {row[0]: (row[2], row[5], row[10]) for row in table} == {
            f"{names[row['branch_code']]} ({row['branch_code']})": (
                f"{row['loan_count']:,}",
                plain_money(row["total_collected"]),
                f"{row['default_rate']:.2f} %",
            )
            for row in branches
        }
        total = shown.locator("#portfolio-branch_performance tfoot td").all_text_contents()
        assert total[0] == "Total"
        assert total[2] == f"{sum(row['loan_count'] for row in branches):,}"
        assert total[5] == plain_money(sum(row["total_collected"] for row in branches))


@pytest.mark.browser
@needs.chromium
@pytest.mark.parametrize("key", list(content.load().dashboards))
def test_every_card_shows_what_the_database_answers_to_any_choice_of_filters(chromium, address, platform, key, chance):
    what = content.load()
    board = what.dashboards[key]
    with opened(chromium, f"{address}dashboards.html#{key}") as (shown, seen):
        values = shown.evaluate("JSON.parse(document.getElementById('data').textContent).filters")
        filters = {name: values[name]["values"] for name in board.filters}
        # Nothing, each filter alone, and some together.
        choices: list[dict[str, Any]] = [{}]
        for names in [*([name] for name in filters), *(chance.sample(board.filters, 2) for _ in range(3))]:
            choices.append({name: random_choice(what.filters[name], filters[name], chance) for name in names})
        for chosen in choices:
            shown.goto(f"{address}dashboards.html{shown.evaluate(ADDRESS, [key, chosen])}")
            for place in board.placements():
                question = what.questions[place.question]
                here = {name: value for name, value in chosen.items() if name in question.filters}
                if question.view is None:
                    here = {name: value[0] for name, value in here.items()}
                expected = [
                    {
                        name: page.plain(value) if not isinstance(value, int | str | None) else value
                        for name, value in row.items()
                    }
                    for row in answers(platform, place.question, here)
                ]
                card = shown.locator(f"#{key}-{place.question}")
                found = [
                    {name: row[name] for name in expected[0]} if expected else row
                    for row in card.evaluate("card => card.shown")
                ]
                assert found == expected, f"{place.question} with {here}"
                # What does not follow a filter says so.
                idle = [
                    what.filters[name].label.lower()
                    for name in board.filters
                    if name in chosen and name not in question.filters
                ]
                # The time of the data is that of every choice.
                idle = [] if place.question == "data_as_of" else idle
                note = card.locator(".unfiltered")
                assert note.is_visible() == bool(idle)
                assert not idle or note.text_content() == f"Not filtered by {', '.join(idle)}"
        assert seen.errors == []


ADDRESS = """([board, chosen]) => {
    const query = new URLSearchParams();
    for (const [name, values] of Object.entries(chosen)) query.set(name, name === "months"
        ? values.map((value) => (value ?? "").slice(0, 7)).join("~") : values.join("|"));
    return `#${board}?${query}`;
}"""


def random_choice(kind: content.Filter, values: list[str], chance: random.Random) -> list[Any]:
    if kind.type != "months":
        return chance.sample(values, chance.choice([1, 1, min(2, len(values))]))
    first, last = sorted(chance.choices(values, k=2))
    return chance.choice([[first, last], [first, None], [None, last]])


@pytest.mark.browser
@needs.chromium
def test_the_axis_of_a_running_line_has_equal_steps_also_where_nothing_was_added(chromium, address, platform):
    branches = platform.warehouse(
        "select branch from warehouse.vw_vintage_curves group by branch having max(months_on_book) > 6 "
        "order by count(distinct months_on_book)::numeric / max(months_on_book) limit 3"
    )
    gaps = 0
    for (branch,) in branches:
        with opened(chromium, f"{address}dashboards.html#quality?{urlencode({'branch': branch})}") as (shown, seen):
            card = shown.locator("#quality-vintages")
            rows = card.evaluate("card => card.shown")
            months = {row["months_on_book"] for row in rows}
            gaps += len(set(range(max(months) + 1)) - months)
            # Each line ends with the month that all cohorts of its year have reached.
            ends = dict(platform.warehouse(
                "select cohort, max(months_on_book) from warehouse.vw_vintage_curves where branch = %s group by cohort",
                (branch,),
            ))  # fmt: skip
            assert {
                row["cohort"]: row["months_on_book"] for row in sorted(rows, key=lambda r: r["months_on_book"])
            } == ends
            # Labels of the axis lie below the others that are numbers; each is as far from the others as it says. The
            # outer two are kept inside the picture, so their month is below them, but not always at their middle.
            labels = card.locator(".chart svg text").evaluate_all(
                "texts => texts.map(text => [text.textContent, text.getBoundingClientRect()])"
                ".filter(([text]) => /^\\d+$/.test(text)).map(([text, box]) => [+text, box.left, box.right, box.y])"
            )
            below = max(y for *_, y in labels)
            axis = sorted((number, left, right) for number, left, right, y in labels if below - y < 5)
            assert len(axis) > 5
            centred = [(number, (left + right) / 2) for number, left, right in axis[1:-1]]
            step = (centred[-1][1] - centred[0][1]) / (centred[-1][0] - centred[0][0])
            expected = {number: centred[0][1] + step * (number - centred[0][0]) for number, _, _ in axis}
            assert all(abs(x - expected[number]) < 1 for number, x in centred), axis
            assert all(left - 1 < expected[number] < right + 1 for number, left, right in axis), axis
            assert seen.errors == []
    assert gaps, "no branch lacks a month, so nothing was tested"


@pytest.mark.browser
@needs.chromium
def test_filters_stand_in_the_address_survive_a_reload_and_can_be_shared(chromium, address, platform):
    code, name = platform.warehouse(
        "select branch_code, branch_name from warehouse.dim_branch where branch_code = 'NRB02'"
    )[0]
    wanted = platform.warehouse(
        "select sum(loan_count)::integer from warehouse.vw_loan_book "
        "where branch_code = 'NRB02' and customer_segment = 'sme' and loan_status = 'active'"
    )[0][0]
    with opened(chromium, f"{address}dashboards.html#portfolio") as (shown, seen):
        shown.select_option("#portfolio [data-filter=branch]", f"{name} ({code})")
        shown.select_option("#portfolio [data-filter=segment]", "sme")
        assert parse_qs(shown.url.split("?")[1]) == {"branch": [code], "segment": ["sme"]}
        assert int(value(shown, "portfolio", "active_loans")) == wanted
        assert shown.locator("#portfolio-active_loans .chosen").text_content() == (
            f"Branch: {name} ({code}) · Customer segment: SME"
        )
        shared = shown.url
        shown.reload()
        assert int(value(shown, "portfolio", "active_loans")) == wanted
        assert shown.locator("#portfolio [data-filter=segment]").input_value() == "sme"
        # The next dashboard keeps what it can filter by.
        shown.locator("header nav a", has_text="Lending").click()
        assert parse_qs(shown.url.split("?")[1]) == {"branch": [code], "segment": ["sme"]}
        shown.go_back()
        assert shown.url == shared
        shown.select_option("#portfolio [data-filter=branch]", "")
        assert parse_qs(shown.url.split("?")[1]) == {"segment": ["sme"]}
        assert seen.errors == []
    with opened(chromium, shared) as (shown, _):
        assert int(value(shown, "portfolio", "active_loans")) == wanted
    with opened(chromium, f"{address}dashboards.html#portfolio?branch=XYZ9&colour=red") as (shown, seen):
        note = shown.locator("#portfolio .unknown")
        assert note.text_content() == "Not known here, and not applied: Branch XYZ9, colour."
        assert note.is_visible()
        assert seen.errors == []
    with opened(chromium, f"{address}dashboards.html#collections?months=2026-01~2025-06") as (shown, seen):
        shown.select_option("#collections [data-edge='1']", index=1)
        shown.select_option("#collections [data-edge='0']", index=2)
        first, last = parse_qs(shown.url.split("?")[1])["months"][0].split("~")
        assert first <= last
        assert seen.errors == []


@pytest.mark.browser
@needs.chromium
def test_a_click_on_a_bar_or_a_row_leads_to_its_loans(chromium, address, platform):
    with opened(chromium, f"{address}dashboards.html#portfolio?segment=retail") as (shown, seen):
        card = shown.locator("#portfolio-branches_by_default_rate")
        branch = card.evaluate("card => card.shown[0].branch")
        bars = card.locator(".chart svg path[fill]:not([fill='none'])")
        longest = max(bars.all(), key=lambda bar: (bar.bounding_box() or {"width": 0})["width"])
        longest.click()
        shown.locator("#loans-loans tbody tr").first.wait_for()
        expected = platform.warehouse(
            "select loan_id, full_name, outstanding_balance from warehouse.vw_loans where branch = %s "
            "and customer_segment = 'retail' and loan_status in ('defaulted', 'written_off') "
            "order by outstanding_balance desc, loan_id",
            (branch,),
        )
        table = cells(shown, "loans-loans")
        assert [(row[0], row[1], row[10]) for row in table] == [
            (str(loan), name, plain_money(owed)) for loan, name, owed in expected
        ]
        assert expected
        # The same by keyboard, from the table; and the way back.
        shown.go_back()
        shown.locator("#portfolio-branch_performance tbody a").first.press("Enter")
        shown.locator("#loans-loans tbody tr").first.wait_for()
        assert parse_qs(shown.url.split("?")[1])["segment"] == ["retail"]
        assert seen.errors == []


@pytest.mark.browser
@needs.chromium
def test_a_branchs_portfolio_at_risk_leads_to_its_late_loans(chromium, address, platform):
    with opened(chromium, f"{address}dashboards.html#quality") as (shown, seen):
        risk = platform.view("vw_portfolio_at_risk")
        assert Decimal(value(shown, "quality", "gross_portfolio")) == sum(row["gross_loan_portfolio"] for row in risk)
        late, scheduled = (sum(row[name] for row in risk) for name in ("par_30", "scheduled_portfolio"))
        ratio = round(100 * late / scheduled, 2)
        assert shown.locator("#quality-par_30 .big").text_content() == f"{ratio:.2f} %"
        classes = platform.view("vw_loan_classification")
        assert [row[0].lower() for row in cells(shown, "quality-loan_classification")] == [
            row["class"].replace("_", " ").lower() for row in classes if row["loan_count"]
        ]
        stages = {row["stage"]: row["loan_count"] for row in platform.view("vw_ifrs9_stages")}
        assert {row[0][-1]: row[1] for row in cells(shown, "quality-ifrs9_stages") if row[0] != "no schedule"} == {
            str(stage): f"{count:,}" for stage, count in stages.items() if count
        }
        row = shown.locator("#quality-par_by_branch").evaluate("card => card.shown[0]")
        shown.locator("#quality-par_by_branch details summary").last.click()
        shown.locator("#quality-par_by_branch tbody a").first.click()
        shown.locator("#arrears-loans_in_arrears tbody tr").first.wait_for()
        expected = platform.warehouse(
            "select loan_id, full_name, days_past_due from warehouse.loans_in_arrears "
            "where branch = %s and days_past_due > 30 order by days_past_due desc, loan_id",
            (row["branch"],),
        )
        table = cells(shown, "arrears-loans_in_arrears")
        assert [(one[0], one[1], one[8]) for one in table] == [
            (str(loan), name, f"{days:,}") for loan, name, days in expected
        ]
        assert expected
        assert seen.errors == []


@pytest.mark.browser
@needs.chromium
def test_a_book_too_large_for_a_page_says_what_it_leaves_out(chromium, address, platform, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_ROWS", 150)
    what = content.load()
    few = what.grains["vw_loans"].model_copy(update={"most": 50})
    small = what.model_copy(update={"grains": what.grains | {"vw_loans": few}})
    monkeypatch.setattr(content, "load", lambda: small)
    path = tmp_path / "small.html"
    path.write_text(page.render(platform.settings), encoding="utf-8")
    total = sum(row["total_outstanding"] for row in platform.view("vw_loan_status_distribution"))
    with opened(chromium, f"{path.as_uri()}#portfolio") as (shown, seen):
        assert Decimal(value(shown, "portfolio", "outstanding")) == total
        assert "no loan_officer here" in (shown.locator("#portfolio-officer_performance .empty").text_content() or "")
        officer = shown.locator("#portfolio [data-filter=officer] option").nth(1).get_attribute("value")
        shown.select_option("#portfolio [data-filter=officer]", officer)
        assert Decimal(value(shown, "portfolio", "outstanding")) == total
        assert shown.locator("#portfolio-outstanding .unfiltered").text_content() == "Not filtered by loan officer"
        shown.goto(f"{path.as_uri()}#loans")
        assert (shown.locator("#loans-loans .count").text_content() or "").startswith(
            "The page holds the 50 that owe most"
        )
        assert len(cells(shown, "loans-loans")) == 50
        assert seen.errors == []


@pytest.mark.browser
@needs.chromium
def test_a_branch_is_compared_with_last_month_and_last_year(chromium, address, platform):
    as_of = platform.view("vw_data_as_of")[0]["data_as_of"].date().replace(day=1)
    months: dict[int, Decimal] = {}
    for ago in (1, 2, 13):
        back = as_of.year * 12 + as_of.month - 1 - ago
        months[ago] = platform.warehouse(
            "select coalesce(sum(payment_amount), 0) from warehouse.fact_payments as payments "
            "inner join warehouse.dim_branch as branches on payments.branch_sk = branches.branch_sk "
            "where branches.branch_code = 'NRB02' and payment_month = %s",
            (date(back // 12, back % 12 + 1, 1),),
        )[0][0]
    with opened(chromium, f"{address}dashboards.html#collections?branch=NRB02&months=2020-01~2020-02") as (shown, _):
        (row,) = cells(shown, "collections-branches_compared")
        last, before, year = (months[ago] for ago in (1, 2, 13))
        assert row[1:] == [
            plain_money(last),
            plain_money(before),
            change(last, before),
            plain_money(year),
            change(last, year),
        ]
        # It compares fixed months, and says that the months chosen do not matter.
        assert shown.locator("#collections-branches_compared .unfiltered").text_content() == "Not filtered by months"
        lines = shown.locator("#collections-collections_by_year").evaluate("card => card.shown")
        assert {line["year"] for line in lines} == {str(as_of.year - ago) for ago in range(3)}


@pytest.mark.browser
@needs.chromium
def test_tables_can_be_read_on_a_telephone(chromium, address):
    with opened(chromium, f"{address}dashboards.html#portfolio", 360) as (shown, _):
        for card in ("portfolio-branch_performance", "portfolio-officer_performance", "portfolio-top_customers"):
            row = shown.locator(f"#{card} tbody tr").first
            assert row.locator("td").count() > 5
            for cell in row.locator("td").all():
                box = cell.bounding_box()
                assert box and box["x"] >= 0 and box["x"] + box["width"] <= 360
                # The column's name precedes each value.
                label = cell.evaluate("cell => getComputedStyle(cell, '::before').content")
                assert label.strip('"') == cell.get_attribute("data-label") != ""
    with opened(chromium, f"{address}dashboards.html#portfolio", 1280) as (shown, _):
        # Where a table is wider than its place, a hint says so until the end is in sight.
        whole = shown.locator("#portfolio-branch_performance .whole")
        scroll = whole.locator(".scroll")
        hidden = scroll.evaluate("scroll => scroll.scrollWidth > scroll.clientWidth + 2")
        assert whole.locator(".hint").is_visible() == hidden
        scroll.evaluate("scroll => { scroll.style.width = '500px'; }")
        whole.locator(".hint").wait_for()
        scroll.evaluate("scroll => scroll.scrollTo(scroll.scrollWidth, 0)")
        whole.locator(".hint").wait_for(state="hidden")


@pytest.mark.browser
@needs.chromium
def test_the_time_of_the_data_and_the_runs_are_shown_and_age(chromium, address, platform):
    as_of = platform.view("vw_data_as_of")[0]["data_as_of"]
    history = runs.history(platform.cluster, page.RUNS_SHOWN)
    with opened(chromium, f"{address}dashboards.html#runs") as (shown, _):
        line = shown.locator("#freshness")
        assert f"{as_of.day} {as_of:%b %Y, %H:%M} UTC".replace("Sep", "Sept") in (line.text_content() or "")
        assert "old" not in (line.get_attribute("class") or "").split()
        table = cells(shown, "runs-history")
        assert [(row[0], row[3], row[7]) for row in table] == [
            (str(run.run_id), run.status.capitalize(), f"{run.rows_inserted:,}") for run in history
        ]
        shown.clock.set_fixed_time(as_of + timedelta(hours=3))
        shown.reload()
        assert "old" in (line.get_attribute("class") or "").split()
        assert "3 h ago" in (line.text_content() or "")


# --- files and paper --------------------------------------------------------------------------------------------------


def saved(shown: Page, button: str) -> Path:
    with shown.expect_download() as waiting:
        shown.locator(button).click()
    path = waiting.value.path()
    path = path.rename(path.with_name(waiting.value.suggested_filename))
    return path


def sheets(path: Path) -> dict[str, list[list[Any]]]:
    """Read the sheets of a workbook: each cell as text, or as a number."""
    main = {"": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = [
            sheet.attrib["name"]
            for sheet in ElementTree.fromstring(archive.read("xl/workbook.xml")).iterfind("./sheets/sheet", main)
        ]
        shared = []
        if "xl/sharedStrings.xml" in archive.namelist():
            strings = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
            shared = [text.findtext("./t", namespaces=main) for text in strings.iterfind("./si", main)]

        def content_of(cell: ElementTree.Element) -> Any:
            number = cell.findtext("./v", namespaces=main) or "0"
            if cell.get("t") == "inlineStr":
                return cell.findtext("./is/t", namespaces=main)
            return shared[int(number)] if cell.get("t") == "s" else Decimal(number)

        found = {}
        for number, name in enumerate(names, start=1):
            tree = ElementTree.fromstring(archive.read(f"xl/worksheets/sheet{number}.xml"))
            found[name] = [
                [content_of(cell) for cell in row.iterfind("./c", main)]
                for row in tree.iterfind("./sheetData/row", main)
            ]
    return found


@pytest.mark.browser
@needs.chromium
def test_a_card_and_a_dashboard_are_saved_as_csv_and_excel(chromium, address, platform):
    with opened(chromium, f"{address}dashboards.html#portfolio?segment=retail") as (shown, seen):
        menu = "#portfolio-branch_performance details.menu"
        expected = answers(platform, "branch_performance", {"segment": "retail"})
        shown.locator(f"{menu} summary").click()
        path = saved(shown, f"{menu} [data-export=csv]")
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
        assert rows[0][:3] == ["Branch", "Region", "Loans"]
        assert [[row[0], int(row[2]), Decimal(row[5])] for row in rows[1:]] == [
            [row["branch"], row["loan_count"], row["total_collected"]] for row in expected
        ]
        assert re.fullmatch(r"portfolio-branch_performance-\d{4}-\d\d-\d\d\.csv", path.name)
        shown.locator(f"{menu} summary").click()
        book = sheets(saved(shown, f"{menu} [data-export=xlsx]"))
        assert [[row[0], row[2], row[5]] for row in book["Branch performance"][1:]] == [
            [row["branch"], row["loan_count"], row["total_collected"]] for row in expected
        ]
        assert ["Filters", "Customer segment: Retail"] in book["About"]
        # A name is text in a file too, whatever is in it.
        shown.goto(f"{address}dashboards.html#portfolio")
        whole = sheets(saved(shown, "#portfolio .files [data-export=xlsx]"))
        what = content.load()
        titles = [what.questions[place.question].name[:31] for place in what.dashboards["portfolio"].placements()]
        assert list(whole) == [*titles, "About"]
        assert whole["Top customers"][1][1] == HOSTILE
        archive = saved(shown, "#portfolio .files [data-export=csv]")
        with zipfile.ZipFile(archive) as files:
            assert files.testzip() is None
            keys = [place.question for place in what.dashboards["portfolio"].placements()]
            assert files.namelist() == [*(f"{key}.csv" for key in keys), "about.csv"]
        assert seen.errors == []
        assert [one for one in seen.requests if not one.startswith((address, "data:", "blob:"))] == []


def test_the_command_writes_the_same_files_from_the_database(platform, tmp_path):
    (book,) = export.export(platform.settings, ["portfolio"], "xlsx", tmp_path, "branch=NRB02&segment=sme")
    (branch,) = platform.warehouse("select distinct branch from warehouse.vw_loans where branch_code = 'NRB02'")[0]
    what = content.load()
    found = sheets(book)
    assert list(found) == [
        *(what.questions[place.question].name[:31] for place in what.dashboards["portfolio"].placements()),
        "About",
    ]
    expected = answers(platform, "officer_performance", {"branch": branch, "segment": "sme"})
    assert [[row[0], row[2], row[4]] for row in found["Loan officers"][1:-1]] == [
        [row["loan_officer"], row["loan_count"], row["total_outstanding"]] for row in expected
    ]
    assert found["Loan officers"][-1][:1] == ["Total"]
    assert ["Filters", f"Branch: {branch} · Customer segment: sme"] in found["About"]
    assert ["Top customers", "not filtered by Branch"] in found["About"]
    for _ in range(2):
        (folder,) = export.export(platform.settings, ["loans"], "csv", tmp_path)
    rows = list(csv.DictReader(io.StringIO((folder / "loans.csv").read_text(encoding="utf-8-sig"), newline="")))
    assert [(int(row["Loan"]), row["Customer"]) for row in rows] == platform.warehouse(
        "select loan_id, full_name from warehouse.vw_loans order by outstanding_balance desc, loan_id"
    )
    assert HOSTILE in {row["Customer"] for row in rows}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([book.name, folder.name])
    with pytest.raises(UserError, match="No loan has the branch XYZ9"):
        export.export(platform.settings, ["portfolio"], "xlsx", tmp_path, "branch=XYZ9")


@pytest.mark.browser
@needs.chromium
def test_a_spreadsheet_runs_nothing_that_stands_in_a_name(chromium, address):
    with opened(chromium, f"{address}dashboards.html") as (shown, _):
        text = shown.evaluate(
            """rows => new TextDecoder("utf-8", {ignoreBOM: true}).decode(tables.csv({
                name: "N", rows, columns: [{label: "A", format: "text"}, {label: "B", format: "money"}]
            }))""",
            [["=1+1", -5], ["@x", 0], ["-2", 1.5], ['a,"b"\n', None]],
        )
        assert list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))) == [
            ["A", "B"],
            ["'=1+1", "-5"],
            ["'@x", "0"],
            ["'-2", "1.5"],
            ['a,"b"\n', ""],
        ]
        names = shown.evaluate(
            "tables.sheetNames(['a/b', 'A b', 'x'.repeat(40), 'x'.repeat(40), '??'].map((name) => ({name})))"
        )
        assert names == ["a b", "A b 2", "x" * 31, "x" * 27 + " 3", "Sheet"] or len(set(map(str.lower, names))) == 5
        assert all(0 < len(name) <= 31 for name in names)


@pytest.mark.browser
@needs.chromium
def test_paper_is_white_and_has_no_controls(chromium, address):
    with opened(chromium, f"{address}dashboards.html#portfolio", scheme="dark") as (shown, _):
        shown.emulate_media(media="print", color_scheme="dark")
        shown.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        axis = shown.locator("#portfolio-outstanding_by_segment .chart svg text").first
        assert axis.get_attribute("fill") == "#566175"
        for control in (".filters", "header nav", "#theme", "#portfolio-outstanding .menu"):
            assert shown.locator(control).first.is_hidden()
        # A table is there in full length.
        scroll = shown.locator("#portfolio-branch_performance .scroll")
        assert scroll.evaluate("scroll => scroll.scrollHeight - scroll.clientHeight") <= 2
        shown.evaluate("dispatchEvent(new Event('afterprint'))")
        shown.emulate_media(media="screen", color_scheme="dark")
        assert axis.get_attribute("fill") == "#a3afc1"


@pytest.mark.browser
@needs.chromium
def test_the_page_opens_as_a_file_and_offline(chromium, address, platform):
    url = (platform.settings.site / page.FILE_NAME).as_uri()
    with opened(chromium, f"{url}#portfolio", offline=True) as (shown, seen):
        shown.locator("#portfolio .chart svg").first.wait_for()
        assert seen.errors == []
        assert [one for one in seen.requests if not one.startswith(("file:", "data:"))] == []


# --- documentation ----------------------------------------------------------------------------------------------------


def test_the_index_shows_the_age_of_the_last_backup_and_of_the_last_proven_restore(address, platform):
    index = platform.settings.site / site.INDEX
    assert "<td>never</td>" in index.read_text(encoding="utf-8")
    now = "clock_timestamp()"
    try:
        for kind, database, when in (
            ("physical", "loans_db", f"{now} - interval '4 hours'"),
            ("dump", "loans_db", now),
            ("dump", "warehouse_db", f"{now} - interval '60 days'"),
        ):
            platform.warehouse(
                "insert into audit.backups (kind, database_name, backup_type, started_by, started_at, finished_at, "
                f"succeeded) values ('{kind}', '{database}', 'full', 'schedule', {when}, {when}, true)"
            )
        platform.warehouse("insert into audit.drills (succeeded, rpo_seconds, rto_seconds) values (true, 2, 41)")
        # The documentation itself is not made for that.
        site.refresh_protection(platform.settings)
        text = re.sub(r"\s+", " ", index.read_text(encoding="utf-8"))
        assert re.search(r"physical backup</td><td>[^<]+UTC</td><td>4 hours ago</td><td class=\"old\"></td>", text)
        assert re.search(
            r"both databases</td><td>[^<]+</td><td>60 days ago</td><td class=\"old\">warning: too old<", text
        )
        assert re.search(r"proven restore</td><td>[^<]+</td><td>[12]?\d seconds ago</td>", text)
        assert "The last proven restore took 41 s" in text
        assert text.count("<h2>Backups</h2>") == text.count("As of") == 1
    finally:
        platform.warehouse("delete from audit.backups")
        platform.warehouse("delete from audit.drills")
        site.refresh_protection(platform.settings)


@pytest.mark.browser
@needs.chromium
def test_the_index_leads_to_every_page(chromium, address, platform):
    with opened(chromium, address) as (shown, seen):
        picture = shown.locator("img")
        assert picture.evaluate("image => image.naturalWidth") > 500
        links = shown.locator("main a").evaluate_all("links => links.map(link => link.href)")
        for part in (
            *(f"#{key}" for key in content.load().dashboards),
            "#runs",
            "lineage/index.html",
            "star-schema.svg",
        ):
            assert any(part in link for link in links)
        for link in links:
            answer = shown.request.get(link)
            assert answer.ok, link
        (platform.settings.site / ".hidden").touch()
        assert shown.request.get(f"{address}.hidden").status == 404
        assert shown.request.get(f"{address}lineage").ok
        assert seen.errors == []


@pytest.mark.browser
@needs.chromium
def test_the_lineage_shows_the_project_its_exposures_and_its_graph(chromium, address):
    with opened(chromium, f"{address}lineage/index.html") as (shown, seen):
        shown.get_by_role("heading", name="The loan book's warehouse").wait_for()
        shown.goto(f"{address}lineage/index.html#!/exposure/exposure.enterprise_data_platform.collections")
        shown.get_by_text("What is paid back, month by month").first.wait_for()
        shown.goto(f"{address}lineage/index.html#!/model/model.enterprise_data_platform.vw_monthly_revenue")
        shown.get_by_text("One row per calendar month, in BUSINESS_TIMEZONE").first.wait_for()
        assert seen.errors == []
    with opened(chromium, f"{address}lineage/index.html#!/overview?g_v=1&g_i=%2Bexposure:*") as (shown, seen):
        shown.locator("canvas:not([width='0'])").first.wait_for()
        assert seen.errors == []
        assert [url for url in seen.requests if not url.startswith((address, "data:", "blob:"))] == []


def _ancestors(parents: dict[str, list[str]], node: str) -> set[str]:
    """Return the names of everything that a node is made of, and its own."""
    return {node.split(".")[-1]}.union(*(_ancestors(parents, parent) for parent in parents[node]))


def test_the_lineage_of_a_view_leads_to_what_its_figures_are_made_of(address, platform):
    manifest = json.loads((platform.settings.site / "lineage/manifest.json").read_text(encoding="utf-8"))
    prefix = "model.enterprise_data_platform."
    aggregates = {
        view: {name for name in _ancestors(manifest["parent_map"], prefix + view) if name.startswith("agg_")}
        for view in ("vw_data_as_of", "vw_monthly_revenue", "vw_collections", "vw_loan_status_distribution")
    }
    assert aggregates == {
        "vw_data_as_of": set(),
        "vw_monthly_revenue": {"agg_collections", "agg_payments", "agg_payments_by_month"},
        # It reads when it was published, too.
        "vw_collections": {"agg_collections"},
        "vw_loan_status_distribution": {"agg_loans"},
    }


@pytest.mark.browser
@needs.chromium
def test_the_graph_of_a_view_draws_no_other_mart(chromium, address):
    view = "#!/model/model.enterprise_data_platform.vw_monthly_revenue"
    with opened(chromium, f"{address}lineage/index.html{view}") as (shown, seen):
        shown.get_by_title("View Lineage Graph").click()
        shown.get_by_title("View Fullscreen").first.click()
        shown.wait_for_url(re.compile("g_i=%2Bvw_monthly_revenue%2B"))
        drawn = shown.locator("[class*=cytoscape_container]").evaluate(
            "element => element._cyreg.cy.nodes(':visible').map(node => node.data('name'))"
        )
        assert {name for name in drawn if name.startswith("agg_")} == {
            *("agg_collections", "agg_payments", "agg_payments_by_month")
        }
        assert {"payments", "extraction", "fact_payments", "vw_monthly_revenue"} <= set(drawn)
        assert seen.errors == []


@pytest.mark.browser
@needs.chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dashboards_lineage_and_index_lead_to_each_other(chromium, address, scheme):
    with opened(chromium, f"{address}dashboards.html#portfolio", scheme=scheme) as (shown, seen):
        shown.locator("header nav a", has_text="Index").click()
        shown.get_by_role("link", name="Lineage").first.click()
        shown.get_by_role("heading", name="The loan book's warehouse").wait_for()
        shown.get_by_role("link", name="Dashboards").last.click()
        shown.locator("#portfolio-outstanding details.menu summary").click()
        shown.locator("#portfolio-outstanding details.menu a").click()
        shown.get_by_text("the grain on which the dashboard filters act, for what is lent and owed").first.wait_for()
        assert seen.errors == []


def test_the_edges_of_the_lineage_stand_out_from_its_background(address, platform):
    text = (platform.settings.site / site.LINEAGE).read_text(encoding="utf-8")

    def luminance(colour: str) -> float:
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    background = luminance("#005e7a")
    edges = set(re.findall(r'selector:"edge\.[^}]*"line-color":"(#[0-9a-f]{6})"', text))
    assert edges
    # Those of nothing that is selected.
    for edge in edges:
        light, dark = sorted((luminance(edge), background), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 3, edge


def test_the_star_schema_is_that_of_the_project(address, platform):
    text = (platform.settings.site / site.STAR).read_text(encoding="utf-8")
    for table in (
        *("fact_loans", "fact_payments", "dim_customer", "dim_loan"),
        *("dim_date", "dim_product", "dim_payment_method", "dim_branch"),
    ):
        assert f">{table}</text>" in text
    for link in ("fact_payments.method_sk → dim_payment_method", "fact_loans.maturity_date_sk → dim_date"):
        assert f"<title>{link}</title>" in text
    # Types come from the project too.
    assert "numeric(14, 2)" in text


def test_the_documentation_is_rebuilt_only_when_something_changed(address, platform):
    settings = platform.settings
    before = (settings.site / site.LINEAGE).stat().st_mtime_ns
    written = (settings.site / page.FILE_NAME).stat().st_mtime_ns
    assert site.refresh(settings) is False
    assert (settings.site / site.LINEAGE).stat().st_mtime_ns == before
    assert (settings.site / page.FILE_NAME).stat().st_mtime_ns > written
    (text,) = platform.warehouse("select obj_description('warehouse.vw_top_customers'::regclass, 'pg_class')")[0]
    try:
        platform.warehouse("comment on view warehouse.vw_top_customers is 'changed'")
        assert not site.is_current(settings)
    finally:
        with connect(platform.warehouse_conninfo) as connection:
            connection.execute(sql.SQL("comment on view warehouse.vw_top_customers is {}").format(sql.Literal(text)))
    assert site.is_current(settings)


def test_a_page_is_always_complete_while_it_is_replaced(address, platform):
    path = platform.settings.site / page.FILE_NAME
    stop = threading.Event()
    read = 0
    torn = []

    def reader() -> None:
        nonlocal read
        while not stop.is_set():
            text = path.read_text(encoding="utf-8")
            read += 1
            if not text.endswith("</html>"):
                torn.append(len(text))

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        for _ in range(3):
            page.refresh(platform.settings)
    finally:
        stop.set()
        thread.join()
    assert read > 5
    assert torn == []
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(f".{path.name}")] == []


def test_the_page_holds_only_what_the_dashboards_role_may_see(address, platform):
    text = (platform.settings.site / page.FILE_NAME).read_text(encoding="utf-8")
    data = json.loads(text.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    assert set(data["questions"]) == set(content.load().questions)
    for secret in (platform.settings.warehouse_reader_password, platform.settings.etl_writer_password):
        assert secret.get_secret_value() not in text
    emails = platform.primary("select email from operational.customers where email is not null limit 200")
    assert emails
    assert not [email for (email,) in emails if email in text]


@pytest.mark.browser
@needs.chromium
def test_an_empty_book_has_pages_too(chromium, address, platform):
    platform.empty_book()
    platform.empty_warehouse()
    platform.wait_for_replicas()
    platform.build()
    page.refresh(platform.settings)
    for key in content.load().dashboards:
        with opened(chromium, f"{address}dashboards.html#{key}") as (shown, seen):
            assert shown.locator(f"#{key} .empty").count() > 0
            assert shown.locator(f"#{key} .chart").count() == shown.locator(f"#{key} .chart svg").count()
            assert seen.errors == []
    with opened(chromium, f"{address}dashboards.html#portfolio") as (shown, _):
        assert shown.locator("#portfolio-active_loans .big").text_content() == "0"
