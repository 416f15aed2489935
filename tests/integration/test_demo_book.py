"""The demo loan book, on a real server: its rules, its determinism, and what it refuses."""

import datetime
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from eds.base.errors import UserError
from eds.book.demo import fill as demo
from eds.book.demo import names
from eds.book.demo.fill import Scale, Summary, fill
from eds.book.invariants import INVARIANTS
from support.demo_figures import figures_of

DAY = datetime.date(2025, 6, 30)
KEYS = {"customers": "customer_id", "loans": "loan_id", "payments": "payment_id"}
FILLED = KEYS | {"loan_installments": "installment_id"}

# What holds in a generated book beyond the rules of every book.
GENERATED_RULES = {
    "moments are in order, and before the last day": f"""
        select 'payment' as kind, payment_id as id from operational.payments
        where payment_date >= '{DAY}' or created_at < payment_date or updated_at < created_at or updated_at >= '{DAY}'
        union all
        select 'loan', loan_id from operational.loans
        where created_at > coalesce(disbursed_at, '{DAY}') or disbursed_at >= '{DAY}'
            or updated_at < greatest(created_at, disbursed_at) or updated_at >= '{DAY}'
        union all
        select 'customer', customer_id from operational.customers
        where updated_at < created_at or updated_at >= '{DAY}'
    """,
    "a loan's row is as new as its last payment": """
        select loan_id from operational.loans
        where updated_at < (
            select max(created_at) from operational.payments where payments.loan_id = loans.loan_id
        )
    """,
    "nobody has a loan before being a customer": """
        select loan_id from operational.loans inner join operational.customers using (customer_id)
        where customers.created_at >= loans.created_at
    """,
    "a loan is within its product's limits": """
        select loan_id from operational.loans inner join operational.loan_products using (product_id)
        where loans.amount not between min_amount and max_amount
            or tenure_months not between min_tenure_months and max_tenure_months
    """,
    "a loan matures after its tenure": """
        select loan_id from operational.loans
        where maturity_date <> ((disbursed_at at time zone 'UTC')::date + tenure_months * interval '1 month')::date
    """,
    "nobody pays more interest than the month's on the balance": """
        select payment_id, interest_portion, owed, interest_rate
        from (
            select payments.*, loans.interest_rate, loans.amount - coalesce(sum(principal_portion) over (
                partition by loan_id order by payment_date, payment_id
                rows between unbounded preceding and 1 preceding
            ), 0) as owed
            from operational.payments inner join operational.loans using (loan_id)
        ) as ordered
        where interest_portion > round(owed * interest_rate / 1200, 2)
    """,
    "counters are open by day, and not on Sundays": """
        select payment_id from operational.payments
        where extract(hour from payment_date at time zone 'UTC') not between 3 and 18
            or (
                payment_method in ('cash', 'cheque', 'bank_transfer')
                and extract(isodow from payment_date at time zone 'UTC') = 7
            )
    """,
    "a schedule pays back what was lent, week by week": """
        select loan_id, loans.amount, count(*), sum(principal_due)
        from operational.loan_installments inner join operational.loans using (loan_id)
        group by loan_id, loans.amount, disbursed_at, tenure_months
        having sum(principal_due) <> loans.amount
            or max(due_date) <> (disbursed_at at time zone 'UTC')::date + 7 * max(installment_no)
            or count(*) <> max(installment_no) or max(installment_no) <> round(tenure_months * 52 / 12.0)
    """,
    "what is repaid by the week has a schedule, and nothing else": """
        select loan_id, product_name
        from operational.loans inner join operational.loan_products using (product_id)
        where (product_name like '%Weekly%' and disbursed_at is not null)
            <> exists (select from operational.loan_installments where loan_installments.loan_id = loans.loan_id)
    """,
    "a customer's country is one of the lender's": """
        select customer_id from operational.customers
        where country not in ('Kenya', 'Uganda', 'Tanzania', 'Rwanda')
            or phone not like case country
                when 'Kenya' then '+254%' when 'Uganda' then '+256%' when 'Tanzania' then '+255%' else '+250%'
            end
    """,
}


@pytest.fixture
def owner(empty_book: Any) -> Iterator[psycopg.Connection[Any]]:
    """Yield the superuser's connection to an empty book."""
    with psycopg.connect(empty_book.superuser_conninfo, autocommit=True) as connection:
        yield connection


