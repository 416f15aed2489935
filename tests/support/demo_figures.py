"""What a risk officer would look at first in a loan book, from the oracle alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import dict_row

from support.lender_book import loans_in
from support.lender_oracle import ZERO, Truth, clamp

SEASONS = (1, 5, 9, 12)


@dataclass(frozen=True)
class Figures:
    """Shares are percentages; those of amounts say so."""

    par_1: Decimal  # of the amount
    par_30: Decimal  # of the amount
    most_days_past_due: int
    loans_per_borrower: Decimal
    restructured: Decimal
    never_paid: Decimal  # of the late loans
    mortgages: Decimal  # of the amount
    on_time: Decimal  # of the amount due in twelve months
    cured: Decimal  # of 61-90 days past due at a month's end, current or repaid at the next
    went_on: Decimal  # of the same, more than 90 days past due at the next
    recovered: Decimal  # an amount
    in_a_season: Decimal  # disbursements a month in a season, those in another month being 100
    differing_branches: Decimal  # variance of the branches' bad loans by that of chance
    differing_officers: Decimal
    weekly: Decimal


def share(part: Decimal | int, whole: Decimal | int) -> Decimal:
    return round(100 * Decimal(part) / Decimal(whole), 2)


def differing(groups: Iterable[tuple[Any, bool]]) -> Decimal:
    """Return by how much the shares of groups differ more than by chance: Pearson's chi² by its degrees of freedom."""
    every, bad = Counter[Any](), Counter[Any]()
    for group, is_bad in groups:
        every[group] += 1
        bad[group] += is_bad
    usual = Decimal(bad.total()) / every.total()
    away = sum(
        (bad[group] - count * usual) ** 2 / (count * usual * (1 - usual)) for group, count in every.items() if count > 4
    )
    return Decimal(away) / (len(every) - 1)


def _dues(truth: Truth, after: date, until: date) -> tuple[Decimal, Decimal]:
    """Return what fell due in these days of a loan in the portfolio, and what of it was paid by its day."""
    due, on_time, cumulative = ZERO, ZERO, ZERO
    for each in truth.schedule:
        lower, cumulative = cumulative, cumulative + each.amount
        if after < each.due_date <= until and truth.in_portfolio(each.due_date - timedelta(days=1)):
            due += each.amount
            on_time += clamp(truth.money(each.due_date), lower, cumulative) - lower
    return due, on_time


def figures_of(connection: psycopg.Connection, day: date) -> Figures:
    """Return the figures of the book on a day, of which it knows nothing that came later."""
    truths = {key: Truth(loan) for key, loan in loans_in(connection).items()}
    rows = {
        row["loan_id"]: row
        for row in connection.cursor(row_factory=dict_row)
        .execute(
            "select loans.*, product_type from operational.loans "
            "join operational.loan_products on loan_products.product_id = loans.product_id"
        )
        .fetchall()
    }
    portfolio = {key: truth for key, truth in truths.items() if truth.in_portfolio_today()}
    days = {key: truth.days_past_due_today(day) for key, truth in portfolio.items()}
    late = [key for key in portfolio if days[key]]

    def amount(keys: Iterable[int]) -> Decimal:
        return sum((truths[key].loan.balance for key in keys), ZERO)

    ends = [day.replace(day=1) - timedelta(days=1)]
    while len(ends) < 13:
        ends.append(ends[-1].replace(day=1) - timedelta(days=1))
    due = on_time = ZERO
    moves: Counter[str] = Counter()
    for truth in truths.values():
        if truth.on_book_from is None:
            continue
        of_loan = _dues(truth, ends[-1], ends[0])
        due, on_time = due + of_loan[0], on_time + of_loan[1]
        for before, after in zip(ends[1:], ends, strict=False):
            if truth.in_portfolio(before) and truth.state(before) == "61-90":
                moves[truth.state(after)] += 1
    months = Counter(truth.loan.disbursed_on.month for truth in truths.values() if truth.loan.disbursed_on)
    disbursed = [(row, row["status"] in ("defaulted", "written_off")) for row in rows.values() if row["disbursed_at"]]
    in_season = Decimal(sum(months[month] for month in SEASONS)) / len(SEASONS)
    others = Decimal(months.total() - sum(months[month] for month in SEASONS)) / (12 - len(SEASONS))
    return Figures(
        par_1=share(amount(late), amount(portfolio)),
        par_30=share(amount(key for key in portfolio if days[key] > 30), amount(portfolio)),
        most_days_past_due=max(days.values()),
        loans_per_borrower=Decimal(len(portfolio)) / len({rows[key]["customer_id"] for key in portfolio}),
        restructured=share(sum(rows[key]["restructured_on"] is not None for key in portfolio), len(portfolio)),
        never_paid=share(sum(not truths[key].loan.payments for key in late), len(late)),
        mortgages=share(amount(k for k in portfolio if rows[k]["product_type"] == "mortgage"), amount(portfolio)),
        on_time=share(on_time, due),
        cured=share(moves["current"] + moves["repaid"], moves.total()),
        went_on=share(moves["91-180"], moves.total()),
        recovered=sum(
            (
                payment.money
                for truth in truths.values()
                if truth.written_off_on
                for payment in truth.loan.payments
                if payment.day > truth.written_off_on
            ),
            ZERO,
        ),
        in_a_season=share(in_season, others),
        differing_branches=differing((row["branch_code"], bad) for row, bad in disbursed),
        differing_officers=differing(((row["branch_code"], row["loan_officer"]), bad) for row, bad in disbursed),
        weekly=share(sum(truth.source == "lender" for truth in portfolio.values()), len(portfolio)),
    )
