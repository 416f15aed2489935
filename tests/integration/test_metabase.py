"""Metabase as code, on a real server of its API.

METABASE_TEST_COMMAND is a command that runs a fresh Metabase in the foreground, on the port of MB_JETTY_PORT and with
its data in the present directory: `java -jar /opt/metabase.jar`, for example. Without it these tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
from psycopg import sql
from pydantic import SecretStr

from eds import up
from eds.base.errors import UserError
from eds.base.settings import ROOT, Settings
from eds.cluster.connections import connect
from eds.dashboards import content
from eds.dashboards.metabase import Provisioner, provision
from eds.dashboards.metabase_client import Client
from eds.dashboards.metabase_spec import entity_id, own_id
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.ports import free_ports
from support import needs
from support.platform import VIEWS, Platform

# What a small book that was just filled may not have: months reported and restated since, and write-offs.
NOT_IN_A_NEW_BOOK = {"Restated months", "Written off and recovered by month"}


@contextlib.contextmanager
def running(folder: Path, port: int) -> Iterator[None]:
    """Yield a fresh Metabase on a port; it may still be starting when this yields."""
    with (folder / "metabase.log").open("wb") as log:
        process = subprocess.Popen(
            shlex.split(needs.METABASE_COMMAND),
            cwd=folder,
            env=os.environ | {"MB_JETTY_PORT": str(port), "MB_JETTY_HOST": "127.0.0.1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module", autouse=True)
def quick_sync() -> Iterator[None]:
    """dbt-metabase looks every five seconds whether a sync is done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dbtmetabase._models._SYNC_PERIOD", 0.5)
        yield


@pytest.fixture(scope="module")
def settings(demo_platform: Platform) -> Settings:
    return demo_platform.settings