def scalar(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def offending(connection: psycopg.Connection[Any], rules: dict[str, str]) -> dict[str, list[Any]]:
    """Return the first rows that break a rule, by rule."""
    found = {rule: connection.execute(query.encode()).fetchmany(3) for rule, query in rules.items()}
    return {rule: rows for rule, rows in found.items() if rows}


def fingerprints(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return a checksum of all rows of each table, with a fixed spelling of times."""
    with connection.transaction():
        connection.execute("set local timezone = 'UTC'")
        return {
            table: scalar(
                connection,
                f"select coalesce(md5(string_agg(md5(row.*::text), '' order by {key})), 'empty') "
                f"from operational.{table} as row",
            )
            for table, key in FILLED.items()
        }


def empty(connection: psycopg.Connection[Any]) -> None:
    for table in ("loan_installments", "payments", "loans", "customers"):
        connection.execute(f"delete from operational.{table}".encode())


def triggers_not_always(connection: psycopg.Connection[Any]) -> list[Any]:
    return connection.execute(
        "select tgrelid::regclass, tgname, tgenabled from pg_trigger "
        "where tgrelid in (select oid from pg_class where relnamespace = 'operational'::regnamespace) "
        "and not tgisinternal and tgenabled <> 'A'"
    ).fetchall()


def counts(connection: psycopg.Connection[Any]) -> dict[str, int]:
    return {table: scalar(connection, f"select count(*) from operational.{table}") for table in KEYS}


def test_small_book_keeps_the_rules(owner: psycopg.Connection[Any]) -> None:
    fill(owner, Scale.parse("small"), today=DAY)
    assert offending(owner, INVARIANTS | GENERATED_RULES) == {}


def test_rules_find_a_broken_book(owner: psycopg.Connection[Any]) -> None:
    """The rules themselves: a cent, a status or a time that is wrong is found."""
    fill(owner, Scale.parse("500"), today=DAY)
    for damage in (
        "update operational.loans set outstanding_balance = outstanding_balance + 0.01 where disbursed_at is not null",
        "update operational.loans set status = 'active' where status = 'repaid'",
        "update operational.payments set payment_date = payment_date - interval '6 years'",
        "update operational.payments set principal_portion = -1, interest_portion = interest_portion + "
        "principal_portion + 1",
        "update operational.loans set disbursed_at = null",
    ):
        with owner.transaction(force_rollback=True):
            owner.execute(damage.encode())
            assert offending(owner, INVARIANTS) != {}, damage


def test_small_book_has_everything(owner: psycopg.Connection[Any]) -> None:
    summary = fill(owner, Scale.parse("small"), today=DAY)
    assert counts(owner) == {
        "customers": summary.customers,
        "loans": summary.loans,
        "payments": summary.payments,
    }
    assert summary.loan_products == scalar(owner, "select count(*) from operational.loan_products")
    for table, column, expected in (
        ("payments", "payment_method", {"mpesa", "bank_transfer", "cash", "cheque", "online"}),
        ("customers", "segment", {"retail", "sme", "corporate"}),
        ("loans", "status", {"pending", "active", "repaid", "defaulted", "written_off"}),
        ("customers", "country", {"Kenya", "Uganda", "Tanzania", "Rwanda"}),
        ("customers", "is_active", {True, False}),
        ("loans", "branch_code", {branch.branch_code for branch in names.read_branches()}),
    ):
        found = {row[0] for row in owner.execute(f"select distinct {column} from operational.{table}".encode())}
        assert found == expected, column
    assert (
        scalar(
            owner,
            "select count(*) from operational.loan_products as product where not exists "
            "(select from operational.loans where loans.product_id = product.product_id)",
        )
        == 0
    )
    for what in (
        "operational.payments where penalty_portion > 0",
        "operational.payments where notes = 'Early settlement'",
        "operational.payments where notes = 'Part payment'",
        "operational.payments where notes is null",
        "operational.customers where not exists "
        "(select from operational.loans where loans.customer_id = customers.customer_id)",
        "operational.loans where disbursed_at is not null and not exists "
        "(select from operational.payments where payments.loan_id = loans.loan_id)",
    ):
        assert scalar(owner, f"select count(*) from {what}") > 0, what
    # Most payments are plain instalments, with exactly the month's interest.
    plain = scalar(
        owner,
        """
        select avg((interest_portion = round(owed * interest_rate / 1200, 2))::integer)
        from (
            select payments.*, loans.interest_rate, loans.amount - coalesce(sum(principal_portion) over (
                partition by loan_id order by payment_date, payment_id
                rows between unbounded preceding and 1 preceding
            ), 0) as owed
            from operational.payments inner join operational.loans using (loan_id)
            where loan_id not in (select loan_id from operational.loan_installments)
        ) as ordered
        """,
    )
    assert plain > Decimal("0.85")


@pytest.mark.parametrize("scale", ["1", "10", "300", "7_777", "small"])
def test_counts_are_near_the_scale(owner: psycopg.Connection[Any], scale: str) -> None:
    wanted = Scale.parse(scale)
    summary = fill(owner, wanted, today=DAY)
    assert summary.payments == pytest.approx(wanted.payments, rel=0.1)
    assert summary.customers == wanted.customers
    if wanted.payments >= 5000:
        assert summary.loans == pytest.approx(wanted.loans, rel=0.25)
    assert offending(owner, INVARIANTS | GENERATED_RULES) == {}


def test_the_demo_lender_could_be_a_real_one(owner: psycopg.Connection[Any]) -> None:
    """Check that risk figures have something to show: loans that cure, recoveries, branches that differ."""
    day = datetime.date(2026, 11, 25)
    fill(owner, Scale.parse("100_000"), seed=42, today=day)
    found = figures_of(owner, day)
    assert 8 <= found.par_1 <= 9
    assert 3 <= found.par_30 <= 5
    assert 85 <= found.on_time <= 90
    assert Decimal("1.1") <= found.loans_per_borrower <= Decimal("1.3")
    assert 360 < found.most_days_past_due <= 540
    assert found.recovered > 0
    # From 61-90 days a part pays up, and not all of the rest goes on.
    assert found.cured >= 10
    assert found.went_on <= 80
    assert found.never_paid <= 10
    assert found.in_a_season >= 130
    assert found.differing_branches >= Decimal("1.5")
    assert found.differing_officers >= Decimal("1.1")
    assert Decimal("1.5") <= found.restructured <= Decimal("2.5")
    assert found.weekly >= 2
    # A microfinance book is not one of mortgages.
    assert found.mortgages <= 35


def test_same_seed_gives_the_same_rows_and_another_seed_others(owner: psycopg.Connection[Any]) -> None:
    scale = Scale.parse("3000")
    fill(owner, scale, seed=7, today=DAY)
    first = fingerprints(owner)
    empty(owner)
    # Other plans, and another time zone, must not show.
    owner.execute("set enable_hashjoin = off; set enable_sort = off; set timezone = 'Asia/Tokyo'")
    fill(owner, scale, seed=7, today=DAY)
    assert fingerprints(owner) == first
    empty(owner)
    fill(owner, scale, seed=8, today=DAY)
    other = fingerprints(owner)
    assert all(other[table] != first[table] for table in FILLED)


def test_default_day_is_today(owner: psycopg.Connection[Any]) -> None:
    fill(owner, Scale.parse("20000"))
    newest = scalar(owner, "select max(payment_date) from operational.payments")
    now = datetime.datetime.now(datetime.UTC)
    assert now - datetime.timedelta(days=7) < newest < now
    for table in KEYS:
        assert scalar(owner, f"select count(*) from operational.{table} where updated_at > now()") == 0


def test_filled_tables_are_refused_and_stay_as_they_are(owner: psycopg.Connection[Any]) -> None:
    fill(owner, Scale.parse("200"), today=DAY)
    before = fingerprints(owner)
    last_entry = scalar(owner, "select max(log_id) from operational.audit_log")
    for scale in ("200", "empty"):
        with pytest.raises(UserError, match="Expected an empty loan book"):
            fill(owner, Scale.parse(scale), today=DAY)
    assert fingerprints(owner) == before
    assert scalar(owner, "select max(log_id) from operational.audit_log") == last_entry
    assert triggers_not_always(owner) == []


def test_one_customer_is_enough_to_refuse(owner: psycopg.Connection[Any]) -> None:
    owner.execute("insert into operational.customers (full_name) values ('Wanjiru Kamau')")
    with pytest.raises(UserError, match=r"operational\.customers"):
        fill(owner, Scale.parse("200"), today=DAY)
    assert counts(owner) == {"customers": 1, "loans": 0, "payments": 0}


def test_triggers_are_back_and_the_reload_is_on_record(owner: psycopg.Connection[Any]) -> None:
    last_entry = scalar(owner, "select coalesce(max(log_id), 0) from operational.audit_log")
    fill(owner, Scale.parse("200"), today=DAY)
    assert triggers_not_always(owner) == []
    entries = owner.execute(
        "select table_name, operation, record_id, old_values, new_values from operational.audit_log "
        "where log_id > %s order by table_name",
        (last_entry,),
    ).fetchall()
    assert entries == [(table, "RELOAD", 0, None, None) for table in sorted(FILLED)]


def test_failure_leaves_nothing_behind(owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(filling: object) -> None:
        raise RuntimeError("the disk is full")

    last_entry = scalar(owner, "select coalesce(max(log_id), 0) from operational.audit_log")
    monkeypatch.setattr(demo._Filling, "finish", fail)
    with pytest.raises(RuntimeError, match="the disk is full"):
        fill(owner, Scale.parse("200"), today=DAY)
    assert counts(owner) == {"customers": 0, "loans": 0, "payments": 0}
    assert triggers_not_always(owner) == []
    assert scalar(owner, "select coalesce(max(log_id), 0) from operational.audit_log") == last_entry


def test_empty_scale_leaves_the_catalogue(owner: psycopg.Connection[Any]) -> None:
    products = scalar(owner, "select count(*) from operational.loan_products")
    last_entry = scalar(owner, "select coalesce(max(log_id), 0) from operational.audit_log")
    summary = fill(owner, Scale.parse("empty"))
    assert summary == Summary(0, products, 0, 0, summary.seconds)
    assert products > 0
    assert scalar(owner, "select coalesce(max(log_id), 0) from operational.audit_log") == last_entry


def test_the_application_continues_after_the_last_row(empty_book: Any, owner: psycopg.Connection[Any]) -> None:
    summary = fill(owner, Scale.parse("200"), today=DAY)
    with psycopg.connect(empty_book.app_conninfo) as application:
        customer_id = scalar(
            application, "insert into operational.customers (full_name) values ('Otieno Ouma') returning customer_id"
        )
        loan_id = scalar(
            application,
            "insert into operational.loans (customer_id, product_id, amount, interest_rate, tenure_months) "
            f"select {customer_id}, min(product_id), 1000, 15, 3 from operational.loan_products returning loan_id",
        )
        payment_id = scalar(
            application,
            "insert into operational.payments (loan_id, amount, principal_portion, interest_portion, payment_method) "
            f"values ({loan_id}, 10, 9, 1, 'cash') returning payment_id",
        )
        application.rollback()
    assert (customer_id, loan_id, payment_id) == (summary.customers + 1, summary.loans + 1, summary.payments + 1)


def test_works_without_autocommit_and_commits(empty_book: Any, owner: psycopg.Connection[Any]) -> None:
    with psycopg.connect(empty_book.superuser_conninfo) as connection:
        summary = fill(connection, Scale.parse("50"), today=DAY)
        assert counts(owner)["payments"] == summary.payments
        connection.execute("select 1")
        with pytest.raises(ValueError, match="open transaction"):
            fill(connection, Scale.parse("50"), today=DAY)


def test_a_day_to_come_is_refused(owner: psycopg.Connection[Any]) -> None:
    with pytest.raises(UserError, match="Expected a day up to"):
        fill(owner, Scale.parse("50"), today=datetime.date(2999, 1, 1))


def test_other_products_are_used_within_their_limits(owner: psycopg.Connection[Any]) -> None:
    """Nothing about the catalogue is assumed: neither its identifiers nor its sizes."""
    saved = owner.execute("select * from operational.loan_products order by product_id").fetchall()
    try:
        owner.execute("delete from operational.loan_products")
        with pytest.raises(UserError, match="Expected loan products"):
            fill(owner, Scale.parse("300"), today=DAY)
        owner.execute(
            """
            insert into operational.loan_products (
                product_id, product_name, product_type, min_amount, max_amount, min_tenure_months, max_tenure_months
            )
            values
            (901, 'Tiny', 'personal', 0, 1, 1, 1), (905, 'Fixed', 'auto', 777.77, 777.77, 7, 7),
            (990, 'Vast', 'mortgage', 0.01, 999999999999.99, 1, 600)
            """
        )
        fill(owner, Scale.parse("3000"), today=DAY)
        assert {row[0] for row in owner.execute("select distinct product_id from operational.loans")} == {901, 905, 990}
        assert counts(owner)["payments"] == pytest.approx(3000, rel=0.1)
        assert offending(owner, INVARIANTS | GENERATED_RULES) == {}
    finally:
        empty(owner)
        owner.execute("delete from operational.loan_products")
        with owner.cursor() as cursor:
            cursor.executemany(
                "insert into operational.loan_products values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", saved
            )
