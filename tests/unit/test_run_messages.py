"""What a person reads of a run that failed: our own sentence first, without what dbt puts around it."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from eds.warehouse.runs import Run, _follow, history_table, reason, reasons, unknown_names

LOST = (
    "extraction: Compilation Error in model extraction (models/extraction/extraction.sql)\n"
    "  The source has lost 13,439 of 20,155 rows of payments.\n"
    "  When that is meant: make etl NOW=1 MASS_DELETE=1\n"
    "  \n"
    "  > in macro stop_at_mass_delete (macros/extraction/load.sql)\n"
    "  > called by macro materialization_extraction_default (macros/materializations/extraction.sql)\n"
    "  > called by model extraction (models/extraction/extraction.sql)"
)
DATABASE = (
    "fact_loans: Database Error in model fact_loans (models/marts/fact_loans.sql)\n"
    "  division by zero\n"
    "  compiled code at target/run/warehouse/models/marts/fact_loans.sql"
)
TEST = "assert_aggregates_agree: Got 3 results, configured to fail if != 0"
SENTENCE = "The source has lost 13,439 of 20,155 rows of payments. When that is meant: make etl NOW=1 MASS_DELETE=1"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (LOST, [SENTENCE]),
        (DATABASE, ["fact_loans: division by zero"]),
        (TEST, [TEST]),
        (f"{LOST}\n{DATABASE}\n{TEST}", [SENTENCE, "fact_loans: division by zero", TEST]),
        ("Compilation Error\n  Refused to start: run 4 is running.", ["Refused to start: run 4 is running."]),
        (
            "x: Runtime Error in model x (models/x.sql)\n  Database Error\n    no space left on device",
            ["x: no space left on device"],
        ),
        ("cancelled at the keyboard", ["cancelled at the keyboard"]),
        ("stg_loans: error", ["stg_loans: error"]),
        ("", []),
        (None, []),
    ],
)
def test_the_sentence_comes_first(message, expected):
    assert reasons(message) == expected


def test_one_line_names_the_first_and_counts_the_others():
    assert reason(f"{LOST}\n{DATABASE}\n{TEST}") == f"{SENTENCE} (and 2 more)"
    assert reason(TEST) == TEST
    assert reason(None) == ""


def test_output_into_a_log_counts_the_nodes_that_have_ended(tmp_path):
    lines = [
        "12:00:01  Found 43 models",
        "12:00:01  1 of 1 OK hook: platform.on-run-start.0 .............. [OK in 0.1s]",
        "12:00:02  1 of 87 START sql view model staging.stg_loans ........ [RUN]",
        "12:00:02  1 of 87 OK created sql view model staging.stg_loans ... [OK in 0.1s]",
        "12:00:03  2 of 87 PASS not_null_stg_loans_loan_id ............... [PASS in 0.1s]",
        "12:00:03  3 of 87 ERROR creating sql table model ................ [ERROR in 0.1s]",
        "12:00:03  4 of 87 SKIP relation warehouse.x ..................... [SKIP]",
    ]
    seen: list[tuple[int, int]] = []
    _follow(
        io.StringIO("".join(f"{line}\n" for line in lines)),
        tmp_path / "first.log",
        lambda amount, total: seen.append((amount, total)),
    )
    assert seen == [(1, 87)] * 4
    assert (tmp_path / "first.log").read_text(encoding="utf-8").splitlines() == lines


@pytest.mark.parametrize("width", [80, 100, 139, 140, 180])
def test_the_history_fits_a_terminal_with_whole_figures_and_the_message(width):
    began = datetime(2026, 11, 26, 9, 48, 13, tzinfo=UTC)
    runs = [
        Run(1234, began, began + timedelta(seconds=1016.2), status, 1_234_567, 0, 0, message, "reconcile", "x",
            "first load", "replica, port 26002", None)
        for status, message in (("failed", LOST), ("success", None))
    ]  # fmt: skip
    console = Console(file=io.StringIO(), width=width)
    console.print(history_table(runs, width))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for figure in ("1234", "2026-11-26 09:48", "1016.2", "failed", "success", "reconcile", "1234567"):
        assert figure in text
    assert "…" not in text
    if width < 140:
        assert f"run 1234: {SENTENCE}" in " ".join(text.split())
    else:
        assert "MASS_DELETE=1" in text


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("fact_loans+", []),
        ("+fact_loans,stg_payments 2+agg_loans", []),
        ("tag:nightly path:models/marts", []),
        ("dim_*", []),
        ("", []),
        ("agg_lons", ["the project has no model, seed, snapshot or test called agg_lons; did you mean agg_loans?"]),
        ("qqqqq fact_loans", ["the project has no model, seed, snapshot or test called qqqqq"]),
    ],
)
def test_a_selection_that_names_nothing_says_what_is_near(select: str, expected: list[str]) -> None:
    assert unknown_names(select) == expected
