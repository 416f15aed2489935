"""Metabase as code: brings a Metabase to what infra/dashboards/*.yml say, through its HTTP API.

Ids of the server are looked up and never stored. Questions are found again by an entity id that follows from their key,
dashboards by the ids of their filters, so that a person may have renamed either. What a person changed in them is
repaired with a notice; what people made themselves stays as it is, also on the provisioned dashboards.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_exponential

from eds.base.errors import UserError
from eds.base.settings import Settings
from eds.dashboards import content
from eds.dashboards import metabase_spec as spec
from eds.dashboards.content import GRID_COLUMNS, SCHEMA, Content, Dashboard, Question
from eds.dashboards.metabase_client import ANSWER_SECONDS, ApiError, Client, Json
from eds.warehouse import dbt_docs

SYNC_SECONDS = 120
# A value that no filter has: a question that answers the same with it is not filtered.
NO_SUCH_VALUE: dict[str, Any] = {"text": ["(no such value)"], "number": [-1], "months": "1800-01-01~1800-01-31"}


@dataclass
class Report:
    """What a provisioning did, and what it found wrong.

    changes: what was made, or repaired. empty: questions that return no rows. problems: what does not work.
    """

    changes: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    questions: int = 0
    dashboards: int = 0


# --- provisioning -----------------------------------------------------------------------------------------------------


class Provisioner:
    """One provisioning of one Metabase."""

    def __init__(self, settings: Settings, what: Content, url: str) -> None:
        self.settings = settings
        self.what = what
        self.client = Client(url)
        self.report = Report()

    def run(self, *, check: bool | None = True) -> Report:
        """Provision everything, in order.

        check: also run every question, and every filter on each question that it applies to. None: only when
        anything changed, and each filter once per view: those of a view share its columns, and a first start does not
        wait for hundreds of queries.

        Returns what was done and found; raises UserError when it cannot continue.
        """
        self.client.wait_until_ready(self.settings.metabase_start_seconds)
        self._log_in()
        database = self._database()
        fields = self._fields(database)
        self._repair_password(database)
        collection = self._collection()
        cards = {
            key: self._card(key, question, database, collection, fields)
            for key, question in self.what.questions.items()
        }
        self.report.questions = len(cards)
        boards: dict[str, Json] = {}
        # Those that a click leads to come first: the others name them.
        targets = {grain.leads_to for grain in self.what.grains.values()}
        for key, board in sorted(self.what.dashboards.items(), key=lambda item: item[0] not in targets):
            boards[key] = self._dashboard(key, board, collection, cards, boards)
        self.report.dashboards = len(boards)
        self._describe(database)
        if check or (check is None and self.report.changes):
            self._check_questions(cards)
            self._check_filters(boards, cards, once_per_view=check is None)
        return self.report

    def _say(self, text: str) -> None:
        self.report.changes.append(text)

    # --- the administrator ----------------------------------------------------------------------------------------

    def _log_in(self) -> None:
        settings = self.settings
        password = settings.metabase_admin_password.get_secret_value()
        properties = self.client.get("/api/session/properties")
        new = not properties.get("has-user-setup")
        if new:
            new = self._set_up(properties["setup-token"], password)
        try:
            session = self.client.post(
                "/api/session", {"username": settings.metabase_admin_email, "password": password}
            )
        except ApiError as error:
            if error.status != HTTPStatus.UNAUTHORIZED:
                raise
            raise UserError(
                f"Metabase at {self.client.url} refuses {settings.metabase_admin_email} with the password of "
                "METABASE_ADMIN_PASSWORD. It was set up before with other ones: put an administrator of it into .env "
                "(METABASE_ADMIN_EMAIL, METABASE_ADMIN_PASSWORD), then make metabase again. Nothing was changed."
            ) from error
        self.client.session.headers["X-Metabase-Session"] = session["id"]
        if not self.client.get("/api/user/current").get("is_superuser"):
            raise UserError(
                f"{settings.metabase_admin_email} is no administrator of the Metabase at {self.client.url}, and only "
                "one may connect databases. Nothing was changed."
            )
        if new and self.client.get("/api/setting/anon-tracking-enabled"):
            # Set-up switches it on, whatever is requested; a Metabase that existed before keeps its users' choice.
            self.client.put("/api/setting/anon-tracking-enabled", {"value": False})

    def _set_up(self, token: str, password: str) -> bool:
        """Make the first administrator. Returns False when somebody else was quicker."""
        user = {
            "email": self.settings.metabase_admin_email,
            "password": password,
            "first_name": "Platform",
            "last_name": "Administrator",
        }
        try:
            self.client.post(
                "/api/setup", {"token": token, "user": user, "prefs": {"site_name": self.what.collection.name}}
            )
        except ApiError as error:
            if "token" in error.text.lower() or error.status == HTTPStatus.FORBIDDEN:
                return False
            if "password" in error.text.lower():
                raise UserError(
                    "Metabase does not accept METABASE_ADMIN_PASSWORD: it asks for six characters or more with a digit "
                    "among them, and no common password. Set another one in .env, or empty the line and `make up` "
                    "generates one."
                ) from error
            raise
        self._say(f"set up, with {self.settings.metabase_admin_email} as its first administrator")
        return True

    # --- the warehouse --------------------------------------------------------------------------------------------

    def _details(self) -> Json:
        settings = self.settings
        return {
            "host": settings.metabase_warehouse_host or settings.warehouse_host,
            "port": settings.metabase_warehouse_port or settings.warehouse_port,
            "dbname": settings.warehouse_db,
            "user": "warehouse_reader",
            "password": settings.warehouse_reader_password.get_secret_value(),
            "schema-filters-type": "inclusion",
            "schema-filters-patterns": SCHEMA,
            **(
                {"ssl": True, "ssl-mode": "verify-full", "additional-options": f"sslrootcert={settings.ca_file}"}
                if settings.uses_tls
                else {}
            ),
        }

    def _connecting(self, action: Callable[[], Any]) -> Any:
        """Do what makes Metabase connect to the warehouse, and say what is to be done when it cannot."""
        try:
            return action()
        except ApiError as error:
            if error.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
                raise
            details = self._details()
            raise UserError(
                f"Metabase cannot connect to the warehouse at {details['host']}:{details['port']}, database "
                f"{details['dbname']}, as warehouse_reader: {error.text}\nThat is the address as Metabase's machine "
                "sees it: METABASE_WAREHOUSE_HOST and METABASE_WAREHOUSE_PORT set another one. The password comes from "
                "WAREHOUSE_READER_PASSWORD."
            ) from error

    def _database(self) -> int:
        name, details = self.what.database, self._details()
        found = [one for one in self.client.get("/api/database")["data"] if one["name"] == name]
        if not found:
            made = self._connecting(
                lambda: self.client.post("/api/database", {"name": name, "engine": "postgres", "details": details})
            )
            self._say(f"connected the warehouse, as database {name}")
            return int(made["id"])
        if len(found) > 1:
            raise UserError(
                f"The Metabase at {self.client.url} has {len(found)} databases named {name}: rename those that are not "
                "the platform's. Nothing was changed."
            )
        (database,) = found
        # The password cannot be read; `ssl` is Metabase's own finding.
        present = self.client.get(f"/api/database/{database['id']}")
        different = [
            key for key, value in details.items() if key != "password" and present["details"].get(key) != value
        ]
        if different:
            self._put_details(database["id"])
            self._say(f"repaired database {name}: {', '.join(different)}")
        return int(database["id"])

    def _put_details(self, database: int) -> None:
        body = {"engine": "postgres", "details": self._details()}
        self._connecting(lambda: self.client.put(f"/api/database/{database}", body))

    def _repair_password(self, database: int) -> None:
        """Give the connection the present password when a question of ours no longer gets in with the old one."""
        key = next(iter(self.what.questions))
        card = self._find_card(key, None)
        if card is None or card["archived"]:
            return
        answer = self.client.post(f"/api/card/{card['id']}/query", {})
        if answer["status"] != "completed" and re.search(r"password|authentication", str(answer.get("error")), re.I):
            self._put_details(database)
            self._say(f"repaired database {self.what.database}: password")

    def _fields(self, database: int) -> dict[str, int]:
        """Return the ids of the warehouse's columns, by table.column. Waits until Metabase has seen our views."""
        views = {view for question in self.what.questions.values() for view in question.views}
        tables = self._tables(database)
        if not views <= tables.keys():
            self._connecting(lambda: self.client.post(f"/api/database/{database}/sync_schema", {}))
            try:
                tables = Retrying(
                    stop=stop_after_delay(SYNC_SECONDS),
                    wait=wait_exponential(multiplier=0.1, max=2),
                    retry=retry_if_result(lambda seen: not views <= seen.keys()),
                )(self._tables, database)
            except RetryError as error:
                missing = ", ".join(sorted(views - self._tables(database).keys()))
                raise UserError(
                    f"Metabase did not find {missing} in schema {SCHEMA} of the warehouse within {SYNC_SECONDS} s. "
                    "The first dbt build makes the views: make etl NOW=1, then make metabase."
                ) from error
        fields = {
            f"{name}.{column['name']}": column for name, table in tables.items() for column in table.get("fields", [])
        }
        for name in sorted(spec.columns_with_choices(self.what)):
            column = fields[name]
            if column.get("has_field_values") != "list":
                # Metabase offers choices of texts with few values by itself, and of others only on request.
                self.client.put(f"/api/field/{column['id']}", {"has_field_values": "list"})
                self._say(f"{name} offers its values as a list")
        return {name: int(column["id"]) for name, column in fields.items()}

    def _tables(self, database: int) -> dict[str, Json]:
        metadata = self.client.get(f"/api/database/{database}/metadata")
        return {table["name"]: table for table in metadata["tables"] if table["schema"] == SCHEMA}

    # --- the collection and the questions -------------------------------------------------------------------------

    def _collection(self) -> int:
        wanted = self.what.collection.model_dump()
        everything = [one for one in self.client.get("/api/collection") if one["id"] != "root"]
        at_root = [one for one in everything if one.get("location") == "/" and not one.get("personal_owner_id")]
        found = next((one for one in at_root if one["name"] == wanted["name"] and not one.get("archived")), None)
        if found is None:
            # Renamed by a person: it is where our questions are.
            places = {card["collection_id"] for card in self._cards().values() if not card["archived"]}
            found = next((one for one in at_root if one["id"] in places and not one.get("archived")), None)
        if found is None:
            self._say(f"made collection {wanted['name']}")
            return int(self.client.post("/api/collection", wanted)["id"])
        if different := [key for key, value in wanted.items() if found.get(key) != value]:
            self.client.put(f"/api/collection/{found['id']}", wanted)
            self._say(f"repaired collection {wanted['name']}: {', '.join(different)}")
        return int(found["id"])

    def _cards(self) -> dict[str, Json]:
        """Return the questions on the server that are ours, by entity id, those in the trash too."""
        ours = {spec.entity_id(key) for key in self.what.questions}
        cards = [*self.client.get("/api/card", f="archived"), *self.client.get("/api/card")]
        return {card["entity_id"]: card for card in cards if card.get("entity_id") in ours}

    def _find_card(self, key: str, collection: int | None) -> Json | None:
        try:
            found = self.client.get(f"/api/card/{spec.entity_id(key)}")
            return found if isinstance(found, dict) else None
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
        if collection is None:
            return None
        # Made by a server that gave it an id of its own.
        name = self.what.questions[key].name
        items = self.client.get(f"/api/collection/{collection}/items", models="card")["data"]
        found = next((item for item in items if item["name"] == name), None)
        return self.client.get(f"/api/card/{found['id']}") if found else None

    def _card(self, key: str, question: Question, database: int, collection: int, fields: Mapping[str, int]) -> Json:
        wanted: Json = {
            "name": question.name,
            "description": spec.card_description(question),
            "display": spec.DISPLAYS[question.chart],
            "type": "question",
            "dataset_query": spec.native_query(question, key, self.what, database, fields),
            "visualization_settings": spec.visualization(question, self.settings.currency),
            "parameters": spec.card_parameters(question, key, self.what),
            "collection_id": collection,
        }
        found = self._find_card(key, collection)
        if found is None:
            made: Json = self.client.post("/api/card", wanted | {"entity_id": spec.entity_id(key)})
            self._say(f"made question {question.name}")
            self._report_dropped(question.name, self._differences(made, wanted, added=False))
            return made
        wanted["archived"] = False
        different = self._differences(found, wanted)
        if not different:
            return found
        changed: Json = self.client.put(f"/api/card/{found['id']}", {part: wanted[part] for part in different})
        self._say(f"repaired question {question.name}: {', '.join(different)}")
        self._report_dropped(question.name, self._differences(changed, wanted, added=False))
        return changed

    @staticmethod
    def _differences(found: Json, wanted: Json, *, added: bool = True) -> list[str]:
        """Return the parts of a question that are not as they should be. added: settings that were added count too."""

        def same(part: str) -> bool:
            if part == "dataset_query":
                return bool(spec.comparable_query(found.get(part)) == spec.comparable_query(wanted[part]))
            if part == "visualization_settings" and added and not spec.contains(wanted[part], found.get(part)):
                return False
            return spec.contains(found.get(part), wanted[part])

        return [part for part in wanted if not same(part)]

    def _report_dropped(self, name: str, different: Sequence[str]) -> None:
        """Report what Metabase silently dropped because it does not know it."""
        if different:
            self.report.problems.append(f"{name}: this Metabase did not keep {', '.join(different)}")

    # --- dashboards -----------------------------------------------------------------------------------------------

    def _dashboard(
        self, key: str, board: Dashboard, collection: int, cards: Mapping[str, Json], boards: Mapping[str, Json]
    ) -> Json:
        """Bring one dashboard to what its file says. boards: those that are done, which a click may lead to."""
        ours = spec.dashboard_parameters(board, key, self.what)
        found = self._find_dashboard(board, collection, {parameter["id"] for parameter in ours})
        new = found is None
        if found is None:
            found = self.client.post(
                "/api/dashboard",
                {"name": board.name, "description": board.description, "collection_id": collection},
            )
            self._say(f"made dashboard {board.name}")
        elif found.get("archived"):
            self.client.put(f"/api/dashboard/{found['id']}", {"archived": False, "collection_id": collection})
            self._say(f"repaired dashboard {board.name}: took it out of the trash")
        present: Json = self.client.get(f"/api/dashboard/{found['id']}")
        wanted, different = self._wanted_dashboard(key, board, collection, cards, boards, present)
        if different:
            self.client.put(f"/api/dashboard/{present['id']}", wanted)
            if not new:
                self._say(f"repaired dashboard {board.name}: {', '.join(different)}")
            present = self.client.get(f"/api/dashboard/{present['id']}")
            self._report_dropped(board.name, self._wanted_dashboard(key, board, collection, cards, boards, present)[1])
        return present

    def _find_dashboard(self, board: Dashboard, collection: int, parameters: set[str]) -> Json | None:
        """Find a dashboard of ours: it has our filters, or the name in the collection and filters of nobody."""
        named = None
        for state in ("all", "archived"):
            for listed in self.client.get("/api/dashboard", f=state):
                inside = listed.get("collection_id") == collection
                if not (inside or state == "archived"):
                    continue
                found: Json = self.client.get(f"/api/dashboard/{listed['id']}")
                if parameters & {parameter["id"] for parameter in found.get("parameters") or []}:
                    return found
                if inside and state == "all" and found["name"] == board.name:
                    named = named or found
        return named

    def _wanted_dashboard(
        self,
        key: str,
        board: Dashboard,
        collection: int,
        cards: Mapping[str, Json],
        boards: Mapping[str, Json],
        present: Json,
    ) -> tuple[Json, list[str]]:
        """Return the dashboard as it should be, with what people added to it, and the parts in which it is not so."""
        ours = spec.dashboard_parameters(board, key, self.what)
        our_ids = {parameter["id"] for parameter in ours}
        others = [parameter for parameter in present.get("parameters") or [] if parameter["id"] not in our_ids]
        by_id = {parameter["id"]: parameter for parameter in present.get("parameters") or []}
        different = [
            part
            for part, value in (
                ("name", board.name),
                ("description", board.description),
                ("collection", collection),
                ("filters", ours),
            )
            if not (
                all(spec.contains(by_id.get(parameter["id"]), parameter) for parameter in ours)
                if part == "filters"
                else present.get("collection_id" if part == "collection" else part) == value
            )
        ]
        dashcards, changed = self._dashcards(key, board, cards, boards, present)
        different += changed
        tabs = [{"id": tab["id"], "name": tab["name"]} for tab in present.get("tabs") or []]
        wanted = {
            "name": board.name,
            "description": board.description,
            "collection_id": collection,
            "parameters": [*(by_id.get(parameter["id"], {}) | parameter for parameter in ours), *others],
            "dashcards": dashcards,
            "tabs": tabs,
        }
        return wanted, different

    def _dashcards(
        self, key: str, board: Dashboard, cards: Mapping[str, Json], boards: Mapping[str, Json], present: Json
    ) -> tuple[list[Json], list[str]]:
        """Return the cards of a dashboard, ours in their places and those of people, and what differs."""
        left = sorted(present.get("dashcards") or [], key=lambda one: one["id"])
        tab = min((one["id"] for one in present.get("tabs") or []), default=None)
        wanted, different = [], []
        for number, place in enumerate(board.placements(), start=1):
            card, question = cards[place.question], self.what.questions[place.question]
            found = next((one for one in left if one.get("card_id") == card["id"]), None)
            mappings = [
                {"parameter_id": spec.own_id("filter", key, name), "card_id": card["id"], "target": spec.target(name)}
                for name in question.filters
                if name in board.filters
            ]
            item: Json = {
                "id": -number,
                "card_id": card["id"],
                "row": place.row,
                "col": place.column,
                "size_x": place.width,
                "size_y": place.height,
                "parameter_mappings": mappings,
                "visualization_settings": spec.way_to_loans(question, key, self.what, boards),
            }
            if tab is not None:
                item["dashboard_tab_id"] = tab
            if found is None:
                different.append(f"{question.name} was missing")
            else:
                left.remove(found)
                item["id"] = found["id"]
                if tab is not None and found.get("dashboard_tab_id"):
                    item["dashboard_tab_id"] = found["dashboard_tab_id"]
                ids = {mapping["parameter_id"] for mapping in mappings}
                present_mappings = found.get("parameter_mappings") or []
                # A filter that a person added may look at our question too.
                own = {spec.own_id("filter", key, name) for name in board.filters}
                item["parameter_mappings"] = mappings + [
                    one for one in present_mappings if one["parameter_id"] not in own
                ]
                if not all(found.get(part) == item[part] for part in ("row", "col", "size_x", "size_y")):
                    different.append(f"place of {question.name}")
                if not (
                    {one["parameter_id"] for one in present_mappings if one["parameter_id"] in own} == ids
                    and all(
                        any(
                            one["parameter_id"] == mapping["parameter_id"]
                            and one.get("card_id") == mapping["card_id"]
                            and spec.same_target(one.get("target"), mapping["target"])
                            for one in present_mappings
                        )
                        for mapping in mappings
                    )
                ):
                    different.append(f"filters of {question.name}")
                if (found.get("visualization_settings") or {}) != item["visualization_settings"]:
                    different.append(f"settings of {question.name}")
            wanted.append(item)
        return wanted + self._of_people(left, wanted, different), different

    @staticmethod
    def _of_people(theirs: Iterable[Json], ours: Sequence[Json], different: list[str]) -> list[Json]:
        """Return what people put on the dashboard, below our questions where it would lie over one of them."""
        kept = []
        bottom = max((item["row"] + item["size_y"] for item in [*ours, *theirs]), default=0)
        for found in theirs:
            item = {
                part: found[part]
                for part in ("id", "card_id", "row", "col", "size_x", "size_y", "parameter_mappings")
                if part in found
            }
            item["visualization_settings"] = found.get("visualization_settings") or {}
            item["series"] = [{"id": one["id"]} for one in found.get("series") or []]
            for part in ("dashboard_tab_id", "inline_parameters", "action_id"):
                if found.get(part) is not None:
                    item[part] = found[part]
            if any(_overlap(item, other) for other in ours):
                item |= {"row": bottom, "col": min(item["col"], GRID_COLUMNS - item["size_x"])}
                bottom += item["size_y"]
                different.append("moved cards that overlapped a question below it")
            kept.append(item)
        return kept

    # --- descriptions ---------------------------------------------------------------------------------------------

    def _describe(self, database: int) -> None:
        """Give tables and columns of the public models the descriptions of the dbt project, with dbt-metabase.

        dbt-metabase sends a request for each column. What people do not start from (the marts behind the views) has
        what Metabase reads by itself: the comments in the database, which are the same descriptions.
        """
        from dbtmetabase import DbtMetabase, Filter
        from dbtmetabase.manifest import Manifest

        manifest = dbt_docs.manifest(self.settings)
        tables = self._tables(database)
        nodes = json.loads(manifest.read_text(encoding="utf-8"))["nodes"]
        models = [
            model
            for model in Manifest(manifest).read_models()
            if model.schema == SCHEMA and nodes.get(model.unique_id, {}).get("access") == "public"
        ]
        behind = []
        for model in models:
            table = tables.get(model.alias)
            if table is None:
                continue
            columns = {column["name"]: column for column in table.get("fields", [])}
            if not spec.contains(table.get("description"), model.description or None) or any(
                column.name in columns
                and not spec.contains(columns[column.name].get("description"), column.description)
                for column in model.columns
            ):
                behind.append(model.alias)
        if not behind:
            return
        # It logs each refused call and each step by itself.
        logging.getLogger("dbtmetabase").setLevel(logging.CRITICAL)
        try:
            DbtMetabase(
                manifest_path=manifest,
                metabase_url=self.client.url,
                metabase_username=self.settings.metabase_admin_email,
                metabase_password=self.settings.metabase_admin_password.get_secret_value(),
                http_timeout=ANSWER_SECONDS,
            ).export_models(
                metabase_database=self.what.database,
                schema_filter=Filter(include=[SCHEMA]),
                model_filter=Filter(include=behind),
                skip_sources=True,
                sync_timeout=SYNC_SECONDS,
            )
        except Exception as error:
            # The dashboards work without them.
            self.report.problems.append(f"descriptions of {', '.join(behind)}: {error}")
            return
        self._say(f"took over dbt's descriptions of {len(behind)} tables")

    # --- checks ---------------------------------------------------------------------------------------------------

    def _check_questions(self, cards: Mapping[str, Json]) -> None:
        """Run every question: it must succeed and give the columns that are shown. No rows are printed."""
        for key, question in self.what.questions.items():
            answer = self.client.post(f"/api/card/{cards[key]['id']}/query", {})
            if answer["status"] != "completed":
                self.report.problems.append(f"question {question.name} fails: {answer.get('error')}")
                continue
            missing = set(question.shown) - {column["name"] for column in answer["data"]["cols"]}
            if missing:
                self.report.problems.append(f"question {question.name} has no column {', '.join(sorted(missing))}")
            rows = answer["data"]["rows"]
            if not rows or all(value is None for row in rows for value in row):
                self.report.empty.append(question.name)

    def _check_filters(self, boards: Mapping[str, Json], cards: Mapping[str, Json], *, once_per_view: bool) -> None:
        """Check that each filter changes the answer of each question that it applies to.

        once_per_view: of the questions whose filter looks at the same view, one on each dashboard.
        """
        unfiltered: dict[str, Json] = {}
        checked: set[tuple[str, str, str]] = set()
        for key, board in self.what.dashboards.items():
            placed = {one["card_id"]: one["id"] for one in boards[key]["dashcards"]}
            for question_key, name in _filtered(board, self.what):
                question, card = self.what.questions[question_key], cards[question_key]["id"]
                place = (key, name, question.view_of_filter(name))
                if question.name in self.report.empty or (once_per_view and place in checked):
                    continue
                path = f"/api/dashboard/{boards[key]['id']}/dashcard/{placed[card]}/card/{card}/query"
                if path not in unfiltered:
                    unfiltered[path] = self.client.post(path, {"parameters": []})
                # A filter changes nothing in what is 0 anyway, such as what was written off in a good year.
                rows = unfiltered[path]["data"]["rows"]
                if unfiltered[path]["status"] == "completed" and not any(
                    _is_something(one) for row in rows for one in row
                ):
                    continue
                checked.add(place)
                value = NO_SUCH_VALUE[self.what.filters[name].type]
                chosen = {"id": spec.own_id("filter", key, name), "value": value}
                answers = [unfiltered[path], self.client.post(path, {"parameters": [chosen]})]
                failed = next((one for one in answers if one["status"] != "completed"), None)
                if failed:
                    self.report.problems.append(
                        f"filter {name} breaks {question.name} on {board.name}: {failed.get('error')}"
                    )
                elif answers[0]["data"]["rows"] == answers[1]["data"]["rows"]:
                    self.report.problems.append(f"filter {name} changes nothing in {question.name} on {board.name}")


