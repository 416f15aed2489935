"""The ends of every range that the loan book accepts, through the whole chain and back.

One book holds them all. It is taken in, changed, computed again in full, and emptied; at each step the landing tables,
the views, the keys and the dashboards page must be right. What the book refuses is in test_source_rules.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from eds.book.simulate import simulate
from eds.dashboards import page
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform, changed_nodes

MONEY = Decimal("999999999999.99")
GREATEST_INTEGER, LEAST_INTEGER = 2**31 - 1, -(2**31)
GREATEST_BIGINT, LEAST_BIGINT = 2**63 - 1, -(2**63)
FIRST_MOMENT = datetime(1900, 1, 1, tzinfo=UTC)
LAST_MOMENT = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)
LONG_TEXT = "".join(hashlib.md5(bytes([number])).hexdigest() for number in range(256))
WIDE_TEXT = "".join(chr(0x10000 + number * 97 % 60_000) for number in range(5_000))

# Keys: the ends of the type, what is special to the warehouse (-1, 0), and where its own keys begin to differ.
LOAN_IDS = {
    "the least bigint": LEAST_BIGINT,
    "before the least readable key": -(10**12) - 1,
    "the least readable key": -(10**12),
    "minus one": -1,
    "zero": 0,
    "the last readable key": 9223372036853,
    "behind the last readable key": 9223372036854,
    "a card number": 1020304050607081,
    "the greatest bigint but one": GREATEST_BIGINT - 1,
    "the greatest bigint": GREATEST_BIGINT,
}
# Other columns of a loan, each on a loan of its own.
LOANS: dict[str, dict[str, Any]] = {
    "the least amount": {"amount": "0.01", "outstanding_balance": "0.01"},
    "the greatest amount": {"amount": MONEY, "outstanding_balance": MONEY},
    "a negative balance": {"outstanding_balance": -MONEY},
    "no interest": {"interest_rate": 0},
    "the greatest interest": {"interest_rate": "999.9999"},
    "the longest tenure": {"tenure_months": GREATEST_INTEGER},
    "disbursed first": {"disbursed_at": FIRST_MOMENT},
    "disbursed last": {"disbursed_at": LAST_MOMENT},
    "never disbursed": {"disbursed_at": None, "status": "pending"},
    "matures first": {"maturity_date": date(1, 1, 1)},
    "matured in 1899": {"maturity_date": date(1899, 12, 31)},
    "matures in 2052": {"maturity_date": date(2052, 6, 1)},
    "matures in 2200": {"maturity_date": date(2200, 1, 1)},
    "matures never": {"maturity_date": date(9999, 12, 31)},
    "matures at no date": {"maturity_date": None},
    "of 2015": {"disbursed_at": datetime(2015, 6, 1, tzinfo=UTC), "maturity_date": date(2020, 6, 1)},
    "created first": {"created_at": FIRST_MOMENT},
    "created last": {"created_at": LAST_MOMENT},
    "a branch of the unknown member's name": {"branch_code": "unknown"},
    "a long branch": {"branch_code": "b" * 10_000},
    "no branch": {"branch_code": None},
    # Texts that do not get smaller when they are compressed: an index refuses them.
    "a branch of many bytes": {"branch_code": LONG_TEXT},
    "an officer of many bytes": {"loan_officer": LONG_TEXT},
    "an officer of many wide letters": {"loan_officer": WIDE_TEXT},
}
PAYMENTS: dict[str, dict[str, Any]] = {
    "the least amount": {"principal": "0.01", "interest": "0"},
    "the greatest amount": {"principal": MONEY, "interest": "0"},
    "portions that cancel out": {"principal": -MONEY, "interest": MONEY, "penalty": "0.01"},
    "paid first": {"payment_date": FIRST_MOMENT},
    "paid last": {"payment_date": LAST_MOMENT},
    "paid in 2017": {"payment_date": datetime(2017, 12, 31, 23, 59, 59, tzinfo=UTC)},
    "paid in 2051": {"payment_date": datetime(2051, 1, 1, tzinfo=UTC)},
    "the least payment_id": {"payment_id": LEAST_BIGINT},
    "the greatest payment_id": {"payment_id": GREATEST_BIGINT},
    "long notes": {"notes": "n" * 1_000_000},
}
CUSTOMERS: dict[str, dict[str, Any]] = {
    "the least customer_id": {"customer_id": LEAST_INTEGER},
    "minus one": {"customer_id": -1},
    "zero": {"customer_id": 0},
    "the greatest customer_id": {"customer_id": GREATEST_INTEGER},
    "born first": {"date_of_birth": date(1, 1, 1)},
    "born last": {"date_of_birth": date(9999, 12, 31)},
    "a long name": {"name": "x" * 100_000},
    "a name of many bytes": {"name": LONG_TEXT},
}
PRODUCTS: dict[str, tuple[Any, ...]] = {
    "the least": (LEAST_INTEGER, 0, 0, 1, 1),
    "minus one": (-1, 0, MONEY, 1, GREATEST_INTEGER),
    "the greatest": (GREATEST_INTEGER, MONEY, MONEY, GREATEST_INTEGER, GREATEST_INTEGER),
}


@dataclass
class Chain:
    """What was put into the book, and what the warehouse made of it at each step."""

    platform: Platform
    loans: dict[str, int] = field(default_factory=dict)
    payments: dict[str, int] = field(default_factory=dict)
    customers: dict[str, int] = field(default_factory=dict)
    facts: dict[str, dict[int, tuple[Any, ...]]] = field(default_factory=dict)
    versions: dict[str, dict[tuple[int, datetime], int]] = field(default_factory=dict)
    pages: dict[str, dict[str, Any]] = field(default_factory=dict)
    years: set[int] = field(default_factory=set)

    def look(self, step: str) -> None:
        """Compare everything with the source, and keep what the single tests ask for."""
        platform = self.platform
        assert_landing_equals_source(platform)
        assert_views_equal_the_oltp(platform)
        # The warehouse's own view of each loan and payment, with what its keys lead to.
        for row in platform.warehouse(
            "select 'loan', facts.loan_id, loans.loan_id, customers.customer_id, products.product_id, "
            "facts.disbursement_date_sk, opened.full_date, facts.maturity_date_sk, matures.full_date "
            "from warehouse.fact_loans as facts "
            "left join warehouse.dim_loan as loans on facts.loan_sk = loans.loan_sk "
            "left join warehouse.dim_customer as customers on facts.customer_sk = customers.customer_sk "
            "left join warehouse.dim_product as products on facts.product_sk = products.product_sk "
            "left join warehouse.dim_date as opened on facts.disbursement_date_sk = opened.date_sk "
            "left join warehouse.dim_date as matures on facts.maturity_date_sk = matures.date_sk"
        ):
            self.facts.setdefault(f"{step}: loans", {})[row[1]] = row[2:]
        for row in platform.warehouse(
            "select facts.payment_id, loans.loan_id, customers.customer_id, days.full_date, facts.payment_amount "
            "from warehouse.fact_payments as facts "
            "left join warehouse.dim_loan as loans on facts.loan_sk = loans.loan_sk "
            "left join warehouse.dim_customer as customers on facts.customer_sk = customers.customer_sk "
            "left join warehouse.dim_date as days on facts.date_sk = days.date_sk"
        ):
            self.facts.setdefault(f"{step}: payments", {})[row[0]] = row[1:]
        self.versions[step] = {
            (loan, valid_from): key
            for loan, valid_from, key in platform.warehouse(
                "select loan_id, valid_from, loan_sk from warehouse.dim_loan where loan_id is not null"
            )
        }
        self.pages[step] = page_data(platform)


def page_data(platform: Platform) -> dict[str, Any]:
    """Return the data of the dashboards page, as a browser reads it: strictly JSON."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.render(platform.settings), re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1], parse_constant=lambda word: pytest.fail(f"the page holds {word}"))
    return data


