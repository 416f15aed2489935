"""What a person reads of a run that failed: our own sentence first, without what dbt puts around it."""

import pytest

from eds.warehouse.runs import reason, reasons

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