def _is_something(value: object) -> bool:
    """Return whether a value of an answer is neither missing nor a zero, however that is written."""
    return value is not None and not re.fullmatch(r"-?0*\.?0*", str(value))


def _filtered(board: Dashboard, what: Content) -> Iterator[tuple[str, str]]:
    for place in board.placements():
        for name in what.questions[place.question].filters:
            if name in board.filters:
                yield place.question, name


def _overlap(one: Json, other: Json) -> bool:
    return bool(
        one.get("dashboard_tab_id") == other.get("dashboard_tab_id")
        and one["row"] < other["row"] + other["size_y"]
        and other["row"] < one["row"] + one["size_y"]
        and one["col"] < other["col"] + other["size_x"]
        and other["col"] < one["col"] + one["size_x"]
    )


def address(settings: Settings) -> str:
    """Return where the settings say that Metabase is."""
    return f"http://{settings.metabase_host}:{settings.metabase_port}"


def provision(settings: Settings, url: str | None = None, *, check: bool | None = True) -> Report:
    """Bring the Metabase at `url` (default: that of the settings) to what infra/dashboards/*.yml say.

    check: also run every question and every filter (None: when anything changed). Returns what was changed and what
    does not work; raises UserError when it cannot be reached or entered.
    """
    return Provisioner(settings, content.load(), url or address(settings)).run(check=check)
