"""The parts of the import that need no database: reading CSV, reading values, headers, messages."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.console import Console

from eds.base.errors import UserError
from eds.book.csv_import import dialect, schema, template
from eds.book.csv_import import records as records_module
from eds.book.csv_import.dialect import Dialect, examine, sniff_delimiter, squeeze
from eds.book.csv_import.files import find_files
from eds.book.csv_import.importer import Summary
from eds.book.csv_import.interpretation import ExpectedError, Reading
from eds.book.csv_import.job import Counts
from eds.book.csv_import.mapping import BookMapping, ColumnMapping, TableMapping, load_mapping
from eds.book.csv_import.next_step import is_mass_delete
from eds.book.csv_import.numbers import is_currency_name
from eds.book.csv_import.planning import ungarbled
from eds.book.csv_import.problems import Problem, Problems, show_value
from eds.book.csv_import.records import Malformed, Record, read_records
from eds.book.csv_import.rows import NotPlainError, RowReader, lay_out
from eds.book.csv_import.schema import TABLES
from eds.book.csv_import.template import write_template
from eds.book.csv_import.values import Evidence, converter
from eds.book.csv_import.western import looks_western

CUSTOMERS, PRODUCTS, LOANS, PAYMENTS, INSTALLMENTS = TABLES


def read(data: bytes) -> list[Record | Malformed]:
    return list(read_records(io.BytesIO(data)))


def rows(data: bytes) -> list[tuple[int, list[str | None]]]:
    found = read(data)
    assert all(isinstance(record, Record) for record in found), found
    return [(record.line, record.fields) for record in found if isinstance(record, Record)]


def _is_of(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


# -- records --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"a,b\n1,2\n",
        b"a,b\r\n1,2\r\n",
        b"a,b\n1,2",
        b"\xef\xbb\xbfa,b\n1,2\n",
        b"a,b\n\n1,2\n\r\n",
        b'"a","b"\n1,"2"\n',
    ],
    ids=["LF", "CRLF", "no line end at the end", "byte order mark", "blank lines", "quotes"],
)
def test_the_same_records_however_they_are_written(data: bytes) -> None:
    assert [fields for _, fields in rows(data)] == [["a", "b"], ["1", "2"]]


def test_an_empty_field_is_null_and_an_empty_quoted_one_is_a_text() -> None:
    assert rows(b'a,b,c\n,"",\n')[1] == (2, [None, "", None])


@pytest.mark.parametrize(
    ("field", "value"), [('"=""0042"""', "0042"), ('="0042"', "0042"), ('"="""', '="'), ('"="""""', ""), ('""', "")]
)
def test_a_text_kept_by_a_formula_is_read_without_it(field: str, value: str) -> None:
    assert rows(f"a,b\n1,{field}\n".encode())[1] == (2, ["1", value])


def test_line_numbers_are_those_of_the_file() -> None:
    data = b'a,b\n1,"two\nlines, and a ""quote"""\r\n\n2,"\r\n\r\n"\n3,x\n'
    assert rows(data) == [
        (1, ["a", "b"]),
        (2, ["1", 'two\nlines, and a "quote"']),
        (5, ["2", "\r\n\r\n"]),
        (8, ["3", "x"]),
    ]


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=2, max_size=4),
        max_size=6,
    ),
    # The module leaves a carriage return unquoted when lines end in LF alone.
    st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL), ("\n", csv.QUOTE_ALL)]),
)
def test_reads_what_the_csv_module_writes(table: list[list[str]], style: tuple[str, Literal[0, 1]]) -> None:
    line_end, quoting = style
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end, quoting=quoting)
    starts: list[int] = []
    for fields in table:
        starts.append(text.getvalue().count("\n") + 1)
        writer.writerow(fields)
    # ="0042" is a spreadsheet's way to keep zeros, and is read without it.
    assume(not any(re.fullmatch('="(.*)"', value, re.DOTALL) for fields in table for value in fields))
    found = rows(text.getvalue().encode())
    assert [[value or "" for value in fields] for _, fields in found] == table
    assert [line for line, _ in found] == starts
    if quoting == csv.QUOTE_ALL:
        assert [fields for _, fields in found] == table


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_listed(data: bytes) -> None:
    for record in read(data):
        assert 1 <= record.line <= data.count(b"\n") + 1


@pytest.mark.parametrize(
    ("data", "line", "position", "expected"),
    [
        (b'a,b\n1,5" pipe\n2,x\n', 2, 1, "quotes around the whole field"),
        (b'a,b\n"x"y,1\n2,x\n', 2, 0, "after the closing quote"),
        (b"a,b\rc,d\n2,x\n", 1, 1, "LF or CRLF"),
        (b'a,b\n1,"open\n2,x\n', 2, None, "a closing quote before the end of the file"),
    ],
)
def test_what_is_no_csv_is_listed(data: bytes, line: int, position: int | None, expected: str) -> None:
    (malformed,) = [record for record in read(data) if isinstance(record, Malformed)]
    assert (malformed.line, malformed.position) == (line, position)
    assert expected in malformed.expected
    if not malformed.is_last:
        assert rows(data.split(b"\n")[-2] + b"\n") == [(1, ["2", "x"])]
        assert read(data)[-1] == Record(3 if line == 2 else 2, ["2", "x"], True)


def test_an_endless_quote_or_line_stops_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "MAX_RECORD_BYTES", 1000)
    (_, problem) = read(b'a,b\n1,"' + b"x,y\n" * 1000)
    assert isinstance(problem, Malformed)
    assert (problem.line, problem.is_last) == (2, True)
    assert "a closing quote within 1,000 bytes" in problem.expected
    (problem,) = read(b"x" * 1001)
    assert isinstance(problem, Malformed)
    assert "the end of the line within 1,000 bytes" in problem.expected


def test_invalid_bytes_and_nul_mark_a_record() -> None:
    assert [record.is_clean for record in read(b"a,b\n1,J\xfcrg\n2,x\0y\n3,ok\n") if isinstance(record, Record)] == [
        True,
        False,
        False,
        True,
    ]


# -- headers --------------------------------------------------------------------------------------------------------


def header_of(text: str) -> Record | Malformed | None:
    return next(read_records(io.BytesIO(text.encode())), None)


@pytest.mark.parametrize(
    "header",
    [
        "Email, full_name ,CUSTOMER_ID",
        "E-mail,Full Name,Customer ID",
        "eMail,fullName,customerId",
        '"E MAIL","FULL-NAME","Customer Id."',
        "email,full_name,customer_id,,",
    ],
)
def test_columns_in_any_order_and_spelling(header: str) -> None:
    layout = lay_out(CUSTOMERS, header_of(header))
    assert layout.problems == []
    assert [column.name for column in layout.columns] == ["email", "full_name", "customer_id"]
    assert layout.extra == []


def test_columns_that_the_book_does_not_have_are_listed() -> None:
    layout = lay_out(CUSTOMERS, header_of("customer_id,Colour,full_name,Updated At,Remarks"))
    assert layout.problems == []
    assert layout.extra == ["Colour", "Updated At (kept by the platform)", "Remarks"]


@pytest.mark.parametrize(
    ("header", "column", "value", "expected"),
    [
        ("customer_id,full_name,emial", "emial", "emial", "did you mean email?"),
        ("customer_id,full_name,Date of Brith", "Date of Brith", "Date of Brith", "did you mean date_of_birth?"),
        ("customer_id,email", "full_name", None, "it is required"),
        ("customer_id,email,Client", "full_name", None, "not read are Client"),
        ("customer_id,full_name,city,City", "City", "City", "each column once"),
        ("customer_id,full_name,a\0b", "3", "a\0b", "NUL"),
        ("1,Amina Otieno", "", "1,Amina Otieno", "a line with the names of the columns"),
        ("", "", None, "a line with the names of the columns"),
    ],
)
def test_a_wrong_header_is_a_problem(header: str, column: str, value: str | None, expected: str) -> None:
    (problem,) = lay_out(CUSTOMERS, header_of(header)).problems
    assert (problem.file, problem.line, problem.column, problem.value) == ("customers.csv", 1, column, value)
    assert expected in problem.expected


def test_all_that_is_wrong_with_a_header_is_listed_at_once() -> None:
    problems = lay_out(PAYMENTS, header_of("payment_id,loan_id,refrence_number,amount,amount")).problems
    assert [problem.column for problem in problems] == [
        "amount",
        "refrence_number",
        "principal_portion",
        "interest_portion",
        "payment_method",
    ]


def test_a_sync_needs_the_columns_whose_default_is_the_time_of_the_import() -> None:
    header = header_of("payment_id,loan_id,amount,principal_portion,interest_portion,payment_method")
    assert lay_out(PAYMENTS, header).problems == []
    (problem,) = lay_out(PAYMENTS, header, sync=True).problems
    assert (problem.column, problem.expected) == ("payment_date", "this column: with SYNC=1 it is required")


def test_a_header_that_is_no_utf8_is_a_problem() -> None:
    header = next(read_records(io.BytesIO(b"customer_id,full_name,stra\xdfe\n")))
    (problem,) = lay_out(CUSTOMERS, header).problems
    assert problem.column == "3"
    assert show_value(problem.value) == r"'stra\xdfe'"
    assert "UTF-8" in problem.expected


# -- values ---------------------------------------------------------------------------------------------------------


def convert(table: schema.Table, name: str, text: str, reading: Reading | None = None) -> str | None:
    column = next(column for column in table.columns if column.name == name)
    found = converter(table, column, reading or Reading())
    return text if found is None else found(text)


def refusal(table: schema.Table, column: str, text: str, reading: Reading | None = None) -> str:
    """Return what was expected instead of the text."""
    with pytest.raises(ExpectedError) as refused:
        convert(table, column, text, reading)
    return str(refused.value)


@pytest.mark.parametrize("text", ["1", "-5", "+7", " 12 ", "0012", "2147483646"])
def test_whole_numbers(text: str) -> None:
    assert int(convert(CUSTOMERS, "customer_id", text) or "") == int(text)


@pytest.mark.parametrize("text", ["", " ", "x", "1.0", "1e3", "1,000", "0x1F", "\u0663", "1_000", "--1"])
def test_no_whole_numbers(text: str) -> None:
    assert "a whole number" in refusal(CUSTOMERS, "customer_id", text)


def test_whole_numbers_have_the_range_of_their_column() -> None:
    assert "from -2147483648 to 2147483646" in refusal(CUSTOMERS, "customer_id", "2147483647")
    assert convert(LOANS, "tenure_months", "2147483647") == "2147483647"
    assert "from -2147483648 to 2147483647" in refusal(LOANS, "tenure_months", "2147483648")
    assert convert(LOANS, "loan_id", "9223372036854775806") == "9223372036854775806"
    assert "9223372036854775806" in refusal(LOANS, "loan_id", "9223372036854775807")
    assert "a whole number" in refusal(LOANS, "loan_id", "9" * 10_000)


@pytest.mark.parametrize("text", ["0", "-0", "12", "12.5", "12.50", "12.5000", ".5", "5.", "+1.25", "-999999999999.99"])
def test_money(text: str) -> None:
    assert Decimal(convert(LOANS, "amount", text) or "") == Decimal(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12.3456", "at most 2 decimals"),
        ("0.001", "at most 2 decimals"),
        ("1000000000000", "from -999999999999.99 to 999999999999.99"),
        *[
            (text, "a number such as 1234.50")
            for text in [
                "",
                ".",
                "-",
                "1,234.50",
                "12.345",
                "1.500",
                "1.234,50",
                "12,5",
                "1e3",
                "NaN",
                "inf",
                "-Infinity",
                "KES 5",
                "1 000",
                "\u0661",
            ]
        ],
    ],
)
def test_no_money(text: str, expected: str) -> None:
    assert expected in refusal(LOANS, "amount", text)


