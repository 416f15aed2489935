"""Each mechanism switched off once: the promise it carries must then be seen to break.

A test of a promise is worth something only when it can fail. Every case builds a copy of the project in which one
mechanism is spoiled, plays the scenario that the mechanism is there for, and expects the loss.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eds.db import connect
from eds.etl import SCHEDULED_BUILD
from eds.scheduler import spawn_dbt
from eds.settings import ROOT

from .book import add_customer, add_loan, pay
from .oracle import assert_landing_equals_source, assert_views_equal_the_oltp

Build = Callable[[], None]


def late_commit(platform: Any, build: Build) -> None:
    """A transaction that is open during a run and commits after it, while others go on."""
    with platform.app() as connection:
        customer = add_customer(connection)
        loan = add_loan(connection, customer)
    build()
    with connect(platform.app_conninfo) as late:
        add_customer(late, "Late")
        with platform.app() as connection:
            pay(connection, loan)
        build()
    build()
    assert_landing_equals_source(platform)


def deletion(platform: Any, build: Build) -> None:
    """A payment is deleted between two runs."""
    with platform.app() as connection:
        loan = add_loan(connection, add_customer(connection))
        first = pay(connection, loan)
        pay(connection, loan)
        pay(connection, loan)
    build()
    with platform.app() as connection:
        connection.execute("delete from operational.payments where payment_id = %s", (first,))
    build()
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)


def moved_payment(platform: Any, build: Build) -> None:
    """A payment moves from one loan to another: the loan it left must be computed anew too."""
    with platform.app() as connection:
        customer = add_customer(connection)
        one, other = add_loan(connection, customer), add_loan(connection, customer, branch_code="MSA01")
        payment = pay(connection, one)
    build()
    with platform.app() as connection:
        connection.execute("update operational.payments set loan_id = %s where payment_id = %s", (other, payment))
    build()
    assert_views_equal_the_oltp(platform)


def later_payment(platform: Any, build: Build) -> None:
    """An ordinary new payment after the first build."""
    with platform.app() as connection:
        loan = add_loan(connection, add_customer(connection))
        pay(connection, loan)
    build()
    with platform.app() as connection:
        pay(connection, loan, "20.00", "2.00")
    build()
    assert_views_equal_the_oltp(platform)


def late_version(platform: Any, build: Build) -> None:
    """A customer's version that begins before a payment, and arrives after it."""
    with platform.app() as connection:
        customer = add_customer(connection, segment="retail")
        loan = add_loan(connection, customer)
    build()
    with connect(platform.app_conninfo) as late:
        late.execute("update operational.customers set segment = 'sme' where customer_id = %s", (customer,))
        with platform.app() as connection:
            pay(connection, loan)
        build()
    build()
    segments = platform.warehouse(
        "select customers.customer_segment from warehouse.fact_payments as payments "
        "join warehouse.dim_customer as customers on customers.customer_sk = payments.customer_sk"
    )
    assert segments == [("sme",)]


@dataclass(frozen=True)
class Control:
    """A mechanism, how it is spoiled (a text in a file of the project, replaced), and the scenario it carries."""

    mechanism: str
    file: str
    text: str
    spoiled: str
    scenario: Callable[[Any, Build], None]


CONTROLS = [
    Control(
        "the watermark is the snapshot's xmin, not the newest transaction seen",
        "macros/materializations/extraction.sql",
        "{{ run_id }}, '{{ source['snapshot_xmin'] }}', '{{ source['snapshot_xmax'] }}',",
        "{{ run_id }}, '{{ source['snapshot_xmax'] }}', '{{ source['snapshot_xmax'] }}',",
        late_commit,
    ),
    Control(
        "deletions come from the feed",
        "macros/extraction/load_landing_table.sql",
        "and event.operation = 'DELETE'",
        "and event.operation = 'NOTHING'",
        deletion,
    ),
    Control(
        "a fact's change log has the row as it was",
        "macros/materializations/upsert.sql",
        "where not changed._is_new",
        "where false",
        moved_payment,
    ),
    Control(
        "a model's state is saved with what it has taken in, not ahead of it",
        "macros/run/model_state.sql",
        "'landing_run_id': state['landing_run_id'] | int}",
        "'landing_run_id': landing_run_id()}",
        later_payment,
    ),
    Control(
        "payments of a customer with another version are looked at again",
        "models/marts/fact_payments.sql",
        "select customer_id from {{ changes_of('dim_customer') }}\n",
        "select customer_id from {{ changes_of('dim_customer') }} tablesample system (0)\n",
        late_version,
    ),
]


def project_copy(target: Path, control: Control | None) -> Path:
    """A copy of the dbt project, with one mechanism spoiled."""
    target.mkdir()
    for name in ("macros", "models", "seeds", "snapshots"):
        shutil.copytree(ROOT / name, target / name)
    (target / "tests").mkdir()
    for name in ("dbt_project.yml", "profiles.yml"):
        shutil.copy(ROOT / name, target / name)
    if control:
        file = target / control.file
        text = file.read_text(encoding="utf-8")
        assert text.count(control.text) == 1, f"{control.file} no longer holds the text that this control spoils"
        file.write_text(text.replace(control.text, control.spoiled), encoding="utf-8")
    return target


def builder(platform: Any, project: Path) -> Build:
    def build() -> None:
        platform.wait_for_replicas()
        # Without the project's own tests: they might stop the spoiled build before the loss can be seen.
        child = spawn_dbt(
            [
                "--quiet",
                "--no-write-json",
                *SCHEDULED_BUILD,
                "--exclude-resource-type",
                "test",
                "--project-dir",
                str(project),
                "--profiles-dir",
                str(project),
                "--target-path",
                str(project / "target"),
                "--log-path",
                str(project / "logs"),
            ],
            platform.dbt_environment,
        )
        child.join()
        assert child.exitcode == 0

    return build


@pytest.mark.parametrize("scenario", sorted({control.scenario for control in CONTROLS}, key=lambda each: each.__name__))
def test_with_every_mechanism_in_place_the_scenario_holds(platform, scenario, tmp_path):
    scenario(platform, builder(platform, project_copy(tmp_path / "project", None)))


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.mechanism)
def test_without_the_mechanism_the_scenario_breaks(platform, control, tmp_path):
    build = builder(platform, project_copy(tmp_path / "project", control))
    with pytest.raises(AssertionError, match=r"differs|only in|customers:|payments:|loans:|retail"):
        control.scenario(platform, build)
