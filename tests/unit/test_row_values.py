"""Messages of PostgreSQL are recorded without the values of rows; what helps to find the fault stays."""

from __future__ import annotations

import pytest

from eds.warehouse.row_values import without_row_values

HEAD = "Database Error in model extraction (models/extraction/extraction.sql)\n  "
TAIL = "\n  compiled code at target/run/warehouse/models/extraction/extraction.sql"
STACK = (
    "\n  \n  > in macro run_statement (macros/helpers/run_statement.sql)"
    "\n  > called by model extraction (models/extraction/extraction.sql)"
)
# Values that hold what PostgreSQL, or dbt, ends a value or a message with.
VALUES = [
    "Grace",
    "Grace Wanjiru, grace@example.org, +254700000001, 12345678, 1979-03-04",
    'Grace (the "first")), (12345678',
    "Grace\n  line two) 12345678\n  DETAIL:  Grace",
    'Grace"\n  CONTEXT:  12345678',
    "Grace\n  compiled code at target/12345678\n  Grace",
    "Grace\n  > in macro grace (12345678)\n  Grace",
    "Grace) = (12345678",
    "Grace)=(12345678) already exists. Grace",
]
# What PostgreSQL says with a value in it, and what is kept of that.
MESSAGES = [
    (
        'new row for relation "customers" violates check constraint "c"\n  DETAIL:  Failing row contains (1, {}, x).',
        'new row for relation "customers" violates check constraint "c"\n  DETAIL:  Failing row contains (…)',
    ),
    (
        'null value in column "city" of relation "customers" violates not-null constraint\n'
        "  DETAIL:  Failing row contains (email, name) = ({}, b).",
        'null value in column "city" of relation "customers" violates not-null constraint\n'
        "  DETAIL:  Failing row contains (…)",
    ),
    (
        'duplicate key value violates unique constraint "customers_email"\n  DETAIL:  Key (email)=({}) already exists.',
        'duplicate key value violates unique constraint "customers_email"\n  DETAIL:  Key (email)=(…) already exists.',
    ),
    (
        'could not create unique index "u"\n  DETAIL:  Key (lower(email), city)=({}, x) is duplicated.',
        'could not create unique index "u"\n  DETAIL:  Key (lower(email), city)=(…) is duplicated.',
    ),
    (
        'insert or update on table "loans" violates foreign key constraint "f"\n'
        '  DETAIL:  Key (officer)=({}) is not present in table "officers".',
        'insert or update on table "loans" violates foreign key constraint "f"\n'
        '  DETAIL:  Key (officer)=(…) is not present in table "officers".',
    ),
    (
        'conflicting key value violates exclusion constraint "e"\n'
        "  DETAIL:  Key (a)=({}) conflicts with existing key (a)=({}).",
        'conflicting key value violates exclusion constraint "e"\n  DETAIL:  Key (a)=(…)',
    ),
    (
        'no partition of relation "t" found for row\n  DETAIL:  Partition key of the failing row contains (a) = ({}).',
        'no partition of relation "t" found for row\n  DETAIL:  Partition key of the failing row contains (…)',
    ),
    ('invalid input syntax for type date: "{}"', 'invalid input syntax for type date: "…"'),
    (
        'invalid input syntax for type numeric: "{}"\n  CONTEXT:  column "amount" of foreign table "loans"',
        'invalid input syntax for type numeric: "…"\n  CONTEXT:  column "amount" of foreign table "loans"',
    ),
    ('invalid input value for enum operational.segment: "{}"', 'invalid input value for enum operational.segment: "…"'),
    ('date/time field value out of range: "{}"', 'date/time field value out of range: "…"'),
    ("date field value out of range: {}", "date field value out of range: …"),
    ('value "{}" is out of range for type integer', 'value "…" is out of range for type integer'),
    ('time zone "{}" not recognized', 'time zone "…"'),
    (
        'invalid input syntax for type json\n  DETAIL:  Token "{}" is invalid.\n  CONTEXT:  JSON data, line 1: {}',
        'invalid input syntax for type json\n  DETAIL:  Token "…"',
    ),
    (
        "invalid input syntax for type json\n  DETAIL:  The input string ended.\n  CONTEXT:  JSON data, line 1: {}",
        "invalid input syntax for type json\n  DETAIL:  The input string ended.\n  CONTEXT:  JSON data, line 1: …",
    ),
    (
        'extra data after last expected column\n  CONTEXT:  COPY customers, line 3: "{}"',
        'extra data after last expected column\n  CONTEXT:  COPY customers, line 3: "…"',
    ),
    (
        'value too long for type character varying(5)\n  CONTEXT:  COPY customers, line 3, column email: "{}"',
        'value too long for type character varying(5)\n  CONTEXT:  COPY customers, line 3, column email: "…"',
    ),
    (
        "division by zero\n  CONTEXT:  unnamed portal with parameters: $1 = '{}', $2 = '{}'",
        "division by zero\n  CONTEXT:  unnamed portal with parameters: $1 = …",
    ),
    (
        "division by zero\n  CONTEXT:  SQL statement \"select '{}'\"\n  PL/pgSQL function f() line 3 at EXECUTE",
        'division by zero\n  CONTEXT:  SQL statement "…"',
    ),
    ('something that nobody has thought of: "{}" and more', 'something that nobody has thought of: "…"'),
]
UNCHANGED = [
    HEAD + "division by zero" + TAIL,
    HEAD + 'column loans.x does not exist\n  LINE 3: select loans.x\n                 ^\n  HINT:  Perhaps you meant to '
    'reference the column "loans.y".' + TAIL,
    HEAD + 'permission denied for table loans' + TAIL,
    HEAD + 'connection to server at "127.0.0.1", port 5432 failed: FATAL:  database "x" does not exist' + TAIL,
    HEAD + 'could not connect to server "oltp"\n  DETAIL:  connection to server at "127.0.0.1", port 1 failed' + TAIL,
    HEAD + "numeric field overflow\n  DETAIL:  A field with precision 14, scale 2 must round to an absolute value less "
    "than 10^12." + TAIL,
    HEAD + 'could not extend file "base/5/16384": No space left on device' + TAIL,
    HEAD + "deadlock detected\n  DETAIL:  Process 7 waits for ShareLock on transaction 9; blocked by 8." + STACK,
    "Compilation Error in model extraction (models/extraction/extraction.sql)\n"
    '  The source has lost 13,439 of 20,155 rows of "payments" (of 9).\n  When that is meant: make etl NOW=1' + STACK,
    "Got 3 results, configured to fail if != 0",
    "",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(("message", "kept"), MESSAGES)
@pytest.mark.parametrize("end", [TAIL, STACK, STACK + TAIL, ""])
def test_the_values_of_rows_are_left_out_and_the_names_stay(message: str, kept: str, value: str, end: str) -> None:
    assert without_row_values(HEAD + message.replace("{}", value) + end) == HEAD + kept + end


@pytest.mark.parametrize("message", UNCHANGED)
def test_what_holds_no_value_stays_as_it_is(message: str) -> None:
    assert without_row_values(message) == message