def test_rates_have_four_decimals() -> None:
    assert convert(LOANS, "interest_rate", "12.3456") == "12.3456"
    assert "at most 4 decimals" in refusal(LOANS, "interest_rate", "12.34567")
    assert "from -999.9999 to 999.9999" in refusal(LOANS, "interest_rate", "1000")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=None, min_value=-(10**13), max_value=10**13))
def test_money_is_taken_exactly_or_not_at_all(value: Decimal) -> None:
    text = format(value, "f")
    fits = value == round(value, 2) and abs(value) < 10**12
    if fits:
        # 1.500 can be read in two ways: what else is in the file decides, see below.
        reading = Reading(decimal="point", strict=False) if re.fullmatch(r"-?[1-9]\d{0,2}\.\d{3}", text) else None
        assert Decimal(convert(LOANS, "amount", text, reading) or "") == value
    else:
        refusal(LOANS, "amount", text)


@pytest.mark.parametrize("text", ["2024-02-29", "0001-01-01", "9999-12-31", " 1980-06-01 "])
def test_dates(text: str) -> None:
    assert convert(CUSTOMERS, "date_of_birth", text) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2023-02-29",
        "2024-2-9",
        "29/02/2024",
        "02-29-2024",
        "20240229",
        "2024-W01-1",
        "infinity",
        "today",
        "0000-01-01",
        "2024-02-29T00:00:00",
        "-2024-01-01",
        "٢٠٢٤-01-01",
    ],
)
def test_no_dates(text: str) -> None:
    assert "YYYY-MM-DD" in refusal(CUSTOMERS, "date_of_birth", text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-02-29", "2024-02-29T00:00:00+00"),
        ("2024-02-29 13:45", "2024-02-29T13:45:00+00"),
        ("2024-02-29T13:45:07", "2024-02-29T13:45:07+00"),
        ("2024-02-29T13:45:07.5Z", "2024-02-29T13:45:07.5+00"),
        ("2024-02-29T13:45:07.1234560000Z", "2024-02-29T13:45:07.123456+00"),
        ("2024-02-29 01:45:00+03:00", "2024-02-28T22:45:00+00"),
        ("2024-02-29 22:45:00.25-0330", "2024-03-01T02:15:00.25+00"),
        ("2024-02-29 22:45:00 +03", "2024-02-29T19:45:00+00"),
        ("1900-01-01", "1900-01-01T00:00:00+00"),
        ("9999-12-30T23:59:59.999999Z", "9999-12-30T23:59:59.999999+00"),
    ],
)
def test_moments(text: str, moment: str) -> None:
    assert convert(PAYMENTS, "payment_date", text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-13-01",
        "2024-02-30 10:00",
        "2024-02-29 25:00",
        "2024-02-29 10:60",
        "2024-02-29 10:00:60",
        "10:00",
        "now",
        "infinity",
        "-infinity",
        "2024-02-29 10:00 EAT",
        "2024-02-29 10:00+16:00",
        "2024-02-29 10:00+03:60",
        "29.02.2024 10:00",
        "1709200000",
        "0001-01-01T00:00+01:00",
        "9999-12-31T23:59-01:00",
        "2024-02-29 10:00 PM",
    ],
)
def test_no_moments(text: str) -> None:
    assert "a time: YYYY-MM-DD" in refusal(PAYMENTS, "payment_date", text)


@pytest.mark.parametrize(
    "text", ["1899-12-31T23:59:59Z", "1900-01-01T00:00+01:00", "9999-12-31T00:00Z", "9999-12-30T23:59-01:00"]
)
def test_no_moments_that_the_book_refuses(text: str) -> None:
    assert "from 1900-01-01 to 9999-12-30" in refusal(PAYMENTS, "payment_date", text)


def test_moments_are_not_rounded() -> None:
    moment = "2024-02-29T13:45:07.1234567Z"
    assert "at most 6 decimals" in refusal(PAYMENTS, "payment_date", moment, Reading(strict=False))


@pytest.mark.parametrize("text", ["true", "TRUE", "t", "1", "yes", "Yes"])
def test_true(text: str) -> None:
    assert convert(CUSTOMERS, "is_active", text) == "t"


@pytest.mark.parametrize("text", ["false", "False", "f", "0", "no", "NO"])
def test_false(text: str) -> None:
    assert convert(CUSTOMERS, "is_active", text) == "f"


@pytest.mark.parametrize("text", ["", "2", "maybe", "on", "oui"])
def test_neither(text: str) -> None:
    assert "true or false" in refusal(CUSTOMERS, "is_active", text)


def test_unique_texts_fit_into_an_index() -> None:
    assert convert(CUSTOMERS, "email", "é" * 1300) == "é" * 1300
    assert "2600 bytes" in refusal(CUSTOMERS, "email", "é" * 1301)
    assert convert(CUSTOMERS, "city", "x" * 10_000) == "x" * 10_000


# -- rows -----------------------------------------------------------------------------------------------------------


def read_rows(
    table: schema.Table, data: bytes, strict: bool = False
) -> tuple[RowReader, list[tuple[object, ...]], list[Problem]]:
    records = read_records(io.BytesIO(data))
    layout = lay_out(table, next(records, None))
    assert layout.problems == []
    problems: list[Problem] = []
    reader = RowReader(table, layout, records, problems.append, Reading(strict=strict))
    return reader, list(reader), problems


def test_a_row_without_one_column_of_its_key_is_left_out() -> None:
    header = b"loan_id,installment_no,due_date,principal_due\n"
    reader, found, problems = read_rows(INSTALLMENTS, header + b"1,,2024-01-31,5\n,2,2024-01-31,5\n1,3,2024-01-31,5\n")
    assert found == [(4, False, "1", "3", "2024-01-31", "5")]
    assert [problem.column for problem in problems] == ["installment_no", "loan_id"]
    assert not reader.is_complete


def test_a_wrong_value_becomes_null_and_is_listed() -> None:
    reader, found, problems = read_rows(
        CUSTOMERS, b"customer_id,full_name,date_of_birth,is_active\n7,Amina,soon,maybe\n"
    )
    assert found == [(2, True, "7", "Amina", None, None)]
    assert [(problem.column, problem.value) for problem in problems] == [
        ("date_of_birth", "soon"),
        ("is_active", "maybe"),
    ]
    assert reader.is_complete


def test_a_strict_reading_stops_at_the_first_value_that_is_not_plain() -> None:
    with pytest.raises(NotPlainError):
        read_rows(CUSTOMERS, b"customer_id,full_name,date_of_birth\n7,Amina,29/02/1980\n", strict=True)


def test_programs_that_quote_every_field_mean_no_value_by_empty_quotes() -> None:
    _, found, problems = read_rows(
        CUSTOMERS, b'customer_id,full_name,email,date_of_birth,segment,city\n"7","Amina","","","",""\n'
    )
    assert problems == []
    # An empty text stays one where texts may be equal.
    assert found == [(2, False, "7", "Amina", None, None, None, "")]


@pytest.mark.parametrize(
    ("record", "column", "value", "expected"),
    [
        (b",Amina", "customer_id", None, "it may not be empty"),
        (b"x,Amina", "customer_id", "x", "a whole number"),
        (b"1", "", "1", "2 fields, as in the header, not 1"),
        (b"1,Otieno, Amina", "", "1,Otieno, Amina", "not 3 (a field with the delimiter"),
        (b'1,Amina "A" Otieno', "full_name", 'Amina "A" Otieno', "quotes around the whole field"),
    ],
)
def test_a_record_without_a_usable_key_is_left_out(record: bytes, column: str, value: str, expected: str) -> None:
    reader, found, (problem,) = read_rows(CUSTOMERS, b"customer_id,full_name\n" + record + b"\n2,Brian\n")
    assert found == [(3, False, "2", "Brian")]
    assert not reader.is_complete
    assert problem == Problem("customers.csv", 2, column, value, problem.expected)
    assert expected in problem.expected


@pytest.mark.parametrize(
    ("table", "header", "record", "skip"),
    [
        (
            LOANS,
            "Loan ID,customer_id,product_id,amount,interest_rate,tenure_months",
            "Grand Total:,,,10500.00,,",
            '{"Loan ID": ["Grand Total:"]}',
        ),
        (
            LOANS,
            "loan_id,customer_id,product_id,amount,interest_rate,tenure_months",
            ",,,10500,,",
            '{"loan_id": [""]}',
        ),
        (
            PAYMENTS,
            "payment_id,loan_id,amount,principal_portion,interest_portion,payment_method",
            "Total,,5.00,4.00,1.00,",
            '{"payment_id": ["Total"]}',
        ),
        (
            LOANS,
            "Loan ID,customer_id,product_id,amount,interest_rate,tenure_months",
            "Loan ID,customer_id,product_id,amount,interest_rate,tenure_months",
            '{"Loan ID": ["Loan ID"]}',
        ),
        (CUSTOMERS, "customer_id,full_name,city", "2 rows,,", '{"customer_id": ["2 rows"]}'),
        (CUSTOMERS, "customer_id,full_name,city", "(1202 records),,", '{"customer_id": ["(1202 records)"]}'),
        (CUSTOMERS, "customer_id,full_name,city", "Summe: 2,,", '{"customer_id": ["Summe: 2"]}'),
        (CUSTOMERS, "customer_id,full_name,city", "Page 1 of 3,,", '{"customer_id": ["Page 1 of 3"]}'),
        (CUSTOMERS, "customer_id,full_name,city", "Jumla,,", '{"customer_id": ["Jumla"]}'),
        (CUSTOMERS, "customer_id,full_name,city", "Printed by Amina,,Nairobi", '{"customer_id": ["Printed by Amina"]}'),
    ],
)
def test_a_line_of_totals_or_of_names_is_one_problem(table: schema.Table, header: str, record: str, skip: str) -> None:
    reader, found, (problem,) = read_rows(table, f"{header}\n{record}\n".encode())
    assert found == []
    assert not reader.is_complete
    assert (problem.line, problem.column, problem.value) == (2, "", record)
    assert problem.expected.endswith(f"left out by a mapping file: skip: {skip}")


@pytest.mark.parametrize("record", ["C 42,,", "LN-42,,", "2 rows,Amina,", "42,,"])
def test_a_code_beside_empty_fields_is_a_row(record: str) -> None:
    _, _, problems = read_rows(CUSTOMERS, f"customer_id,full_name,city\n{record}\n".encode())
    assert not any("a line of totals" in problem.expected for problem in problems)
    assert problems


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A\x1b[31mmina", "U+001B (escape)"),
        ("A\x07", "U+0007 (bell)"),
        ("Amina\x7f", "U+007F (control)"),
        ("A\x0bB", "U+000B (vertical tab)"),
        ("A\x85B", "U+0085 (control)"),
        ("A\u202egnp", "U+202E (right-to-left override)"),
        ("A\u2067b", "U+2067 (right-to-left isolate)"),
        ("Two\nlines", None),
        ("A\tb", None),
        # Marks that writing from right to left needs.
        ("محمد\u200f", None),
        ("क्\u200dष", None),
    ],
)
def test_control_characters_are_refused(text: str, found: str | None) -> None:
    _, _, problems = read_rows(CUSTOMERS, f'customer_id,full_name\n1,"{text}"\n'.encode())
    assert [f"found {found}" in problem.expected for problem in problems] == ([True] if found else [])


