"""Negative controls (support/controls.py) of the lender's figures."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import pytest

from support.controls import Control, Scenario, assert_the_promise_breaks, run
from support.lender_cases import TellingBook, add_telling_loans, change_telling_loans
from support.platform import Platform
from support.saved_state import SavedState, begin_with

from . import (
    test_lender,
)

pytestmark = pytest.mark.proof

# What is known of the loans of the fixture telling_book.
TELLING_BOOKS: list[TellingBook] = []


@pytest.fixture
def telling_book(all_servers: Platform, saved_states: dict[str, SavedState]) -> Platform:
    """Provide loans that tell the rules of schedules, positions and months apart, and one run done."""

    def make(platform: Platform) -> None:
        with platform.app() as connection:
            TELLING_BOOKS.append(add_telling_loans(connection, datetime.now(UTC).date()))
        run(platform)

    return begin_with(all_servers, saved_states, "telling_book", make)


def lenders_figures(platform: Platform) -> None:
    """Compare the telling loans with the oracle, and again when they have changed."""
    run(platform)
    test_lender.assert_figures(platform)
    with platform.app() as connection:
        change_telling_loans(connection, TELLING_BOOKS[-1], datetime.now(UTC).date())
    run(platform)
    test_lender.assert_figures(platform)


# --- the mechanisms ---------------------------------------------------------------------------------------------------

PAID = "macros/lending/installments_paid.sql"
MONTHS = "models/marts/lending/fact_loan_month_end.sql"
ANNUITY = "models/intermediate/annuity_schedule.sql"

LENDERS_FIGURES = Scenario("telling_book", lenders_figures)
PAID = "macros/lending/installments_paid.sql"
MONTHS = "models/marts/lending/fact_loan_month_end.sql"
ANNUITY = "models/intermediate/annuity_schedule.sql"


def lender(mechanism: str, file: str, text: str, spoiled: str, failure: str = "differs from the oracle") -> Control:
    """Return the control of a rule of the lender's figures, whose loss the oracle finds."""
    return Control(mechanism, LENDERS_FIGURES, failure, ((file, text, spoiled),))


CONTROLS = [
    lender(
        "an instalment is not late on its due day",
        MONTHS,
        "positions.month_end - positions.due_dates[positions.installments_paid + 1]",
        "positions.month_end + 1 - positions.due_dates[positions.installments_paid + 1]",
    ),
    lender(
        "a loan of exactly 30 days is in the band of 1 to 30",
        "macros/lending/arrears_band.sql",
        "when {{ days }} <= 30 then",
        "when {{ days }} < 30 then",
    ),
    lender(
        "a loan more than 90 days past due is in stage 3 whatever its status",
        "macros/lending/ifrs9_stage.sql",
        "when {{ defaulted }} or {{ days }} > 90 then 3",
        "when {{ defaulted }} then 3",
        "vw_ifrs9_stages",
    ),
    lender(
        "principal settles instalments that the money does not reach",
        PAID,
        "greatest({{ principal }}, 0), coalesce",
        "0, coalesce",
    ),
    lender(
        "the last instalment is not paid while principal is owed",
        PAID,
        "{{ schedule }}.installment_count - ({{ owed }} > 0)::integer",
        "{{ schedule }}.installment_count",
    ),
    lender(
        "an instalment of interest alone is settled with the next that has principal",
        PAID,
        "coalesce({{ schedule }}.principal_steps, {{ schedule }}.cum_principal)",
        "{{ schedule }}.cum_principal",
    ),
    lender(
        "instalments that principal has settled are not overdue",
        "macros/lending/overdue_by.sql",
        "- greatest({{ money }}, coalesce({{ schedule }}.cum_due[{{ installments_paid }}], 0))",
        "- {{ money }}",
    ),
    lender(
        "due dates are counted from the first day and do not drift",
        ANNUITY,
        "(start_day + series.number * interval '1 month')::date",
        "((start_day + interval '1 month')::date + (series.number - 1) * interval '1 month')::date",
    ),
    lender(
        "the last instalment takes the rest",
        ANNUITY,
        "case when number = tenure then balance else least(balance, greatest(level - interest, 0)) end",
        "least(balance, greatest(level - interest, 0))",
    ),
    lender(
        "interest is rounded half up",
        ANNUITY,
        "interest := (balance * rate_units + 6000000) / 12000000;",
        "interest := (balance * rate_units) / 12000000;",
    ),
    lender(
        "a written-off loan is not in the portfolio",
        "models/marts/fact_loans.sql",
        "loans.loan_status <> 'written_off' and loans.outstanding_balance > 0 as is_in_portfolio",
        "loans.outstanding_balance > 0 as is_in_portfolio",
    ),
    lender(
        "past balances are counted back from today's",
        MONTHS,
        "loans.owed_today + coalesce(loans.principal_so_far[loans.payment_count], 0) as owed_before",
        "loans.amount as owed_before",
    ),
    lender(
        "a month keeps the segment that the borrower was in",
        MONTHS,
        "coalesce(customers.customer_segment, 'unknown') as customer_segment",
        "(select present.customer_segment from {{ ref('dim_customer') }} as present where present.is_current "
        "and present.customer_id = poured.customer_id) as customer_segment",
    ),
    lender(
        "a month keeps the officer who looked after the loan",
        MONTHS,
        "else {{ officer_of('versions') }}",
        "else poured.loan_officer",
    ),
    lender(
        "a month's dues are summed up by all that a filter acts on",
        "models/marts/dashboards/lending/vw_expected_dues.sql",
        "        loans.loan_officer,\n",
        "        'unassigned'::text as loan_officer,\n",
    ),
    lender(
        "payments of a day come before what falls due on it",
        "macros/lending/paid_by_due_day.sql",
        "width_bucket({{ book }}.due_dates[{{ position }}], ",
        "width_bucket({{ book }}.due_dates[{{ position }}] - 1, ",
    ),
    lender(
        "a payment that moves restates the month that it leaves",
        MONTHS,
        "where _run_id > {{ since.run_id }}\n    group by loan_id, {{ business_day('payment_date') }}",
        "where _run_id > {{ since.run_id }} and _sign > 0\n    group by loan_id, {{ business_day('payment_date') }}",
    ),
    lender(
        "a month's figures stay at the branch of the time",
        MONTHS,
        "coalesce(versions.branch_sk, poured.branch_sk) as branch_sk",
        "poured.branch_sk as branch_sk",
        "(?s)'MSA01'.*expected.*'NRB01'",
    ),
    Control(
        "a month that has ended is news although no row changed",
        lambda platform: test_lender.test_midnight_writes_no_row_and_a_quiet_first_of_the_month_appends_the_month(
            platform, Random(1)
        ),
        "fact_loan_month_end",
        (
            (
                "macros/run/node_state.sql",
                "{% if config.get('follows_calendar') or config.get('recomputed_monthly') %}",
                "{% if false %}",
            ),
        ),
    ),
    Control(
        "a reported month is never overwritten",
        test_lender.test_a_reported_month_stays_as_it_was_when_a_payment_of_it_comes_later,
        "assert",
        (
            (
                "macros/lending/keep_reported_months.sql",
                "    insert into {{ reports }} (month_end",
                "    alter table {{ reports }} disable trigger user; delete from {{ reports }};\n"
                "    insert into {{ reports }} (month_end",
            ),
        ),
    ),
]


def test_with_every_mechanism_in_place_the_lenders_figures_hold(telling_book):
    lenders_figures(telling_book)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.mechanism)
def test_without_the_mechanism_the_promise_breaks(request, project_to_spoil, control):
    assert_the_promise_breaks(request, project_to_spoil, control)
