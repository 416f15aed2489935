"""What a borrower of the simulated traffic pays next."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from eds.book.repayment import WEEKS, Instalment, annuity, weeks_of, what_is_left
from support import lender_oracle


@pytest.mark.parametrize(
    ("amount", "rate", "tenure"),
    [("1000", "12", 3), ("50000", "0", 7), ("123456.78", "23.75", 60), ("0.05", "9", 12), ("9000000", "7.5", 360)],
)
def test_an_annuity_is_the_one_that_the_warehouse_derives(amount: str, rate: str, tenure: int) -> None:
    terms = (Decimal(amount), Decimal(rate))
    expected = lender_oracle.annuity(*terms, tenure, date(2024, 1, 31))
    found = list(annuity(*terms, date(2024, 1, 31), tenure))
    assert [(each.number, each.due_date, each.principal, each.interest) for each in found] == [
        (each.number, each.due_date, each.principal, each.interest) for each in expected
    ]


def test_weekly_instalments_fall_due_each_week_and_repay_the_amount() -> None:
    found = list(annuity(Decimal(5200), Decimal(52), date(2024, 2, 26), weeks_of(3), WEEKS))
    assert [each.due_date for each in found[:2]] == [date(2024, 3, 4), date(2024, 3, 11)]
    assert len(found) == 13
    assert found[0].interest == Decimal("52.00")
    assert sum(each.principal for each in found) == 5200


SCHEDULE = [Instalment(number, date(2024, number, 1), Decimal(10), Decimal(2)) for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("principal", "interest", "expected"),
    [
        (0, 0, (1, 10, 2)),
        (4, 2, (1, 6, 0)),
        (0, 2, (1, 10, 0)),
        (10, 2, (2, 10, 2)),
        # Interest that was left unpaid before is not asked for again.
        (10, 0, (2, 10, 2)),
        (25, 9, (3, 5, 0)),
    ],
)
def test_the_next_instalment_is_what_is_left_of_the_first_unpaid(
    principal: int, interest: int, expected: tuple[int, int, int]
) -> None:
    left = what_is_left(SCHEDULE, Decimal(principal), Decimal(interest))
    assert left is not None
    assert left == Instalment(expected[0], date(2024, expected[0], 1), Decimal(expected[1]), Decimal(expected[2]))


def test_nothing_is_left_of_a_schedule_that_is_paid() -> None:
    assert what_is_left(SCHEDULE, Decimal(30), Decimal(6)) is None