@pytest.mark.parametrize(
    ("line", "separator"), [("sep=;", ";"), ('"sep=;"', ";"), ("sep=;;;;", ";"), ('"sep=\t"', "\t"), ("sep=ab", None)]
)
def test_the_line_of_a_spreadsheet_that_names_the_delimiter(tmp_path: Path, line: str, separator: str | None) -> None:
    (tmp_path / "f.csv").write_text(f"{line}\ncustomer_id;full_name\n")
    found = dialect.header_of(examine(tmp_path / "f.csv", Dialect()))
    assert found == (("customer_id;full_name", 2, separator) if separator else (line, 1, None))


@pytest.mark.parametrize(
    ("text", "is_assumed"),
    [
        ("2025-01-03T23:30:00", True),
        ("13/01/2025 11:30 PM", True),
        ("2025-01-03T23:30:00Z", False),
        ("2025-01-03 23:30:00+03", False),
        ("2025-01-03T23:30 UTC", False),
        ("2025-01-03", False),
        ("2025-01-03 00:00:00", False),
        ("13/01/2025 12:00:00 AM", False),
    ],
)
def test_a_time_that_is_taken_as_utc_is_noted(text: str, is_assumed: bool) -> None:
    for zone in (None, ZoneInfo("Africa/Nairobi")):
        reading = Reading(dates="dmy", timezone=zone, strict=False)
        for _ in range(2):
            convert(PAYMENTS, "payment_date", text, reading)
        assert reading.facts == ([f"times without an offset as UTC ({text!r})"] if is_assumed and not zone else [])
        assert reading.has_assumed_utc is (is_assumed and not zone)
        assert reading.has_assumed_day is (not is_assumed and not zone and not re.search(r"UTC|Z$|[+]", text))


def test_invalid_characters_are_listed_with_their_column() -> None:
    _, found, problems = read_rows(CUSTOMERS, b"customer_id,full_name,city\n1,J\xfcrg,\0\n2,,\xff\n")
    assert found == [(2, True, "1", None, None), (3, True, "2", None, None)]
    assert [(problem.line, problem.column) for problem in problems] == [
        (2, "full_name"),
        (2, "city"),
        (3, "city"),
        (3, "full_name"),
    ]


# -- dialects -------------------------------------------------------------------------------------------------------

ASK = "to know whether"
"""What a value that can be read in two ways ends in."""


@pytest.mark.parametrize(
    ("text", "unknown", "point", "comma"),
    [
        # text, read without knowing the decimal sign, with a point, with a comma; None: refused
        ("1,234.50", "1234.50", "1234.50", None),
        ("1.234,50", "1234.50", None, "1234.50"),
        ("1 234,50", "1234.50", None, "1234.50"),
        ("1\xa0234.50", "1234.50", "1234.50", None),
        ("1\u202f234,50", "1234.50", None, "1234.50"),
        ("1'234.50", "1234.50", "1234.50", None),
        ("1’234,50", "1234.50", None, "1234.50"),
        ("12,34,567.00", "1234567.00", "1234567.00", None),
        ("12,34,567", "1234567", "1234567", None),
        ("1,234,567", "1234567", "1234567", None),
        ("1.234.567", "1234567", None, "1234567"),
        ("1 234 567", "1234567", "1234567", "1234567"),
        ("(1,234.50)", "-1234.50", "-1234.50", None),
        ("1234.50-", "-1234.50", "-1234.50", None),
        ("−5", "-5", "-5", "-5"),
        # A dash in place of cents is no sign.
        ("9000,-", "9000", "9000", "9000"),
        ("9000,-- €", "9000", "9000", "9000"),
        ("5.-", "5", "5", "5"),
        ("5.–", "5", "5", "5"),
        ("5,—", "5", "5", "5"),
        ("5.− CHF", "5", "5", "5"),
        ("€ 9.000,-", "9000.00", None, "9000.00"),
        ("CHF 9'000.-", "9000.00", "9000.00", None),
        ("CHF 9’000.–", "9000.00", "9000.00", None),
        ("1,234.-", "1234.00", "1234.00", None),
        ("9 000,-", "9000.00", None, "9000.00"),
        ("-9000,-", "-9000", "-9000", "-9000"),
        ("(9000,-)", "-9000", "-9000", "-9000"),
        ("CHF -5.-", "-5", "-5", "-5"),
        ("9000-", "-9000", "-9000", "-9000"),
        ("9000 –", "-9000", "-9000", "-9000"),
        ("9000,00-", "-9000.00", None, "-9000.00"),
        ("KES 1,234.50", "1234.50", "1234.50", None),
        ("Ksh. 500", "500", "500", "500"),
        ("$1,000.00", "1000.00", "1000.00", None),
        ("-$5.00", "-5.00", "-5.00", None),
        ("1.000,00 €", "1000.00", None, "1000.00"),
        ("R$ 5", "5", "5", "5"),
        ("1,000.00/=", "1000.00", "1000.00", None),
        ("Rs. 12,34,567.50", "1234567.50", "1234567.50", None),
        ("0.500", "0.500", "0.500", None),
        ("1234.500", "1234.500", "1234.500", None),
        ("12.500", ASK, "12.500", "12500"),
        ("1.234", ASK, None, "1234"),
        ("1,234", ASK, "1234", None),
        ("(1,500)", ASK, "-1500", "-1.500"),
        ("KES 1,000", ASK, "1000", "1.000"),
        *[
            (text, None, None, None)
            for text in [
                "1,23,4",
                "1..5",
                "1 2 3",
                "KES",
                "1.5E+06",
                "#REF!",
                "####",
                "5 Dr",
                "14%",
                "½",
                "١",
                "１２",
                "1_0",
            ]
        ],
    ],
)
def test_numbers_in_every_dialect(text: str, unknown: str | None, point: str | None, comma: str | None) -> None:
    for decimal, expected in ((None, unknown), ("point", point), ("comma", comma)):
        reading = Reading(decimal=decimal, strict=False)
        if expected is None or expected == ASK:
            assert (ASK in refusal(LOANS, "amount", text, reading)) is (expected == ASK)
        else:
            assert convert(LOANS, "amount", text, reading) == expected


@pytest.mark.parametrize("column", ["full_name", "email", "phone", "national_id", "city", "country"])
@pytest.mark.parametrize("text", ["#REF!", "#NAME?", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!", " #REF! ", "#SPILL!"])
def test_an_error_of_a_spreadsheet_is_no_text(column: str, text: str) -> None:
    assert "shows an error in its place" in refusal(CUSTOMERS, column, text, Reading(strict=False))


@pytest.mark.parametrize(
    ("table", "column"),
    [(CUSTOMERS, "phone"), (CUSTOMERS, "national_id"), (PAYMENTS, "reference_number"), (LOANS, "branch_code")],
)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.547E+11", "has shortened this one"),
        ("2.547e+11", "has shortened this one"),
        ("2,547E+11", "has shortened this one"),
        ("2.547e11", "has shortened this one"),
        (" 1E+05", "has shortened this one"),
        ("1e-05", "has shortened this one"),
        ("####", "has shortened this one"),
        ("254700000000.0", "took this one for a number"),
        ("12345,0", "took this one for a number"),
        ("2-Jan", "took this one for a date"),
        ("02-Jan", "took this one for a date"),
        ("Jan-02", "took this one for a date"),
        ("1. Feb", "took this one for a date"),
        ("1-Feb-24", "took this one for a date"),
        ("254700000000", None),
        ("1E5", None),
        ("12E4567", None),
        ("12345.5", None),
        ("2-1", None),
        ("2-Janta", None),
        ("NBO-2", None),
        ("Mar", None),
    ],
)
def test_a_code_that_a_spreadsheet_has_damaged_is_refused(
    table: schema.Table, column: str, text: str, expected: str | None
) -> None:
    reading = Reading(strict=False)
    if expected is None:
        assert convert(table, column, text, reading) == text
    else:
        assert expected in refusal(table, column, text, reading)


@pytest.mark.parametrize("text", ["No. #REF! 5", "#1 Street", "C#", "##"])
def test_a_text_with_a_number_sign_is_a_text(text: str) -> None:
    assert convert(CUSTOMERS, "city", text, Reading(strict=False)) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$ (90.00)", "-90.00"),
        ("($ 90.00)", "-90.00"),
        ("KES (1,234.50)", "-1234.50"),
        ("(90.00) KES", "-90.00"),
        ("(90.00)/=", "-90.00"),
        ("KShs. 5,000.00/-", "5000.00"),
        ("TZS 1,000.00/=", "1000.00"),
    ],
)
def test_currencies_stand_on_either_side_of_the_brackets(text: str, value: str) -> None:
    assert convert(LOANS, "outstanding_balance", text, Reading(decimal="point", strict=False)) == value


@pytest.mark.parametrize(
    "text", ["(-90.00)", "(90.00-)", "(+90.00)", "--90.00", "- -90.00", "-90.00-", "+-90", "$ (-90.00)", "-$-90.00"]
)
def test_two_signs_are_not_taken_for_a_plus(text: str) -> None:
    assert "with one sign" in refusal(LOANS, "outstanding_balance", text, Reading(decimal="point", strict=False))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5k", "in full: 'k' may mean thousands"),
        ("1.20 K", "in full: 'K' may mean thousands"),
        ("90.00 CR", "with a sign in place of 'CR'"),
        ("90.00Dr.", "with a sign in place of 'Dr.'"),
        ("-(90.00)", "a number such as 1234.50"),
        ("(90.00)-", "a number such as 1234.50"),
        ("((90.00))", "a number such as 1234.50"),
        ("KES 5 KES", "a number such as 1234.50"),
        ("KES (5) KES", "a number such as 1234.50"),
    ],
)
def test_no_meaning_is_guessed_for_what_stands_beside_an_amount(text: str, expected: str) -> None:
    assert expected in refusal(LOANS, "outstanding_balance", text, Reading(decimal="point", strict=False))


@pytest.mark.parametrize("text", ["LN-5", "LN-000123", "5/A", "Amina Otieno", "5 kes"])
def test_a_text_in_place_of_a_key_gets_advice_how_to_become_one(text: str) -> None:
    for column in ("loan_id", "customer_id"):
        assert "number: code" in refusal(LOANS, column, text, Reading(strict=False))
    assert "number: hash" in refusal(LOANS, "loan_id", "12345678901234567890", Reading(strict=False))


@pytest.mark.parametrize("text", ["-", " -   ", "$ -", " KES -   ", "- €", "–", "KES –"])
def test_a_dash_beside_a_currency_is_no_value_where_a_dash_is(text: str) -> None:
    data = f"loan_id,amount,outstanding_balance\n1,5,{text}\n".encode()
    for empty, expected in ((frozenset[str](), 1), (frozenset("-"), 0)):
        records = read_records(io.BytesIO(data))
        layout = lay_out(LOANS, next(records, None))
        problems: list[Problem] = []
        reader = RowReader(LOANS, layout, records, problems.append, Reading(decimal="point", strict=False), empty=empty)
        assert list(reader) == [(2, bool(expected), "1", "5", None)]
        assert [problem.expected.partition("; ")[2] for problem in problems] == [
            "where - stands for no value: EMPTY=-"
        ] * expected


@pytest.mark.parametrize(
    ("text", "value"),
    [("14.5%", "14.5"), ("14,5 %", "14.5"), ("12.345", "12.345"), ("12,345", "12.345"), ("(3)", "-3")],
)
def test_rates_are_never_thousands(text: str, value: str) -> None:
    assert convert(LOANS, "interest_rate", text, Reading(strict=False)) == value


