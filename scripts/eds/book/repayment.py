"""What a borrower pays next: the first instalment that is not paid, of those on record or of an annuity."""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal

CENT = Decimal("0.01")
MONTHS, WEEKS = 12, 52  # periods of a year


@dataclass(frozen=True)
class Instalment:
    """What falls due on a day, in the loan's currency."""

    number: int
    due_date: date
    principal: Decimal
    interest: Decimal


def level_payment(amount: Decimal, rate: Decimal, count: int, periods: int = MONTHS) -> Decimal:
    """Return the payment of each period that repays a loan. rate: percent a year."""
    per_period = rate / (100 * periods)
    exact = amount * per_period / (1 - (1 + per_period) ** -count) if per_period else amount / count
    return exact.quantize(CENT, ROUND_HALF_UP)


def annuity(
    amount: Decimal, rate: Decimal, disbursed_on: date, count: int, periods: int = MONTHS
) -> Iterator[Instalment]:
    """Yield the instalments of a level payment, counted from the day of the disbursement; the last one takes the rest.

    rate: percent a year. periods: MONTHS or WEEKS.
    """
    level, balance = level_payment(amount, rate, count, periods), amount
    for number in range(1, count + 1):
        interest = (balance * rate / (100 * periods)).quantize(CENT, ROUND_HALF_UP)
        principal = balance if number == count else min(balance, max(level - interest, Decimal(0)))
        due_date = disbursed_on + timedelta(weeks=number) if periods == WEEKS else _months_later(disbursed_on, number)
        yield Instalment(number, due_date, principal, interest)
        balance -= principal


def weeks_of(months: int) -> int:
    """Return the number of weekly instalments of a tenure in months."""
    return (months * WEEKS + MONTHS // 2) // MONTHS


def what_is_left(schedule: Iterable[Instalment], principal_paid: Decimal, interest_paid: Decimal) -> Instalment | None:
    """Return what is left of the first instalment that is not paid in full; None when all are."""
    principal = interest = Decimal(0)
    for instalment in schedule:
        principal += instalment.principal
        interest += instalment.interest
        if principal > principal_paid:
            return Instalment(
                instalment.number,
                instalment.due_date,
                principal - principal_paid,
                min(max(interest - interest_paid, Decimal(0)), instalment.interest),
            )
    return None


def _months_later(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))
