"""The lender's figures equal an oracle of their own, in every column, after a first build and after each increment."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from bench import lender
from eds.base.errors import UserError
from eds.cluster.connections import connect
from eds.dashboards import content, page
from eds.warehouse import closing
from eds.warehouse.runs import DATA_BUILD
from support.book import add_customer, add_loan, pay
from support.lender_book import (
    Replacements,
    add_installments,
    add_random_loan,
    as_of,
    assert_months_equal_the_oracle,
    assert_positions_equal_the_oracle,
    assert_restructured_equal_the_oracle,
    assert_views_equal_the_oracle,
    random_change,
    truths,
)
from support.lender_oracle import Installment, cents, month_end, months_after
from support.platform import changed_nodes

# More by hand: LENDER_LOANS=500 LENDER_ROUNDS=10 LENDER_CHANGES=200.
LOANS = int(os.environ.get("LENDER_LOANS", "80"))
ROUNDS = int(os.environ.get("LENDER_ROUNDS", "2"))
CHANGES = int(os.environ.get("LENDER_CHANGES", "50"))


def run(platform, *options, **environment):
    platform.wait_for_replicas()
    result = platform.dbt(*DATA_BUILD, *options, environment={"ETL_MAX_DELETE_SHARE": "1"} | environment)
    assert result.exit_code == 0, result.run
    return result


def assert_figures(platform, timezone="UTC", tolerance=Decimal("0.00"), replacements=None):
    book = truths(platform, timezone, tolerance)
    if replacements is not None:
        assert_restructured_equal_the_oracle(platform, book, replacements)
    assert_positions_equal_the_oracle(platform, book)
    assert_months_equal_the_oracle(platform, book, timezone)
    assert_views_equal_the_oracle(platform, book, timezone)


def written(platform, result) -> set[str]:
    """Return the models in which a run changed rows."""
    return {node[0] for node in changed_nodes(platform, result.run["run_id"])}


def days_later(platform, days: int) -> AbstractContextManager[None]:
    """Let the source answer as if it were that many days later; nothing else changes."""
    return lender.days_later(platform.superuser_conninfo, days)


def random_book(platform, chance, loans=LOANS):
    today = datetime.now(UTC).date()
    with connect(platform.app_conninfo) as connection:
        for _ in range(loans):
            add_random_loan(connection, chance, today)
    return today


@pytest.mark.proof
def test_a_random_book_and_its_increments_equal_the_oracle_and_a_full_refresh(platform, chance):
    today = random_book(platform, chance)
    run(platform)
    replacements = Replacements()
    assert_figures(platform, replacements=replacements)
    for _ in range(ROUNDS):
        kinds = []
        for _ in range(CHANGES):
            with connect(platform.app_conninfo) as connection:
                kinds.append(random_change(connection, chance, today))
        print(", ".join(kinds))
        run(platform)
        assert_figures(platform, replacements=replacements)
    full = run(platform, "--full-refresh")
    assert changed_nodes(platform, full.run["run_id"]) == []


@pytest.mark.proof
def test_midnight_writes_no_row_and_a_quiet_first_of_the_month_appends_the_month(platform, chance):
    today = random_book(platform, chance)
    run(platform)
    to_the_end = (month_end(today) - today).days
    if to_the_end:
        with days_later(platform, 1 if to_the_end > 1 else 0):
            assert written(platform, run(platform)) == set()
            assert_figures(platform)
    with days_later(platform, to_the_end + 1):
        assert {"fact_loan_month_end", "agg_month_ends_by_officer"} <= written(platform, run(platform))
        last = platform.warehouse("select max(month_end) from warehouse.fact_loan_month_end")[0][0]
        assert last == month_end(today) < as_of(platform)
        assert_figures(platform)
        assert written(platform, run(platform)) == set()
        # The history was appended to as a full computation would have it.
        full = run(platform, "--full-refresh")
        assert changed_nodes(platform, full.run["run_id"]) == []


@pytest.mark.proof
def test_changes_between_two_months_are_appended_and_restated_together(platform, chance):
    today = random_book(platform, chance)
    with platform.app() as connection:
        # On the book from the day on which it was entered: after its write-off, and after a payment of the month.
        loan = add_loan(
            connection, add_customer(connection), "1000.00", disbursed_at=None, status="written_off",
            written_off_on=today - timedelta(days=60),
        )  # fmt: skip
        pay(connection, loan, "100.00", "0.00", payment_date=f"{today.replace(day=1)} 09:00+00")
    run(platform)
    for _ in range(CHANGES):
        with connect(platform.app_conninfo) as connection:
            random_change(connection, chance, today)
    with days_later(platform, (month_end(today) - today).days + 33):
        run(platform)
        assert_figures(platform)
        full = run(platform, "--full-refresh")
        assert changed_nodes(platform, full.run["run_id"]) == []


def a_loan_paid_until(platform, months: int) -> tuple[int, date]:
    """Make a loan of 1 200 over 12 months without interest, lent seven months ago, whose first months are paid."""
    start = months_after(datetime.now(UTC).date().replace(day=10), -7)
    with platform.app() as connection:
        loan = add_loan(
            connection, add_customer(connection), "1200.00", interest_rate="0", disbursed_at=f"{start} 09:00+00",
            maturity_date=months_after(start, 12),
        )  # fmt: skip
        for month in range(1, months + 1):
            pay(connection, loan, "100.00", "0.00", payment_date=f"{months_after(start, month)} 09:00+00")
    return loan, start


def test_a_reported_month_stays_as_it_was_when_a_payment_of_it_comes_later(platform):
    loan, start = a_loan_paid_until(platform, 2)
    run(platform)
    month = month_end(months_after(start, 4))
    query = "select figure, reported, restated from warehouse.vw_restated_months where month_end = %s"
    before = {figure: (reported, restated) for figure, reported, restated in platform.warehouse(query, (month,))}
    assert before["gross_loan_portfolio"] == (1000, 1000)
    assert before["par_30"] == (1000, 1000)
    assert before["par_60"] == (0, 0)
    with platform.app() as connection:
        pay(connection, loan, "200.00", "0.00", payment_date=f"{months_after(start, 3)} 09:00+00")
    run(platform)
    after = {figure: (reported, restated) for figure, reported, restated in platform.warehouse(query, (month,))}
    assert after["gross_loan_portfolio"] == (1000, 800)
    assert after["par_30"] == (1000, 0)
    assert written(platform, run(platform)) == set()
    for statement in ("update {} set par_1 = 0", "delete from {}", "truncate {}"):
        with connect(platform.writer_conninfo) as connection, pytest.raises(psycopg.errors.RaiseException):
            connection.execute(statement.format("publish.reported_month_ends"))


@pytest.mark.proof
def test_months_reported_of_a_demo_book_go_when_it_is_replaced(platform):
    a_loan_paid_until(platform, 2)
    run(platform)
    reported = "select count(distinct month_end) from publish.reported_month_ends"
    months = platform.warehouse(reported)[0][0]
    assert months > 0
    # Of a lender's own book, and of a demo book that is still there, every report stays.
    assert closing.drop_reports_of_demo(platform.cluster) == 0
    platform.primary("insert into operational.demo_book (payment_count, seed) values (1, 1)")
    assert closing.drop_reports_of_demo(platform.cluster) == 0
    # The run read the demo book before it was replaced, and reported it afterwards.
    (snapshot_time,) = platform.warehouse("select max(snapshot_time) from audit.etl_runs")[0]
    assert platform.warehouse("select min(reported_at) > %s from publish.reported_month_ends", (snapshot_time,))[0][0]
    platform.primary("update operational.demo_book set replaced_at = %s", (snapshot_time,))
    assert closing.drop_reports_of_demo(platform.cluster) == months
    assert platform.warehouse(reported) == [(0,)]
    assert platform.warehouse("select count(*) from warehouse.vw_restated_months") == [(0,)]
    # What is reported from then on is the lender's, and as unchangeable as ever.
    run(platform)
    assert closing.drop_reports_of_demo(platform.cluster) == 0
    assert platform.warehouse(reported) == [(months,)]
    with connect(platform.writer_conninfo) as connection, pytest.raises(psycopg.errors.RaiseException):
        connection.execute("delete from publish.reported_month_ends")


@pytest.mark.proof
def test_a_month_is_closed_again_only_when_that_is_wanted_and_both_reports_stay(platform):
    loan, start = a_loan_paid_until(platform, 2)
    run(platform)
    end = month_end(months_after(start, 4))
    month = f"{end:%Y-%m}"
    with platform.app() as connection:
        pay(connection, loan, "200.00", "0.00", payment_date=f"{months_after(start, 3)} 09:00+00")
    run(platform)
    with pytest.raises(UserError, match="AGAIN=1"):
        closing.close(platform.cluster, month, again=False)
    assert closing.close(platform.cluster, month, again=True) == 2
    kept = (
        "select report_version, sum(par_30) from publish.reported_month_ends where month_end = %s group by 1 order by 1"
    )
    assert platform.warehouse(kept, (end,)) == [(1, 1000), (2, 0)]
    shown = "select reported, restated from warehouse.vw_restated_months where month_end = %s and figure = 'par_30'"
    assert platform.warehouse(shown, (end,)) == [(0, 0)]
    versions = {row["month_end"]: row["version"] for row in closing.reported_months(platform.cluster)}
    assert versions[end] == 2
    assert set(versions.values()) == {1, 2}
    for wrong in ("1999-01", f"{datetime.now(UTC):%Y-%m}"):
        with pytest.raises(UserError, match="has ended"):
            closing.close(platform.cluster, wrong, again=True)


def report_by_a_clock_ahead(platform, month, reported_at):
    """Keep figures of a month that nobody has, as a further version, at the time that a wrong clock shows."""
    platform.warehouse(
        "insert into publish.reported_month_ends select %(month)s, 1 + coalesce(max(report_version), 0), "
        "(select max(branch_sk) from publish.agg_month_ends_by_branch), 77, 77, 77, 77, 77, 77, %(reported_at)s "
        "from publish.reported_month_ends where month_end = %(month)s",
        {"month": month, "reported_at": reported_at},
    )


def test_what_a_clock_that_was_ahead_has_reported_is_no_report(platform):
    _, start = a_loan_paid_until(platform, 2)
    now = datetime.now(UTC)
    closed = month_end(months_after(start, 4))
    this_month, next_month = (month_end(months_after(now.date().replace(day=1), later)) for later in (0, 1))
    run(platform)
    ahead = now + timedelta(days=40)
    for month in (closed, this_month, next_month):
        report_by_a_clock_ahead(platform, month, ahead)
    # Kept in time by the warehouse's clock: the source's alone was ahead.
    report_by_a_clock_ahead(platform, next_month, now)
    for view in ("vw_restated_months", "vw_restated_branches"):
        assert platform.warehouse(f"select count(*) from warehouse.{view} where reported = 77") == [(0,)]
    shown = "select reported from warehouse.vw_restated_months where month_end = %s and figure = 'gross_loan_portfolio'"
    # The report before it is the one that is compared.
    assert platform.warehouse(shown, (closed,)) == [(1000,)]
    assert platform.warehouse(shown, (this_month,)) == platform.warehouse(shown, (next_month,)) == []
    listed = [(row["month_end"], row["version"], row["note"]) for row in closing.reported_months(platform.cluster)]
    assert listed[:2] == [
        (next_month, 2, "no report: made before the month had ended"),
        (this_month, 1, "no report: stamped ahead of now"),
    ]
    assert [row for row in listed if row[0] == closed] == [
        (closed, 1, ""),
        (closed, 2, "no report: stamped ahead of now"),
    ]
    problem = str(closing.reported_ahead(platform.cluster))
    assert f"{closed:%Y-%m} at {ahead:%Y-%m-%d %H:%M}, {this_month:%Y-%m} at {ahead:%Y-%m-%d %H:%M}, " in problem
    # The run of the close day makes the report, once.
    kept = (
        "select report_version, max(gross_loan_portfolio) from publish.reported_month_ends "
        "where month_end = %s group by 1 order by 1"
    )
    for _ in range(2):
        with days_later(platform, (this_month - now.date()).days + 5):
            run(platform)
        assert platform.warehouse(kept, (this_month,)) == [(1, 77), (2, 1000)]
    assert platform.warehouse(shown, (this_month,)) == [(1000,)]
    # By hand a month is closed as if that report were not there, and again only when that is wanted.
    report_by_a_clock_ahead(platform, closed, ahead)
    with pytest.raises(UserError, match="AGAIN=1"):
        closing.close(platform.cluster, f"{closed:%Y-%m}", again=False)
    assert closing.close(platform.cluster, f"{closed:%Y-%m}", again=True) == 4
    notes = [row["note"] for row in closing.reported_months(platform.cluster) if row["month_end"] == closed]
    assert notes == [""]
    assert f"{closed:%Y-%m}" not in str(closing.reported_ahead(platform.cluster))


@pytest.mark.proof
def test_a_month_is_reported_from_the_close_day_on(platform):
    a_loan_paid_until(platform, 2)
    today = datetime.now(UTC).date()
    this_month = month_end(today)
    kept = "select count(*) from publish.reported_month_ends where month_end = %s"
    next_month = month_end(this_month + timedelta(days=1))
    for month, days, settings, expected in (
        (this_month, 4, {}, 0),
        (this_month, 5, {}, 1),
        (next_month, 2, {}, 0),
        # Nothing but the setting has changed.
        (next_month, 2, {"CLOSE_DAY": "2"}, 1),
        (next_month, 3, {"CLOSE_DAY": "28"}, 1),
    ):
        with days_later(platform, (month - today).days + days):
            run(platform, **settings)
        assert platform.warehouse(kept, (month,)) == [(expected,)]


@pytest.mark.proof
def test_a_change_of_the_time_zone_or_the_tolerance_computes_again_what_depends_on_it(platform, chance):
    random_book(platform, chance)
    run(platform)
    run(platform, BUSINESS_TIMEZONE="Pacific/Auckland", ARREARS_TOLERANCE="0.01")
    assert_figures(platform, "Pacific/Auckland", Decimal("0.01"))
    assert written(platform, run(platform, BUSINESS_TIMEZONE="Pacific/Auckland", ARREARS_TOLERANCE="0.01")) == set()
    run(platform)
    assert_figures(platform)


@pytest.mark.proof
def test_a_midnight_that_comes_twice_belongs_to_the_later_day(platform):
    """Havana puts its clocks back at 1 a.m. of a 1 November: what happened before and after that is of the same day."""
    first, zone = date(2026, 11, 1), "America/Havana"
    shift = max((first + timedelta(days=35) - datetime.now(UTC).date()).days, 0)
    terms: dict[str, Any] = {"tenure_months": 3, "maturity_date": "2027-02-01", "loan_officer": "Achieng"}
    with platform.app() as connection:
        customer = add_customer(connection)
        # The first midnight is 04:00 UTC, the second one 05:00.
        new = add_loan(connection, customer, disbursed_at="2026-11-01T04:10:00+00", **terms)
        old = add_loan(connection, customer, disbursed_at="2026-08-01T12:00:00+00", maturity_date="2026-11-01",
                       tenure_months=3)  # fmt: skip
        for loan in (new, old):
            pay(connection, loan, "200.00", "10.00", payment_date="2026-11-01T04:30:00+00")
    with days_later(platform, shift):
        run(platform, BUSINESS_TIMEZONE=zone)
        assert_figures(platform, zone)
        as_of = "select loan_id, outstanding_principal from warehouse.portfolio_as_of(date '2026-10-31') order by 1"
        assert platform.warehouse(as_of) == [(old, Decimal("1000.00"))]
        with platform.app() as connection:
            for loan in (new, old):
                pay(connection, loan, "100.00", "10.00", payment_date="2026-11-20T12:00:00+00")
        run(platform, BUSINESS_TIMEZONE=zone)
        assert_figures(platform, zone)
        full = run(platform, "--full-refresh", BUSINESS_TIMEZONE=zone)
        assert changed_nodes(platform, full.run["run_id"]) == []


@pytest.mark.proof
def test_another_scheme_of_classification_is_shown_and_one_that_is_not_there_is_refused(platform):
    a_loan_paid_until(platform, 2)
    run(platform, PROVISION_SCHEME="ke_bank")
    found = {row["class"]: row["loan_count"] for row in platform.view("vw_loan_classification")}
    assert {row["scheme"] for row in platform.view("vw_loan_classification")} == {"ke_bank"}
    assert found == {"normal": 0, "watch": 0, "substandard": 1, "doubtful": 0, "loss": 0}
    platform.wait_for_replicas()
    refused = platform.dbt(*DATA_BUILD, environment={"PROVISION_SCHEME": "nobodys"})
    assert refused.exit_code != 0
    assert "assert_provision_bands_cover_all_days" in refused.run["error_message"]


def restructured(platform) -> dict[int, bool]:
    return dict(platform.warehouse("select loan_id, is_restructured from warehouse.fact_loans"))


@pytest.mark.proof
def test_terms_or_instalments_that_change_after_disbursement_make_a_loan_restructured(platform):
    plan = [
        Installment(number, date(2026, 1, 1) + timedelta(days=14 * number), cents("500"), cents("5"))
        for number in (1, 2)
    ]
    unordered = [Installment(3 - each.number, each.due_date, each.principal, each.interest) for each in plan]
    with platform.app() as connection:
        customer = add_customer(connection)
        untouched, dated, terms, pending, replaced, planned, unbelievable, dropped = (
            add_loan(connection, customer, status="pending" if position == 3 else "active") for position in range(8)
        )
        add_installments(connection, replaced, plan)
        add_installments(connection, dropped, plan)
        add_installments(connection, unbelievable, unordered)
        # Disbursed on the day on which they were entered; with a schedule from nowhere.
        undated, undated_terms = (add_loan(connection, customer, disbursed_at=None) for _ in range(2))
        open_ended = add_loan(connection, customer, maturity_date=None)
    run(platform)
    assert set(restructured(platform).values()) == {False}
    delete = "delete from operational.loan_installments where loan_id = %s"
    with platform.app() as connection:
        update = "update operational.loans set {} where loan_id = %s"
        connection.execute(update.format("outstanding_balance = 900"), (untouched,))
        connection.execute(update.format("outstanding_balance = 900"), (undated,))
        connection.execute(update.format("restructured_on = '2026-03-01'"), (dated,))
        for loan in (terms, undated_terms):
            connection.execute(update.format("interest_rate = 7"), (loan,))
        connection.execute(update.format("tenure_months = 24"), (open_ended,))
        connection.execute(update.format("status = 'active', amount = 900"), (pending,))
        connection.execute(
            "update operational.loan_installments set due_date = due_date + 90 where loan_id = %s", (replaced,)
        )
        # the first schedule that is recorded is none that was replaced
        add_installments(connection, planned, plan)
        connection.execute(delete, (unbelievable,))
        add_installments(connection, unbelievable, plan)
        connection.execute(delete, (dropped,))
    run(platform)
    expected = {
        untouched: False, dated: True, terms: True, pending: False, replaced: True, planned: False,
        unbelievable: True, dropped: False, undated: False, undated_terms: True, open_ended: True,
    }  # fmt: skip
    assert restructured(platform) == expected
    with platform.app() as connection:
        add_installments(connection, dropped, plan[:1])
    run(platform)
    expected[dropped] = True
    assert restructured(platform) == expected
    run(platform, "--full-refresh")
    assert restructured(platform) == expected
    stages = {row["stage"]: row["loan_count"] for row in platform.view("vw_ifrs9_stages")}
    assert sum(stages.values()) == len(expected) - 3


@pytest.mark.proof
def test_write_off_without_a_day_takes_the_day_of_the_last_change_of_status(platform):
    with platform.app() as connection:
        customer = add_customer(connection)
        again, once = (
            add_loan(connection, customer, status="written_off", written_off_on=day)
            for day in (None, datetime.now(UTC).date())
        )
    run(platform)
    change = "update operational.loans set status = %s, written_off_on = null where loan_id = %s"
    for status, days in (("active", 40), ("written_off", 70), ("written_off", 75)):
        with connect(platform.superuser_conninfo) as connection:
            # As if it were later: the next change of the row is stamped after this one.
            for trigger in ("disable", "enable"):
                connection.execute(f"alter table operational.loans {trigger} trigger loans_stamp_row".encode())
                if trigger == "disable":
                    connection.execute(
                        "update operational.loans set updated_at = now() + %s * interval '1 day', loan_officer = %s "
                        "where loan_id = %s",
                        (days, f"officer {days}", again),
                    )
            connection.execute(change, (status, again))
            connection.execute(change, ("written_off", once))
        run(platform)
    assert_figures(platform)
    left_on = dict(platform.warehouse("select loan_id, written_off_on from warehouse.int_loan_schedules"))
    today = datetime.now(UTC).date()
    assert left_on == {again: today + timedelta(days=70), once: today}


def test_recoveries_above_the_loss_do_not_raise_what_was_written_off(platform):
    today = datetime.now(UTC).date()
    start, lost = months_after(today, -8), months_after(today, -3)
    with platform.app() as connection:
        loan = add_loan(connection, add_customer(connection), "1000.00", disbursed_at=f"{start} 09:00+00")
        pay(connection, loan, "600.00", "0.00", payment_date=f"{months_after(start, 1)} 09:00+00")
        # The collector booked all of it as principal, with the costs.
        pay(connection, loan, "450.00", "0.00", payment_date=f"{months_after(today, -2)} 09:00+00")
        connection.execute(
            "update operational.loans set status = 'written_off', written_off_on = %s, outstanding_balance = 0 "
            "where loan_id = %s",
            (lost, loan),
        )
    run(platform)
    assert_figures(platform)
    losses = {row["month_end"]: row for row in platform.view("vw_write_offs")}
    assert losses[month_end(lost)]["written_off_amount"] == 400
    assert losses[month_end(months_after(today, -2))]["recovered_amount"] == 450


def test_loans_whose_terms_are_no_annuity_stand_in_the_balance_and_in_no_figure_of_lateness(platform):
    with platform.app() as connection:
        customer = add_customer(connection)
        for columns in (
            {"maturity_date": None},
            {"disbursed_at": None},
            {"tenure_months": 2_000_000_000},
            {"tenure_months": 1201, "maturity_date": "2126-02-05"},
            {"maturity_date": "9999-12-31"},
            {"disbursed_at": "2199-06-05T09:00:00+00", "maturity_date": "2200-06-05"},
        ):
            add_loan(connection, customer, "1000.00", **columns)
        # the largest that there can be is derived
        largest = "999999999999.99"
        add_loan(connection, customer, largest, interest_rate="999.9999")
        # What is owed now fits the book; what follows for earlier months, or from a payment's sign, is more.
        corrected = add_loan(connection, customer, largest)
        pay(connection, corrected, "100.00", "15.00", payment_date="2026-02-05 09:00+00")
        connection.execute(
            "update operational.loans set outstanding_balance = %s where loan_id = %s", (largest, corrected)
        )
        lost = add_loan(
            connection, customer, largest, status="written_off", written_off_on="2026-03-05", outstanding_balance="0.00"
        )
        pay(connection, lost, "-100.00", "115.00", payment_date="2026-02-05 09:00+00")
        connection.execute("update operational.loans set outstanding_balance = 0 where loan_id = %s", (lost,))
    run(platform)
    assert_figures(platform)
    coverage = {row["schedule_source"]: row["loan_count"] for row in platform.view("vw_schedule_coverage")}
    assert coverage == {"none": 6, "derived": 2}
    assert sum(row["gross_loan_portfolio"] for row in platform.view("vw_portfolio_at_risk")) == Decimal(
        "2000000005999.98"
    )
    past = "select outstanding_principal from warehouse.portfolio_as_of(date '2026-01-31') where loan_id = %s"
    assert platform.warehouse(past, (corrected,)) == [(Decimal("1000000000099.99"),)]


def answer(platform, question: str, **chosen):
    """Return the only row of a dashboard's question."""
    what = content.load()
    with connect(page.reader_conninfo(platform.cluster)) as connection:
        (row,) = page.rows_of(connection, question, what.questions[question], chosen, what)
    return row


