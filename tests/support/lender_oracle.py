"""The lender's figures of single loans, one loan and one day at a time, in exact decimals.

Written from the definitions (docs/lenders-truth.md), without a line of the warehouse's code: money is poured into the
instalments like water, oldest first. It is slow and plain on purpose.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

CENT = Decimal("0.01")
ZERO = Decimal("0.00")
CALENDAR = (date(1900, 1, 1), date(2199, 12, 31))
BANDS = ((0, "current"), (30, "1-30"), (60, "31-60"), (90, "61-90"), (180, "91-180"), (360, "181-360"))


@dataclass(frozen=True)
class Installment:
    """What is due on a day."""

    number: int
    due_date: date
    principal: Decimal
    interest: Decimal

    @property
    def amount(self) -> Decimal:
        return self.principal + self.interest


@dataclass(frozen=True)
class Payment:
    """What was paid on a day, without penalties."""

    day: date
    principal: Decimal
    interest: Decimal

    @property
    def money(self) -> Decimal:
        return self.principal + self.interest


@dataclass
class Loan:
    """A loan as the OLTP has it today. Days are in the business time zone.

    created_on: stands for the day of disbursement where a disbursed loan has none. seen_written_off_on: the day on
    which it was seen to become written off, the last time. has_other_terms: whether versions of it after disbursement
    differ in their terms. installments: the lender's own schedule, or nothing.
    """

    loan_id: int
    amount: Decimal
    rate: Decimal
    tenure: int
    status: str
    disbursed_on: date | None
    maturity: date | None
    balance: Decimal
    created_on: date = date(2026, 1, 1)
    written_off_on: date | None = None
    seen_written_off_on: date | None = None
    restructured_on: date | None = None
    has_other_terms: bool = False
    installments: list[Installment] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)


def rounded(value: Fraction) -> Decimal:
    """Return an exact amount in cents, half up, as money."""
    cents = int(value * 100 + Fraction(1, 2))
    return (Decimal(cents) / 100).quantize(CENT)


def months_after(start: date, months: int) -> date:
    """Return the same day of a later month, or that month's last day."""
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    return date(year, month + 1, min(start.day, calendar.monthrange(year, month + 1)[1]))


def month_end(day: date) -> date:
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])


def month_ends_between(first: date, last: date) -> Iterator[date]:
    """Yield the month ends from the month of `first` on, up to and with `last`."""
    end = month_end(first)
    while end <= last:
        yield end
        end = month_end(end + timedelta(days=1))


def annuity(amount: Decimal, rate: Decimal, tenure: int, start: date) -> list[Installment]:
    """Return the level monthly instalments of a loan."""
    principal_owed = Fraction(amount)
    monthly = Fraction(rate) / 1200
    if monthly:
        growth = (1 + monthly) ** tenure
        level = rounded(principal_owed * monthly * growth / (growth - 1))
    else:
        level = rounded(principal_owed / tenure)
    result = []
    for number in range(1, tenure + 1):
        interest = rounded(principal_owed * monthly)
        principal = min(rounded(principal_owed), max(level - interest, ZERO))
        if number == tenure:
            principal = rounded(principal_owed)
        principal_owed -= Fraction(principal)
        result.append(Installment(number, months_after(start, number), principal, interest))
    return result


def schedule_of(loan: Loan) -> tuple[str, list[Installment]]:
    """Return where a loan's schedule comes from, and its instalments in their order."""
    if loan.installments:
        ordered = sorted(loan.installments, key=lambda each: each.number)
        days = [each.due_date for each in ordered]
        return ("lender", ordered) if days == sorted(days) else ("none", [])
    if loan.status == "pending" or loan.disbursed_on is None or loan.maturity is None or loan.tenure > 1200:
        return "none", []
    if loan.maturity != months_after(loan.disbursed_on, loan.tenure):
        return "none", []
    first = months_after(loan.disbursed_on, 1)
    if first < CALENDAR[0] or loan.maturity > CALENDAR[1]:
        return "none", []
    return "derived", annuity(loan.amount, loan.rate, loan.tenure, loan.disbursed_on)


