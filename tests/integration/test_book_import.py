"""The import of a lender's book, against a primary with the operational schema."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from eds.base.errors import UserError
from eds.book.csv_import import importer, writing
from eds.book.csv_import.importer import import_book
from eds.book.csv_import.job import Counts
from eds.book.csv_import.schema import TABLES, Table
from eds.book.demo import fill
from eds.book.simulate import customers_at_risk

Pair = tuple[str, str]


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
    """Write <name>.csv for each of `files`, and return the directory."""
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / f"{name}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def value(conn: psycopg.Connection, query: str) -> Any:
    row = conn.execute(query).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


def state(conn: psycopg.Connection) -> list[Any]:
    """Return all rows of the tables, and how long the audit trail is."""
    digest = "select md5(string_agg(whole::text, '' order by {})) from operational.{} as whole"
    digests = [value(conn, digest.format(", ".join(key.name for key in table.keys), table.name)) for table in TABLES]
    return [*digests, value(conn, "select count(*) from operational.audit_log")]


def refused(app: psycopg.Connection, directory: Path, **options: Any) -> str:
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
    assert "segment: 2 rows, first line 6, found 'wrong', 'worse'" in message


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


def test_the_application_continues_with_free_keys(app: psycopg.Connection, tmp_path: Path) -> None:
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
    assert [name for name, _ in rows] == ["payments", "payments", "loans", "loan_products", "customers", "customers"]
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


# -- what the files hold, and nothing else ---------------------------------------------------------------------------


@pytest.fixture
def demo(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> psycopg.Connection:
    """Provide a book that is marked as a demo's."""
    full = CUSTOMERS.replace("101,Amina", "3,Amina").replace("102,Brian", "4,Brian")
    loans = LOANS.replace("1001,101,", "1,3,").replace("1002,102,", "4,4,")
    payments = PAYMENTS.replace(",1001,", ",1,")
    import_book(app, write(tmp_path / "demo", **BOOK | {"customers": full, "loans": loans, "payments": payments}))
    admin.execute("insert into operational.demo_book (payment_count, seed) values (2, 42)")
    return app


OWN = {
    "customers": "customer_id,full_name\n3,Asha Real\n4,Ben Real\n9,Chui Real Ltd\n",
    "loan_products": HEADERS["loan_products"] + "1,Own Loan,personal,100.00,900000.00,1,60\n",
    "loans": (
        "loan_id,customer_id,product_id,amount,interest_rate,tenure_months,status\n"
        "1,3,1,1000.00,12,12,active\n4,4,1,2000.00,12,12,active\n9,9,1,3000.00,12,12,active\n"
    ),
    "payments": (
        "payment_id,loan_id,amount,principal_portion,interest_portion,penalty_portion,payment_method,payment_date\n"
        "1,1,100.00,90.00,10.00,0.00,cash,2025-01-05\n"
    ),
}
"""A lender's files with keys that a demo book has too, and few columns."""

INVENTED = "Amina|Brian|Chlo|example.com|N10|Nairobi|Mombasa|1980|2024-02|2023|corporate|sme"
"""What of the demo book must be found nowhere afterwards."""


def everything(conn: psycopg.Connection) -> str:
    """Return all rows as one text."""
    names = [table.name for table in TABLES]
    texts = [f"select string_agg(t::text, '; ') from operational.{name} as t" for name in names]
    return "\n".join(value(conn, text) or "" for text in texts)


@pytest.mark.parametrize("sync", [False, True])
def test_a_demo_book_is_not_mixed_with_a_lenders(
    demo: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path, sync: bool
) -> None:
    before = state(admin)
    message = refused(demo, write(tmp_path / "own", **OWN), sync=sync)
    assert "holds the demo book" in message
    assert "3 customers, 2 loans and 2 payments" in message
    assert "REPLACE_DEMO=1 deletes all of these first" in message
    assert state(admin) == before


@pytest.mark.parametrize("sync", [False, True])
def test_a_demo_book_is_replaced(
    demo: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path, sync: bool
) -> None:
    summary = import_book(demo, write(tmp_path / "own", **OWN), sync=sync, replace_demo=True)
    assert summary.tables["customers"] == Counts(3, 0, 3, 0)
    assert summary.tables["payments"] == Counts(1, 0, 2, 0)
    assert "3 customers, 2 loans and 2 payments are deleted" in summary.remarks[0]
    found = everything(admin)
    assert re.findall(INVENTED, found) == []
    assert value(admin, "select count(*) from operational.customers where email is null") == 3
    assert value(admin, "select array_agg(outstanding_balance) from operational.loans") == [0, 0, 0]
    # The catalogue is no part of the demo; only a sync has no other products than the files.
    assert ("School Loan" in found) is not sync
    # The book is the lender's now.
    again = import_book(demo, tmp_path / "own", sync=sync, replace_demo=True)
    assert again.tables["customers"] == Counts(0, 0, 0, 3)
    assert "REPLACE_DEMO=1 had no effect: the database holds no demo book" in again.remarks


def test_a_file_may_not_refer_to_the_demos_rows(
    demo: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path
) -> None:
    before = state(admin)
    loans = "loan_id,customer_id,product_id,amount,interest_rate,tenure_months\n7,3,901,1,1,1\n"
    message = refused(demo, write(tmp_path / "own", loans=loans), replace_demo=True)
    assert "customer_id: line 2, found '3'\n      expected a customer_id that is in customers.csv" in message
    assert "1 problem." in message
    assert state(admin) == before


def test_a_book_whose_demo_was_deleted_by_hand_is_empty(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path
) -> None:
    admin.execute("insert into operational.demo_book (payment_count, seed) values (2, 42)")
    assert import_book(app, write(tmp_path, **OWN)).tables["loans"].inserted == 3