def shows(parts: dict[str, Any], text: str) -> bool:
    """Return whether a text is in the data of the page. Of an assertion on the data pytest would compare megabytes."""
    return text in json.dumps(parts)


def fill(chain: Chain, connection: psycopg.Connection) -> None:
    """Put every end of every range into the book."""
    plain = add_customer(connection)
    for name, (product, *limits) in PRODUCTS.items():
        connection.execute(
            "insert into operational.loan_products (product_id, product_name, product_type, min_amount, max_amount, "
            "min_tenure_months, max_tenure_months) values (%s, %s, 'personal', %s, %s, %s, %s)",
            (product, name, *limits),
        )
        chain.loans[f"product: {name}"] = add_loan(connection, plain, product_id=product)
    for name, values in CUSTOMERS.items():
        chain.customers[name] = add_customer(connection, **values)
        chain.loans[f"customer: {name}"] = add_loan(connection, chain.customers[name])
    for name, key in LOAN_IDS.items():
        chain.loans[f"loan_id: {name}"] = add_loan(connection, plain, loan_id=key)
    for name, values in LOANS.items():
        chain.loans[name] = add_loan(connection, plain, **values)
    for loan in list(chain.loans.values()):
        if loan != chain.loans["never disbursed"] and loan != chain.loans["a negative balance"]:
            pay(connection, loan, "0.01", "0")
    for name, values in PAYMENTS.items():
        amounts = {key: values[key] for key in ("principal", "interest", "penalty") if key in values}
        others = {key: value for key, value in values.items() if key not in amounts}
        loan = add_loan(connection, plain, str(MONEY))
        if values.get("principal") == -MONEY:
            connection.execute("update operational.loans set outstanding_balance = 0 where loan_id = %s", (loan,))
        chain.payments[name] = pay(connection, loan, **amounts, **others)