@pytest.mark.parametrize(
    ("text", "value"), [("12.0", "12"), ("12,00", "12"), ("1 042", "1042"), ("1,042,000", "1042000")]
)
def test_whole_numbers_of_spreadsheets(text: str, value: str) -> None:
    assert convert(LOANS, "tenure_months", text, Reading(strict=False)) == value


@pytest.mark.parametrize("text", ["12.5", "LN-5", "1E+15", "12%", "KES 12"])
def test_no_whole_numbers_of_spreadsheets(text: str) -> None:
    assert "a whole number" in refusal(LOANS, "tenure_months", text, Reading(strict=False))


@pytest.mark.parametrize(
    ("text", "unknown", "day_first", "month_first"),
    [
        ("29/02/1980", "1980-02-29", "1980-02-29", "there is no month 29"),
        ("02/29/1980", "1980-02-29", "there is no month 29", "1980-02-29"),
        ("3/4/2025", ASK, "2025-04-03", "2025-03-04"),
        ("03-04-2025", ASK, "2025-04-03", "2025-03-04"),
        # DATES=mdy is usually about the dates with other signs of the same files.
        ("03.04.2025", "2025-04-03", "2025-04-03", "with points the day comes first"),
        ("05.05.2025", "2025-05-05", "2025-05-05", "2025-05-05"),
        ("29.02.2024", "2024-02-29", "2024-02-29", "2024-02-29"),
        ("02.29.2024", "2024-02-29", "there is no month 29", "2024-02-29"),
        ("05/05/2025", "2025-05-05", "2025-05-05", "2025-05-05"),
        ("31/04/2025", "April 2025 has 30 days, not 31", "April 2025 has 30 days", "there is no month 31"),
        ("13/13/2025", "there is no month 13", "there is no month 13", "there is no month 13"),
        ("00/00/0000", "there is no month 0", "there is no month 0", "there is no month 0"),
        *[
            (text, expected, expected, expected)
            for text, expected in [
                ("29-FEB-1980", "1980-02-29"),
                ("3 April 2025", "2025-04-03"),
                ("3rd April 2025", "2025-04-03"),
                ("April 3, 2025", "2025-04-03"),
                ("2024-Mar-05", "2024-03-05"),
                ("31 déc. 2024", "2024-12-31"),
                ("15 mars 2024", "2024-03-15"),
                ("3 Juni 2024", "2024-06-03"),
                ("20240229", "2024-02-29"),
                # A hyphen that does not break, a dash and a minus in place of hyphens.
                ("2024\u201102\u201129", "2024-02-29"),
                ("29\u2013Feb\u20132024", "2024-02-29"),
                ("2024/2/9", "2024-02-09"),
                ("2024-02-29T00:00:00", "2024-02-29"),
                ("2024-02-29 00:00:00.000", "2024-02-29"),
                ("29-Feb-1980 12:00:00 AM", "1980-02-29"),
                ("2024-02-30", "February 2024 has 29 days, not 30"),
                ("1900-02-29", "February 1900 has 28 days, not 29"),
                ("30-Feb-2024", "February 2024 has 29 days, not 30"),
                ("2024-13-01", "there is no month 13"),
                ("0000-00-00", "there is no month 0"),
                ("29-Feb-80", "CENTURY=1930"),
                ("45000", "a spreadsheet's number of a day, 2023-03-15"),
                ("29-Feb-1980 13:00", "a date without a time of the day"),
                ("Mar-24", "YYYY-MM-DD"),
                ("never", "YYYY-MM-DD"),
                ("٢٩/٠٢/١٩٨٠", "YYYY-MM-DD"),
            ]
        ],
    ],
)
def test_dates_in_every_dialect(text: str, unknown: str, day_first: str, month_first: str) -> None:
    for dates, expected in ((None, unknown), ("dmy", day_first), ("mdy", month_first)):
        reading = Reading(dates=dates, strict=False)
        if re.fullmatch(r"\d{4}-\d\d-\d\d", expected):
            assert convert(CUSTOMERS, "date_of_birth", text, reading) == expected
        else:
            assert expected in refusal(CUSTOMERS, "date_of_birth", text, reading)


@pytest.mark.parametrize(
    "text",
    [
        "Friday, January 3, 2025",
        "Friday, 3 January 2025",
        "Fri 3-Jan-2025",
        "Fri, 03 Jan 2025",
        "vendredi 3 janvier 2025",
        "sexta-feira, 3 de janeiro de 2025",
        "viernes, 3 de enero de 2025",
        "Fr., 3. Jan. 2025",
        "Ijumaa, 3 Januari 2025",
        "Fri 2025-01-03",
    ],
)
def test_a_day_of_the_week_is_checked_and_left_out(text: str) -> None:
    reading = Reading(strict=False)
    assert convert(CUSTOMERS, "date_of_birth", text, reading) == "2025-01-03"
    assert convert(PAYMENTS, "payment_date", f"{text} 10:15:00 GMT", reading) == "2025-01-03T10:15:00+00"
    later = text.replace("03", "04").replace("3", "4")
    assert "2025-01-04 is not a " in refusal(CUSTOMERS, "date_of_birth", later, reading)
    assert ASK in refusal(CUSTOMERS, "date_of_birth", "Friday, 03/01/2025", reading)


@pytest.mark.parametrize(
    ("text", "unknown", "day_first", "month_first", "year_first"),
    [
        ("24/02/29", ASK, "2029-02-24", "there is no month 24", "2024-02-29"),
        ("24-Feb-29", ASK, "2029-02-24", "2029-02-24", "2024-02-29"),
        ("24 Feb 29", ASK, "2029-02-24", "2029-02-24", "2024-02-29"),
        ("23-02-01", ASK, "2001-02-23", "there is no month 23", "2023-02-01"),
        ("23.02.01", "2001-02-23", "2001-02-23", "2001-02-23", "2023-02-01"),
        ("01/02/03", ASK, "2003-02-01", "2003-01-02", "2001-02-03"),
        ("05/05/25", ASK, "2025-05-05", "2025-05-05", "2005-05-25"),
        ("05/05/05", "2005-05-05", "2005-05-05", "2005-05-05", "2005-05-05"),
        ("99/12/31", "1999-12-31", "there is no day 99", "there is no month 99", "1999-12-31"),
        ("99.12.31", "1999-12-31", "there is no day 99", "there is no month 99", "1999-12-31"),
        ("31/12/99", "1999-12-31", "1999-12-31", "there is no month 31", "there is no day 99"),
        ("31-Dec-99", "1999-12-31", "1999-12-31", "1999-12-31", "there is no day 99"),
        ("99-Dec-31", "1999-12-31", "there is no day 99", "there is no day 99", "1999-12-31"),
        ("1/2/03", ASK, "2003-02-01", "2003-01-02", "a date as year/month/day, as DATES=ymd"),
        ("31/12/1999", "1999-12-31", "1999-12-31", "there is no month 31", "a date as year/month/day"),
        ("03/04/1999", ASK, "1999-04-03", "1999-03-04", "a date as year/month/day"),
        ("03.04.1999", "1999-04-03", "1999-04-03", "with points the day comes first", "a date as year/month/day"),
        ("31-Dec-1999", "1999-12-31", "1999-12-31", "1999-12-31", "1999-12-31"),
        ("1999-12-31", "1999-12-31", "1999-12-31", "1999-12-31", "1999-12-31"),
    ],
)
def test_a_year_of_two_digits_may_stand_at_either_end(
    text: str, unknown: str, day_first: str, month_first: str, year_first: str
) -> None:
    for dates, expected in ((None, unknown), ("dmy", day_first), ("mdy", month_first), ("ymd", year_first)):
        for words in (text, f"{text} 00:00"):
            reading = Reading(dates=dates, century=1930, strict=False)
            if re.fullmatch(r"\d{4}-\d\d-\d\d", expected):
                assert convert(CUSTOMERS, "date_of_birth", words, reading) == expected
                assert convert(PAYMENTS, "payment_date", words, reading) == f"{expected}T00:00:00+00"
            else:
                assert expected in refusal(CUSTOMERS, "date_of_birth", words, reading)


def test_the_question_about_a_date_names_each_reading_and_its_option() -> None:
    reading = Reading(century=1930, strict=False)
    assert refusal(CUSTOMERS, "date_of_birth", "23-02-01", reading) == (
        "to know whether it is 23 February 2001 or 1 February 2023; no other date of the file tells: "
        "DATES=dmy (day first) or DATES=ymd (year first)"
    )
    assert "to know whether it is 23 February 01 or 1 February 23; " in (
        message := refusal(CUSTOMERS, "date_of_birth", "23-02-01", Reading(strict=False))
    )
    assert message.endswith("; and CENTURY=1930, with which two digits are a year from 1930 to 2029")
    assert "1 February 2003, 2 January 2003 or 3 February 2001; " in refusal(
        CUSTOMERS, "date_of_birth", "01/02/03", reading
    )


@pytest.mark.parametrize(
    ("texts", "option", "expected"),
    [
        # Of dates with points and with other signs, each kind decides about itself.
        (["03.04.1980", "12/31/1980"], None, ["1980-04-03", "1980-12-31"]),
        (["03.04.1980", "31/12/1980"], None, ["1980-04-03", "1980-12-31"]),
        (["03.04.1980", "12.31.1980"], None, ["1980-03-04", "1980-12-31"]),
        (["03.04.1980", "12.31.1980"], "mdy", ["1980-03-04", "1980-12-31"]),
        (["03.04.1980", "12/31/1980"], "mdy", [None, "1980-12-31"]),
        (["03.04.1980", "31.12.1980", "12/31/1980"], "mdy", ["1980-04-03", "1980-12-31", "1980-12-31"]),
        (["03/04/1980", "31.12.1980"], None, [None, "1980-12-31"]),
        (["03.04.1980", "31.12.1980", "12.31.1980"], None, [None, None, None]),
        (["03.04.80", "99.12.31"], None, [None, None]),
        (["23.02.01", "99.12.31"], None, ["2023-02-01", "1999-12-31"]),
        # Years of two digits.
        (["23-02-01", "99-12-31"], None, ["2023-02-01", "1999-12-31"]),
        (["23-02-01", "31-12-99"], None, ["2001-02-23", "1999-12-31"]),
        (["23-02-01", "99-12-31", "31-12-99"], None, [None, None, None]),
        # One excludes the month, the other the year at the start.
        (["23-02-01", "12-11-45"], None, ["2001-02-23", "1945-11-12"]),
        (["23-02-01", "01-12-45", "01-23-02"], None, [None, None, None]),
        (["03/04/1980", "99/12/31"], None, [None, None]),
        (["24-Feb-29", "31-Dec-99"], None, ["2029-02-24", "1999-12-31"]),
        (["24-Feb-29", "31-Dec-1999"], None, ["2029-02-24", "1999-12-31"]),
        (["24-Feb-29", "99-Dec-31"], None, ["2024-02-29", "1999-12-31"]),
        (["24-Feb-29", "12/31/1999"], None, ["2029-02-24", "1999-12-31"]),
        (["24-Feb-29", "99-Dec-31", "31-Dec-99"], None, [None, "1999-12-31", "1999-12-31"]),
    ],
)
def test_dates_that_decide_about_the_others_of_a_file(
    texts: list[str], option: str | None, expected: list[str | None]
) -> None:
    evidence = Evidence()
    column = next(column for column in CUSTOMERS.columns if column.name == "date_of_birth")
    for line, text in enumerate(texts, start=2):
        evidence.look(column, text, line)
    reading = evidence.reading(Dialect(dates=option, century=1930))
    for text, value in zip(texts, expected, strict=True):
        if value is None:
            assert "DATES=" in refusal(CUSTOMERS, "date_of_birth", text, reading)
        else:
            assert convert(CUSTOMERS, "date_of_birth", text, reading) == value


