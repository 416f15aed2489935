"""Which tests look at all rows: new ones, redefined ones, and those that have failed there, until they pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eds.warehouse.runs import DATA_BUILD
from support.book import pay
from support.controls import edited
from support.oracle import assert_views_equal_the_oltp
from support.platform import Platform, project_copy

pytestmark = pytest.mark.proof

STATE = "select published_at from publish.published_state"
# A test of what changed, of a kind that the project does not have: it calls a macro.
GENERIC = "tests/sql/generic/at_most.sql"
MACRO = "macros/helpers/least_excess.sql"
SINGULAR = "tests/sql/singular/assert_payments_are_small.sql"
STAGING = "models/staging/stg_payments.yml"
FILES = {
    GENERIC: "{% test at_most(model, column_name, most) %}\n"
    "select {{ column_name }} from {{ model }} where {{ column_name }} >= {{ most }} + {{ least_excess() }}\n"
    "{% endtest %}\n",
    MACRO: "{% macro least_excess() %}1{% endmacro %}\n",
    SINGULAR: "select * from {{ ref('stg_payments') }} "
    "where payment_amount > 5000000 and {{ changed_since_published() }}\n",
}
AMOUNT = "      - name: payment_amount\n        description: \"{{ doc('payment_amount') }}\"\n"


def at_most(most: int, severity: str = "error", where: str = "__changed_rows__") -> str:
    """Return the lines of a test of a column."""
    return (
        f"        data_tests:\n          - at_most:\n              arguments: {{most: {most}}}\n"
        f'              config: {{severity: {severity}, where: "{where}"}}\n'
    )


TESTED = ((STAGING, AMOUNT, AMOUNT + at_most(5000000)),)
# What is done to tests that older rows pass: (file, text, what replaces it).
REDEFINED = {
    "another argument": ((STAGING, "{most: 5000000}", "{most: 5}"),),
    "another severity": ((STAGING, "severity: error", "severity: warn"), (STAGING, "{most: 5000000}", "{most: 5}")),
    "another condition": ((STAGING, '"__changed_rows__"}', '"payment_amount < 0"}'), (STAGING, "5000000}", "5}")),
    "the test's own text": ((GENERIC, "where {{ column_name }} >=", "where 5000000 + {{ column_name }} >="),),
    "a macro that it calls": ((MACRO, "%}1{%", "%}-5000000{%"),),
    "a singular test": ((SINGULAR, "> 5000000", "> 5"),),
}


def with_tests(platform: Platform, folder: Path) -> Platform:
    """Return the platform with a copy of the project that has the tests above."""
    project = project_copy(folder / "project")
    for name, text in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text, encoding="utf-8")
    return platform.of_project(project)


def change_a_loan(platform: Platform) -> None:
    """Change something that no payment has to do with."""
    platform.primary("update operational.loans set loan_officer = coalesce(loan_officer, '') || 'x' where loan_id = 1")
    platform.wait_for_replicas()


def assert_refused(platform: Platform, reason: str, *arguments: str) -> dict[str, Any]:
    """Build after a change: the run fails for this reason, and what dashboards show stays."""
    before = platform.warehouse(STATE)
    change_a_loan(platform)
    result = platform.dbt(*DATA_BUILD, *arguments)
    assert result.exit_code != 0
    assert result.run is not None
    assert reason in result.run["error_message"]
    assert platform.warehouse(STATE) == before
    return result.run


def assert_published(platform: Platform) -> None:
    before = platform.warehouse(STATE)
    change_a_loan(platform)
    platform.build()
    assert platform.warehouse(STATE) != before


@pytest.mark.parametrize("redefined", REDEFINED)
def test_a_test_that_was_redefined_is_asked_about_every_row(
    small_book: Platform, tmp_path: Path, redefined: str
) -> None:
    platform = with_tests(small_book, tmp_path)
    # What is redefined is made first, where it is not what the project has.
    first = REDEFINED[redefined] if redefined.startswith("another ") and len(REDEFINED[redefined]) > 1 else ()
    with edited(platform.project, TESTED):
        with edited(platform.project, first):
            assert_published(platform)
        with edited(platform.project, REDEFINED[redefined][-1:]):
            assert_refused(platform, "at_most" if redefined != "a singular test" else "assert_payments_are_small")


METHOD = "      - name: method_code\n"
CASH_ONLY = (
    "        data_tests:\n          - accepted_values:\n              arguments: {values: [cash]}\n"
    '              config: {where: "__changed_rows__"}\n'
)


def new_test(platform: Platform) -> None:
    """Add a test that older rows do not pass: it is asked about them, or named when it is left out."""
    name = "accepted_values_stg_payments_method_code"
    with edited(platform.project, ((STAGING, METHOD, METHOD + CASH_ONLY),)):
        assert_refused(platform, name)
        assert_refused(
            platform,
            f"Not published: 1 tests have not passed since the rows that they look at last changed: {name}",
            "--exclude",
            f"{name}*",
        )
        assert platform.dbt("test", "--select", f"{name}*").exit_code != 0
        assert_refused(platform, name)
    assert_published(platform)


def test_a_new_test_is_asked_about_every_row(small_book: Platform, tmp_path: Path) -> None:
    new_test(small_book.of_project(project_copy(tmp_path / "project")))


def test_a_test_that_was_away_is_asked_about_what_it_missed(small_book: Platform, tmp_path: Path) -> None:
    platform = with_tests(small_book, tmp_path)
    tested = ((STAGING, AMOUNT, AMOUNT + at_most(500)),)
    with edited(platform.project, tested):
        assert_published(platform)
    with platform.app() as connection:
        pay(connection, 1, "600.00", "0.00")
    assert_published(platform)
    with edited(platform.project, tested):
        assert_refused(platform, "at_most")


def failure_over_all_rows(platform: Platform) -> None:
    """Let `dbt test` find what ordinary runs do not look at: no run publishes until it is put right."""
    landing = "update operational.payments set loan_id = {} where payment_id = 1"
    platform.warehouse(landing.format(987654))
    assert platform.dbt("test").exit_code != 0
    for _ in range(2):
        assert_refused(platform, "relationships_stg_payments_loan_id")
    platform.warehouse(landing.format(1))
    assert_published(platform)
    assert_views_equal_the_oltp(platform)


def test_what_failed_over_all_rows_is_not_published_by_a_run_that_looks_at_changes(small_book: Platform) -> None:
    failure_over_all_rows(small_book)
