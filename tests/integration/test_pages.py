"""The pages in a real browser: what a person sees is what the views say, on every screen, without the network."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from psycopg import sql

from eds.cluster.connections import connect
from eds.dashboards import content, page, site
from eds.dashboards.screenshots import browser
from eds.warehouse import runs
from support import needs
from support.book import add_customer, add_loan, pay
from support.platform import Platform

WIDTHS = {360: 780, 1440: 900}
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
    context = chromium.new_context(viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme, **options)
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


# --- every screen -----------------------------------------------------------------------------------------------------


@pytest.mark.browser
@needs.chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", list(WIDTHS))
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
            assert shown.locator(f"#{key} .chart svg").count() == charts > 0
            # Nothing makes the page wider than the screen.
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            assert seen.errors == []
            assert [url for url in seen.requests if not url.startswith((address, "data:"))] == []


@pytest.mark.browser
@needs.chromium
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1440, "dark")])
def test_a_screen_reader_finds_everything_named(chromium, address, width, scheme):
    for place in ("index.html", "dashboards.html#portfolio", "dashboards.html#collections", "dashboards.html#runs"):
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
                money(row["total_amount"]),
                f"{row['payment_count']:,}",
                f"{row['pct_of_total']:.2f} %",
            ]
            for row in rows
        ]


@pytest.mark.browser
@needs.chromium
def test_it_is_used_with_the_keyboard_alone(chromium, address):
    with opened(chromium, f"{address}dashboards.html") as (shown, _):
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.className") == "skip"
        names = []
        for _ in range(12):
            shown.keyboard.press("Tab")
            names.append(shown.evaluate("document.activeElement.dataset.filter ?? document.activeElement.textContent"))
        for name in ("Portfolio", "Collections", "Runs", "segment", "branch", "Figures as a table"):
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
        worst = sorted(branches, key=lambda row: (-row["default_rate"], row["branch_code"]))[:15]
        assert cells(shown, "portfolio-branches_by_default_rate") == [
            [row["branch_code"], f"{row['default_rate']:.2f} %"] for row in worst
        ]
        customers = cells(shown, "portfolio-top_customers")
        assert [(row[0], row[1], row[6]) for row in customers] == [
            (str(rank), row["full_name"], money(row["total_paid"]))
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
            [money(row[name]) for name in ("total_revenue", "total_principal", "total_interest")] for row in months
        ]
        assert {row[0]: row[4] for row in cells(shown, "collections-branch_performance")} == {
            row["branch_code"]: money(row["total_collected"]) for row in platform.view("vw_branch_performance")
        }
        # The bars themselves are as long as their figures say.
        lengths = shown.locator("#collections-branches_by_collections .chart svg path[fill]:not([fill='none'])")
        widths = [
            box["width"] for box in map(lambda bar: bar.bounding_box(), lengths.all()) if box and box["width"] > 1
        ]
        best = sorted((row["total_collected"] for row in platform.view("vw_branch_performance")), reverse=True)[:15]
        assert widths[0] / widths[-1] == pytest.approx(float(best[0] / best[len(widths) - 1]), rel=0.05)


@pytest.mark.browser
@needs.chromium
def test_a_filter_shows_what_the_view_has_for_that_choice_and_leaves_the_rest(chromium, address, platform):
    status = platform.view("vw_loan_status_distribution")
    with opened(chromium, f"{address}dashboards.html#portfolio") as (shown, seen):
        before = cells(shown, "portfolio-branches_by_outstanding")
        shown.select_option("#portfolio [data-filter=segment]", "sme")
        assert Decimal(value(shown, "portfolio", "outstanding")) == sum(
            row["total_outstanding"] for row in status if row["customer_segment"] == "sme"
        )
        assert {row[2] for row in cells(shown, "portfolio-top_customers")} == {"SME"}
        assert shown.locator("#portfolio-outstanding .chosen").text_content() == "Customer segment: SME"
        assert cells(shown, "portfolio-branches_by_outstanding") == before
        assert shown.locator("#portfolio-branches_by_outstanding .chosen").is_hidden()
        shown.select_option("#portfolio [data-filter=branch]", "NRB02")
        (row,) = [row for row in platform.view("vw_branch_performance") if row["branch_code"] == "NRB02"]
        assert cells(shown, "portfolio-branches_by_outstanding") == [["NRB02", money(row["total_outstanding"])]]
        shown.select_option("#portfolio [data-filter=segment]", "")
        assert Decimal(value(shown, "portfolio", "outstanding")) == sum(row["total_outstanding"] for row in status)
        shown.goto(f"{address}dashboards.html#collections")
        year = platform.view("vw_monthly_revenue")[-1]["year"]
        shown.select_option("#collections [data-filter=year]", str(year))
        months = [row for row in platform.view("vw_monthly_revenue") if row["year"] == year]
        assert Decimal(value(shown, "collections", "collected")) == sum(row["total_revenue"] for row in months)
        assert len(cells(shown, "collections-monthly_collections")) == len(months)
        assert seen.errors == []


@pytest.mark.browser
@needs.chromium
def test_the_time_of_the_data_and_the_runs_are_shown_and_age(chromium, address, platform):
    as_of = platform.view("vw_data_as_of")[0]["data_as_of"]
    history = runs.history(platform.settings, page.RUNS_SHOWN)
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


@pytest.mark.browser
@needs.chromium
def test_the_page_opens_as_a_file_and_offline(chromium, address, platform):
    url = (platform.settings.site / page.FILE_NAME).as_uri()
    with opened(chromium, f"{url}#portfolio", offline=True) as (shown, seen):
        shown.locator("#portfolio .chart svg").first.wait_for()
        assert seen.errors == []
        assert [one for one in seen.requests if not one.startswith(("file:", "data:"))] == []


# --- documentation ----------------------------------------------------------------------------------------------------


@pytest.mark.browser
@needs.chromium
def test_the_index_leads_to_every_page(chromium, address, platform):
    with opened(chromium, address) as (shown, seen):
        picture = shown.locator("img")
        assert picture.evaluate("image => image.naturalWidth") > 500
        links = shown.locator("main a").evaluate_all("links => links.map(link => link.href)")
        for part in ("#portfolio", "#collections", "#runs", "lineage/index.html", "star-schema.svg"):
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
        shown.get_by_text("One row per calendar month (UTC)").first.wait_for()
        assert seen.errors == []
    with opened(chromium, f"{address}lineage/index.html#!/overview?g_v=1&g_i=%2Bexposure:*") as (shown, seen):
        shown.locator("canvas:not([width='0'])").first.wait_for()
        assert seen.errors == []
        assert [url for url in seen.requests if not url.startswith((address, "data:", "blob:"))] == []


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
            assert shown.locator(f"#{key} .empty").count() > 2
            assert shown.locator(f"#{key} .chart").count() == shown.locator(f"#{key} .chart svg").count()
            assert seen.errors == []
    with opened(chromium, f"{address}dashboards.html#portfolio") as (shown, _):
        assert shown.locator("#portfolio-active_loans .big").text_content() == "0"