def test_the_result_says_that_points_have_another_order_than_the_other_dates() -> None:
    evidence = Evidence()
    column = next(column for column in CUSTOMERS.columns if column.name == "date_of_birth")
    for line, text in enumerate(["03.04.1980", "12/31/1980"], start=2):
        evidence.look(column, text, line)
    reading = evidence.reading(Dialect())
    convert(CUSTOMERS, "date_of_birth", "03.04.1980", reading)
    assert reading.facts == ["month first (line 3 has '12/31/1980')", "dates with points day first ('03.04.1980')"]


def test_two_digits_of_a_year_mean_what_the_option_says() -> None:
    reading = Reading(dates="dmy", century=1930, strict=False)
    found = [convert(CUSTOMERS, "date_of_birth", f"01/02/{year}", reading) for year in ("29", "30", "99", "00")]
    assert found == ["2029-02-01", "1930-02-01", "1999-02-01", "2000-02-01"]


@pytest.mark.parametrize(
    ("text", "utc", "nairobi"),
    [
        ("29/02/2024 13:45", "2024-02-29T13:45:00+00", "2024-02-29T10:45:00+00"),
        ("29/02/2024 1:45:07 PM", "2024-02-29T13:45:07+00", "2024-02-29T10:45:07+00"),
        ("29-FEB-2024 01.45.07.250000 PM", "2024-02-29T13:45:07.25+00", "2024-02-29T10:45:07.25+00"),
        ("05/31/2023 12:00:00 AM", "2023-05-31T00:00:00+00", "2023-05-30T21:00:00+00"),
        ("2024-02-29", "2024-02-29T00:00:00+00", "2024-02-28T21:00:00+00"),
        ("29/02/2024 13:45 +03:00", "2024-02-29T10:45:00+00", "2024-02-29T10:45:00+00"),
        ("2024-02-29T13:45:00Z", "2024-02-29T13:45:00+00", "2024-02-29T13:45:00+00"),
    ],
)
def test_moments_in_every_dialect(text: str, utc: str, nairobi: str) -> None:
    assert convert(PAYMENTS, "payment_date", text, Reading(strict=False)) == utc
    reading = Reading(timezone=ZoneInfo("Africa/Nairobi"), strict=False)
    assert convert(PAYMENTS, "payment_date", text, reading) == nairobi


@pytest.mark.parametrize(
    ("zone", "text", "moment", "how"),
    [
        ("America/New_York", "2024-11-03 01:30", "2024-11-03T05:30:00+00", "show twice, read as the first"),
        ("America/New_York", "11/03/2024 1:30 AM", "2024-11-03T05:30:00+00", "show twice, read as the first"),
        ("America/New_York", "2024-03-10 02:30", "2024-03-10T07:30:00+00", "never showed, read as if"),
        ("America/New_York", "2024-03-10 03:30", "2024-03-10T07:30:00+00", None),
        ("America/New_York", "2024-11-03 02:30", "2024-11-03T07:30:00+00", None),
        ("America/New_York", "2024-11-03 01:30-05:00", "2024-11-03T06:30:00+00", None),
        ("Africa/Casablanca", "2024-04-14 02:30", "2024-04-14T02:30:00+00", "never showed, read as if"),
        ("Africa/Nairobi", "2024-11-03 01:30", "2024-11-02T22:30:00+00", None),
        # A day alone has no time that could be in doubt.
        ("Asia/Beirut", "2024-03-31", "2024-03-30T22:00:00+00", None),
    ],
)
def test_a_time_at_a_change_of_the_clocks_is_noted(zone: str, text: str, moment: str, how: str | None) -> None:
    reading = Reading(dates="mdy", timezone=ZoneInfo(zone), strict=False, line=7)
    assert convert(PAYMENTS, "payment_date", text, reading) == moment
    assert list(reading.clock_changes.values()) == ([{7: text}] if how else [])
    assert all(found.startswith(how or "") for found in reading.clock_changes)


@pytest.mark.parametrize(
    "text", ["29/02/2024 24:00", "29/02/2024 13:45 PM", "29/02/2024 0:10 AM", "1709200000", "noon", "29/02/1899"]
)
def test_no_moments_in_any_dialect(text: str) -> None:
    refusal(PAYMENTS, "payment_date", text, Reading(strict=False))


@pytest.mark.parametrize(
    ("column", "table", "texts", "decimal", "dates"),
    [
        ("amount", LOANS, ["1.500", "14,50"], "comma", None),
        ("amount", LOANS, ["1,500", "1234.5"], "point", None),
        ("amount", LOANS, ["1,500", "1.500", "1500"], None, None),
        ("amount", LOANS, ["1.234,50", "1,234.50"], None, None),
        ("interest_rate", LOANS, ["12.345"], "point", None),
        ("date_of_birth", CUSTOMERS, ["03/04/1980", "29/02/1980"], None, "dmy"),
        ("date_of_birth", CUSTOMERS, ["03/04/1980", "02/29/1980"], None, "mdy"),
        ("date_of_birth", CUSTOMERS, ["03/04/1980", "05/05/1980", "1980-02-29"], None, None),
        ("date_of_birth", CUSTOMERS, ["29/02/1980", "02/29/1980"], None, None),
        ("date_of_birth", CUSTOMERS, ["03/04/1980", "40/40/1980"], None, None),
    ],
)
def test_what_the_values_of_a_file_prove(
    column: str, table: schema.Table, texts: list[str], decimal: str | None, dates: str | None
) -> None:
    evidence = Evidence()
    for line, text in enumerate(texts, start=2):
        evidence.look(next(found for found in table.columns if found.name == column), text, line)
    reading = evidence.reading(Dialect())
    assert (reading.decimal, reading.dates) == (decimal, dates)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.000000000116", "0.00"), ("-0.00000000023", "-0.00"), ("1.005", "1.01"), ("1.2345", "1.23"), ("7", "7")],
)
def test_numbers_are_rounded_only_where_the_mapping_asks_for_it(text: str, value: str) -> None:
    reading = Reading(decimal="point", strict=False, rounded=frozenset({"amount"}))
    assert convert(LOANS, "amount", text, reading) == value
    if text != "7":
        assert "nothing is rounded" in (message := refusal(LOANS, "outstanding_balance", text, reading))
        assert "round: true" in message


@pytest.mark.parametrize(
    ("name", "is_currency"),
    [
        ("currency", True),
        ("Currency Code", True),
        ("LOAN.CURRENCY", True),
        ("Ccy", True),
        ("Devise", True),
        ("Currency Rate", False),
        ("Currency exposure", False),
        ("Current", False),
    ],
)
def test_columns_of_a_currency(name: str, is_currency: bool) -> None:
    assert is_currency_name(name) is is_currency
    header = header_of(f"loan_id,customer_id,product_id,amount,interest_rate,tenure_months,{name}")
    assert lay_out(LOANS, header).currencies == ([6] if is_currency else [])


def test_amounts_have_one_currency() -> None:
    reading = Reading(strict=False)
    for text in ("KES 5", "5 kes", "Ksh 5", "KShs. 5", "5/=", "5"):
        assert convert(LOANS, "amount", text, reading) == "5"
    assert "one currency in the book, KES as before" in refusal(LOANS, "amount", "USD 5", reading)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("M-Pesa", "mpesa"),
        ("MPESA ", "mpesa"),
        ("Bank Transfer", "bank_transfer"),
        ("CASH", "cash"),
        ("coins", "coins"),
    ],
)
def test_codes_in_any_spelling(text: str, code: str) -> None:
    assert convert(PAYMENTS, "payment_method", text) == code


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"id,name\n1,Amina\n", "utf-8"),
        ("id,name\n1,Chloé Wanjikũ\n".encode(), "utf-8"),
        ("id,name\n1,Chloé\n".encode("cp1252"), "cp1252"),
        ("id,name\n1,O’Brien – “Zoë” São\n".encode("cp1252"), "cp1252"),
        ("id,name\n1,Chloé\n".encode("utf-16"), "utf-16"),
        ("id,name\n1,Chloé\n".encode("utf-16-be"), "utf-16-be"),
        ("id,name\n1,Chloé\n".encode("utf-32"), "utf-32"),
        # Left to whoever reads: each such field is a problem that names the option.
        ("id,name\n1,Chloé\n".encode("cp850"), "utf-8"),
        ("id,name\n1,Chloé\n".encode("mac_roman"), "utf-8"),
        ("id,name\n1,Łukasz Żak\n".encode("cp1250"), "utf-8"),
        ("id,name\n1,Иван\n".encode("cp1251"), "utf-8"),
        ("id,name\n1,Γιώργος\n".encode("cp1253"), "utf-8"),
        (b"id,name\n1,J\xfcrg\n2,J\xc3\xbcrg\n", "utf-8"),
        (b"id,name\n1,A\x81b\n", "utf-8"),
    ],
)
def test_encodings(tmp_path: Path, content: bytes, encoding: str) -> None:
    (tmp_path / "f.csv").write_bytes(content)
    assert examine(tmp_path / "f.csv", Dialect()).encoding == encoding


_WESTERN = (
    "José Müller São João Guimarães Simões Irmã Muñoz Peña Ñandú Hélène Pièce Façade Strauß Sørensen Bjørn Høyer Næss "
    "Ærø Åse cœur œil Zoë’s O’Brïen D’Été l’été Ng’ang’aé Zoë’ll Novotný Perché così Gesù m³ 12½ Señor™ € 5€ 1\xa0234 "
    "Zoë\xa0Anne Cité\xa0:"
)


@pytest.mark.parametrize(
    ("word", "is_western"),
    [
        *[
            (word, True)
            for word in _WESTERN.split(" ")
        ],
        *[
            (meant.encode(encoding).decode("cp1252"), False)
            for encoding, words in {
                "mac_roman": "Martín Díaz María García Raúl Jesús Köln Müller José André Muñoz Peñá João Ángel",
                "cp850": "Bogotá Márquez José León Jesús Perú Peña Ñandú Jürgen Köln Väinö Ángel João Bär",
                "cp1250": "Dvořák Jiří Kučera Nováček Černý Zdeněk Wałęsa Michał Kwaśniewski Petrović Kamiński Băsescu "
                "Erdős Łukasz Růžička Šimić",
                "cp1254": "Ayşe Doğan Yıldız Şahin İstanbul Işık Kılıç Çağlar",
            }.items()
            for meant in words.split()
            # Some bytes are none of Windows-1252 at all.
            if _is_of(meant.encode(encoding), "cp1252")
        ],
    ],
)  # fmt: skip
def test_words_that_only_windows_1252_spells(word: str, is_western: bool) -> None:
    assert looks_western(word) is is_western


def test_words_beyond_ascii_are_listed(tmp_path: Path) -> None:
    names = ["Chloé Dupré", "Zoë", "Zoë", *(f"Renée{letter}" for letter in "abcdefghijk")]
    (tmp_path / "f.csv").write_bytes("".join(f"1,{name}\n" for name in names).encode("cp1252"))
    assert examine(tmp_path / "f.csv", Dialect()).facts == (
        "Windows-1252 (line 1 reads 'Chloé Dupré'; also 'Zoë', "
        + ", ".join(f"'Renée{letter}'" for letter in "abcdefghi")
        + " and 2 more words)",
    )