def test_only_the_generator_marks_a_book_as_a_demo(app: psycopg.Connection) -> None:
    for statement in (
        "insert into operational.demo_book (payment_count, seed) values (1, 1)",
        "delete from operational.demo_book",
        "update operational.demo_book set filled_at = now()",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(statement)


def test_the_generator_marks_its_book(
    empty_book: Oltp, admin: psycopg.Connection, app: psycopg.Connection, tmp_path: Path
) -> None:
    with psycopg.connect(empty_book.superuser_conninfo) as conn:
        fill.fill(conn, fill.Scale.parse("600"), seed=7)
    assert value(admin, "select payment_count, seed, replaced_at from operational.demo_book") == (600, 7, None)
    assert "600 payments" in refused(app, write(tmp_path, **OWN))


def test_a_sync_leaves_nothing_that_the_files_do_not_hold(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path
) -> None:
    import_book(app, write(tmp_path / "full", **BOOK), sync=True)
    created = value(admin, "select created_at from operational.customers where customer_id = 102")
    few = {
        "customers": "customer_id,full_name,segment\n101,Amina Otieno,\n102,Brian Mwangi,sme\n103,Chloé W.,retail\n",
        "loan_products": PRODUCTS,
        "loans": LOANS.replace(",disbursed_at,maturity_date,outstanding_balance", "")
        .replace(",2023-02-01,2024-02-01,9000", "")
        .replace("pending,,,", "pending"),
        "payments": PAYMENTS.replace(",notes", "")
        .replace(',"first, on time"', "")
        .replace("2023-04-03,", "2023-04-03"),
    }
    summary = import_book(app, write(tmp_path / "few", **few), sync=True)
    assert summary.tables["customers"].updated == 3
    assert admin.execute(
        "select distinct email, phone, national_id, date_of_birth, city, country, is_active from operational.customers"
    ).fetchall() == [(None, None, None, None, None, "Kenya", True)]
    assert value(admin, "select array_agg(segment order by customer_id) from operational.customers") == [
        "retail",
        "sme",
        "retail",
    ]
    assert value(
        admin, "select disbursed_at, maturity_date, outstanding_balance from operational.loans where loan_id = 1001"
    ) == (None, None, 0)
    assert value(admin, "select count(notes) from operational.payments") == 0
    # When a row was recorded first is no figure of the book, and is never changed.
    assert value(admin, "select created_at from operational.customers where customer_id = 102") == created
    assert "customers: email was emptied in 2 rows, as customers.csv has none" in summary.remarks
    assert "loans: outstanding_balance is 0 in 2 rows, the default, as loans.csv has none" in summary.remarks
    before = state(admin)
    assert import_book(app, tmp_path / "few", sync=True).tables["customers"] == Counts(0, 0, 0, 3)
    assert state(admin) == before


def test_a_sync_needs_a_day_for_each_payment(app: psycopg.Connection, tmp_path: Path) -> None:
    none = PAYMENTS.replace(",2023-04-03,", ",,")
    message = refused(app, write(tmp_path, **BOOK | {"payments": none}), sync=True)
    assert "payment_date: line 3, found nothing" in message
    summary = import_book(app, tmp_path)
    assert (
        "payments: payment_date is the time of the import in 1 row, the default, as payments.csv has none"
    ) in summary.remarks


def test_columns_that_were_kept_are_listed(app: psycopg.Connection, tmp_path: Path) -> None:
    import_book(app, write(tmp_path, **BOOK))
    summary = import_book(app, write(tmp_path / "few", customers="customer_id,full_name\n101,A\n102,B\n109,C\n"))
    assert summary.remarks == [
        "customers: country is 'Kenya' in 1 row, the default, as customers.csv has none",
        "customers: segment is 'retail' in 1 row, the default, as customers.csv has none",
        "customers: is_active is true in 1 row, the default, as customers.csv has none",
        "customers: columns kept as they were in 2 rows, as customers.csv has none: email, phone, national_id, "
        "date_of_birth, city, country, segment, is_active",
    ]


@pytest.mark.parametrize(
    ("zone", "options", "is_told"),
    [
        ("UTC", {}, False),
        # Midnight in UTC is in the night of the same day there, and on the evening before here.
        ("Africa/Nairobi", {}, False),
        ("America/Lima", {}, True),
        ("America/Lima", {"timezone": "America/Lima"}, False),
    ],
)
def test_days_that_are_others_in_the_zone_of_the_figures_are_remarked_on(
    app: psycopg.Connection, tmp_path: Path, zone: str, options: dict[str, str], is_told: bool
) -> None:
    header, line, *_ = PAYMENTS.splitlines()
    payments = f"{header}\n{line.replace('T10:00:00+03:00', '')}\n"
    directory = write(tmp_path, **BOOK | {"payments": payments})
    summary = import_book(app, directory, dry_run=True, business_timezone=zone, options=options)
    assert (
        "payments: payment_date was read as UTC, and in 1 row that is another day in America/Lima, by which the "
        "figures go (BUSINESS_TIMEZONE); where it is of that zone: TIMEZONE=America/Lima" in summary.remarks
    ) is is_told


def test_values_that_are_rarely_meant_are_remarked_on(app: psycopg.Connection, tmp_path: Path) -> None:
    book = {
        "customers": "customer_id,full_name,email,city,date_of_birth\n"
        "1,JosÃ©,NULL,-,2080-01-01\n2,Émile,,-,1445-09-10\n3,C,,,1980-01-01\n",
        "loan_products": PRODUCTS,
        "loans": "loan_id,customer_id,product_id,amount,interest_rate,tenure_months,branch_code\n"
        "1,1,901,€5,14.5,1,NBO\n2,1,901,5,0.145,1,NBO \n3,1,901,5,0,1,nbo\n4,1,901,5,0,1,MSA\n",
    }
    line = PAYMENTS.splitlines()[1].replace("1001", "1")
    number = line.partition(",")[0]
    book["payments"] = "\n".join([PAYMENTS.splitlines()[0], line, line.replace(number, "77", 1)]) + "\n"
    summary = import_book(app, write(tmp_path, **book), dry_run=True, shown_currency="KES")
    assert [remark for remark in summary.remarks if "default" not in remark] == [
        "customers: full_name is garbled in 1 row, first line 2: 'JosÃ©' stands for 'José', "
        "which was UTF-8 and was read as Windows-1252 before it got into the file",
        "customers: email is the text 'NULL' in 1 row, first line 2; where that stands for no value: EMPTY=NULL",
        "customers: city is the text '-' in 2 rows, first line 2; where that stands for no value: EMPTY=-",
        "customers: date_of_birth is before 1900 in 1 row, first line 3, the earliest is 1445-09-10",
        "customers: date_of_birth is in the future in 1 row, first line 2, the last is 2080-01-01",
        "loans: interest_rate is below 1 in 1 row; it is in percent a year, 0.15 means 0.15 %",
        "loans: branch_code has 'NBO' and 'NBO ' and 'nbo', which count as different; "
        "a mapping file (values) makes them one",
        "payments: in 1 row, first line 3, all but payment_id is as in an earlier row",
        "amounts are in €, and the dashboards show KES; where that is another currency: CURRENCY=EUR in .env",
        "loans: the dashboards show MSA, NBO, nbo by code and without a region: add them to seeds/branches.csv",
    ]


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        ("written_off,2025-01-31,2025-06-30,90,", "status is written_off without written_off_on"),
        ("written_off,2025-01-31,2025-06-30,90,2025-09-01", None),
        ("active,,2025-06-30,90,", "status is not pending and disbursed_at is missing"),
        ("pending,,2025-06-30,0,", None),
        ("active,2025-07-31,2025-06-30,90,", "maturity_date is before disbursed_at"),
        ("active,2025-06-30,2025-06-30,90,", None),
        ("active,2025-01-31,,-0.01,", "outstanding_balance is below 0"),
    ],
)
def test_loans_that_are_rarely_meant_are_remarked_on(
    app: psycopg.Connection, tmp_path: Path, values: str, remark: str | None
) -> None:
    header = (
        "loan_id,customer_id,product_id,amount,interest_rate,tenure_months,"
        "status,disbursed_at,maturity_date,outstanding_balance,written_off_on"
    )
    loans = f"{header}\n1,101,901,100,14.5,6,active,2025-01-31,2025-07-31,90,\n2,101,901,100,14.5,6,{values}\n"
    book = {"customers": CUSTOMERS, "loan_products": PRODUCTS, "loans": loans}
    summary = import_book(app, write(tmp_path, **book), dry_run=True)
    found = [each for each in summary.remarks if "first line" in each]
    assert len(found) == (remark is not None)
    if remark:
        assert found[0].startswith(f"loans: {remark} in 1 row, first line 3")