def test_the_arrears_rate_stands_beside_the_portfolio_at_risk_and_is_much_less(platform):
    """The same book shows 6.8 % as amount past due and 19.8 % as portfolio at risk (a study guide of Rural Finance)."""
    today = datetime.now(UTC).date()
    start = f"{today - timedelta(days=90)} 09:00+00"
    book = {  # what is owed: what of it was due 45 days ago, and who looks after the loan
        "148000": ("50000", "Achieng"),
        "50000": ("18000", "Baraka"),
        "802000": ("0", "Baraka"),
    }
    with platform.app() as connection:
        customer = add_customer(connection)
        for amount, (overdue, officer) in book.items():
            loan = add_loan(connection, customer, amount, disbursed_at=start, maturity_date=None, loan_officer=officer)
            plan = [
                Installment(1, today - timedelta(days=45), cents(overdue), cents("0")),
                Installment(2, today + timedelta(days=60), cents(amount) - cents(overdue), cents("0")),
            ]
            add_installments(connection, loan, plan)
    run(platform)
    assert_figures(platform)
    (portfolio,) = platform.warehouse(
        "select sum(gross_loan_portfolio), sum(par_1), sum(par_30) from warehouse.vw_portfolio_at_risk"
    )
    assert portfolio == (1_000_000, 198_000, 198_000)
    assert sum(row["overdue_amount"] for row in platform.view("vw_arrears_ageing")) == 68_000
    assert answer(platform, "par_30") == {"par_30_ratio": Decimal("19.80"), "par_30": 198_000, "scheduled": 1_000_000}
    assert answer(platform, "arrears_rate") == {
        "arrears_rate": Decimal("6.80"), "overdue": 68_000, "scheduled": 1_000_000,
    }  # fmt: skip
    # As the filters leave it.
    assert answer(platform, "arrears_rate", officer="Baraka") == {
        "arrears_rate": Decimal("2.11"), "overdue": 18_000, "scheduled": 852_000,
    }  # fmt: skip