def test_a_text_of_another_encoding_is_shown_in_the_usual_ones() -> None:
    _, _, (problem,) = read_rows(CUSTOMERS, b"customer_id,full_name\n1,Mart\x92n\n")
    assert (
        "ENCODING=windows-1252, or whichever the file has: windows-1252 reads 'Mart’n', mac_roman reads 'Martín'"
        in (problem.expected)
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "idna"])
def test_an_encoding_that_does_not_fit_is_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "f.csv").write_bytes(b"customer_id,full_name\n1,a+b+c\n")
    source = examine(tmp_path / "f.csv", Dialect().with_options({"encoding": encoding}))
    with pytest.raises(UserError, match=f"f.csv: expected text in the encoding {encoding}"), source.open() as lines:
        list(read_records(lines))


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("2,Brian\n")


def _replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [_append, _replace, lambda path: path.write_text("")], ids=["grown", "new", "cut"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "customers.csv"
    path.write_text("customer_id,full_name\n1,Amina\n")
    source = examine(path, Dialect())
    source.check_unchanged()
    change(path)
    with pytest.raises(UserError, match=r"customers\.csv: .*changed while it was read"):
        source.check_unchanged()


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b", b"%PDF-1", b"<html>", b'{"a": 1}']
)
def test_what_is_no_csv_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(UserError, match="expected a CSV file, found"):
        examine(tmp_path / "f.csv", Dialect())


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [
        ("customer_id,full_name", ","),
        ("Customer ID;Full, Name;City", ";"),
        ("customer_id\tfull_name", "\t"),
        ("customer_id|full_name|a,b,c,d", "|"),
        ("Kunde;Name;Ort", ";"),
        ("customer_id", ","),
    ],
)
def test_delimiters(header: str, delimiter: str) -> None:
    assert sniff_delimiter(header, {"customerid", "fullname", "city"}) == delimiter


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", "excel", "FORMAT=excel: expected one of auto, excel-us, excel-uk, excel-eu"),
        ("dates", "day", "DATES=day: expected dmy"),
        ("decimal", ",", "DECIMAL=,: expected point or comma"),
        ("century", "80", "CENTURY=80: expected a whole number from 1800 to 2100"),
        ("timezone", "Nairobi", "TIMEZONE=Nairobi: expected a time zone such as"),
        ("timezone", "../etc", r"TIMEZONE=\.\./etc: expected a time zone such as"),
        ("encoding", "ansi", "ENCODING=ansi: expected an encoding"),
        ("encoding", "rot13", "ENCODING=rot13: expected an encoding"),
        ("encoding", "undefined", "ENCODING=undefined: expected an encoding"),
        ("delimiter", "x", "DELIMITER=x: expected one of comma"),
        ("header_line", "0", "HEADER_LINE=0: expected a whole number"),
    ],
)
def test_wrong_options(name: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Dialect().with_options({name: value})


def test_an_option_wins_over_its_format() -> None:
    dialect = Dialect().with_options({"format": "excel-eu", "decimal": "point"})
    assert (dialect.dates, dialect.decimal) == ("dmy", "point")


# -- mapping files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tables: [", "is not YAML"),
        (
            "tables:\n  loans:\n    file: a\n     columns: {}\n",
            "is not YAML, line 4, column 13: [^\\n]*\\nKeys of one level begin in",
        ),
        (
            "tables: {loans: {columns: {status: {column: State, values: {Closed: repayed}}}}}",
            r"tables\.loans\.columns\.status\.values\.Closed: expected one of pending, .*, found 'repayed'",
        ),
        (
            "tables: {loans: {columns: {status: {column: State, other: done}}}}",
            r"tables\.loans\.columns\.status\.other: expected one of pending, .*, found 'done'",
        ),
        (
            "tables: {payments: {columns: {payment_method: {value: card}}}}",
            r"tables\.payments\.columns\.payment_method\.value: expected one of mpesa, .*, found 'card'",
        ),
        (
            "tables: {loans: {columns: {status: {column: S, values: {'A ': active, a: repaid}}}}}",
            r"tables.loans.columns.status.values.a: expected one meaning, found 'repaid' and, for 'A ', 'active'",
        ),
        ("tables: {clients: {}}", "tables.clients: expected one of customers"),
        ("tables: {loans: {columns: {colour: X}}}", "tables.loans.columns.colour: expected one of loan_id"),
        ("tables: {loans: {columns: {amount: {}}}}", "expected either column .* or value"),
        ("tables: {loans: {columns: {amount: {column: A, value: B}}}}", "expected either column .* or value"),
        ("tables: {loans: {columns: {loan_id: {column: A, also: [B]}}}}", "expected together with number: hash"),
        ("tables: {loans: {column: {}}}", r"tables.loans.column: expected one of file, .* \(did you mean columns\?\)"),
        ("table: {}", r"table: expected one of format, tables \(did you mean tables\?\)"),
        (
            "tables: {loans: {columns: {amount: {column: A, rond: true}}}}",
            r"tables.loans.columns.amount.rond: expected one of column, .* \(did you mean round\?\)",
        ),
        ("tables: {loans: {qqqq: {}}}", "tables.loans.qqqq: expected one of file, .*, skip$"),
        ("tables: {loans: {ignore: Photo}}", r"tables.loans.ignore: expected a list, such as .*, found 'Photo'"),
        (
            "tables: {loans: {columns: {amount: [A]}}}",
            r"tables.loans.columns.amount: expected names, .*, found \['A'\]",
        ),
        (
            "tables: {loans: {columns: {amount: {column: A, round: maybe}}}}",
            "round: expected true or false, found 'maybe'",
        ),
        ("tables: {loans: {file: [A]}}", "tables.loans.file: expected a text"),
        ("format: {date: dmy}", "format.date: expected one of format, delimiter"),
        ("format: {dates: day}", "DATES=day: expected dmy"),
        ("- 1", r"expected names, each with what belongs to it, found \['1'\]"),
    ],
)
def test_wrong_mapping_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mapping.yml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_mapping(tmp_path / "mapping.yml")


def test_a_mapped_column_that_is_not_there_is_a_problem() -> None:
    mapping = TableMapping(columns={"loan_id": ColumnMapping(column="Account")})
    header = header_of("Loan ID,customer_id,product_id,amount,interest_rate,tenure_months")
    layout = lay_out(LOANS, header, mapping=mapping)
    (problem,) = layout.problems
    assert layout.extra == ["Loan ID"]
    assert (problem.column, problem.expected) == ("loan_id", "the column 'Account', which the mapping file names")


def test_columns_without_a_name_are_ignored_with_all_others() -> None:
    header = header_of("customer_id,full_name,,city")
    assert lay_out(CUSTOMERS, header).unnamed == [2]
    assert lay_out(CUSTOMERS, header, mapping=TableMapping(ignore=("*",))).unnamed == []


def test_skip_by_a_missing_column_is_a_problem() -> None:
    header = header_of("loan_id,customer_id,product_id,amount,interest_rate,tenure_months")
    (problem,) = lay_out(LOANS, header, mapping=TableMapping(skip={"State": ("x",)})).problems
    assert problem.expected == "the column 'State', which the mapping file names under skip"


def test_a_table_of_the_mapping_file_has_a_file(tmp_path: Path) -> None:
    (tmp_path / "loans.csv").touch()
    for table, message in (
        (TableMapping(), r"describes customers; customers\.csv is not in"),
        (TableMapping(file="C.csv"), r"names C\.csv for customers; it is not in"),
    ):
        with pytest.raises(UserError, match=message):
            find_files(tmp_path, sync=False, mapping=BookMapping(tables={"customers": table}))


@pytest.mark.parametrize("others", [("Customers.CSV",), ("customers.txt",), ("CUSTOMERS.csv", "customers.tsv")])
def test_two_files_of_one_table_are_refused(tmp_path: Path, others: tuple[str, ...]) -> None:
    for name in ("customers.csv", *others):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"Expected one file for customers, found .*customers\.csv.* under file: in"):
        find_files(tmp_path, sync=False)
    mapping = BookMapping(tables={"customers": TableMapping(file="customers.csv")})
    assert find_files(tmp_path, sync=False, mapping=mapping) == {"customers": tmp_path / "customers.csv"}


def test_translations_of_a_mapping_file_are_listed() -> None:
    mapping = TableMapping.model_validate(
        {
            "columns": {
                "status": {"column": "State", "values": {"Closed": "repaid"}, "other": "active"},
                "amount": "Sum",
                # The same in each row: no text of the file is translated.
                "branch_code": {"value": "NBO", "other": "MSA"},
            }
        }
    )
    records = read_records(io.BytesIO(b"loan_id,State,Sum\n1,Closed,5\n2,closed,6\n3,active,7\n4,new,8\n5,,9\n"))
    layout = lay_out(LOANS, next(records, None), mapping=mapping)
    problems: list[Problem] = []
    reader = RowReader(LOANS, layout, records, problems.append, Reading(strict=False), mapping=mapping)
    assert [row[[column.name for column in layout.columns].index("status") + 2] for row in reader] == [
        *("repaid", "repaid", "active", "active", None)
    ]
    assert dict(reader.reading.labels["status"]) == {
        ("Closed", "repaid"): 1, ("closed", "repaid"): 1, ("new", "active"): 1
    }  # fmt: skip
    assert set(reader.reading.labels) == {"status"}


def test_dangling_link_is_reported_with_its_target(tmp_path: Path) -> None:
    (tmp_path / "loans.csv").symlink_to("/nowhere/loans.csv")
    with pytest.raises(UserError, match=r"loans\.csv leads to /nowhere/loans\.csv, which is not there"):
        find_files(tmp_path, sync=False)


@pytest.mark.parametrize(("file", "found"), [("", "nothing"), ("book.xlsx", r"book\.xlsx")])
def test_a_template_needs_files_to_read(tmp_path: Path, file: str, found: str) -> None:
    if file:
        (tmp_path / file).touch()
    with pytest.raises(UserError, match=f"expected files that end in .csv, .*; found {found}"):
        write_template(tmp_path)
    assert not (tmp_path / "mapping.yml").exists()


def mapped(source: ColumnMapping, *fields: str | None) -> str | None:
    """Return what the mapping of loan_id makes of a record with the columns Account and Branch."""
    layout = lay_out(LOANS, header_of("Account,Branch"), mapping=TableMapping(columns={"loan_id": source}))
    (target,) = layout.targets
    return target.get(fields) if target.get else fields[target.position or 0]


def test_texts_become_keys() -> None:
    code = ColumnMapping(column="Account", number="code")
    assert mapped(code, "LN-0042A", None) == str(int("LN0042A", 36))
    assert mapped(code, "ln 0042a", None) == str(int("LN0042A", 36))
    assert mapped(code, "a text that is too long", None) == "a text that is too long"
    digits = lay_out(
        LOANS,
        header_of("Account,Branch"),
        mapping=TableMapping(columns={"loan_id": ColumnMapping(column="Account", number="digits")}),
    ).targets[0]
    assert digits.get is not None
    texts = ["LN-000052", "ln 53", "2024/LN/7", "LM-000052", "LN", "54"]
    # Only codes with the letters of the first one are of its series.
    assert [digits.get((text, None)) for text in texts] == ["52", "53", "20247", "LM-000052", "LN", "54"]
    assert mapped(code, "Ünal 1", None) == "Ünal 1"
    by_name = ColumnMapping(column="Account", number="hash", also=("Branch",))
    assert mapped(by_name, "Amina", "NRB") == mapped(by_name, " AMINA ", "nrb") != mapped(by_name, "Amina", "MSA")
    assert mapped(by_name, None, None) is None
    # What stands for an empty field is the number itself, whatever makes the others.
    assert mapped(by_name.model_copy(update={"empty": "12"}), None, "NRB") == "12"
    assert mapped(code.model_copy(update={"empty": "12"}), " ", None) == "12"
    # Nothing runs together: ("ab", "c") is not ("a", "bc").
    assert mapped(by_name, "ab", "c") != mapped(by_name, "a", "bc")