@pytest.mark.parametrize("sync", [False, True])
def test_a_dry_run_counts_and_writes_nothing(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path, sync: bool
) -> None:
    import_book(app, write(tmp_path, **BOOK))
    before = state(admin)
    next_key = "select last_value from operational.customers_customer_id_seq"
    last_key = value(admin, next_key)
    changed = CUSTOMERS.replace("Mombasa", "Kisumu").replace("103,", "5000,")
    write(tmp_path, customers=changed)
    would = import_book(app, tmp_path, sync=sync, dry_run=True)
    assert (state(admin), value(admin, next_key)) == (before, last_key)
    assert "Dry run" in str(would.table().title)
    assert "segment: line 2, found 'x'" in refused(
        app, write(tmp_path / "bad", customers="customer_id,full_name,segment\n1,A,x\n"), dry_run=True
    )
    assert import_book(app, tmp_path, sync=sync).tables == would.tables
    assert would.tables["customers"] == Counts(1, 1, int(sync), 1)


def test_a_dry_run_can_be_made_beside_a_demo_book(
    demo: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path
) -> None:
    before = state(admin)
    summary = import_book(demo, write(tmp_path / "own", **OWN), sync=True, dry_run=True)
    assert state(admin) == before
    assert summary.tables["customers"] == Counts(3, 0, 3, 0)
    assert summary.remarks[0].endswith("are deleted; an import needs REPLACE_DEMO=1")


# -- what spreadsheets and core-banking systems write ----------------------------------------------------------------

EUROPE = {
    "customers": (
        "Customer ID;Full Name;E-Mail;Phone;National ID;Date of Birth;City;Country;Segment;"
        "Is Active;Created At;Remarks\r\n"
        "101;Amina Otieno;amina@example.com;+254700000101;N101;29.02.1980;Nairobi;Kenya;Retail;"
        "Yes;02.01.2023 03:04:05;\r\n"
        "102;Brian Mwangi;brian@example.com;;N102;;Mombasa;Kenya;SME;inactive;03.01.2023 00:00;late\r\n"
        '103;"Chloé Wanjiku";;;;;;Uganda;CORPORATE;Active;04.01.2023 07:00;;;\r\n'
        ";;;;;;;;;;;\r\n"
    ),
    "loan_products": (
        "product id;product name;product type;min amount;max amount;min tenure months;max tenure months\r\n"
        "901;Shop Loan;Business;1.000,00;500.000,00 €;3;36\r\n902;School Loan;Education;0,00;80 000,00;1;12,0\r\n"
    ),
    "loans": (
        "LoanID;CustomerID;ProductID;Amount;InterestRate;TenureMonths;Status;DisbursedAt;MaturityDate;OutstandingBalance\r\n"
        "1001;101;901;10.000,00;14,5%;12;Active;01.02.2023;1. Feb 2024;9\u00a0000,00\r\n"
        "1002;102;902;5.000,00;12,3456 %;6;PENDING;;;0,00\r\n"
    ),
    "payments": (
        "Payment ID;Loan ID;Amount;Principal Portion;Interest Portion;Penalty Portion;Payment Method;"
        "Payment Date;Notes\r\n"
        '5001;1001;600,00;500,00;100,00;0,00;M-Pesa;01.03.2023 07:00;"first, on time"\r\n'
        "5002;1001;612,50;500,00;100,00;12,50;Cash;03.04.2023;\r\n"
    ),
}
AMERICA = {
    "customers": CUSTOMERS.replace("ũ", "u")
    .replace("1980-02-29", "2/29/1980")
    .replace("2023-01-02T03:04:05Z", "1/2/2023 3:04:05 AM")
    .replace("2023-01-03", "1/3/2023 12:00:00 AM")
    .replace("2023-01-04 10:00:00+03", "1/4/2023 10:00 AM +03:00"),
    "loan_products": PRODUCTS.replace("1000,500000.00", '"$1,000.00","$500,000.00"').replace(
        "0,80000", '0,"$80,000.00"'
    ),
    "loans": LOANS.replace("10000.00", '"$10,000.00"')
    .replace(",5000,", ',"$5,000.00",')
    .replace("2023-02-01,2024-02-01,9000", '"Feb 1, 2023",02/01/2024,"9,000.00"'),
    "payments": PAYMENTS.replace("2023-03-01T10:00:00+03:00", "3/1/2023 7:00:00 AM").replace("2023-04-03", "4/3/2023"),
}


@pytest.mark.parametrize(
    ("files", "encoding", "options"),
    [
        (EUROPE, "cp1252", {"dates": "dmy", "decimal": "comma"}),
        (EUROPE, "cp1252", {"format": "excel-eu"}),
        (EUROPE, "cp1252", {}),
        (EUROPE, "utf-8-sig", {}),
        ({name: text.replace(";", "\t") for name, text in EUROPE.items()}, "utf-16", {}),
        ({name: text.replace(";", "|") for name, text in EUROPE.items()}, "utf-16-le", {"encoding": "utf-16-le"}),
        ({name: "sep=;\r\n" + text for name, text in EUROPE.items()}, "utf-8", {}),
        ({name: "Book of 2023\r\n\r\n" + text for name, text in EUROPE.items()}, "utf-8", {"header_line": "3"}),
        (AMERICA, "utf-8", {"format": "excel-us"}),
        (AMERICA, "utf-8", {"dates": "mdy"}),
    ],
    ids=["options", "format", "Windows-1252", "UTF-8", "UTF-16 tabs", "bars", "sep=", "title", "us", "month first"],
)
def test_a_book_is_the_same_in_every_dialect(
    app: psycopg.Connection,
    admin: psycopg.Connection,
    tmp_path: Path,
    files: dict[str, str],
    encoding: str,
    options: dict[str, str],
) -> None:
    import_book(app, write(tmp_path / "plain", **BOOK | {"customers": CUSTOMERS.replace("ũ", "u")}))
    before = state(admin)
    encoded = {name: text.encode(encoding) for name, text in files.items()}
    summary = import_book(app, write(tmp_path / "other", **encoded), options=options)
    assert {name: counts.unchanged for name, counts in summary.tables.items()} == {
        "customers": 3, "loan_products": 2, "loans": 2, "payments": 2,
    }  # fmt: skip
    assert state(admin) == before