# The ageing of March 2003 in table 13 of Sa-Dhan's "Tracking Financial Performance Standards of Microfinance
# Institutions": what is owed in each class, days past due of such a loan, and the provision.
SA_DHAN = {
    "regular": (128_000, None, 0),
    "past_due_1_30": (17_500, 30, 1_750),
    "past_due_31_60": (10_000, 31, 2_500),
    "past_due_61_90": (5_000, 90, 2_500),
    "past_due_91_180": (3_500, 91, 2_625),
    "past_due_181_365": (2_500, 365, 2_250),
    "past_due_over_365": (1_500, 366, 1_500),
}


def test_a_published_ageing_gives_its_portfolio_at_risk_and_its_provisions(platform):
    today = datetime.now(UTC).date()
    start = f"{today - timedelta(days=400)} 09:00+00"
    with platform.app() as connection:
        customer = add_customer(connection)
        for owed, days, _ in SA_DHAN.values():
            loan = add_loan(connection, customer, str(owed), disbursed_at=start, maturity_date=None)
            due = today + timedelta(days=30) if days is None else today - timedelta(days=days)
            add_installments(connection, loan, [Installment(1, due, cents(str(owed)), cents("0"))])
    run(platform, PROVISION_SCHEME="sa_dhan")
    classes = {row["class"]: row for row in platform.view("vw_loan_classification")}
    assert {name: (row["outstanding_principal"], row["provision_amount"]) for name, row in classes.items()} == {
        name: (owed, provision) for name, (owed, _, provision) in SA_DHAN.items()
    }
    assert sum(row["provision_amount"] for row in classes.values()) == 13_125
    (row,) = platform.view("vw_portfolio_at_risk")
    assert row["gross_loan_portfolio"] == 168_000
    assert round(100 * row["par_1"] / row["gross_loan_portfolio"], 2) == Decimal("23.81")
    assert (row["par_30"], row["par_30_ratio"]) == (22_500, Decimal("13.39"))
    scales = "select distinct scale(principal_due), scale(interest_due) from warehouse.fact_installments"
    assert platform.warehouse(scales) == [(2, 2)]