@dataclass
class Truth:
    """What follows for one loan. tolerance: what may be short of an instalment."""

    loan: Loan
    tolerance: Decimal = ZERO

    def __post_init__(self) -> None:
        self.source, self.schedule = schedule_of(self.loan)
        loan = self.loan
        disbursed = loan.status != "pending"
        self.on_book_from = (loan.disbursed_on or loan.created_on) if disbursed else None
        self.written_off_on = None
        if loan.status == "written_off":
            days = [loan.written_off_on or loan.seen_written_off_on, loan.disbursed_on]
            self.written_off_on = max((day for day in days if day), default=None)
        self.owed_today = loan.balance
        if loan.status == "written_off" and loan.balance == 0:
            self.owed_today = loan.amount - sum((p.principal for p in loan.payments), ZERO)

    # --- money ---

    def money(self, day: date | None = None) -> Decimal:
        """Principal and interest paid up to and with a day (None: all, also what is dated ahead)."""
        return sum((p.money for p in self.loan.payments if day is None or p.day <= day), ZERO)

    def owed(self, day: date | None = None) -> Decimal:
        """Principal owed at the end of a day: today's, and what was paid back since."""
        return self.owed_today + sum((p.principal for p in self.loan.payments if day is not None and p.day > day), ZERO)

    # --- instalments ---

    def paid_count(self, day: date | None = None) -> int:
        """Return how many instalments are paid at the end of a day."""
        money, owed = self.money(day), self.owed(day)
        principal_paid = self.loan.amount - owed
        by_money = by_principal = 0
        due = principal_due = ZERO
        for position, each in enumerate(self.schedule, start=1):
            due += each.amount
            if money >= due - self.tolerance:
                by_money = position
            principal_due += each.principal
            if each.amount == 0:
                # of nothing: with the one before it
                settled = by_principal == position - 1
            elif each.principal == 0:
                # of interest alone: with the next that has principal
                later, total = None, principal_due
                for other in self.schedule[position:]:
                    total += other.principal
                    if other.principal > 0:
                        later = total
                        break
                settled = later is not None and principal_paid >= later
            else:
                settled = principal_paid >= principal_due
            if settled and by_principal == position - 1:
                by_principal = position
        count = max(by_money, by_principal)
        return max(min(count, len(self.schedule) - (1 if owed > 0 else 0)), 0)

    def first_unpaid(self, day: date | None = None) -> date | None:
        """Return the due date of the oldest instalment that is not paid."""
        if self.on_book_from is None or self.owed(day) <= 0:
            return None
        count = self.paid_count(day)
        return self.schedule[count].due_date if count < len(self.schedule) else None

    def overdue(self, day: date) -> Decimal:
        """Return what fell due before a day and is not paid."""
        if not self.schedule or self.owed(day) <= 0:
            return ZERO
        due = sum((each.amount for each in self.schedule if each.due_date < day), ZERO)
        settled = sum((each.amount for each in self.schedule[: self.paid_count(day)]), ZERO)
        result = max(due - max(self.money(day), settled), ZERO)
        if day > self.schedule[-1].due_date:
            result = max(result, self.owed(day))
        return result

    # --- the portfolio ---

    def in_portfolio(self, day: date) -> bool:
        """Return whether a loan is in the portfolio at the end of a day."""
        if self.on_book_from is None or day < self.on_book_from or self.owed(day) <= 0:
            return False
        return self.written_off_on is None or day < self.written_off_on

    def in_portfolio_today(self) -> bool:
        return self.loan.status not in ("pending", "written_off") and self.loan.balance > 0

    def days_past_due(self, day: date) -> int:
        """Calendar days since the oldest unpaid instalment."""
        first = self.first_unpaid(day)
        return max((day - first).days, 0) if first else 0

    def days_past_due_today(self, as_of: date) -> int:
        """Return the same for today's position, in which payments dated ahead count."""
        first = self.first_unpaid()
        return max((as_of - first).days, 0) if first else 0

    def state(self, day: date) -> str:
        """Return where a loan stands at the end of a day."""
        if self.written_off_on is not None and self.written_off_on <= day:
            return "written_off"
        if self.owed(day) <= 0:
            return "repaid"
        days = self.days_past_due(day)
        return next((name for limit, name in BANDS if days <= limit), "over_360")

    # --- months ---

    def month_ends(self, last: date) -> list[dict[str, object]]:
        """Return the rows of its history, up to and with the month that ends on `last`."""
        if self.on_book_from is None:
            return []
        result = []
        for end in month_ends_between(self.on_book_from, last):
            before = end.replace(day=1) - timedelta(days=1)
            is_first = before < self.on_book_from
            # Also what moves money between interest and principal: it may open a loan again.
            paid_within = [
                p for p in self.loan.payments
                if before < p.day <= end and p.day >= self.on_book_from and (p.money != 0 or p.principal != 0)
            ]  # fmt: skip
            if is_first or self.in_portfolio(before) or paid_within:
                result.append(self._month(end, before, is_first))
        return result

    def _month(self, end: date, before: date, is_first: bool) -> dict[str, object]:
        assert self.on_book_from is not None
        opening = max(before, self.on_book_from - timedelta(days=1))
        # Payments up to and with the day of the write-off are ordinary ones, later ones are recoveries.
        until = min(end, self.written_off_on) if self.written_off_on else end
        until = max(until, opening)
        is_demanded = is_first or self.in_portfolio(before)
        due = on_time = of_due = of_arrears = ZERO
        start, stop = self.money(opening), self.money(until)
        cumulative = ZERO
        for each in self.schedule:
            lower, cumulative = cumulative, cumulative + each.amount
            got = clamp(stop, lower, cumulative) - clamp(start, lower, cumulative)
            if each.due_date <= before:
                of_arrears += got
            elif (
                each.due_date <= end
                and is_demanded
                and not (self.written_off_on and each.due_date >= self.written_off_on)
            ):
                due += each.amount
                of_due += got
                on_time += clamp(self.money(each.due_date), lower, cumulative) - lower
        open_at_end = self.in_portfolio(end)
        written_off = ZERO
        if self.written_off_on and before < self.written_off_on <= end:
            written_off = max(self.owed(self.written_off_on), ZERO)
        return {
            "loan_id": self.loan.loan_id,
            "month_end": end,
            "state": self.state(end),
            "state_before": None if is_first else self.state(before),
            "days_past_due": self.days_past_due(end) if open_at_end else 0,
            "outstanding_principal": self.owed(end) if open_at_end else ZERO,
            "overdue_amount": self.overdue(end) if open_at_end else ZERO,
            "paid_to_date": self.money(end),
            "due_amount": due,
            "paid_on_time": on_time,
            "paid_of_due": of_due,
            "paid_of_arrears": of_arrears,
            "paid_ahead": stop - start - of_due - of_arrears,
            "written_off_amount": written_off,
            "recovered_amount": self.money(end) - self.money(until),
        }


def clamp(value: Decimal, lower: Decimal, upper: Decimal) -> Decimal:
    return min(max(value, lower), upper)


def cents(text: str) -> Decimal:
    """Return a number of a test as money."""
    return Decimal(text).quantize(CENT, ROUND_HALF_UP)