def test_values_are_translated() -> None:
    source = ColumnMapping(column="Account", values={"In Arrears": "active", "+": "repaid"}, empty="pending")
    assert [mapped(source, text, None) for text in ("in arrears", " IN-ARREARS", "+", "other", None, " ")] == [
        "active", "active", "repaid", "other", "pending", "pending",
    ]  # fmt: skip
    assert mapped(source.model_copy(update={"other": "defaulted"}), "other", None) == "defaulted"


@pytest.mark.parametrize(
    ("values", "text", "value"),
    [
        ({"A+": "active", "A-": "defaulted"}, "A+", "active"),
        ({"A+": "active", "A-": "defaulted"}, "a- ", "defaulted"),
        ({"A+": "active", "A-": "defaulted"}, "A", "A"),
        ({"1": "pending", "1+": "active"}, "1", "pending"),
        ({"1": "pending", "1+": "active"}, "1+", "active"),
        ({"1": "pending", "1+": "active"}, "1 +", "active"),
        ({"A+": "active"}, "A-", "A-"),
        ({"A+": "active"}, "A", "A"),
        ({"<30": "active"}, ">30", ">30"),
        ({"In Arrears": "active", "In-Arrears": "defaulted"}, "IN ARREARS", "active"),
        ({"In Arrears": "active", "In-Arrears": "defaulted"}, "in_arrears", "in_arrears"),
        ({"In Arrears": "active", "In-Arrears": "active"}, "in_arrears", "active"),
        ({"Échu": "active"}, "ECHU", "active"),
        ({"क": "active"}, "कि", "कि"),
    ],
)
def test_a_translation_is_of_the_text_itself_first(values: dict[str, str], text: str, value: str) -> None:
    assert mapped(ColumnMapping(column="Account", values=values), text, None) == value


@pytest.mark.parametrize(
    ("first", "second", "are_equal"),
    [
        ("Loan ID", "LOAN-ID", True),
        ("Müller", "muller", True),
        ("José", "Jose\u0301", True),
        ("مُحَمَّد", "محمد", True),
        # Vowel signs and voicing marks are letters.
        ("कि", "की", False),
        ("రాము", "రమ", False),
        ("ரவி", "ரவ", False),
        ("ก่", "ก", False),
        ("か", "が", False),
    ],
)
def test_names_are_compared_without_accents_and_not_without_vowels(first: str, second: str, are_equal: bool) -> None:
    assert (squeeze(first) == squeeze(second)) is are_equal


def test_a_template_can_be_completed(tmp_path: Path) -> None:
    (tmp_path / "Loans.csv").write_text("sep=;\nLoan ID;Status;Betrag, netto\n1;Open;5\n2;active;6\n")
    (tmp_path / "clients.csv").write_text("Client No,Name\n1,A\n")
    path = write_template(tmp_path)
    mapping = load_mapping(path)
    loans = mapping.table("loans")
    # What was not recognised is for the lender to decide: an import lists it, and a live line would keep it quiet.
    assert (loans.file, list(loans.columns), loans.ignore) == ("Loans.csv", ["loan_id", "status"], ())
    text = path.read_text()
    assert '#    ignore: ["Betrag, netto"]    # not recognised' in text
    assert "#          Open: YOUR CHOICE\n" in text
    # Without its first character each suggestion is a line of the file.
    uncommented = "".join(
        line.removeprefix("#") + "\n" for line in text.split("\ntables:\n")[1].splitlines() if "# rows that" not in line
    )
    completed = "tables:\n" + uncommented.replace("YOUR COLUMN", "Client No")
    path.write_text(completed)
    with pytest.raises(UserError, match=r"status\.values\.Open: expected one of pending, .*, found 'YOUR CHOICE'"):
        load_mapping(path)
    path.write_text(completed.replace("YOUR CHOICE", "Written off"))
    assert load_mapping(path).table("loans").ignore == ("Betrag, netto",)
    customers = load_mapping(path).table("customers")
    assert (customers.columns["customer_id"].column, customers.columns["full_name"].column) == ("Client No", "Name")
    with pytest.raises(UserError, match="is there already"):
        write_template(tmp_path)


def test_a_template_suggests_what_is_spelled_alike_and_does_not_ignore_it(tmp_path: Path) -> None:
    # An import refuses Active, Officer and Branch as typing errors; a draft that ignored them would drop their values.
    (tmp_path / "customers.csv").write_text("Customer ID,Full Name,Active,Shoe Size\n1,A,yes,42\n")
    (tmp_path / "loans.csv").write_text(
        "Loan No,Customer ID,Product ID,Amount,Tenure,Officer,Branch\n1,1,1,5,12,Otto,N\n"
    )
    path = write_template(tmp_path)
    text = path.read_text()
    suggestions = {
        "is_active": "Active", "loan_id": "Loan No", "tenure_months": "Tenure", "loan_officer": "Officer",
        "branch_code": "Branch",
    }  # fmt: skip
    for column, name in suggestions.items():
        assert f"\n#      {column}: {name}    # " in text
    mapping = load_mapping(path)
    assert mapping.table("customers").ignore == mapping.table("loans").ignore == ()
    assert "#    ignore: [Shoe Size]    # not recognised" in text


def test_usual_names_are_squeezed_and_none_is_a_name_of_the_book() -> None:
    known = {table.name: {column.name for column in table.columns} for table in TABLES}
    for table, columns in template._usual_names().items():
        assert set(columns) <= known[table]
        names = [name for names in columns.values() for name in names]
        assert names == [squeeze(name) for name in names]
        assert all(len(each) == len(set(each)) for each in columns.values()), table
        assert not set(names) & {squeeze(column) for column in known[table]}


@pytest.mark.parametrize(
    ("header", "suggestions"),
    [
        (
            "Receipt No,Account No,Paid On",
            {"payment_id": "Receipt No", "loan_id": "Account No", "payment_date": "Paid On"},
        ),
        # The better name has the key, wherever it stands.
        ("Receipt No,Transaction ID", {"payment_id": "Transaction ID", "reference_number": "Receipt No"}),
        ("Transaction ID,Receipt No", {"payment_id": "Transaction ID", "reference_number": "Receipt No"}),
    ],
)
def test_a_template_suggests_the_usual_names_the_better_one_first(
    tmp_path: Path, header: str, suggestions: dict[str, str]
) -> None:
    (tmp_path / "payments.csv").write_text(f"{header}\n{','.join('2026-01-01' for _ in header.split(','))}\n")
    text = write_template(tmp_path).read_text()
    for column, name in suggestions.items():
        assert f"\n#      {column}: {name}    # " in text


def test_a_template_suggests_the_least_and_the_most_of_a_product(tmp_path: Path) -> None:
    (tmp_path / "loan_products.csv").write_text(
        "Product Code;Name;Kind;Min;Max;Min Months;Max Months\nP1;Shop;business;100;900;3;12\n"
    )
    text = write_template(tmp_path).read_text()
    for column, name in {
        "min_amount": "Min", "max_amount": "Max", "min_tenure_months": "Min Months", "max_tenure_months": "Max Months",
        "product_name": "Name", "product_type": "Kind",
    }.items():  # fmt: skip
        assert f"\n#      {column}: {name}    # " in text


def test_a_template_that_nobody_has_completed_says_so(tmp_path: Path) -> None:
    (tmp_path / "Ledger.csv").write_text("a,b\n1,2\n")
    mapping = load_mapping(write_template(tmp_path))
    with pytest.raises(UserError, match="mapping file names no file either: remove the #"):
        find_files(tmp_path, sync=False, mapping=mapping)


def test_a_template_suggests_a_borrower_a_start_and_an_end(tmp_path: Path) -> None:
    (tmp_path / "loans.csv").write_text("Loan No,Borrower,Start,End\n1,7,2026-01-01,2027-01-01\n")
    text = write_template(tmp_path).read_text()
    for column, name in {"customer_id": "Borrower", "disbursed_at": "Start", "maturity_date": "End"}.items():
        assert f"\n#      {column}: {name}    # " in text


@pytest.mark.parametrize(
    ("header", "texts", "number"),
    [
        ("loan_id", ["1", "1020304050607081"], None),
        ("Loan Ref", ["1", "2"], None),
        ("Loan Ref", ["LN-0042A", "LN-0043"], "code"),
        ("Loan Ref", ["LN-0042", "ln 0043"], "digits"),
        ("Loan Ref", ["2024/042", "2023/042"], "digits"),
        ("Loan Ref", ["LN-0042", "LN-42"], "code"),
        ("loan_id", ["LN-0042A", "7"], "code"),
        ("loan_id", ["LN-0042A-2024-NAIROBI", "7"], "hash"),
        ("customer_id", ["C-042", "C-043"], "digits"),
        ("customer_id", ["CUST-0042", "CUST-0043"], "digits"),
        ("customer_id", ["A-042", "B-042"], "code"),
        # As numbers in base 36 they would be too large for this column.
        ("customer_id", ["CUST-0042", "CLIENT-42"], "hash"),
        ("product_id", ["SME Loan", "Salary Advance"], "hash"),
    ],
)
def test_a_template_says_how_codes_become_keys(
    tmp_path: Path, header: str, texts: list[str], number: str | None
) -> None:
    (tmp_path / "loans.csv").write_text("\n".join([f"{header},amount", *(f"{text},5" for text in texts)]) + "\n")
    section = write_template(tmp_path).read_text().split("  loans:\n")[1].split("  payments:\n")[0]
    found = re.findall(r"not whole numbers: \{column: (.+), number: (\w+)\}", section)
    assert found == ([(header, number)] if number else [])
    line = next(line for line in section.splitlines() if f": {header}" in line)
    yaml.safe_load(line.removeprefix("#"))


def test_a_template_suggests_no_column_whose_values_are_of_another_type(tmp_path: Path) -> None:
    (tmp_path / "loans.csv").write_text(
        "Account ID;Loan Amount;Disb. Date;Rate;Tenor\nLN-01;KES 1.000,00;31.01.2025;14,5 %;12\nLN-02;5,00;;N/A;6\n"
    )
    (tmp_path / "customers.csv").write_text("Customer ID;Is Live;Created;Date Birth\n1;31.01.2025;14,5;31.12.1979\n")
    text = write_template(tmp_path).read_text()
    suggested = re.findall(r"^#      (\w+): (.+?)    # \w+,", text, re.MULTILINE)
    assert {("amount", "Loan Amount"), ("disbursed_at", "Disb. Date"), ("date_of_birth", "Date Birth")} <= set(
        suggested
    )
    assert not {"Is Live", "Created"} & {name for _, name in suggested}
    # A usual name of another column, whose type its values have.
    assert [column for column, name in suggested if name == "Rate"] == ["interest_rate"]
    # A key may be a code.
    assert not [column for column, name in suggested if name == "Account ID" and not column.endswith("_id")]