@pytest.fixture(scope="module")
def chain(all_servers: Platform) -> Chain:
    """Provide the book taken in, changed, computed in full and emptied again."""
    platform = all_servers
    platform.empty_book()
    platform.empty_warehouse()
    chain = Chain(platform)
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection)))
    platform.wait_for_replicas()
    platform.build()
    chain.pages["before"] = page_data(platform)

    with platform.app() as connection:
        fill(chain, connection)
    platform.wait_for_replicas()
    platform.build()
    chain.look("filled")
    chain.years = {year for (year,) in platform.warehouse("select distinct year from warehouse.dim_date")}

    # Every loan gets another version, and every customer.
    with platform.app() as connection:
        connection.execute("update operational.loans set status = 'active', loan_officer = 'Achieng'")
        connection.execute("update operational.customers set city = 'Thika'")
        connection.execute("update operational.loan_products set is_active = not is_active where product_id <> 1")
    platform.wait_for_replicas()
    platform.build("--vars", "{full_tests: true}")
    chain.look("changed")

    full = platform.build("--full-refresh")
    chain.look("computed in full")
    assert changed_nodes(platform, full.run["run_id"]) == []

    # Traffic continues beside such rows.
    counts = simulate(lambda: psycopg.connect(platform.app_conninfo), rate=200, seconds=1.5, seed=3, workers=1)
    assert sum(counts.values()) > 0
    with platform.app() as connection:
        for table in ("payments", "loans", "customers"):
            connection.execute(f"delete from operational.{table}")
        connection.execute("delete from operational.loan_products where product_id <> 1")
        pay(connection, add_loan(connection, add_customer(connection)))
    platform.wait_for_replicas()
    platform.build("--vars", "{allow_mass_delete: true}")
    chain.look("emptied")
    platform.build("--vars", "{reconcile: true, full_tests: true}")
    chain.look("reconciled")
    return chain