@pytest.fixture(scope="module")
def url(demo_platform: Platform, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a Metabase that was provisioned once."""
    (port,) = free_ports(1)
    with running(tmp_path_factory.mktemp("metabase"), port):
        address = f"http://127.0.0.1:{port}"
        report = provision(settings, address)
        assert report.problems == []
        assert set(report.empty) <= NOT_IN_A_NEW_BOOK
        assert any("set up" in change for change in report.changes)
        yield address


@pytest.fixture
def api(url: str, settings: Settings) -> Client:
    """Provide the API as the administrator."""
    return logged_in(url, settings.metabase_admin_email, settings.metabase_admin_password.get_secret_value())


def logged_in(url: str, email: str, password: str) -> Client:
    client = Client(url)
    client.session.headers["X-Metabase-Session"] = client.post(
        "/api/session", {"username": email, "password": password}
    )["id"]
    return client


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every call over HTTP from now on, as method and path."""
    seen: list[tuple[str, str]] = []
    send = requests.Session.send

    def recording(self: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        seen.append((str(request.method), request.path_url.split("?")[0]))
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", recording)
    return seen


def changing(calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the calls that are neither a look, nor a login, nor a query."""
    return [
        (method, path)
        for method, path in calls
        if method != "GET" and path != "/api/session" and not path.endswith("/query")
    ]


def card_of(api: Client, key: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/api/card/{entity_id(key)}")
    return found


def board_of(api: Client, name: str) -> dict[str, Any]:
    (listed,) = [one for one in api.get("/api/dashboard") if one["name"] == name]
    found: dict[str, Any] = api.get(f"/api/dashboard/{listed['id']}")
    return found


def answer(api: Client, key: str) -> list[list[Any]]:
    result = api.post(f"/api/card/{card_of(api, key)['id']}/query", {})
    assert result["status"] == "completed"
    rows: list[list[Any]] = result["data"]["rows"]
    return rows


def put_dashcards(api: Client, board: dict[str, Any], dashcards: list[dict[str, Any]], **more: Any) -> None:
    tabs = more.pop("tabs", [{"id": tab["id"], "name": tab["name"]} for tab in board["tabs"]])
    parts = ("id", "card_id", "row", "col", "size_x", "size_y", "parameter_mappings", "visualization_settings")
    api.put(
        f"/api/dashboard/{board['id']}",
        {
            "dashcards": [
                {part: one[part] for part in (*parts, "dashboard_tab_id") if part in one} for one in dashcards
            ],
            "tabs": tabs,
            **more,
        },
    )


# --- what it makes ----------------------------------------------------------------------------------------------------


@needs.metabase
def test_the_questions_answer_with_the_views_figures(demo_platform, api):
    rows = demo_platform.view("vw_loan_status_distribution")
    assert Decimal(str(answer(api, "outstanding")[0][0])) == sum(row["total_outstanding"] for row in rows)
    active = sum(row["loan_count"] for row in rows if row["loan_status"] == "active")
    assert answer(api, "active_loans") == [[active, sum(row["loan_count"] for row in rows)]]
    bad = sum(row["loan_count"] for row in rows if row["loan_status"] in ("defaulted", "written_off"))
    out = sum(row["loan_count"] for row in rows if row["loan_status"] != "pending")
    assert Decimal(str(answer(api, "default_rate")[0][0])) == round(Decimal(100 * bad) / out, 2)
    months = demo_platform.view("vw_monthly_revenue")
    assert [Decimal(str(row[1])) for row in answer(api, "monthly_collections")] == [
        row["total_revenue"] for row in months
    ]
    methods = demo_platform.view("vw_payment_by_method")
    assert {row[0]: row[2] for row in answer(api, "payment_methods")} == {
        row["method_name"]: row["payment_count"] for row in methods if row["payment_count"]
    }
    branches = demo_platform.view("vw_branch_performance")
    *rows, total = answer(api, "branch_performance")
    assert (total[0], total[2]) == ("Total", sum(row["loan_count"] for row in branches))
    assert {row[0].split(" (")[-1].rstrip(")"): row[2] for row in rows} == {
        row["branch_code"]: row["loan_count"] for row in branches
    }
    customers = demo_platform.view("vw_top_customers")[:20]
    assert [(row[0], row[1]) for row in answer(api, "top_customers")] == [
        (rank, row["full_name"]) for rank, row in enumerate(customers, start=1)
    ]


@needs.metabase
def test_only_the_schema_of_the_dashboards_is_synced_and_the_reader_connects(api):
    (database,) = [one for one in api.get("/api/database")["data"] if one["name"] == "Warehouse"]
    assert database["details"]["user"] == "warehouse_reader"
    tables = api.get(f"/api/database/{database['id']}/metadata")["tables"]
    assert {table["schema"] for table in tables} == {"warehouse"}
    assert set(VIEWS) <= {table["name"] for table in tables}


@needs.metabase
def test_descriptions_come_from_the_dbt_project(api):
    (database,) = [one for one in api.get("/api/database")["data"] if one["name"] == "Warehouse"]
    tables = {table["name"]: table for table in api.get(f"/api/database/{database['id']}/metadata")["tables"]}
    view = tables["vw_branch_performance"]
    assert view["description"].startswith("One row per branch that holds loans")
    fields = {column["name"]: column["description"] for column in view["fields"]}
    assert fields["default_rate"] == ("Percent of the disbursed loans that are defaulted or written off, two decimals.")
    assert all(fields.values())


@needs.metabase
@pytest.mark.parametrize("key", list(content.load().dashboards))
def test_dashboards_are_on_the_grid_with_every_filter_mapped(api, key):
    what = content.load()
    board = board_of(api, what.dashboards[key].name)
    cells: set[tuple[int, int]] = set()
    for item in board["dashcards"]:
        assert item["col"] + item["size_x"] <= 24
        here = {
            (row, column)
            for row in range(item["row"], item["row"] + item["size_y"])
            for column in range(item["col"], item["col"] + item["size_x"])
        }
        assert not cells & here
        cells |= here
    assert len(board["dashcards"]) == len(list(what.dashboards[key].placements()))
    assert [parameter["slug"] for parameter in board["parameters"]] == what.dashboards[key].filters


@needs.metabase
def test_a_filter_of_a_dashboard_gives_the_views_figures_of_that_choice(demo_platform, api):
    board = board_of(api, "Portfolio")
    card = card_of(api, "outstanding")
    (place,) = [item for item in board["dashcards"] if item["card_id"] == card["id"]]
    result = api.post(
        f"/api/dashboard/{board['id']}/dashcard/{place['id']}/card/{card['id']}/query",
        {"parameters": [{"id": own_id("filter", "portfolio", "segment"), "value": ["sme"]}]},
    )
    assert Decimal(str(result["data"]["rows"][0][0])) == sum(
        row["total_outstanding"]
        for row in demo_platform.view("vw_loan_status_distribution")
        if row["customer_segment"] == "sme"
    )
    collections = board_of(api, "Collections")
    methods = api.get(f"/api/dashboard/{collections['id']}/params/{own_id('filter', 'collections', 'method')}/values")
    assert {value[0] for value in methods["values"]} == {
        row["method_name"] for row in demo_platform.view("vw_payment_by_method") if row["payment_count"]
    }


@needs.metabase
def test_months_are_chosen_from_one_to_another(demo_platform, api):
    board, card = board_of(api, "Collections"), card_of(api, "collected")
    (place,) = [item for item in board["dashcards"] if item["card_id"] == card["id"]]
    result = api.post(
        f"/api/dashboard/{board['id']}/dashcard/{place['id']}/card/{card['id']}/query",
        {"parameters": [{"id": own_id("filter", "collections", "months"), "value": "2026-01-01~2026-03-31"}]},
    )
    assert Decimal(str(result["data"]["rows"][0][0])) == sum(
        row["total_revenue"]
        for row in demo_platform.view("vw_monthly_revenue")
        if row["year"] == 2026 and row["month"] <= 3
    )


@needs.metabase
def test_a_click_leads_to_the_loans_with_the_filters_of_the_dashboard(api):
    loans, portfolio = board_of(api, "Loans"), board_of(api, "Portfolio")
    ids = {parameter["slug"]: parameter["id"] for parameter in loans["parameters"]}
    places = {item["card_id"]: item["visualization_settings"] for item in portfolio["dashcards"]}
    click = places[card_of(api, "branches_by_outstanding")["id"]]["click_behavior"]
    assert (click["type"], click["linkType"], click["targetId"]) == ("link", "dashboard", loans["id"])
    sources = {name: click["parameterMapping"][ids[name]]["source"] for name in ("branch", "segment")}
    assert sources["branch"] == {"type": "column", "id": "branch", "name": "Branch"}
    assert sources["segment"]["type"] == "parameter"
    assert sources["segment"]["id"] == own_id("filter", "portfolio", "segment")
    table = places[card_of(api, "officer_performance")["id"]]["column_settings"]
    assert table['["name","loan_officer"]']["click_behavior"]["targetId"] == loans["id"]


@needs.metabase
def test_money_and_percent_are_written_as_such(api):
    settings = card_of(api, "branch_performance")["visualization_settings"]["column_settings"]
    assert settings['["name","total_disbursed"]']["number_style"] == "currency"
    assert settings['["name","total_disbursed"]']["currency"] == "KES"
    assert settings['["name","default_rate"]']["number_style"] == "percent"
    # The views give 4.2 for 4.2 percent.
    assert settings['["name","default_rate"]']["scale"] == 0.01


# --- the second run, and what people do in between --------------------------------------------------------------------


@needs.metabase
def test_a_second_run_changes_nothing(settings, url, calls):
    # As make up does it; test_the_command_reports… checks every filter once more.
    report = provision(settings, url, check=None)
    assert (report.changes, report.problems) == ([], [])
    assert len(calls) > len(content.load().questions)
    assert changing(calls) == []


@needs.metabase
def test_questions_that_a_person_changed_are_repaired_with_a_notice(settings, url, api):
    what = content.load()
    changes: dict[str, dict[str, Any]] = {
        "outstanding": {"name": "Money out"},
        "active_loans": {"description": "mine"},
        "loans_by_status": {"display": "table"},
        "payment_methods": {"visualization_settings": {"pie.metric": "nothing"}},
        "top_customers": {"parameters": []},
        "branch_performance": {"collection_id": None},
    }
    before = {key: card_of(api, key) for key in changes}
    for key, change in changes.items():
        api.put(f"/api/card/{before[key]['id']}", change)
    assert set(provision(settings, url, check=False).changes) == {
        f"repaired question {what.questions[key].name}: {part}" for key, change in changes.items() for part in change
    }
    for key, change in changes.items():
        for part in change:
            assert card_of(api, key)[part] == before[key][part]


@needs.metabase
def test_a_changed_query_and_a_question_in_the_trash_come_back(settings, url, api, calls):
    card = card_of(api, "active_loans")
    query = card["dataset_query"] | {
        "stages": [{"lib/type": "mbql.stage/native", "native": "select 1 as active_loans"}]
    }
    api.put(f"/api/card/{card['id']}", {"dataset_query": query})
    assert provision(settings, url, check=False).changes == ["repaired question Active loans: dataset_query"]
    api.put(f"/api/card/{card['id']}", {"archived": True})
    report = provision(settings, url, check=False)
    assert report.problems == []
    # The trash takes a question off its dashboards.
    assert set(report.changes) == {
        "repaired question Active loans: archived",
        "repaired dashboard Portfolio: Active loans was missing",
    }
    calls.clear()
    assert provision(settings, url, check=False).changes == []
    assert changing(calls) == []


@needs.metabase
def test_a_dashboard_that_a_person_took_apart_is_put_together_again(settings, url, api):
    board = board_of(api, "Portfolio")
    cards = {card_of(api, key)["id"]: key for key in content.load().questions}
    dashcards = [one for one in board["dashcards"] if cards[one["card_id"]] != "default_rate"]
    for one in dashcards:
        if cards[one["card_id"]] == "top_customers":
            one["row"] += 5
        if cards[one["card_id"]] == "outstanding":
            one["parameter_mappings"] = []
        if cards[one["card_id"]] == "loans_by_status":
            one["visualization_settings"] = {"card.title": "My loans"}
    put_dashcards(api, board, dashcards, name="Mine now", description="x", parameters=board["parameters"][:1])
    report = provision(settings, url, check=False)
    assert report.problems == []
    (change,) = report.changes
    for part in (
        "name",
        "description",
        "filters",
        "Default rate was missing",
        "place of Top customers",
        "filters of Portfolio outstanding",
        "settings of Loans by status",
    ):
        assert part in change
    api.put(f"/api/dashboard/{board['id']}", {"archived": True})
    assert provision(settings, url, check=False).changes == ["repaired dashboard Portfolio: took it out of the trash"]
    assert provision(settings, url, check=False).changes == []
    assert board_of(api, "Portfolio")["id"] == board["id"]


@needs.metabase
def test_what_people_made_themselves_stays(settings, url, api):
    what = content.load()
    (collection,) = [one for one in api.get("/api/collection") if one["name"] == what.collection.name]
    database = card_of(api, "outstanding")["dataset_query"]["database"]
    mine = api.post(
        "/api/card",
        {
            "name": "My own question",
            "display": "table",
            "visualization_settings": {},
            "collection_id": collection["id"],
            "dataset_query": {"type": "native", "database": database, "native": {"query": "select 1 as one"}},
        },
    )
    my_board = api.post("/api/dashboard", {"name": "My board", "collection_id": collection["id"]})
    board = board_of(api, "Collections")
    own_filter = {"id": "mine", "name": "Mine", "slug": "mine", "type": "string/=", "sectionId": "string"}
    # Their question is where the last row of ours is wanted, and they put everything on tabs.
    last = max(one["row"] for one in board["dashcards"])
    dashcards = [
        {**one, "dashboard_tab_id": -1, "row": one["row"] + (10 if one["row"] == last else 0)}
        for one in board["dashcards"]
    ]
    dashcards.append({"id": -1, "card_id": mine["id"], "row": last, "col": 0, "size_x": 6, "size_y": 4})
    dashcards[-1] |= {"dashboard_tab_id": -1, "parameter_mappings": [], "visualization_settings": {"card.title": "M"}}
    put_dashcards(
        api,
        board,
        dashcards,
        tabs=[{"id": -1, "name": "Ours"}, {"id": -2, "name": "Theirs"}],
        parameters=[*board["parameters"], own_filter],
    )
    report = provision(settings, url, check=False)
    assert report.problems == []
    after = board_of(api, "Collections")
    assert [tab["name"] for tab in after["tabs"]] == ["Ours", "Theirs"]
    (theirs,) = [one for one in after["dashcards"] if one["card_id"] == mine["id"]]
    assert theirs["visualization_settings"] == {"card.title": "M"}
    assert any(parameter["id"] == "mine" for parameter in after["parameters"])
    kept = ("id", "name", "display", "dataset_query", "collection_id", "archived", "updated_at")
    now = api.get(f"/api/card/{mine['id']}")
    assert {part: now[part] for part in kept} == {part: mine[part] for part in kept}
    assert api.get(f"/api/dashboard/{my_board['id']}")["name"] == "My board"
    assert provision(settings, url, check=False).changes == []


@needs.metabase
def test_a_renamed_collection_is_found_by_what_is_in_it(settings, url, api):
    name = content.load().collection.name
    (collection,) = [one for one in api.get("/api/collection") if one["name"] == name]
    api.put(f"/api/collection/{collection['id']}", {"name": "Old things"})
    assert provision(settings, url, check=False).changes == [f"repaired collection {name}: name"]
    assert api.get(f"/api/collection/{collection['id']}")["name"] == name


@needs.metabase
def test_a_description_that_a_person_changed_is_dbts_again(settings, url, api):
    (database,) = [one for one in api.get("/api/database")["data"] if one["name"] == "Warehouse"]
    tables = {table["name"]: table for table in api.get(f"/api/database/{database['id']}/metadata")["tables"]}
    (column,) = [one for one in tables["vw_payment_by_method"]["fields"] if one["name"] == "pct_of_total"]
    api.put(f"/api/field/{column['id']}", {"description": "a share"})
    assert provision(settings, url, check=False).changes == ["took over dbt's descriptions of 1 tables"]
    assert api.get(f"/api/field/{column['id']}")["description"] == (
        "Percent of the amount received by all methods together, two decimals."
    )


# --- what goes wrong --------------------------------------------------------------------------------------------------


@needs.metabase
def test_another_administrators_metabase_is_left_alone_with_a_sentence(settings, url, calls):
    stranger = settings.model_copy(update={"metabase_admin_password": SecretStr("wrong-password-1")})
    with pytest.raises(UserError, match=r"refuses admin@enterprise\.local.*METABASE_ADMIN_PASSWORD"):
        provision(stranger, url)
    assert changing(calls) == []
    # A wrong password is tried once: the server counts them.
    assert calls.count(("POST", "/api/session")) == 1


@needs.metabase
def test_a_new_password_of_the_reader_reaches_the_connection(demo_platform, settings, url):
    def set_password(password: str) -> None:
        with connect(demo_platform.warehouse_conninfo, autocommit=True) as connection:
            connection.execute(sql.SQL("alter role warehouse_reader password {}").format(sql.Literal(password)))

    changed = settings.model_copy(update={"warehouse_reader_password": SecretStr("another-One-4-now")})
    set_password("another-One-4-now")
    try:
        report = provision(changed, url, check=False)
        assert (report.changes, report.problems) == (["repaired database Warehouse: password"], [])
    finally:
        set_password(settings.warehouse_reader_password.get_secret_value())
    assert provision(settings, url, check=False).changes == ["repaired database Warehouse: password"]


@needs.metabase
def test_a_connection_that_leads_elsewhere_is_reported_with_its_settings(settings, url, api):
    (port,) = free_ports(1)
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}.*(.|\n)*METABASE_WAREHOUSE_PORT"):
        provision(settings.model_copy(update={"metabase_warehouse_port": port}), url)
    assert provision(settings, url, check=False).changes == []


@pytest.mark.proof
@needs.metabase
def test_questions_and_filters_that_do_not_work_are_named(settings, url):
    what = content.load()
    broken = what.questions["payments"].model_copy(
        update={"sql": "select nothing as payment_count from warehouse.vw_data_as_of", "filters": {}}
    )
    empty = what.questions["monthly_penalties"].model_copy(
        update={"sql": what.questions["monthly_penalties"].sql.replace("where true", "where month is null")}
    )
    idle = what.questions["outstanding"].model_copy(
        update={
            "sql": what.questions["outstanding"].sql.replace("[[and {{segment}}]]", "[[and ({{segment}} or true)]]")
        }
    )
    questions = what.questions | {"payments": broken, "monthly_penalties": empty, "outstanding": idle}
    report = Provisioner(settings, what.model_copy(update={"questions": questions}), url).run()
    assert any(problem.startswith("question Payments fails: ") for problem in report.problems)
    assert "filter segment changes nothing in Portfolio outstanding on Portfolio" in report.problems
    assert set(report.empty) - NOT_IN_A_NEW_BOOK == {"Penalties by month"}
    assert provision(settings, url).problems == []


@pytest.mark.proof
@needs.metabase
def test_a_first_start_tries_a_filter_once_per_view(settings, url):
    what = content.load()
    works, idle = "[[and {{segment}}]]", "[[and ({{segment}} or true)]]"
    questions = {
        key: question.model_copy(update={"sql": question.sql.replace(works, idle)})
        for key, question in what.questions.items()
    }
    filtered = [
        (board.name, questions[place.question].view_of_filter("segment"))
        for board in what.dashboards.values()
        for place in board.placements()
        if "segment" in board.filters and works in what.questions[place.question].sql
    ]
    report = Provisioner(settings, what.model_copy(update={"questions": questions}), url).run(check=None)
    named = [problem for problem in report.problems if problem.startswith("filter segment changes nothing in ")]
    assert 0 < len(named) <= len(set(filtered)) < len(filtered)
    assert provision(settings, url, check=False).problems == []


@pytest.mark.proof
@needs.metabase
def test_a_metabase_that_was_set_up_by_hand_before_and_starts_late(settings, tmp_path):
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    failures: list[BaseException] = []

    def by_hand(client: Client) -> int:
        client.wait_until_ready(300)
        token = client.get("/api/session/properties")["setup-token"]
        user = {"email": "jane@lender.test", "password": "Jane-was-here-1", "first_name": "Jane"}
        client.post("/api/setup", {"token": token, "user": user, "prefs": {"site_name": "Jane's"}})
        client = logged_in(address, "jane@lender.test", "Jane-was-here-1")
        made: dict[str, Any] = client.post("/api/collection", {"name": "Jane's things"})
        return int(made["id"])

    jane = settings.model_copy(
        update={
            "metabase_admin_email": "jane@lender.test",
            "metabase_admin_password": SecretStr("Jane-was-here-1"),
        }
    )
    reports: list[Any] = []

    def attempt(action: Callable[[], Any]) -> None:
        try:
            reports.append(action())
        except BaseException as error:
            failures.append(error)

    # Nothing listens yet when the waiting begins.
    waiting = threading.Thread(target=attempt, args=(lambda: Client(address).wait_until_ready(300),))
    waiting.start()
    with running(tmp_path, port):
        waiting.join()
        assert failures == []
        collection = by_hand(Client(address))
        with pytest.raises(UserError, match="was set up before"):
            provision(settings, address)
        report = provision(jane, address, check=False)
        assert report.problems == []
        assert not any("set up" in change for change in report.changes)
        client = logged_in(address, "jane@lender.test", "Jane-was-here-1")
        assert client.get(f"/api/collection/{collection}")["name"] == "Jane's things"
        assert client.get("/api/session/properties")["site-name"] == "Jane's"


@needs.metabase
def test_the_command_reports_what_it_did_and_fails_when_something_does_not_work(settings, url):
    def command(**environment: str) -> subprocess.CompletedProcess[str]:
        port = url.rsplit(":", 1)[1]
        return subprocess.run(
            [sys.executable, "-m", "eds", "metabase"],
            env=os.environ | {"METABASE_PORT": port} | environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    done = command()
    assert done.returncode == 0, done.stderr
    what = content.load()
    assert f"{len(what.dashboards)} dashboards, {len(what.questions)} questions, no changes" in done.stdout
    refused = command(METABASE_ADMIN_PASSWORD="wrong-password-1")
    assert refused.returncode == 1
    assert "METABASE_ADMIN_PASSWORD" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a java on the PATH that reports a version, and runs the Metabase of METABASE_TEST_COMMAND."""

    def put(version: str) -> None:
        script = tmp_path / "bin/java"
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            f"""#!/bin/sh
if [ "$1" = -version ]; then echo 'openjdk version "{version}" 2026-01-20' >&2; exit 0; fi
exec {needs.METABASE_COMMAND or "false"}
""",
            encoding="utf-8",
        )
        script.chmod(0o755)
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")

    return put


@pytest.mark.proof
@needs.metabase
def test_the_embedded_runtime_runs_a_metabase_jar(demo_platform, java, tmp_path):
    java("21.0.4")
    (tmp_path / "metabase.jar").touch()
    (port,) = free_ports(1)
    settings = demo_platform.settings.model_copy(
        update={"metabase_jar": tmp_path / "metabase.jar", "metabase_port": port}
    )
    runtime = LocalRuntime(settings)
    assert runtime.services.start_metabase() is True
    try:
        assert provision(settings, check=False).problems == []
        assert runtime.services.start_metabase() is False
        (state,) = [state for state in runtime.states() if state.name == "metabase"]
        assert (state.status, state.port) == ("running", port)
        runtime.check_ports()
    finally:
        assert runtime.services.stop("metabase") is True
    assert runtime.services.pid("metabase") is None
    assert requests_fail(f"http://127.0.0.1:{port}")


def requests_fail(address: str) -> bool:
    try:
        requests.get(address, timeout=2)
    except requests.RequestException:
        return True
    return False


def test_an_old_java_and_a_missing_jar_are_reported_before_anything_starts(runtime, java, tmp_path):
    jar = tmp_path / "metabase.jar"
    settings = runtime.settings.model_copy(update={"metabase_jar": jar})
    with pytest.raises(UserError, match=r"METABASE_JAR names .*metabase\.jar, which is not there"):
        up.up(LocalRuntime(settings))
    jar.touch()
    java("17.0.9")
    with pytest.raises(UserError, match=r'Java 21 or later.*version "17'):
        up.up(LocalRuntime(settings))


def test_where_nothing_answers_the_sentence_names_the_settings(runtime):
    (port,) = free_ports(1)
    settings = runtime.settings.model_copy(update={"metabase_start_seconds": 1})
    with pytest.raises(UserError, match=r"not ready within 1 s.*METABASE_PORT"):
        provision(settings, f"http://127.0.0.1:{port}")