@pytest.mark.parametrize(
    ("table", "file", "text", "suggested"),
    [
        (
            "customers",
            "clients.csv",
            "CIF,Client Name,Mobile No.,ID No,DOB,Town\n1,A,0712,33,31/12/1979,Nairobi\n",
            {
                "customer_id": "CIF",
                "full_name": "Client Name",
                "phone": "Mobile No.",
                "national_id": "ID No",
                "date_of_birth": "DOB",
                "city": "Town",
            },
        ),
        (
            "loans",
            "portfolio.csv",
            "Acct No;Client ID;Scheme Code;Principal;Rate;Term;Disbursement Date;O/S Balance;Branch\n"
            "1020304050607081;1;2;1.000,00;14,5 %;12;31.01.2025;500,00;Nairobi\n",
            {
                "loan_id": "Acct No",
                "customer_id": "Client ID",
                "product_id": "Scheme Code",
                "amount": "Principal",
                "interest_rate": "Rate",
                "tenure_months": "Term",
                "disbursed_at": "Disbursement Date",
                "outstanding_balance": "O/S Balance",
                "branch_code": "Branch",
            },
        ),
        (
            "payments",
            "payments.csv",
            "Txn ID,Loan Account No,Amount,Principal,Interest,Penalties,Mode,Receipt No,Value Date,Teller,Narration\n"
            "9,7,100,90,10,0,cash,R-1,2025-01-31,Jane,none\n",
            {
                "payment_id": "Txn ID",
                "loan_id": "Loan Account No",
                "principal_portion": "Principal",
                "interest_portion": "Interest",
                "penalty_portion": "Penalties",
                "payment_method": "Mode",
                "reference_number": "Receipt No",
                "payment_date": "Value Date",
                "recorded_by": "Teller",
                "notes": "Narration",
            },
        ),
        (
            "customers",
            "customers.csv",
            "@ID|SHORT.NAME|Geburtsdatum\n100101|A|19800229\n",
            {"customer_id": "'@ID'", "date_of_birth": "Geburtsdatum"},
        ),
        (
            "loans",
            "loans.csv",
            "Account ID,Client ID,Geburtsdatum,Loan Amount\nA1,1,29.02.1980,5\n",
            {
                "loan_id": "Account ID",
                "customer_id": "Client ID",
                "amount": "Loan Amount",
                "disbursed_at": "YOUR COLUMN",
            },
        ),
        (
            "payments",
            "payments.csv",
            "ID,Account ID,Amount\n5001,A1,5\n5002,A1,5\n",
            {"payment_id": "ID", "loan_id": "Account ID"},
        ),
        # A column that repeats is no key of the file.
        ("payments", "payments.csv", "ID,Amount\n7,5\n7,6\n", {"payment_id": "YOUR COLUMN"}),
        (
            "loan_products",
            "loan_products.csv",
            "ID,Loan Amount,Product\n1,5,x\n",
            {"product_id": "ID", "min_amount": "YOUR COLUMN", "max_amount": "YOUR COLUMN"},
        ),
        (
            "loan_installments",
            "loan_installments.csv",
            "CONTRACT.ID,INTEREST.RATE,Disbursement Date\n7,5,2024-01-01\n",
            {"loan_id": "CONTRACT.ID", "interest_due": "YOUR COLUMN", "due_date": "YOUR COLUMN"},
        ),
        # A usual name whose values are of another type is none.
        ("customers", "customers.csv", "Customer ID,Full Name,DOB\n1,A,unknown\n", {"date_of_birth": "YOUR COLUMN"}),
    ],
)
def test_a_template_suggests_what_other_systems_call_a_column(
    tmp_path: Path, table: str, file: str, text: str, suggested: dict[str, str]
) -> None:
    (tmp_path / file).write_text(text)
    parts = re.split(r"^#?  (\w+):\n", write_template(tmp_path).read_text(), flags=re.MULTILINE)
    section = parts[parts.index(table) + 1]
    found = dict(re.findall(r"^#      (\w+): (.+?)    # \w+,", section, re.MULTILINE))
    assert {column: found.get(column) for column in suggested} == suggested


@pytest.mark.parametrize(
    ("text", "line", "columns"),
    [
        ("Customer ID,Full Name\n1,A\n", None, ["customer_id", "full_name"]),
        ("Client register\n\nCustomer ID;Full Name;Town\n1;A;B\n", 3, ["customer_id", "full_name"]),
        ("sep=;\nClient register;;\nCustomer ID;Full Name;Town\n1;A;B\n", 2, ["customer_id", "full_name"]),
        # Not one of the names is known.
        ("Uwezo Ltd,,,\nas at,31 March,,\nCode,Client,Mobile,Joined\n1,A,0712,x\nTotal,1,,\n", 3, []),
        ("Code\n1\n", None, []),
        ("", None, []),
    ],
)
def test_a_template_finds_the_names_behind_titles(
    tmp_path: Path, text: str, line: int | None, columns: list[str]
) -> None:
    (tmp_path / "customers.csv").write_text(text)
    customers = load_mapping(write_template(tmp_path)).table("customers")
    assert (customers.header_line, list(customers.columns)) == (line, columns)


@pytest.mark.parametrize("line", ["0", "x", "1001"])
def test_a_header_line_in_a_mapping_is_a_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "mapping.yml").write_text(f"tables: {{loans: {{header_line: {line}}}}}")
    with pytest.raises(
        UserError, match=rf"tables\.loans\.header_line: expected a whole number from 1 to 1000, found '{line}'"
    ):
        load_mapping(tmp_path / "mapping.yml")


def test_workbooks_beside_the_files_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("customers.csv", "loans.xlsx"):
        (tmp_path / name).touch()
    find_files(tmp_path, sync=False)
    assert "not read: loans.xlsx (save each sheet as “CSV UTF-8”)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("JosÃ©", "José"),
        ("Oâ€™Neil", "O’Neil"),
        ("MÃ¼ller â€“ ZÃ¼rich", "Müller – Zürich"),
        ("José", None),
        ("SÃO TOMÉ", None),
        ("Â", None),
        ("Zoë’s", None),
        ("محمد", None),
        ("O'Neil", None),
    ],
)
def test_what_a_garbled_text_was(text: str, meant: str | None) -> None:
    assert ungarbled(text) == meant


# -- afterwards -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "live", "expected"),
    [(0, 0, False), (-5, 10, False), (9, 12, False), (9, 9, True), (10, 20, False), (11, 20, True), (1, 1, True)],
)
def test_when_a_run_asks_for_a_confirmation(lost: int, live: int, expected: bool) -> None:
    assert is_mass_delete(lost, live, 0.5) is expected


# -- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "nothing"),
        ("", "''"),
        ("a\nb", r"'a\nb'"),
        ("it's", '"it\'s"'),
        ("Zoë 🦊 محمد", "'Zoë 🦊 محمد'"),
        ("J\udcfcrg", r"'J\xfcrg'"),
        ("\0", r"'\x00'"),
        ("x" * 60, f"'{'x' * 60}'"),
        ("x" * 61, f"'{'x' * 60}' …"),
    ],
)
def test_values_in_messages(value: str | None, shown: str) -> None:
    assert show_value(value) == shown


def message_of(problems: list[Problem], files: list[str], at_least: bool = False) -> str:
    collected = Problems()
    collected.at_least = at_least
    for problem in problems:
        collected.add(problem)
    with pytest.raises(UserError) as refused:
        collected.raise_if_any(files)
    return str(refused.value)


def test_the_message_of_a_refused_import() -> None:
    problems = [
        Problem("payments.csv", 4, "amount", "-1", "a number above 0"),
        Problem("customers.csv", 12, "segment", "privat", "one of retail, sme, corporate"),
        Problem("customers.csv", 3, "", "1,2", "12 fields, as in the header, not 2"),
        *(Problem("customers.csv", line, "date_of_birth", f"{line}/13/1980", "a date") for line in range(2, 202)),
    ]
    assert message_of(problems, ["customers.csv", "loans.csv", "payments.csv"]) == (
        "The import was refused: 203 problems. Nothing was changed.\n"
        "\n"
        "customers.csv\n"
        "  date_of_birth: 200 rows, first line 2, found '2/13/1980', '3/13/1980', '4/13/1980', …\n"
        "      expected a date\n"
        "  line 3, found '1,2'\n"
        "      expected 12 fields, as in the header, not 2\n"
        "  segment: line 12, found 'privat'\n"
        "      expected one of retail, sme, corporate\n"
        "\n"
        "loans.csv: no problem\n"
        "\n"
        "payments.csv\n"
        "  amount: line 4, found '-1'\n"
        "      expected a number above 0"
    )


def test_problems_with_the_same_cause_are_one_group() -> None:
    problems = [
        Problem("loans.csv", line, "loan_id", str(line), f"each loan_id once, line {line - 1} has it", "not unique")
        for line in (9, 5, 7)
    ]
    assert message_of(problems, ["loans.csv"]).splitlines()[3:] == [
        "  loan_id: 3 rows, first line 5, found '9', '5', '7'",
        "      expected each loan_id once, line 4 has it",
    ]


def test_no_more_than_twenty_groups_of_a_file_are_written_out() -> None:
    problems = [Problem("loans.csv", line, f"column {line}", "0", "a number above 0") for line in range(2, 27)]
    problems += [Problem("payments.csv", 2, "amount", "0", "a number above 0")]
    message = message_of(problems, ["loans.csv", "payments.csv"], at_least=True)
    assert message.startswith("The import was refused: at least 26 problems.")
    assert message.count("expected") == 21
    assert "\n  and 5 more\n\npayments.csv\n" in message


def test_a_summary_can_be_printed() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(Summary({"loans": Counts(12_345, 2, 0, 7)}, 1.25).table())
    text = console.export_text()
    assert all(word in text for word in ("loans", "12,345", "inserted", "unchanged", "1.2 s"))


# -- files ----------------------------------------------------------------------------------------------------------


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no directory .*nowhere"):
        find_files(tmp_path / "nowhere", sync=False)


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "loans.csv").touch()
    with pytest.raises(UserError, match=r"loans\.csv is not a directory"):
        find_files(tmp_path / "loans.csv", sync=False)


def test_an_archive_in_place_of_files(tmp_path: Path) -> None:
    (tmp_path / "book.zip").touch()
    with pytest.raises(UserError, match=r"Unpack book\.zip first"):
        find_files(tmp_path, sync=False)


def test_a_directory_without_files(tmp_path: Path) -> None:
    (tmp_path / "Loan.csv").touch()
    (tmp_path / "book.xlsx").touch()
    with pytest.raises(
        UserError, match=r"none of the files customers\.csv.*\n.*Loan\.csv\nOf a workbook \(book\.xlsx\)"
    ):
        find_files(tmp_path, sync=False)


def test_some_files_are_enough_without_sync_only(tmp_path: Path) -> None:
    (tmp_path / "loans.csv").touch()
    (tmp_path / "customers.csv").touch()
    assert list(find_files(tmp_path, sync=False)) == ["customers", "loans"]
    with pytest.raises(UserError, match=r"SYNC=1 needs all four files.*: loan_products\.csv, payments\.csv"):
        find_files(tmp_path, sync=True)


def test_schedules_are_optional(tmp_path: Path) -> None:
    for table in (CUSTOMERS, PRODUCTS, LOANS, PAYMENTS):
        (tmp_path / table.file).touch()
    assert "loan_installments" not in find_files(tmp_path, sync=True)
    (tmp_path / "Loan Installments.csv").touch()
    assert find_files(tmp_path, sync=True)["loan_installments"].name == "Loan Installments.csv"


def test_a_directory_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "loans.csv").mkdir()
    with pytest.raises(UserError, match=r"loans\.csv is not a file"):
        find_files(tmp_path, sync=False)