def test_how_a_file_was_read_is_printed(
    app: psycopg.Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_book(app, write(tmp_path, **{name: text.encode("cp1252") for name, text in EUROPE.items()}))
    shown = " ".join(capsys.readouterr().err.split())
    assert "read: customers.csv, 3 rows; separated by semicolons; Windows-1252 (line 4 reads 'Chloé" in shown
    assert "day first (line 2 has '29.02.1980')" in shown
    assert "segment: 'Retail' as retail (1), 'SME' as sme (1), 'CORPORATE' as corporate (1)" in shown
    assert "columns not read: Remarks" in shown
    assert "decimal comma (line 2 has '1.000,00'); amounts in €" in shown
    assert "ok: Reading" not in shown


def test_a_file_that_is_refused_is_not_ok(
    app: psycopg.Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(app, write(tmp_path, **BOOK | {"customers": CUSTOMERS.replace("1980-02-29", "never")}))
    shown = capsys.readouterr().err
    assert "not ok: customers.csv, 1 problem" in shown
    assert "ok: Reading" not in shown


MAPPING = """\
format: {dates: mdy, decimal: point}
tables:
  customers:
    file: statement.csv
    distinct: true
    ignore: ["*"]
    columns:
      customer_id: {column: Borrower, number: hash, also: [Country]}
      full_name: {column: Borrower, empty: no borrower named}
      country: Country
      segment: {value: corporate}
  loans:
    file: statement.csv
    ignore: ["*"]
    columns:
      loan_id: {column: Loan Number, number: code}
      customer_id: {column: Borrower, number: hash, also: [Country]}
      product_id: {value: "901"}
      amount: Principal
      interest_rate: {column: Rate, empty: "0"}
      tenure_months: {value: "240"}
      status: {column: State, values: {Fully Repaid: repaid, Repaying: active}, other: pending}
      disbursed_at: Effective Date (Most Recent)
      outstanding_balance: Due
    skip: {Principal: ["0"]}
  payments:
    file: statement.csv
    ignore: ["*"]
    columns:
      payment_id: {column: Loan Number, number: code}
      loan_id: {column: Loan Number, number: code}
      amount: Repaid
      principal_portion: Repaid
      interest_portion: {value: "0"}
      payment_method: {value: bank_transfer}
      payment_date: End of Period
    skip: {Principal: ["0"], Repaid: ["0", "0.00"]}
"""
STATEMENT = """\
End of Period,Loan Number,Country,Borrower,State,Rate,Principal,Repaid,Due,Effective Date (Most Recent)
05/31/2023 12:00:00 AM,DEVB00010,Freedonia,NATIONAL CREDIT,Fully Repaid,4.25,2500000,2500000,0,06/09/1947 12:00:00 AM
05/31/2023 12:00:00 AM,DEVB0001A,Freedonia,"National  Credit",Repaying,,986984.46,38000,948984.46,09/07/1977 12:00:00 AM
05/31/2023 12:00:00 AM,DEVB0002S,Sylvania,,Approved,8.5,100000,0,0,
05/31/2023 12:00:00 AM,DEVB00030,Sylvania,,Fully Cancelled,8.5,0,0,0,
"""


def test_a_lenders_own_export_is_read_by_a_mapping_file(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path
) -> None:
    write(tmp_path, statement=STATEMENT.replace("National  Credit", "NATIONAL CREDIT"), loan_products=PRODUCTS)
    (tmp_path / "mapping.yml").write_text(MAPPING)
    summary = import_book(app, tmp_path, sync=True)
    assert {name: counts.inserted for name, counts in summary.tables.items()} == {
        "customers": 2, "loan_products": 2, "loans": 3, "payments": 2,
    }  # fmt: skip
    found = admin.execute(
        "select loan_id, full_name, country, status, interest_rate::float, amount::float, disbursed_at::date::text"
        " from operational.loans join operational.customers using (customer_id) order by loan_id"
    ).fetchall()
    assert found == [
        (int("DEVB00010", 36), "NATIONAL CREDIT", "Freedonia", "repaid", 4.25, 2500000.0, "1947-06-09"),
        (int("DEVB0001A", 36), "NATIONAL CREDIT", "Freedonia", "active", 0.0, 986984.46, "1977-09-07"),
        (int("DEVB0002S", 36), "no borrower named", "Sylvania", "pending", 8.5, 100000.0, None),
    ]
    assert value(admin, "select sum(amount)::text, min(payment_date)::date::text from operational.payments") == (
        "2538000.00",
        "2023-05-31",
    )
    assert import_book(app, tmp_path, sync=True).tables["loans"] == Counts(0, 0, 0, 3)


@pytest.mark.parametrize(
    ("loans", "payments", "number", "found"),
    [
        (("00-7", "LN-1"), ("7", "LN-1"), "code", "payments.csv\n  loan_id: line 2, found '7'"),
        (("L-1-23", "L-77"), ("L-12-3", "L-77"), "digits", "payments.csv\n  loan_id: line 2, found 'L-12-3'"),
        (("A-1", "A-2"), ("B-1", "B-2"), "digits", "payments.csv\n  loan_id: 2 rows, first line 2, found 'B-1', 'B-2'"),
        (("A-1", "A-2"), ("1", "A-2"), "digits", "payments.csv\n  loan_id: line 2, found '1'"),
        (("12-3", "77"), ("1-23", "77"), "hash", "payments.csv\n  loan_id: line 2, found '1-23'"),
        (("12-3", "1-23"), ("12-3", "1-23"), "code", "loans.csv\n  loan_id: line 3, found '1-23'"),
        (("007", "7"), ("007", "7"), "code", "loans.csv\n  loan_id: line 3, found '7'"),
        (("Müller", "x"), ("Muller", "x"), "hash", "payments.csv\n  loan_id: line 2, found 'Muller'"),
        (("LN-1", "LN-2"), ("ln-1 ", "Ln-2"), "code", None),
        (("LN-1", "LN-2"), ("ln-1 ", "Ln-2"), "digits", None),
        (("Rāmu", "x"), ("RĀMU", "X"), "hash", None),
        (("Rāmu B", "x"), ("Rāmu  B", "X"), "hash", None),
        (("1 2", "x"), ("12", "x"), "hash", "payments.csv\n  loan_id: line 2, found '12'"),
    ],
)
def test_one_number_stands_for_one_text_in_all_files(
    app: psycopg.Connection, tmp_path: Path, loans: Pair, payments: Pair, number: str, found: str | None
) -> None:
    (tmp_path / "mapping.yml").write_text(
        f"tables: {{loans: {{distinct: first, columns: {{loan_id: {{column: loan_id, number: {number}}}}}}}, "
        f"payments: {{columns: {{loan_id: {{column: loan_id, number: {number}}}}}}}}}"
    )
    book = dict(BOOK)
    for name, texts in (("loans", loans), ("payments", payments)):
        header, first, second = BOOK[name].splitlines()
        place = header.split(",").index("loan_id")
        lines = [header]
        for line, text in zip((first, second), texts, strict=True):
            fields = line.split(",")
            fields[place] = text
            lines.append(",".join(fields))
        book[name] = "\n".join(lines) + "\n"
    if found is None:
        assert import_book(app, write(tmp_path, **book)).tables["payments"].inserted == 2
        return
    message = refused(app, write(tmp_path, **book))
    assert found in message
    assert "a text with a number of its own: it becomes " in message
    assert "in line 2 of loans.csv; one loan is written in one way in all files" in message
    assert ("number: code keeps letters apart" in message) is (number == "digits")


def test_a_number_by_hand_is_no_code(app: psycopg.Connection, tmp_path: Path) -> None:
    (tmp_path / "mapping.yml").write_text("tables: {loans: {columns: {loan_id: {column: loan_id, number: code}}}}")
    # As a number of base 36, RT is 1001, to which the payments refer.
    message = refused(app, write(tmp_path, **BOOK | {"loans": LOANS.replace("1001,", "RT,")}))
    assert "payments.csv\n  loan_id: 2 rows, first line 2, found '1001'" in message
    assert "it becomes 1001, as does 'rt' in line 2 of loans.csv" in message


@pytest.mark.parametrize(
    ("loans", "payments", "mapping", "found"),
    [
        (
            ("USD", "KES"),
            None,
            "",
            "loans.csv\n  Currency: line 3, found 'KES'\n      expected one currency in the book, USD",
        ),
        (("KES", "kes"), ("Ksh", ""), "", None),
        (("KES", "KES"), ("USD", "USD"), "", "payments.csv\n  Currency: 2 rows, first line 2, found 'USD'"),
        (("KES", "KES"), ("points", ""), "", "payments.csv\n  Currency: line 2, found 'points'"),
        (("USD", "KES"), None, "ignore: [currency]", None),
        (("USD", "KES"), None, 'ignore: ["*"]', None),
    ],
)
def test_a_book_has_one_currency(
    app: psycopg.Connection, tmp_path: Path, loans: Pair, payments: Pair | None, mapping: str, found: str | None
) -> None:
    (tmp_path / "mapping.yml").write_text(f"tables: {{loans: {{{mapping}}}}}")
    book = dict(BOOK)
    for name, texts in (("loans", loans), ("payments", payments)):
        if texts is not None:
            lines = zip(BOOK[name].splitlines(), ("Currency", *texts), strict=True)
            book[name] = "".join(f"{line},{text}\n" for line, text in lines)
    if found is not None:
        assert found in refused(app, write(tmp_path, **book))
        return
    summary = import_book(app, write(tmp_path, **book), shown_currency="UGX")
    assert any("amounts are in KES" in remark for remark in summary.remarks) is not bool(mapping)


def test_times_at_a_change_of_the_clocks_are_stated(app: psycopg.Connection, tmp_path: Path) -> None:
    payments = PAYMENTS.replace("2023-03-01T10:00:00+03:00", "2024-11-03 01:30").replace(
        "2023-04-03", "2024-03-10 02:30"
    )
    summary = import_book(
        app, write(tmp_path, **BOOK | {"payments": payments}), options={"timezone": "America/New_York"}
    )
    found = [remark.split(";")[0] for remark in summary.remarks if "clocks" in remark]
    assert found == [
        "payments: 1 row, first line 2 ('2024-11-03 01:30'), with a time that the clocks of America/New_York show "
        "twice, read as the first of the two",
        "payments: 1 row, first line 3 ('2024-03-10 02:30'), with a time that the clocks of America/New_York never "
        "showed, read as if they had not changed yet",
    ]


def test_keys_below_one_are_stated(app: psycopg.Connection, tmp_path: Path) -> None:
    customers = f"{CUSTOMERS}0,Null,,,,,,,,,\n-5,Less,,,,,,,,,\n"
    remarks = import_book(app, write(tmp_path, **BOOK | {"customers": customers})).remarks
    assert "customers: customer_id is below 1 in 2 rows, first line 5, the least is -5" in remarks


def test_rows_that_count_once_are_counted(
    app: psycopg.Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = LOANS.splitlines()[1]
    book = write(tmp_path, **BOOK | {"loans": f"{LOANS}{line.replace('14.5', '15')}\n"})
    (book / "mapping.yml").write_text("tables: {loans: {distinct: first}}")
    import_book(app, book)
    assert "  1 row with the key of an earlier row left out (distinct: first)" in capsys.readouterr().err


def test_problems_show_what_the_file_has(app: psycopg.Connection, tmp_path: Path) -> None:
    """Not what the import made of it: neither a translated code nor a number in another notation."""
    import_book(app, write(tmp_path, **BOOK))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "mapping.yml").write_text(
        "tables: {payments: {columns: {payment_method: {column: Means, values: {Barter: cash}},"
        " amount: {column: Sum, values: {nothing: '0'}}}}}"
    )
    payments = (
        "Payment ID;Loan ID;Sum;Principal Portion;Interest Portion;Means\n"
        "1;1001;1.234,50;1.000,00;1,00;Barter\n2;1001;nothing;0,00;0,00;Coins\n"
    )
    message = refused(app, write(tmp_path / "bad", payments=payments))
    assert "amount (“Sum”): line 2, found '1.234,50'" in message
    assert "amount (“Sum”): line 3, found 'nothing'" in message
    assert "penalty_portion 0.00 is the default, no value of the file" in message
    assert "payment_method (“Means”): line 3, found 'Coins'" in message
    assert "'Barter'" not in message


@pytest.mark.parametrize(
    ("text", "options", "place", "hint"),
    [
        ("Clients 2025\ncustomer_id,full_name\n1,A\n", {}, "line 1", "line 2 looks like it: HEADER_LINE=2"),
        ("customer_id,full_name\n1,A\n", {"header_line": "9"}, "line 9", "fewer lines than HEADER_LINE=9 says"),
        ("customer_id,full_name\n1,A\n", {"delimiter": ";"}, "line 1", "separated otherwise: DELIMITER=comma"),
        ("customer_id\tfull_name\n1\tA\n", {"delimiter": "comma"}, "line 1", "separated otherwise: DELIMITER=tab"),
    ],
)
def test_invalid_header_is_refused_with_the_option_to_try(
    app: psycopg.Connection, tmp_path: Path, text: str, options: dict[str, str], place: str, hint: str
) -> None:
    message = refused(app, write(tmp_path, customers=text), options=options)
    assert f"  {place}, found " in message
    assert hint in message


def test_each_file_may_have_its_names_on_another_line(app: psycopg.Connection, tmp_path: Path) -> None:
    titled = BOOK | {"customers": "Client register\nas at 31 March\n" + CUSTOMERS}
    message = refused(app, write(tmp_path, **titled))
    assert "line 3 looks like it: HEADER_LINE=3, or for this file alone header_line: 3 in a mapping file" in message
    (tmp_path / "mapping.yml").write_text("tables: {customers: {header_line: 3}}")
    summary = import_book(app, tmp_path)
    assert {name: counts.inserted for name, counts in summary.tables.items()} == {
        "customers": 3, "loan_products": 2, "loans": 2, "payments": 2,
    }  # fmt: skip


def test_a_dash_for_no_value_is_refused_with_the_option_that_takes_it(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path
) -> None:
    # A spreadsheet's format for accounts shows zero as a dash, with blanks around it.
    directory = write(tmp_path, **BOOK | {"loans": LOANS.replace(",9000\n", ", -   \n")})
    assert "expected a number such as 1234.50; where - stands for no value: EMPTY=-" in refused(app, directory)
    import_book(app, directory, options={"empty": "-"})
    assert admin.execute("select outstanding_balance from operational.loans where loan_id = 1001").fetchall() == [(0,)]


def test_an_interrupted_import_says_that_nothing_was_changed(
    app: psycopg.Connection,
    admin: psycopg.Connection,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = state(admin)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_book(app, write(tmp_path, **BOOK))
    assert "The import was interrupted. Nothing was changed." in " ".join(capsys.readouterr().err.split())
    assert state(admin) == before


def test_a_file_that_cannot_be_read_is_named_without_the_systems_code(app: psycopg.Connection, tmp_path: Path) -> None:
    write(tmp_path, **BOOK)
    (tmp_path / "customers.csv").unlink()
    # A link to itself: not even root reads it.
    (tmp_path / "customers.csv").symlink_to("customers.csv")
    message = refused(app, tmp_path)
    assert "customers.csv" in message
    assert "[Errno" not in message


def test_traffic_is_known_to_be_a_risk_only_to_a_lenders_own_book(
    app: psycopg.Connection, admin: psycopg.Connection, empty_book: Oltp, tmp_path: Path
) -> None:
    def connect() -> psycopg.Connection:
        return psycopg.connect(empty_book.app_conninfo)

    assert customers_at_risk(connect) == 0
    import_book(app, write(tmp_path, **BOOK))
    assert customers_at_risk(connect) == 3
    admin.execute("insert into operational.demo_book (payment_count, seed) values (2, 42)")
    assert customers_at_risk(connect) == 0
    import_book(app, write(tmp_path, **BOOK), replace_demo=True)
    assert customers_at_risk(connect) == 3


def test_tables_without_a_file_lose_the_demos_rows(demo: psycopg.Connection, tmp_path: Path) -> None:
    summary = import_book(demo, write(tmp_path / "own", customers=OWN["customers"]), replace_demo=True)
    assert summary.tables == {
        "customers": Counts(3, 0, 3, 0), "loans": Counts(0, 0, 2, 0), "payments": Counts(0, 0, 2, 0),
    }  # fmt: skip


def test_one_borrower_in_two_spellings_is_a_problem(app: psycopg.Connection, tmp_path: Path) -> None:
    write(tmp_path, statement=STATEMENT, loan_products=PRODUCTS)
    (tmp_path / "mapping.yml").write_text(MAPPING)
    message = refused(app, tmp_path)
    assert "statement.csv (as customers)\n  customer_id (“Borrower”): line 3" in message
    assert "1 problem." in message
    (tmp_path / "mapping.yml").write_text(MAPPING.replace("distinct: true", "distinct: first"))
    assert import_book(app, tmp_path).tables["customers"].inserted == 2
    assert value(app, "select full_name from operational.customers where country = 'Freedonia'") == "NATIONAL CREDIT"


# -- repayment schedules ---------------------------------------------------------------------------------------------

INSTALLMENTS = """\
Loan ID,Installment No,Due Date,Principal Due,Interest Due
1001,1,28/02/2023,4000.00,100.00
1001,2,31/03/2023,3000.00,80.00
1001,3,30/04/2023,3000.00,
1002,1,30/06/2023,5000.00,50.00
"""


def rows_of_schedules(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select loan_id, installment_no, due_date::text, principal_due::text, interest_due::text"
        " from operational.loan_installments order by loan_id, installment_no"
    ).fetchall()


def test_instalments_are_imported_by_loan_and_number(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path
) -> None:
    summary = import_book(app, write(tmp_path, **BOOK, loan_installments=INSTALLMENTS), sync=True)
    assert summary.tables["loan_installments"] == Counts(4, 0, 0, 0)
    assert rows_of_schedules(admin)[2:] == [
        (1001, 3, "2023-04-30", "3000.00", "0.00"),
        (1002, 1, "2023-06-30", "5000.00", "50.00"),
    ]
    assert not any("loan_installments: the instalments'" in remark for remark in summary.remarks)
    assert import_book(app, tmp_path, sync=True).tables["loan_installments"] == Counts(0, 0, 0, 4)
    # A restructured loan: its new schedule is the complete one, that of the other loan stays.
    header, *_ = INSTALLMENTS.splitlines(keepends=True)
    new = write(tmp_path / "new", loan_installments=header + "1001,1,28/02/2023,4000,100\n1001,2,30/06/2023,6001,80\n")
    summary = import_book(app, new)
    assert summary.tables["loan_installments"] == Counts(0, 1, 1, 1)
    assert [row[:2] for row in rows_of_schedules(admin)] == [(1001, 1), (1001, 2), (1002, 1)]
    assert summary.remarks == ["loan_installments: the instalments' principal is not the amount of the loan in 1 loan"]
    # Without the file, a sync leaves none.
    (tmp_path / "loan_installments.csv").unlink()
    import_book(app, tmp_path, sync=True)
    assert rows_of_schedules(admin) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1001,1,28/02/2023,1,1\n1001,1,31/03/2023,1,1\n", "each installment_no of a loan_id once, but line 2 has it"),
        ("1001,0,28/02/2023,1,1\n", "a number above 0"),
        ("1001,1,,1,1\n", "due_date: line 2, found nothing"),
        ("1001,1,28/02/2023,-1,1\n", "0 or more"),
        ("999,1,28/02/2023,1,1\n", "a loan_id that is in the database"),
        (",1,28/02/2023,1,1\n", "loan_id: line 2, found nothing"),
    ],
)
def test_wrong_instalments(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path, lines: str, message: str
) -> None:
    import_book(app, write(tmp_path, **BOOK))
    header, *_ = INSTALLMENTS.splitlines(keepends=True)
    assert message in refused(app, write(tmp_path / "bad", loan_installments=header + lines))
    assert rows_of_schedules(admin) == []


def test_instalments_that_do_not_fit_are_remarked_on(app: psycopg.Connection, tmp_path: Path) -> None:
    odd = INSTALLMENTS.replace("28/02/2023", "15/01/2023").replace("30/04/2023", "31/03/2023")
    summary = import_book(app, write(tmp_path, **BOOK, loan_installments=odd))
    assert [remark for remark in summary.remarks if "instal" in remark and "due" in remark.partition(":")[2]] == [
        "loan_installments: interest_due is 0 in 1 row, the default, as loan_installments.csv has none",
        "loan_installments: a later instalment is not due later in 1 loan",
        "loan_installments: an instalment is due before the disbursement in 1 loan",
    ]


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
    assert "email: line 2, found 'brian@example.com'" in message
    assert "customer_id 102 has it, which is in the database and not in the file" in message


# -- what is refused ------------------------------------------------------------------------------------------------

CUSTOMER = "customer_id,full_name,email,national_id,date_of_birth,segment,is_active,created_at\n"
PRODUCT = HEADERS["loan_products"]
LOAN = "loan_id,customer_id,product_id,amount,interest_rate,tenure_months,status,disbursed_at,maturity_date\n"
PAYMENT = "payment_id,loan_id,amount,principal_portion,interest_portion,penalty_portion,payment_method,payment_date\n"

BAD: dict[str, tuple[str, str | bytes, int, str, str, str]] = {
    # name: table, content, then what the message says: line, column, value, part of what was expected
    "misspelt column": ("customers", "customer_id,full_name,emial\n1,A,x\n", 1, "emial", "'emial'", "did you mean em"),
    "missing column": ("customers", "customer_id,city\n1,Nairobi\n", 1, "full_name", "nothing", "it is required"),
    "doubled column": ("customers", "customer_id,full_name,city,city\n", 1, "city", "'city'", "each column once"),
    "empty file": ("customers", "", 1, "", "nothing", "a line with the names of the columns"),
    "byte order mark alone": ("customers", "\ufeff", 1, "", "nothing", "a line with the names of the columns"),
    "no header": ("customers", "1,Amina\n", 1, "", "'1,Amina'", "a line with the names of the columns"),
    "too many fields": ("customers", "customer_id,full_name\n\n1,A,B\n", 3, "", "'1,A,B'", "2 fields, as in"),
    "too few fields": ("customers", "customer_id,full_name\n1\n", 2, "", "'1'", "2 fields, as in the header, not 1"),
    "open quote": ("customers", 'customer_id,full_name\n1,A\n2,"B\n3,C\n', 3, "", "'2,\"B'", "a closing quote"),
    "stray quote": ("customers", 'customer_id,full_name\n1,A"B\n', 2, "full_name", "'A\"B'", "quotes around the whole"),
    "mixed encodings": (
        "customers", b"customer_id,full_name\n1,J\xfcrg\n2,J\xc3\xbcrg\n", 2, "full_name", r"'J\xfcrg'", "UTF-8 text"
    ),
    "Cyrillic": (
        "customers", "customer_id,full_name\n1,Иван\n".encode("cp1251"), 2, "full_name", r"'\xc8\xe2", "ENCODING="
    ),
    "NUL": ("customers", b"customer_id,full_name\n1,A\0B\n", 2, "full_name", r"'A\x00B'", "without NUL"),
    "no key": ("customers", "customer_id,full_name\n,A\n", 2, "customer_id", "nothing", "it may not be empty"),
    "bad key": ("customers", "customer_id,full_name\nA1,A\n", 2, "customer_id", "'A1'", "a whole number"),
    "great key": ("customers", "customer_id,full_name\n3000000000,A\n", 2, "customer_id", "'3000000000'", "2147483646"),
    "no name": ("customers", "customer_id,full_name\n1,\n", 2, "full_name", "nothing", "it may not be empty"),
    "empty name": ("customers", 'customer_id,full_name\n1,""\n', 2, "full_name", "''", "a text that is not empty"),
    "ambiguous date": ("customers", CUSTOMER + "1,A,,,03/04/1980,,,\n", 2, "date_of_birth", "'03/04/1980'", "DATES="),
    "no such date": (
        "customers", CUSTOMER + "1,A,,,1981-02-29,,,\n", 2, "date_of_birth", "'1981-02-29'",
        "a date that exists: February 1981 has 28 days, not 29",
    ),
    "short year": ("customers", CUSTOMER + "1,A,,,29-Feb-80,,,\n", 2, "date_of_birth", "'29-Feb-80'", "CENTURY=1930"),
    "day number": ("customers", CUSTOMER + "1,A,,,29281,,,\n", 2, "date_of_birth", "'29281'", "a spreadsheet's number"),
    "endless date": ("customers", CUSTOMER + "1,A,,,infinity,,,\n", 2, "date_of_birth", "'infinity'", "YYYY-MM-DD"),
    "bad segment": ("customers", CUSTOMER + "1,A,,,,privat,,\n", 2, "segment", "'privat'", "one of retail, sme"),
    "bad flag": ("customers", CUSTOMER + "1,A,,,,,maybe,\n", 2, "is_active", "'maybe'", "true or false"),
    "bad time": ("customers", CUSTOMER + "1,A,,,,,,noon\n", 2, "created_at", "'noon'", "a time"),
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
    "thousands": ("loans", LOAN + '1,101,901,"1,000",1,1,,,\n', 2, "amount", "'1,000'", "1000 or 1.000; no other"),
    "three decimals": ("loans", LOAN + "1,101,901,1.005,1,1,,,\n", 2, "amount", "'1.005'", "DECIMAL=point or DECIMAL="),
    "decimals": ("loans", LOAN + "1,101,901,1.0050,1.5,1,,,\n", 2, "amount", "'1.0050'", "at most 2 decimals"),
    "shortened": ("loans", LOAN + "1,101,901,1.5E+06,1,1,,,\n", 2, "amount", "'1.5E+06'", "a spreadsheet has"),
    "shortened identity": (
        "customers", "customer_id,full_name,national_id\n1,A,2.34E+07\n", 2, "national_id", "'2.34E+07'",
        "a spreadsheet has",
    ),
    "shortened telephone": (
        "customers", "customer_id,full_name,phone\n1,A,\"2,54712E+11\"\n", 2, "phone", "'2,54712E+11'",
        "a spreadsheet has",
    ),
    "error for a telephone": (
        "customers", "customer_id,full_name,phone\n1,A,####\n", 2, "phone", "'####'", "a spreadsheet has"
    ),
    "two currencies": (
        "loans", LOAN + "1,101,901,KES 5,1,1,,,\n2,101,901,USD 5,1,1,,,\n", 3, "amount", "'USD 5'", "one currency"
    ),
    "great amount": ("loans", LOAN + "1,101,901,1000000000000,1,1,,,\n", 2, "amount", "'1000000000000'", "from -9"),
    "negative rate": ("loans", LOAN + "1,101,901,1,-0.5,1,,,\n", 2, "interest_rate", "'-0.5'", "0 or more"),
    "great rate": ("loans", LOAN + "1,101,901,1,1000,1,,,\n", 2, "interest_rate", "'1000'", "999.9999"),
    "fine rate": ("loans", LOAN + "1,101,901,1,1.00001,1,,,\n", 2, "interest_rate", "'1.00001'", "at most 4 decimals"),
    "half a month": ("loans", LOAN + "1,101,901,1,1,1.5,,,\n", 2, "tenure_months", "'1.5'", "a whole number"),
    "no months": ("loans", LOAN + "1,101,901,1,1,0,,,\n", 2, "tenure_months", "'0'", "a number above 0"),
    "bad status": ("loans", LOAN + "1,101,901,1,1,1,open,,\n", 2, "status", "'open'", "one of pending, active, repaid"),
    "bad hour": ("loans", LOAN + "1,101,901,1,1,1,,2024-01-01 25:00,\n", 2, "disbursed_at", "'2024-01-01 25:00'", "a "),
    "bad maturity": ("loans", LOAN + "1,101,901,1,1,1,,,2024-1\n", 2, "maturity_date", "'2024-1'", "YYYY-MM-DD"),
    "unknown customer": ("loans", LOAN + "1,999,901,1,1,1,,,\n", 2, "customer_id", "'999'", "that is in the database"),
    "unknown product": ("loans", LOAN + "1,101,999,1,1,1,,,\n", 2, "product_id", "'999'", "that is in the database"),
    "unknown loan": ("payments", PAYMENT + "1,99,1,1,0,0,cash,\n", 2, "loan_id", "'99'", "a loan_id that is"),
    "portions": (
        "payments", PAYMENT + "1,1001,12,10,1,0,cash,\n", 2, "amount", "'12'",
        "principal + interest + penalty must equal amount (found 10.00+1.00+0.00=11.00, amount 12.00)",
    ),
    "negative payment": ("payments", PAYMENT + "1,1001,-1,-1,0,0,cash,\n", 2, "amount", "'-1'", "a number above 0"),
    "bad method": ("payments", PAYMENT + "1,1001,1,1,0,0,coins,\n", 2, "payment_method", "'coins'", "one of mpesa"),
    "great payment key": (
        "payments", PAYMENT + "9223372036854775807,1001,1,1,0,0,cash,\n", 2, "payment_id", "'9223372036854775807'",
        "to 9223372036854775806",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_what_is_wrong_is_listed_and_nothing_is_changed(
    app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path, case: str
) -> None:
    table, content, line, column, shown, expected = BAD[case]
    import_book(app, write(tmp_path / "good", **BOOK))
    before = state(admin)
    message = refused(app, write(tmp_path / "bad", **{table: content}))
    where = f"{column}: line {line}" if column else f"line {line}"
    assert f"\n{table}.csv\n  {where}, found {shown}" in message
    assert expected in message
    assert "1 problem." in message
    assert "Nothing was changed" in message
    assert state(admin) == before


def test_one_bad_row_stops_all_files(app: psycopg.Connection, admin: psycopg.Connection, tmp_path: Path) -> None:
    before = state(admin)
    refused(app, write(tmp_path, **BOOK | {"payments": PAYMENTS.replace("612.50", "612.51")}))
    assert state(admin) == before


def test_problems_of_all_kinds_and_files_are_listed_together(app: psycopg.Connection, tmp_path: Path) -> None:
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
        "date_of_birth: line 2, found 'never'",
        "segment: line 2, found 'private'",
        "loans.csv",
        "product_id: 2 rows, first line 2, found '901'",
        "customer_id: line 3, found '3'",
        "payments.csv",
        # Not also a wrong sum, which nobody can know yet.
        "interest_portion: line 2, found 'x'",
        "payment_method: line 3, found 'coins'",
    ]


def test_a_row_that_cannot_be_read_is_no_problem_of_what_refers_to_it(app: psycopg.Connection, tmp_path: Path) -> None:
    loans = LOANS.replace("1001,", "1001,,")
    message = refused(app, write(tmp_path, **BOOK | {"loans": loans}))
    assert "1 problem." in message
    loans = LOANS.replace("loan_id,", "id,")
    message = refused(app, write(tmp_path, **BOOK | {"loans": loans}))
    assert "at least 1 problem." in message
    assert "loan_id: line 1, found nothing" in message
    assert "not read are id" in message
    assert "payments.csv: no problem in what could be checked" in message


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
    assert "customer_id: line 2, found '101'" in message
    assert "a customer_id that is in customers.csv\n" in message + "\n"
    assert "1 problem." in message


def test_rules_look_at_the_row_as_it_will_be(app: psycopg.Connection, tmp_path: Path) -> None:
    import_book(app, write(tmp_path, **BOOK))
    # The penalty of 12.50 is in the database alone.
    header = "payment_id,loan_id,amount,principal_portion,interest_portion,payment_method\n"
    message = refused(app, write(tmp_path / "a", payments=header + "5002,1001,600,500,100,cash\n"))
    assert (
        "(found 500.00+100.00+12.50=612.50, amount 600.00); penalty_portion 12.50 is in the database, not in the file"
    ) in message
    assert import_book(app, write(tmp_path / "b", payments=header + "5002,1001,622.5,510,100,cash\n")).tables[
        "payments"
    ] == Counts(0, 1, 0, 0)


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
        # Values that cannot be read are listed without waiting.
        assert "is_active: line 2" in refused(app, write(tmp_path, customers=CUSTOMERS.replace("true", "x")))


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
    original = writing.write
    seen: list[Any] = []

    def write_and_read(job: Any, deletions: dict[str, int]) -> dict[str, Counts]:
        counts = original(job, deletions)
        with psycopg.connect(empty_book.app_conninfo, options="-c statement_timeout=5s") as reader:
            seen.append(value(reader, "select count(*) from operational.customers"))
        return counts

    monkeypatch.setattr(writing, "write", write_and_read)
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
    # The identity of an instalment is its loan and number.
    assert sorted(row for row in found if row[0] != "installment_id") == sorted(
        (
            column.name,
            kinds.get(column.kind, column.kind.replace(", ", ",")),
            column.nullable,
            column.has_default,
            column.unique,
            f"operational.{column.references}" if column.references else None,
        )
        for column in table.columns
    )
    # What is out of bounds is refused when it is read, everything else that is checked is a rule.
    checks = admin.execute(
        "select count(*) from pg_constraint where contype = 'c' and conrelid = %s::regclass and conname !~ '_bounds$'",
        [f"operational.{table.name}"],
    ).fetchone()
    assert checks == (len(table.rules),)