# As the World Bank's statement of loans has them: amount, repaid in all, months since the approval, and since the last
# repayment. There are neither instalments nor a maturity, and what was repaid is known as one sum.
TAKEN_OVER = (
    ("250000000.00", "238000000.00", 235, 13),
    ("191044211.75", "0.00", 60, 0),
    ("40000000.00", "17771000.25", 120, 5),
    ("3955788.25", "3955788.25", 180, 60),
    ("12800000.00", "1.00", 96, 1),
    ("75499999.99", "30199999.99", 150, 7),
)


def test_a_book_that_was_taken_over_without_schedules_has_its_balance_and_no_portfolio_at_risk(platform):
    today = datetime.now(UTC).date().replace(day=15)
    owed = sum(Decimal(amount) - Decimal(repaid) for amount, repaid, _, _ in TAKEN_OVER)
    with platform.app() as connection:
        customer = add_customer(connection, segment="corporate")
        for amount, repaid, approved, last in TAKEN_OVER:
            loan = add_loan(
                connection, customer, amount, tenure_months=240, interest_rate="4.25", maturity_date=None,
                disbursed_at=f"{months_after(today, -approved)} 09:00+00",
            )  # fmt: skip
            if Decimal(repaid):
                pay(connection, loan, repaid, "0.00", payment_date=f"{months_after(today, -last)} 09:00+00")
        connection.execute("update operational.loans set status = 'repaid' where outstanding_balance = 0")
    run(platform)
    assert_figures(platform)
    coverage = {row["schedule_source"]: row for row in platform.view("vw_schedule_coverage")}
    assert set(coverage) == {"none"}
    assert (coverage["none"]["loan_count"], coverage["none"]["gross_loan_portfolio"]) == (5, owed)
    ladder = ("par_1", "par_30", "par_60", "par_90", "par_180", "scheduled_portfolio")
    for view in ("vw_portfolio_at_risk", "vw_portfolio_at_risk_by_month"):
        assert {row[name] for row in platform.view(view) for name in ladder} == {0}, view
    assert sum(row["gross_loan_portfolio"] for row in platform.view("vw_portfolio_at_risk")) == owed
    assert {row["par_30_ratio"] for row in platform.view("vw_portfolio_at_risk")} == {None}
    for view, figure in (
        ("vw_arrears_ageing", "outstanding_principal"),
        ("vw_arrears_ageing", "overdue_amount"),
        ("vw_loan_classification", "provision_amount"),
        ("vw_ifrs9_stages", "loan_count"),
        ("vw_officer_performance", "par_30"),
        ("vw_collections_by_month", "due_amount"),
    ):
        assert {row[figure] for row in platform.view(view)} == {0}, view
    for view in ("loans_in_arrears", "vw_expected_collections", "vw_vintages", "vw_loan_migration"):
        assert platform.view(view) == [], view
    assert answer(platform, "par_30") == {"par_30_ratio": None, "par_30": 0, "scheduled": 0}
    assert answer(platform, "arrears_rate") == {"arrears_rate": None, "overdue": 0, "scheduled": 0}
    assert answer(platform, "gross_portfolio") == {"gross_portfolio": owed, "loan_count": 5}
    # With a maturity that the book does not have, an annuity would be derived, and all of it be at risk.
    with platform.app() as connection:
        connection.execute(
            "update operational.loans "
            "set maturity_date = (disbursed_at at time zone 'UTC')::date + tenure_months * interval '1 month'"
        )
    run(platform)
    assert answer(platform, "par_30")["par_30_ratio"] > 60