STEPS = ("filled", "changed", "computed in full")


@pytest.mark.parametrize(
    "name",
    [
        *(f"product: {name}" for name in PRODUCTS),
        *(f"customer: {name}" for name in CUSTOMERS),
        *(f"loan_id: {name}" for name in LOAN_IDS),
        *LOANS,
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_a_loan_at_the_end_of_a_range_has_all_its_keys(chain, name, step):
    loan = chain.loans[name]
    of_loan, customer, product, disbursed_sk, disbursed, maturity_sk, matures = chain.facts[f"{step}: loans"][loan]
    values = {"disbursed_at": datetime(2026, 1, 5, tzinfo=UTC), "maturity_date": date(2027, 1, 5)} | LOANS.get(name, {})
    assert of_loan == loan
    assert customer is not None
    assert product is not None
    opened = values["disbursed_at"] and values["disbursed_at"].date()
    assert disbursed == opened
    assert matures == values["maturity_date"]
    for key, day in ((disbursed_sk, opened), (maturity_sk, values["maturity_date"])):
        assert key == (day.year * 10000 + day.month * 100 + day.day if day else -1)


@pytest.mark.parametrize("name", PAYMENTS)
@pytest.mark.parametrize("step", STEPS)
def test_a_payment_at_the_end_of_a_range_has_all_its_keys(chain, name, step):
    loan, customer, day, amount = chain.facts[f"{step}: payments"][chain.payments[name]]
    assert loan is not None
    assert customer is not None
    wanted = PAYMENTS[name]
    assert day == (wanted["payment_date"].date() if "payment_date" in wanted else datetime.now(UTC).date())
    if "principal" in wanted:
        assert amount == sum(Decimal(wanted.get(part, 0)) for part in ("principal", "interest", "penalty"))


def test_surrogate_keys_are_unique_and_a_version_keeps_its_key(chain):
    filled, changed, complete = (chain.versions[step] for step in STEPS)
    assert filled.items() <= changed.items()
    assert changed == complete
    assert len(set(complete.values())) == len(complete)
    assert len(complete) >= 2 * len(filled)
    for name, loan in chain.loans.items():
        if name.startswith("loan_id: "):
            keys = sorted(key for (of_loan, _), key in complete.items() if of_loan == loan)
            if -(10**12) <= loan <= 9223372036853:
                assert keys == [loan * 10**6 + 1, loan * 10**6 + 2]
            else:
                assert all(key < -(10**18) for key in keys)


def test_the_calendar_has_the_years_of_the_data_and_no_gap_where_people_look(chain):
    years = chain.years - {None}
    assert set(range(1900, 2053)) <= years
    # Beyond 1900 and 2199 the years alone that occur.
    assert years - set(range(1900, 2053)) == {1, 1899, 2200, 9999}


def test_the_page_shows_the_extremes_and_forgets_them_when_they_are_deleted(chain):
    questions = chain.pages["filled"]["questions"]
    assert questions
    assert shows(chain.pages["filled"], "9999-12")
    emptied = {part: dict(chain.pages["emptied"][part]) for part in ("questions", "grains", "filters")}
    assert not shows(emptied, "9999-12")
    # A month that was reported stays, with its branches, and can be chosen.
    del emptied["grains"]["vw_restated_branches"], emptied["filters"]["months"]
    assert not shows(emptied, "1900-01")
    reconciled, emptied = (
        {key: value for key, value in chain.pages[step]["questions"].items() if key != "data_as_of"}
        for step in ("reconciled", "emptied")
    )
    assert reconciled == emptied


# What each loan is paid: number of payments, principal and interest of each. A bigint holds 92,233 of the greatest.
MANY_PAYMENTS: dict[str, tuple[dict[str, Any], int, Decimal, Decimal]] = {
    "principal": ({}, 93_000, MONEY, Decimal(0)),
    "interest": ({}, 10_100, Decimal(0), MONEY),
    "taken back": ({}, 10_100, -MONEY, MONEY),
    "written off": ({"status": "written_off", "written_off_on": date(2026, 9, 20)}, 10_100, MONEY, Decimal(0)),
}
# Days of the payments, in months that have ended and in the present one, behind each other.
PAID_FROM = datetime(2026, 7, 1, tzinfo=UTC)
STATES = {
    "fact_loans": "select loan_id, total_paid, principal_paid, interest_paid, principal_owed, installments_paid, "
    "first_unpaid_due_date from warehouse.fact_loans order by loan_id",
    "months": "select loan_id, month_end, state, days_past_due from warehouse.fact_loan_month_end order by 1, 2",
}


@pytest.mark.proof
def test_sums_of_payments_beyond_a_bigint_of_cents_are_published_and_go_again(platform):
    loans = {}
    with platform.app() as connection:
        customer = add_customer(connection)
        plain = add_loan(connection, customer)
        pay(connection, plain, payment_date=datetime(2026, 8, 3, tzinfo=UTC))
        for name, (columns, number, principal, interest) in MANY_PAYMENTS.items():
            balance = 0 if name == "written off" else MONEY
            loans[name] = add_loan(connection, customer, str(MONEY), **{"outstanding_balance": balance, **columns})
            connection.execute(
                "insert into operational.payments (loan_id, amount, principal_portion, interest_portion, "
                "penalty_portion, payment_method, payment_date) "
                "select %s, greatest(%s::numeric + %s::numeric, 0.01), %s, %s, %s, 'cash', "
                "%s::timestamptz + interval '145 days' * payment / %s "
                "from generate_series(1, %s) as payments (payment)",
                (
                    *(loans[name], principal, interest, principal, interest),
                    *("0.01" if principal + interest == 0 else "0", PAID_FROM, number, number),
                ),
            )
    platform.wait_for_replicas()
    platform.build("--vars", "{full_tests: true}")
    assert_views_equal_the_oltp(platform)
    for name, (_, number, principal, interest) in MANY_PAYMENTS.items():
        row = "select principal_paid, interest_paid from warehouse.fact_loans where loan_id = %s"
        assert platform.warehouse(row, (loans[name],)) == [(number * principal, number * interest)]
    # Whoever looks at a loan of that kind, or at one beside it, is answered.
    of_plain = platform.warehouse(
        "select outstanding_principal, overdue_amount from warehouse.portfolio_as_of('2026-08-31') where loan_id = %s",
        (plain,),
    )
    assert of_plain[0][0] == Decimal("900.00")
    for view in ("loans_in_arrears", "vw_expected_dues", "vw_portfolio_quality", "vw_portfolio_at_risk"):
        assert platform.view(view)
    page_data(platform)
    states = {name: platform.warehouse(query) for name, query in STATES.items()}

    with platform.app() as connection:
        for loan in (plain, *loans.values()):
            pay(connection, loan, "0.01", "0.01", payment_date=datetime(2026, 8, 5, tzinfo=UTC))
        connection.execute("update operational.loans set outstanding_balance = 0 where status = 'written_off'")
    platform.wait_for_replicas()
    platform.build("--vars", "{full_tests: true}")
    platform.build("--full-refresh")
    with platform.app() as connection:
        connection.execute(
            "delete from operational.payments "
            "where principal_portion = 0.01 and payment_date = '2026-08-05 00:00:00+00'"
        )
        connection.execute(
            "update operational.loans set outstanding_balance = outstanding_balance + 0.01 where status = 'active'"
        )
    platform.wait_for_replicas()
    platform.build()
    assert {name: platform.warehouse(query) for name, query in STATES.items()} == states

    with platform.app() as connection:
        connection.execute("delete from operational.payments where loan_id <> %s", (plain,))
    platform.wait_for_replicas()
    platform.build("--vars", "{allow_mass_delete: true, full_tests: true}")
    assert_views_equal_the_oltp(platform)
