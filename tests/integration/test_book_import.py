"""The import of a lender's book, against a primary with the operational schema."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from eds.base.errors import UserError
from eds.book.csv_import import importer
from eds.book.csv_import.importer import Counts, import_book
from eds.book.csv_import.schema import TABLES, Table


class Oltp(Protocol):
    superuser_conninfo: str
    app_conninfo: str


CUSTOMERS = """\
customer_id,full_name,email,phone,national_id,date_of_birth,city,country,segment,is_active,created_at
101,Amina Otieno,amina@example.com,+254700000101,N101,1980-02-29,Nairobi,Kenya,retail,true,2023-01-02T03:04:05Z
102,Brian Mwangi,brian@example.com,,N102,,Mombasa,Kenya,sme,no,2023-01-03
103,Chloé Wanjikũ,,,,,,Uganda,corporate,1,2023-01-04 10:00:00+03
"""
PRODUCTS = """\
product_id,product_name,product_type,min_amount,max_amount,min_tenure_months,max_tenure_months
901,Shop Loan,business,1000,500000.00,3,36
902,School Loan,education,0,80000,1,12
"""
LOANS = """\
loan_id,customer_id,product_id,amount,interest_rate,tenure_months,status,disbursed_at,maturity_date,outstanding_balance
1001,101,901,10000.00,14.5,12,active,2023-02-01,2024-02-01,9000
1002,102,902,5000,12.3456,6,pending,,,
"""
PAYMENTS = """\
payment_id,loan_id,amount,principal_portion,interest_portion,penalty_portion,payment_method,payment_date,notes
5001,1001,600.00,500,100,0,mpesa,2023-03-01T10:00:00+03:00,"first, on time"
5002,1001,612.50,500,100,12.5,cash,2023-04-03,
"""
BOOK = {"customers": CUSTOMERS, "loan_products": PRODUCTS, "loans": LOANS, "payments": PAYMENTS}
HEADERS = {name: text.partition("\n")[0] + "\n" for name, text in BOOK.items()}


@pytest.fixture
def app(empty_book: Oltp) -> Iterator[psycopg.Connection]:
    with psycopg.connect(empty_book.app_conninfo, autocommit=True) as conn:
        yield conn


@pytest.fixture
def admin(empty_book: Oltp) -> Iterator[psycopg.Connection]:
    with psycopg.connect(empty_book.superuser_conninfo, autocommit=True, options="-c TimeZone=UTC") as conn:
        yield conn


def write(directory: Path, **files: str | bytes) -> Path:
    """Writes <name>.csv for each of `files`. Returns the directory."""
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / f"{name}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def value(conn: psycopg.Connection, query: str) -> Any:
    row = conn.execute(query).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


def state(conn: psycopg.Connection) -> list[Any]:
    """All rows of the four tables, and how long the audit trail is."""
    digest = "select md5(string_agg(whole::text, '' order by {})) from operational.{} as whole"
    digests = [value(conn, digest.format(table.key.name, table.name)) for table in TABLES]
    return [*digests, value(conn, "select count(*) from operational.audit_log")]


def refused(app: psycopg.Connection, directory: Path, **options: bool) -> str:
    with pytest.raises(UserError) as problem:
        import_book(app, directory, **options)
    assert app.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    return str(problem.value)


# -- what is imported -----------------------------------------------------------------------------------------------


def test_a_book_is_imported(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    summary = import_book(app, write(tmp_path, **BOOK))
    assert summary.tables == {
        "customers": Counts(3, 0, 0, 0),
        "loan_products": Counts(2, 0, 0, 0),
        "loans": Counts(2, 0, 0, 0),
        "payments": Counts(2, 0, 0, 0),
    }
    assert summary.seconds > 0
    assert (
        value(
            admin,
            "select row(full_name, email, phone, date_of_birth, country, segment, is_active, created_at)::text"
            " from operational.customers where customer_id = 103",
        )
        == '("Chloé Wanjikũ",,,,Uganda,corporate,t,"2023-01-04 07:00:00+00")'
    )
    assert (
        value(
            admin,
            "select row(amount, interest_rate, status, disbursed_at)::text from operational.loans where loan_id = 1001",
        )
        == '(10000.00,14.5000,active,"2023-02-01 00:00:00+00")'
    )
    assert (
        value(
            admin,
            "select row(amount, penalty_portion, payment_date, notes)::text"
            " from operational.payments where payment_id = 5001",
        )
        == '(600.00,0.00,"2023-03-01 07:00:00+00","first, on time")'
    )
    assert value(admin, "select count(*) from operational.audit_log where changed_by = 'app_user'") >= 9


def test_a_second_import_changes_nothing(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    import_book(app, write(tmp_path, **BOOK))
    before = state(admin)
    summary = import_book(app, tmp_path)
    assert summary.tables == {
        "customers": Counts(0, 0, 0, 3),
        "loan_products": Counts(0, 0, 0, 2),
        "loans": Counts(0, 0, 0, 2),
        "payments": Counts(0, 0, 0, 2),
    }
    assert state(admin) == before


def test_only_rows_that_differ_are_updated(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    import_book(app, write(tmp_path, **BOOK))
    trail = value(admin, "select max(log_id) from operational.audit_log")
    changed = CUSTOMERS.replace("Mombasa", "Kisumu").replace("2023-01-02T03:04:05Z", "1999-01-01")
    assert import_book(app, write(tmp_path, customers=changed)).tables["customers"] == Counts(0, 1, 0, 2)
    trail_rows = admin.execute(
        "select operation, record_id from operational.audit_log where log_id > %s", [trail]
    ).fetchall()
    assert trail_rows == [("UPDATE", 102)]
    created_at = value(admin, "select created_at::date::text from operational.customers where customer_id = 101")
    assert created_at == "2023-01-02"


@pytest.mark.parametrize("style", ["byte order mark", "CRLF", "any order", "all quoted"])
def test_the_same_book_however_it_is_written(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path, style: str
) -> None:
    import_book(app, write(tmp_path, **BOOK))
    before = state(admin)
    text = CUSTOMERS
    if style == "byte order mark":
        text = "\ufeff" + text
    elif style == "CRLF":
        text = text.replace("\n", "\r\n")
    elif style == "any order":
        text = "\n".join(",".join(reversed(line.split(","))) for line in text.splitlines())
    else:
        text = "\n".join(
            ",".join(f'"{field}"' if field else "" for field in line.split(",")) for line in text.splitlines()
        )
    assert import_book(app, write(tmp_path / "again", customers=text)).tables["customers"] == Counts(0, 0, 0, 3)
    assert state(admin) == before


NAMES = [
    "Two\nlines",
    "Windows\r\nlines",
    'A "quoted" name, with a comma',
    "🦊🇰🇪👩🏾‍💼",
    "محمد عبد الله",
    "שרה כהן",
    "e\u0301 is not é",
    "  spaces stay  ",
    "back\\slash \\N \\. and\ttab",
    "NULL",
    "'; drop table operational.loans; --",
]


def test_names_arrive_as_they_are(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    quoted = [name.replace('"', '""') for name in NAMES]
    lines = [f'{number},"{name}"\n' for number, name in enumerate(quoted, start=1)]
    import_book(app, write(tmp_path, customers="customer_id,full_name\n" + "".join(lines)))
    found = admin.execute("select full_name from operational.customers order by customer_id").fetchall()
    assert [name for (name,) in found] == NAMES
    assert import_book(app, tmp_path).tables["customers"] == Counts(0, 0, 0, len(NAMES))


def test_the_line_of_a_problem_is_right_behind_quoted_line_breaks(app: psycopg.Connection, tmp_path: Path) -> None:
    text = 'customer_id,full_name,segment\n1,"three\nline\r\nbreaks\n",retail\n2,"x\ny",wrong\n3,z,worse\n'
    message = refused(app, write(tmp_path, customers=text))
    assert "line 6, column segment: found 'wrong'" in message
    assert "line 8, column segment: found 'worse'" in message


def test_defaults_and_missing_columns(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    few = "customer_id,full_name,segment,country\n1,Amina,,\n2,Brian,sme,Uganda\n"
    import_book(app, write(tmp_path, customers=few))
    row = "select (segment, country, is_active, email)::text from operational.customers where customer_id = {}"
    assert value(admin, row.format(1)) == "(retail,Kenya,t,)"
    # What a file does not say stays: a missing column, and an empty field of a column that is never empty.
    again = "customer_id,full_name,country\n2,Brian M.,\n"
    assert import_book(app, write(tmp_path, customers=again)).tables["customers"] == Counts(0, 1, 0, 0)
    assert value(admin, row.format(2)) == "(sme,Uganda,t,)"
    # An empty field of a column that may be empty empties it; an empty text is not the same.
    import_book(app, write(tmp_path, customers='customer_id,full_name,city,phone\n2,Brian M.,"",+254\n'))
    row = "select (city, phone)::text from operational.customers where customer_id = 2"
    assert value(admin, row) == '("",+254)'
    import_book(app, write(tmp_path, customers="customer_id,full_name,city,phone\n2,Brian M.,,\n"))
    assert value(admin, row) == "(,)"


def test_defaults_are_those_of_the_database(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    admin.execute("alter table operational.customers alter country set default 'Rwanda'")
    try:
        import_book(app, write(tmp_path, customers="customer_id,full_name,country\n1,Amina,\n2,Brian,Kenya\n"))
        found = admin.execute("select country from operational.customers order by customer_id").fetchall()
    finally:
        admin.execute("alter table operational.customers alter country set default 'Kenya'")
    assert found == [("Rwanda",), ("Kenya",)]


def test_each_file_can_come_alone(app: psycopg.Connection, tmp_path: Path) -> None:
    for name, text in BOOK.items():
        summary = import_book(app, write(tmp_path / name, **{name: text}))
        assert list(summary.tables) == [name]
        assert summary.tables[name].inserted == len(text.splitlines()) - 1


def test_a_file_with_a_header_alone_has_no_rows(app: psycopg.Connection, tmp_path: Path) -> None:
    assert import_book(app, write(tmp_path, loans=HEADERS["loans"])).tables == {"loans": Counts(0, 0, 0, 0)}


@pytest.mark.parametrize("autocommit", [True, False])
def test_the_import_is_committed(empty_book: Oltp, admin: psycopg.Connection, tmp_path: Path, autocommit: bool) -> None:
    with psycopg.connect(empty_book.app_conninfo, autocommit=autocommit) as conn:
        import_book(conn, write(tmp_path, **BOOK))
        assert value(admin, "select count(*) from operational.payments") == 2
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        # Nothing of the import is left in the session.
        assert value(conn, "select count(*) from pg_class where relpersistence = 't'") == 0
        assert value(conn, "show lock_timeout") == "0"


def test_an_open_transaction_is_refused(empty_book: Oltp, tmp_path: Path) -> None:
    with psycopg.connect(empty_book.app_conninfo) as conn:
        conn.execute("select 1")
        with pytest.raises(ValueError, match="open transaction"):
            import_book(conn, write(tmp_path, **BOOK))


def test_the_application_goes_on_with_free_keys(app: psycopg.Connection, tmp_path: Path) -> None:
    next_key = "insert into operational.customers (full_name) values ('next') returning customer_id"
    imported = value(app, next_key) + 1000
    customers = f"customer_id,full_name\n5,earlier\n{imported},later\n"
    import_book(app, write(tmp_path, customers=customers))
    assert value(app, next_key) == imported + 1
    # Never back, also when the greatest key is gone.
    import_book(app, write(tmp_path, customers="customer_id,full_name\n6,another\n"))
    assert value(app, next_key) == imported + 2


def test_the_keys_of_all_tables_go_on(app: psycopg.Connection, tmp_path: Path) -> None:
    import_book(app, write(tmp_path, **BOOK))
    product = value(
        app,
        "insert into operational.loan_products"
        " (product_name, product_type, min_amount, max_amount, min_tenure_months, max_tenure_months)"
        " values ('x', 'auto', 1, 2, 1, 2) returning product_id",
    )
    loan = value(
        app,
        "insert into operational.loans (customer_id, product_id, amount, interest_rate, tenure_months)"
        " values (101, 901, 1, 1, 1) returning loan_id",
    )
    payment = value(
        app,
        "insert into operational.payments (loan_id, amount, principal_portion, interest_portion, payment_method)"
        " values (1001, 1, 1, 0, 'cash') returning payment_id",
    )
    assert product > 902
    assert loan > 1002
    assert payment > 5002


def test_a_hundred_thousand_payments(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    lines = "".join(
        f"{number},1001,{number % 900 + 1}.50,{number % 900}.50,1.00,0,mpesa,2023-03-01T10:00:00Z\n"
        for number in range(1, 100_001)
    )
    import_book(app, write(tmp_path, **BOOK))
    summary = import_book(app, write(tmp_path, payments=PAYMENT + lines))
    assert summary.tables["payments"] == Counts(99_998, 2, 0, 0)
    assert value(admin, "select count(*), sum(amount) from operational.payments") == (
        100_000,
        sum(number % 900 + 1.5 for number in range(1, 100_001)),
    )
    assert import_book(app, tmp_path).tables["payments"] == Counts(0, 0, 0, 100_000)
    wrong = lines.replace("mpesa", "M-Pesa")
    assert import_book(app, write(tmp_path, payments=PAYMENT + wrong)).tables["payments"] == Counts(0, 0, 0, 100_000)
    wrong = lines.replace("mpesa", "coins")
    message = refused(app, write(tmp_path, payments=PAYMENT + wrong))
    assert "payment_method: 100,000 rows, first line 2, found 'coins'" in message


# -- sync -----------------------------------------------------------------------------------------------------------


def test_only_a_sync_deletes(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    import_book(app, write(tmp_path, **BOOK), sync=True)
    assert value(admin, "select array_agg(product_id order by product_id) from operational.loan_products") == [901, 902]
    less = {
        "customers": "".join(CUSTOMERS.splitlines(keepends=True)[:2]),
        "loan_products": "".join(PRODUCTS.splitlines(keepends=True)[:2]),
        "loans": "".join(LOANS.splitlines(keepends=True)[:2]),
        "payments": HEADERS["payments"],
    }
    write(tmp_path, **less)
    assert all(counts.deleted == 0 for counts in import_book(app, tmp_path).tables.values())
    trail = value(admin, "select max(log_id) from operational.audit_log")
    assert import_book(app, tmp_path, sync=True).tables == {
        "customers": Counts(0, 0, 2, 1),
        "loan_products": Counts(0, 0, 1, 1),
        "loans": Counts(0, 0, 1, 1),
        "payments": Counts(0, 0, 2, 0),
    }
    # Children first.
    rows = admin.execute(
        "select table_name, operation from operational.audit_log where log_id > %s order by log_id", [trail]
    ).fetchall()
    assert [name for name, _ in rows] == ["payments", "payments", "loans", "customers", "customers", "loan_products"]
    assert {operation for _, operation in rows} == {"DELETE"}


def test_a_sync_moves_rows_away_from_what_it_deletes(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path
) -> None:
    import_book(app, write(tmp_path, **BOOK), sync=True)
    # Customer, product and loan get other keys; their e-mail, national number, loan and payment go with them.
    moved = {
        "customers": CUSTOMERS.replace("101,Amina", "201,Amina"),
        "loan_products": PRODUCTS.replace("901,", "911,"),
        "loans": LOANS.replace("1001,101,901", "2001,201,911"),
        "payments": PAYMENTS.replace(",1001,", ",2001,"),
    }
    summary = import_book(app, write(tmp_path, **moved), sync=True)
    assert summary.tables["customers"] == Counts(1, 0, 1, 2)
    assert summary.tables["payments"] == Counts(0, 2, 0, 0)
    assert value(admin, "select customer_id from operational.customers where email = 'amina@example.com'") == 201
    assert value(admin, "select count(*) from operational.loans where customer_id = 201") == 1


@pytest.mark.parametrize("missing", list(BOOK))
def test_a_sync_needs_all_files(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path, missing: str
) -> None:
    import_book(app, write(tmp_path, **BOOK))
    before = state(admin)
    (tmp_path / f"{missing}.csv").unlink()
    message = refused(app, tmp_path, sync=True)
    assert f"{missing}.csv" in message
    assert "SYNC=1 needs all four files" in message
    assert state(admin) == before


def test_a_sync_does_not_delete_most_of_a_table(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path
) -> None:
    lines = [f"{number},Name {number},c{number}@example.com\n" for number in range(1, 21)]
    header = "customer_id,full_name,email\n"
    book = {**BOOK, "loans": HEADERS["loans"], "payments": HEADERS["payments"]}
    import_book(app, write(tmp_path, **book | {"customers": header + "".join(lines)}), sync=True)
    # Half of it is no mass.
    half = write(tmp_path / "half", **book | {"customers": header + "".join(lines[:10])})
    before = state(admin)
    less = write(tmp_path / "less", **book | {"customers": header + "".join(lines[:9])})
    message = refused(app, less, sync=True)
    assert "customers: 11 of 20 rows are not in customers.csv" in message
    assert "MASS_DELETE=1" in message
    assert state(admin) == before
    assert import_book(app, half, sync=True).tables["customers"].deleted == 10
    # Less than ten rows are no mass either.
    few = write(tmp_path / "few", **book | {"customers": header + "".join(lines[:1])})
    assert import_book(app, few, sync=True).tables["customers"].deleted == 9
    import_book(app, write(tmp_path, **book | {"customers": header + "".join(lines)}), sync=True)
    nothing = write(tmp_path / "nothing", **book | {"customers": header})
    refused(app, nothing, sync=True)
    assert import_book(app, nothing, sync=True, allow_mass_delete=True).tables["customers"].deleted == 20


# -- unique values --------------------------------------------------------------------------------------------------


def test_customers_may_swap_what_is_unique(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    header = "customer_id,full_name,email,national_id\n"
    import_book(app, write(tmp_path, customers=header + "1,A,a@x,N1\n2,B,b@x,N2\n3,C,c@x,N3\n4,D,d@x,N4\n"))
    # Two swap, one hands on to a new customer, one is left as it is.
    swapped = header + "1,A,b@x,N2\n2,B,a@x,N1\n3,C,,N9\n4,D,d@x,N4\n5,E,c@x,N3\n"
    assert import_book(app, write(tmp_path, customers=swapped)).tables["customers"] == Counts(1, 3, 0, 1)
    found = admin.execute(
        "select customer_id, email, national_id from operational.customers order by customer_id"
    ).fetchall()
    assert found == [(1, "b@x", "N2"), (2, "a@x", "N1"), (3, None, "N9"), (4, "d@x", "N4"), (5, "c@x", "N3")]
    assert import_book(app, tmp_path).tables["customers"] == Counts(0, 0, 0, 5)


def test_a_value_of_a_row_outside_the_file_is_taken(app: psycopg.Connection, tmp_path: Path) -> None:
    import_book(app, write(tmp_path, **BOOK))
    message = refused(app, write(tmp_path / "new", customers="customer_id,full_name,email\n7,X,brian@example.com\n"))
    assert "line 2, column email: found 'brian@example.com'" in message
    assert "customer_id 102 has it, which is in the database and not in the file" in message


# -- what is refused ------------------------------------------------------------------------------------------------

CUSTOMER = "customer_id,full_name,email,national_id,date_of_birth,segment,is_active,created_at\n"
PRODUCT = HEADERS["loan_products"]
LOAN = "loan_id,customer_id,product_id,amount,interest_rate,tenure_months,status,disbursed_at,maturity_date\n"
PAYMENT = "payment_id,loan_id,amount,principal_portion,interest_portion,penalty_portion,payment_method,payment_date\n"

BAD: dict[str, tuple[str, str | bytes, int, str, str, str]] = {
    # name: table, content, then what the message says: line, column, value, part of what was expected
    "unknown column": ("customers", "customer_id,full_name,colour\n1,A,red\n", 1, "colour", "'colour'", "one of cust"),
    "updated_at": ("customers", "customer_id,full_name,updated_at\n", 1, "updated_at", "'updated_at'", "kept by the"),
    "missing column": ("customers", "customer_id,city\n1,Nairobi\n", 1, "full_name", "nothing", "it is required"),
    "doubled column": ("customers", "customer_id,full_name,city,city\n", 1, "city", "'city'", "each column once"),
    "empty file": ("customers", "", 1, "", "nothing", "a line with the names of the columns"),
    "byte order mark alone": ("customers", "\ufeff", 1, "", "nothing", "a line with the names of the columns"),
    "no header": ("customers", "1,Amina\n", 1, "", "'1,Amina'", "a line with the names of the columns"),
    "semicolons": ("customers", "customer_id;full_name\n1;A\n", 1, "", "'customer_id;full_name'", "by commas"),
    "UTF-16": ("customers", CUSTOMERS.encode("utf-16"), 1, "", r"'\xff\xfe", "UTF-16"),
    "too many fields": ("customers", "customer_id,full_name\n\n1,A,B\n", 3, "", "'1,A,B'", "2 fields, as in"),
    "too few fields": ("customers", "customer_id,full_name\n1\n", 2, "", "'1'", "2 fields, as in the header, not 1"),
    "open quote": ("customers", 'customer_id,full_name\n1,A\n2,"B\n3,C\n', 3, "", "'2,\"B'", "a closing quote"),
    "stray quote": ("customers", 'customer_id,full_name\n1,A"B\n', 2, "full_name", "'A\"B'", "quotes around the whole"),
    "invalid UTF-8": ("customers", b"customer_id,full_name\n1,J\xfcrg\n", 2, "full_name", r"'J\xfcrg'", "UTF-8 text"),
    "NUL": ("customers", b"customer_id,full_name\n1,A\0B\n", 2, "full_name", r"'A\x00B'", "without NUL"),
    "no key": ("customers", "customer_id,full_name\n,A\n", 2, "customer_id", "nothing", "it may not be empty"),
    "bad key": ("customers", "customer_id,full_name\nA1,A\n", 2, "customer_id", "'A1'", "a whole number"),
    "great key": ("customers", "customer_id,full_name\n3000000000,A\n", 2, "customer_id", "'3000000000'", "2147483646"),
    "no name": ("customers", "customer_id,full_name\n1,\n", 2, "full_name", "nothing", "it may not be empty"),
    "empty name": ("customers", 'customer_id,full_name\n1,""\n', 2, "full_name", "''", "a text that is not empty"),
    "bad date": ("customers", CUSTOMER + "1,A,,,29/02/1980,,,\n", 2, "date_of_birth", "'29/02/1980'", "YYYY-MM-DD"),
    "no such date": ("customers", CUSTOMER + "1,A,,,1981-02-29,,,\n", 2, "date_of_birth", "'1981-02-29'", "YYYY-MM-DD"),
    "endless date": ("customers", CUSTOMER + "1,A,,,infinity,,,\n", 2, "date_of_birth", "'infinity'", "YYYY-MM-DD"),
    "empty date": ("customers", CUSTOMER + '1,A,,,"",,,\n', 2, "date_of_birth", "''", "without quotes"),
    "bad segment": ("customers", CUSTOMER + "1,A,,,,privat,,\n", 2, "segment", "'privat'", "one of retail, sme"),
    "bad flag": ("customers", CUSTOMER + "1,A,,,,,maybe,\n", 2, "is_active", "'maybe'", "true or false"),
    "bad moment": ("customers", CUSTOMER + "1,A,,,,,,noon\n", 2, "created_at", "'noon'", "a moment"),
    "long e-mail": ("customers", CUSTOMER + f"1,A,{'x' * 2601},,,,,\n", 2, "email", f"'{'x' * 60}' …", "2600 bytes"),
    "doubled key": ("customers", CUSTOMER + "7,A,,,,,,\n8,B,,,,,,\n7,C,,,,,,\n", 4, "customer_id", "'7'", "but line 2"),
    "doubled e-mail": ("customers", CUSTOMER + "7,A,a@x,,,,,\n8,B,a@x,,,,,\n", 3, "email", "'a@x'", "line 2 (customer"),
    "doubled number": ("customers", CUSTOMER + "7,A,,N,,,,\n8,B,,N,,,,\n", 3, "national_id", "'N'", "line 2 (customer"),
    "taken e-mail": ("customers", CUSTOMER + "7,A,amina@example.com,,,,,\n", 2, "email", "'amina@example.com'", "101"),
    "taken number": ("customers", CUSTOMER + "7,A,,N102,,,,\n", 2, "national_id", "'N102'", "customer_id 102 has it"),
    "product without name": ("loan_products", PRODUCT + '1,"",auto,1,2,1,2\n', 2, "product_name", "''", "not empty"),
    "bad product type": ("loan_products", PRODUCT + "1,P,boat,1,2,1,2\n", 2, "product_type", "'boat'", "one of pers"),
    "negative minimum": ("loan_products", PRODUCT + "1,P,auto,-1,2,1,2\n", 2, "min_amount", "'-1'", "0 or more"),
    "no tenure": ("loan_products", PRODUCT + "1,P,auto,1,2,0,2\n", 2, "min_tenure_months", "'0'", "a number above 0"),
    "amounts": (
        "loan_products", PRODUCT + "1,P,auto,3,2,1,2\n", 2, "max_amount", "'2'",
        "min_amount must not be above max_amount (found min_amount 3.00, max_amount 2.00)",
    ),
    "tenures": (
        "loan_products", PRODUCT + "1,P,auto,1,2,9,2\n", 2, "max_tenure_months", "'2'",
        "min_tenure_months must not be above max_tenure_months (found min_tenure_months 9, max_tenure_months 2)",
    ),
    "no amount": ("loans", LOAN + "1,101,901,,1,1,,,\n", 2, "amount", "nothing", "it may not be empty"),
    "zero amount": ("loans", LOAN + "1,101,901,0,1,1,,,\n", 2, "amount", "'0'", "a number above 0"),
    "no number": ("loans", LOAN + "1,101,901,ten,1,1,,,\n", 2, "amount", "'ten'", "a number such as 1234.50"),
    "NaN": ("loans", LOAN + "1,101,901,NaN,1,1,,,\n", 2, "amount", "'NaN'", "a number such as 1234.50"),
    "infinity": ("loans", LOAN + "1,101,901,Infinity,1,1,,,\n", 2, "amount", "'Infinity'", "a number such as"),
    "thousands": ("loans", LOAN + '1,101,901,"1,000",1,1,,,\n', 2, "amount", "'1,000'", "no thousands separators"),
    "decimals": ("loans", LOAN + "1,101,901,1.005,1,1,,,\n", 2, "amount", "'1.005'", "at most 2 decimals"),
    "great amount": ("loans", LOAN + "1,101,901,1000000000000,1,1,,,\n", 2, "amount", "'1000000000000'", "from -9"),
    "negative rate": ("loans", LOAN + "1,101,901,1,-0.5,1,,,\n", 2, "interest_rate", "'-0.5'", "0 or more"),
    "great rate": ("loans", LOAN + "1,101,901,1,1000,1,,,\n", 2, "interest_rate", "'1000'", "999.9999"),
    "fine rate": ("loans", LOAN + "1,101,901,1,1.00001,1,,,\n", 2, "interest_rate", "'1.00001'", "at most 4 decimals"),
    "half a month": ("loans", LOAN + "1,101,901,1,1,1.5,,,\n", 2, "tenure_months", "'1.5'", "a whole number"),
    "no months": ("loans", LOAN + "1,101,901,1,1,0,,,\n", 2, "tenure_months", "'0'", "a number above 0"),
    "bad status": ("loans", LOAN + "1,101,901,1,1,1,open,,\n", 2, "status", "'open'", "one of pending, active, repaid"),
    "bad hour": ("loans", LOAN + "1,101,901,1,1,1,,2024-01-01 25:00,\n", 2, "disbursed_at", "'2024-01-01 25:00'", "a "),
    "bad maturity": ("loans", LOAN + "1,101,901,1,1,1,,,2024-1-1\n", 2, "maturity_date", "'2024-1-1'", "YYYY-MM-DD"),
    "unknown customer": ("loans", LOAN + "1,999,901,1,1,1,,,\n", 2, "customer_id", "'999'", "that is in the database"),
    "unknown product": ("loans", LOAN + "1,101,999,1,1,1,,,\n", 2, "product_id", "'999'", "that is in the database"),
    "unknown loan": ("payments", PAYMENT + "1,99,1,1,0,0,cash,\n", 2, "loan_id", "'99'", "a loan_id that is"),
    "portions": (
        "payments", PAYMENT + "1,1001,12,10,1,0,cash,\n", 2, "amount", "'12'",
        "principal + interest + penalty must equal amount (found 10.00+1.00+0.00=11.00, amount 12.00)",
    ),
    "negative payment": ("payments", PAYMENT + "1,1001,-1,-1,0,0,cash,\n", 2, "amount", "'-1'", "a number above 0"),
    "bad method": ("payments", PAYMENT + "1,1001,1,1,0,0,M-Pesa,\n", 2, "payment_method", "'M-Pesa'", "one of mpesa"),
    "great payment key": (
        "payments", PAYMENT + "9223372036854775807,1001,1,1,0,0,cash,\n", 2, "payment_id", "'9223372036854775807'",
        "to 9223372036854775806",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_what_is_wrong_is_told_and_nothing_is_changed(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path, case: str
) -> None:
    table, content, line, column, shown, expected = BAD[case]
    import_book(app, write(tmp_path / "good", **BOOK))
    before = state(admin)
    message = refused(app, write(tmp_path / "bad", **{table: content}))
    where = f"line {line}, column {column}" if column else f"line {line}"
    assert f"\n{table}.csv\n  {where}: found {shown}" in message
    assert expected in message
    assert "1 problem." in message
    assert "Nothing was changed" in message
    assert state(admin) == before


def test_one_bad_row_stops_all_files(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    before = state(admin)
    refused(app, write(tmp_path, **BOOK | {"payments": PAYMENTS.replace("612.50", "612.51")}))
    assert state(admin) == before


def test_problems_of_all_kinds_and_files_are_told_together(app: psycopg.Connection, tmp_path: Path) -> None:
    message = refused(
        app,
        write(
            tmp_path,
            customers="customer_id,full_name,segment,date_of_birth\n1,A,private,never\n2,B,retail,\n",
            loans=LOAN + "1,1,901,1,1,1,,,\n2,3,901,1,1,1,,,\n",
            payments=PAYMENT + "1,1,2,1,x,0,cash,\n2,2,1,1,0,0,coins,\n",
        ),
    )
    lines = [line.strip() for line in message.splitlines() if "found" in line or line.endswith(".csv")]
    assert lines == [
        "customers.csv",
        "line 2, column date_of_birth: found 'never'",
        "line 2, column segment: found 'private'",
        "loans.csv",
        "line 2, column product_id: found '901'",
        "line 3, column customer_id: found '3'",
        "line 3, column product_id: found '901'",
        "payments.csv",
        # Not also a wrong sum, which nobody can know yet.
        "line 2, column interest_portion: found 'x'",
        "line 3, column payment_method: found 'coins'",
    ]


def test_a_row_that_cannot_be_read_does_not_spoil_what_refers_to_it(app: psycopg.Connection, tmp_path: Path) -> None:
    loans = LOANS.replace("1001,", "1001,,")
    message = refused(app, write(tmp_path, **BOOK | {"loans": loans}))
    assert "1 problem." in message
    loans = LOANS.replace("loan_id,", "id,")
    message = refused(app, write(tmp_path, **BOOK | {"loans": loans}))
    assert "at least 2 problems." in message
    assert "column id" in message
    assert "payments.csv" not in message


def test_references_are_to_the_file_or_the_database(app: psycopg.Connection, tmp_path: Path) -> None:
    import_book(app, write(tmp_path, **BOOK))
    # 101 is in the database alone, 104 in the file alone.
    customers = "customer_id,full_name\n104,Dan\n"
    loans = LOAN + "1003,101,901,1,1,1,,,\n1004,104,901,1,1,1,,,\n"
    some = write(tmp_path / "some", customers=customers, loans=loans)
    assert import_book(app, some).tables["loans"].inserted == 2
    # With a sync only what is in the files will be there.
    write(some, loan_products=PRODUCTS, payments=HEADERS["payments"])
    message = refused(app, some, sync=True)
    assert "line 2, column customer_id: found '101'" in message
    assert "a customer_id that is in customers.csv\n" in message + "\n"
    assert "1 problem." in message


def test_rules_look_at_the_row_as_it_will_be(app: psycopg.Connection, tmp_path: Path) -> None:
    import_book(app, write(tmp_path, **BOOK))
    # The penalty of 12.50 is in the database alone.
    header = "payment_id,loan_id,amount,principal_portion,interest_portion,payment_method\n"
    message = refused(app, write(tmp_path / "a", payments=header + "5002,1001,600,500,100,cash\n"))
    assert "(found 500.00+100.00+12.50=612.50, amount 600.00)" in message
    assert import_book(app, write(tmp_path / "b", payments=header + "5002,1001,622.5,510,100,cash\n")).tables[
        "payments"
    ] == Counts(0, 1, 0, 0)


@pytest.mark.parametrize("bad", ["0", "none"])
def test_no_more_than_twenty_problems_are_told(app: psycopg.Connection, tmp_path: Path, bad: str) -> None:
    import_book(app, write(tmp_path, **BOOK))
    lines = [f"{number},101,901,{bad},1,1,,,\n" for number in range(1, 24)]
    message = refused(app, write(tmp_path / "bad", loans=LOAN + "".join(lines[:20])))
    assert message.startswith("The import was refused: 20 problems.")
    assert "more" not in message.splitlines()[-1]
    more = write(tmp_path / "bad", loans=LOAN + "".join(lines), payments=PAYMENT + "1,,1,1,0,0,cash,\n")
    message = refused(app, more)
    assert message.startswith("The import was refused: 24 problems.")
    assert message.count("found") == 20
    assert "line 21, column amount" in message
    assert message.endswith("\n\nand 4 more")


def test_a_constraint_that_the_import_does_not_know_refuses_too(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path
) -> None:
    admin.execute("alter table operational.loans add constraint no_long_loans check (tenure_months < 12)")
    try:
        before = state(admin)
        message = refused(app, write(tmp_path, **BOOK))
        assert "refused by the database" in message
        assert "no_long_loans" in message
        assert state(admin) == before
    finally:
        admin.execute("alter table operational.loans drop constraint no_long_loans")


def test_a_role_that_may_not_write(empty_book: Oltp, tmp_path: Path) -> None:
    with psycopg.connect(empty_book.superuser_conninfo, autocommit=True) as conn:
        conn.execute("set role readonly_user")
        assert "permission denied" in refused(conn, write(tmp_path, **BOOK))


# -- other writers --------------------------------------------------------------------------------------------------


def test_the_import_gives_up_when_others_do_not_finish(
    empty_book: Oltp,
    app: psycopg.Connection,
    admin: psycopg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importer, "LOCK_PATIENCE_SECONDS", 0.5)
    with psycopg.connect(empty_book.app_conninfo) as other:
        other.execute("insert into operational.customers (full_name) values ('open')")
        before = state(admin)
        message = refused(app, write(tmp_path, **BOOK))
        assert "customers" in message
        assert "Nothing was changed" in message
        assert state(admin) == before
        # Values that cannot be read are told without waiting.
        assert "column is_active" in refused(app, write(tmp_path, customers=CUSTOMERS.replace("true", "x")))


def test_a_writer_is_waited_for_and_never_deadlocked(empty_book: Oltp, app: psycopg.Connection, tmp_path: Path) -> None:
    """The other takes its locks in the opposite order, while the import is already waiting."""
    import_book(app, write(tmp_path, **BOOK))
    write(tmp_path, payments=PAYMENTS.replace("on time", "in time"))
    outcome: list[object] = []
    with psycopg.connect(empty_book.app_conninfo) as other:
        other.execute("select from operational.payments where payment_id = 5001 for update")
        other.execute("update operational.loans set branch_code = 'MSA' where loan_id = 1001")
        importing = threading.Thread(target=lambda: outcome.append(import_book(app, tmp_path)))
        importing.start()
        time.sleep(1.0)
        other.execute("insert into operational.customers (full_name) values ('new')")
        other.execute("update operational.payments set notes = 'changed' where payment_id = 5001")
        other.commit()
        importing.join(timeout=60)
    assert len(outcome) == 1
    # What the other committed is what the import compared with.
    assert outcome[0].tables["payments"] == Counts(0, 1, 0, 1)  # type: ignore[attr-defined]


def test_readers_are_not_held_up(
    empty_book: Oltp, app: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = importer._Import._write
    seen: list[Any] = []

    def write_and_read(self: Any, deletions: dict[str, int]) -> dict[str, Counts]:
        counts = original(self, deletions)
        with psycopg.connect(empty_book.app_conninfo, options="-c statement_timeout=5s") as reader:
            seen.append(value(reader, "select count(*) from operational.customers"))
        return counts

    monkeypatch.setattr(importer._Import, "_write", write_and_read)
    import_book(app, write(tmp_path, **BOOK))
    assert seen == [0]


# -- the schema -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.name))
def test_the_import_knows_the_tables_as_they_are(admin: psycopg.Connection, table: Table) -> None:
    found = admin.execute(
        """
        select
            att.attname,
            format_type(att.atttypid, att.atttypmod),
            not att.attnotnull,
            att.atthasdef,
            exists (
                select from pg_index as idx
                where idx.indrelid = att.attrelid and idx.indisunique and not idx.indisprimary
                    and idx.indkey::text = att.attnum::text
            ),
            (
                select con.confrelid::regclass::text from pg_constraint as con
                where con.contype = 'f' and con.conrelid = att.attrelid and con.conkey = array[att.attnum]
            )
        from pg_attribute as att
        where att.attrelid = %s::regclass and att.attnum > 0 and not att.attisdropped and att.attname <> 'updated_at'
        order by att.attnum
        """,
        [f"operational.{table.name}"],
    ).fetchall()
    kinds = {"timestamptz": "timestamp with time zone"}
    assert found == [
        (
            column.name,
            kinds.get(column.kind, column.kind.replace(", ", ",")),
            column.nullable,
            column.has_default,
            column.unique,
            f"operational.{column.references}" if column.references else None,
        )
        for column in table.columns
    ]
    # What is out of bounds is refused when it is read, everything else that is checked is a rule.
    checks = admin.execute(
        "select count(*) from pg_constraint where contype = 'c' and conrelid = %s::regclass and conname !~ '_bounds$'",
        [f"operational.{table.name}"],
    ).fetchone()
    assert checks == (len(table.rules),)
