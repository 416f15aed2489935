"""The oracle of the lender's figures gives the worked examples of docs/lenders-truth.md, to the cent."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from support.lender_oracle import Installment, Loan, Payment, Truth, annuity, cents, months_after


def day(text: str) -> date:
    return date.fromisoformat(text)


LOAN_A = Loan(
    1, cents("100000"), Decimal("12"), 12, "active", day("2025-01-31"), day("2026-01-31"), cents("84151.39"),
    payments=[
        Payment(day("2025-02-28"), cents("7884.88"), cents("1000.00")),
        Payment(day("2025-03-31"), cents("7963.73"), cents("921.15")),
    ],
)  # fmt: skip
LOAN_F = Loan(
    3, cents("3000"), Decimal("0"), 3, "active", day("2025-01-31"), day("2025-04-30"), cents("1000"),
    payments=[Payment(day(paid), cents("1000"), cents("0")) for paid in ("2025-02-28", "2025-03-31")],
)  # fmt: skip


def test_the_level_schedule_of_a_loan_has_no_drift_and_the_last_instalment_takes_the_rest():
    schedule = annuity(cents("100000"), Decimal("12"), 12, day("2025-01-31"))
    assert [(each.due_date, each.principal, each.interest) for each in (schedule[0], schedule[1], schedule[-1])] == [
        (day("2025-02-28"), cents("7884.88"), cents("1000.00")),
        (day("2025-03-31"), cents("7963.73"), cents("921.15")),
        (day("2026-01-31"), cents("8796.88"), cents("87.97")),
    ]
    assert schedule[2].due_date == day("2025-04-30")
    assert sum(each.interest for each in schedule) == cents("6618.53")
    assert sum(each.principal for each in schedule) == cents("100000")


def test_the_days_of_a_loan_from_a_month_without_a_thirtieth():
    schedule = annuity(cents("1000"), Decimal("24"), 4, day("2025-11-30"))
    assert [(each.due_date, each.principal, each.interest) for each in schedule] == [
        (day("2025-12-30"), cents("242.62"), cents("20.00")),
        (day("2026-01-30"), cents("247.47"), cents("15.15")),
        (day("2026-02-28"), cents("252.42"), cents("10.20")),
        (day("2026-03-30"), cents("257.49"), cents("5.15")),
    ]


@pytest.mark.parametrize(
    ("when", "days", "overdue", "in_par_30"),
    [
        ("2025-04-30", 0, "0.00", False),
        ("2025-05-01", 1, "8884.88", False),
        ("2025-05-30", 30, "8884.88", False),
        ("2025-05-31", 31, "8884.88", True),
        ("2025-06-30", 61, "17769.76", True),
    ],
)
def test_two_paid_on_time_then_nothing(when, days, overdue, in_par_30):
    truth = Truth(LOAN_A)
    assert truth.days_past_due(day(when)) == days
    assert truth.overdue(day(when)) == cents(overdue)
    assert truth.owed(day(when)) == cents("84151.39")
    assert (truth.days_past_due(day(when)) > 30) == in_par_30


def test_one_cent_short_makes_the_whole_balance_late_unless_it_is_tolerated():
    short = replace(
        LOAN_A,
        balance=cents("84151.40"),
        payments=[LOAN_A.payments[0], Payment(day("2025-03-31"), cents("7963.72"), cents("921.15"))],
    )
    strict, tolerant = Truth(short), Truth(short, cents("1.00"))
    assert (strict.days_past_due(day("2025-04-01")), strict.overdue(day("2025-04-01"))) == (1, cents("0.01"))
    assert strict.owed(day("2025-04-01")) == cents("84151.40")
    assert (tolerant.days_past_due(day("2025-04-01")), tolerant.overdue(day("2025-04-01"))) == (0, cents("0.00"))


@pytest.mark.parametrize(
    ("when", "days", "overdue"),
    [("2025-09-30", 0, "0.00"), ("2025-10-01", 1, "8884.88"), ("2025-12-31", 92, "26654.64")],
)
def test_prepaid_principal_settles_the_instalments_it_covers(when, days, overdue):
    prepaid = replace(
        LOAN_A,
        balance=cents("42115.12"),
        payments=[LOAN_A.payments[0], Payment(day("2025-03-15"), cents("50000.00"), cents("0.00"))],
    )
    truth = Truth(prepaid)
    assert truth.paid_count(day(when)) == 7
    assert truth.first_unpaid(day(when)) == day("2025-09-30")
    assert (truth.days_past_due(day(when)), truth.overdue(day(when))) == (days, cents(overdue))


def test_a_matured_loan_with_a_balance_is_late_since_maturity():
    truth = Truth(LOAN_F)
    assert (truth.days_past_due(day("2025-05-01")), truth.overdue(day("2025-05-01"))) == (1, cents("1000.00"))
    assert truth.days_past_due(day("2025-10-28")) == 181


def test_a_written_off_loan_leaves_the_portfolio_and_what_comes_later_is_recovered():
    written_off = replace(
        LOAN_F,
        status="written_off",
        balance=cents("1700"),
        written_off_on=day("2025-12-01"),
        payments=[LOAN_F.payments[0], Payment(day("2026-02-10"), cents("300"), cents("0"))],
    )
    truth = Truth(written_off)
    assert (truth.days_past_due(day("2025-11-30")), truth.owed(day("2025-11-30"))) == (244, cents("2000"))
    assert [truth.in_portfolio(day(when)) for when in ("2025-11-30", "2025-12-01")] == [True, False]
    months = {row["month_end"]: row for row in truth.month_ends(day("2026-03-31"))}
    assert months[day("2025-12-31")]["written_off_amount"] == cents("2000")
    assert months[day("2025-12-31")]["state"] == "written_off"
    assert months[day("2025-11-30")]["state"] == "181-360"
    recovery = months[day("2026-02-28")]
    assert (recovery["recovered_amount"], recovery["due_amount"], recovery["paid_ahead"]) == (
        cents("300"), cents("0"), cents("0"),
    )  # fmt: skip
    assert day("2026-01-31") not in months and day("2026-03-31") not in months


def test_a_reversed_payment_goes_back_to_the_instalment_it_paid():
    truth = Truth(replace(LOAN_A, balance=cents("92115.12"), payments=LOAN_A.payments[:1]))
    assert truth.first_unpaid() == day("2025-03-31")
    assert truth.days_past_due(day("2025-06-30")) == 91


def test_principal_settles_an_interest_only_instalment_with_the_next_one():
    pause = [
        Installment(1, day("2026-01-31"), cents("0"), cents("10")),
        Installment(2, day("2026-02-28"), cents("0"), cents("0")),
        Installment(3, day("2026-03-31"), cents("100"), cents("10")),
        Installment(4, day("2026-04-30"), cents("100"), cents("5")),
    ]
    loan = Loan(9, cents("200"), Decimal("12"), 4, "active", day("2025-12-31"), None, cents("200"), installments=pause)
    assert Truth(loan).paid_count() == 0
    assert Truth(replace(loan, payments=[Payment(day("2026-01-10"), cents("0"), cents("10"))])).paid_count() == 2
    assert Truth(replace(loan, balance=cents("100"))).paid_count() == 3


def test_receipts_of_a_month_are_split_into_arrears_dues_and_prepayments():
    late = replace(
        LOAN_A,
        balance=cents("76108.02"),
        payments=[
            LOAN_A.payments[0],
            # March is paid in April, together with April and a little of May
            Payment(day("2025-04-30"), cents("16007.10"), cents("1862.66")),
        ],
    )
    rows = {row["month_end"]: row for row in Truth(late).month_ends(day("2025-05-31"))}
    march, april = rows[day("2025-03-31")], rows[day("2025-04-30")]
    assert (march["due_amount"], march["paid_on_time"], march["days_past_due"]) == (cents("8884.88"), cents("0"), 0)
    assert (april["paid_of_arrears"], april["paid_of_due"], april["paid_ahead"]) == (
        cents("8884.88"), cents("8884.88"), cents("100.00"),
    )  # fmt: skip
    assert april["paid_on_time"] == cents("8884.88")
    assert april["state"] == "current"


def test_months_are_counted_from_the_first_day():
    assert [months_after(day("2024-01-31"), months) for months in (1, 2, 13)] == [
        day("2024-02-29"), day("2024-03-31"), day("2025-02-28"),
    ]  # fmt: skip
