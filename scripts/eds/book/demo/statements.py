"""The demo book's SQL: the statements of the folder `sql`, their random expressions and their parameters."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from psycopg import sql
from psycopg.rows import TupleRow

from eds.base.errors import UserError
from eds.book.demo import names

HISTORY_DAYS = 5 * 365 + 1  # loans were disbursed in these days before today
OFFICERS_PER_BRANCH = 4
STOPPING_SHARE = 0.05  # of the loans, at a branch and an officer of usual luck
RESUMING_SHARE = 0.22  # of those who stopped, some after their loan was written off
RESTRUCTURED_SHARE = 0.32  # of the careless whose loans are open
ADVANCE_TENURE = 6  # a product no longer than this many months is an advance: dearer, and taken less often
ADVANCE_SHARE = 0.35
ADVANCE_RATE = 21.0
# What a yearly rate in ten-thousandths of a percent is divided by, for the interest of a month and of a week.
MONTHLY, WEEKLY = 12_000_000, 52_000_000
# Whether a product of the catalogue is repaid by the week, as a condition.
IS_WEEKLY: LiteralString = "(product_name ilike '%%weekly%%' and max_tenure_months <= 24)"
# Products above this are left out: a schedule in cents would not fit a 64-bit integer.
HIGHEST_AMOUNT = 100_000_000_000
# What the statements call by name; money in cents.
CONSTANTS = {
    "history_days": HISTORY_DAYS,
    # The length of the line of places, and the golden section of it, as whole numbers.
    "places": 2**36,
    "golden_section": 42470972311,
    "stopping_share": STOPPING_SHARE,
    "resuming_share": RESUMING_SHARE,
    "restructured_share": RESTRUCTURED_SHARE,
    "monthly": MONTHLY,
    "weekly": WEEKLY,
    # A mobile-money transaction has this limit; what is more goes through the bank.
    "mpesa_limit": 250_000_00,
    **{method: number for number, method in enumerate(names.METHODS, start=1)},
}


class Dice:
    """SQL expressions of deterministic randomness: a function of the seed, a purpose and a row's number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def bits(self, key: str, purpose: str) -> str:
        """64 random bits, as a bigint. key: an SQL expression of a bigint."""
        digest = hashlib.blake2b(f"{self._seed}/{purpose}".encode(), digest_size=8).digest()
        return f"hashint8extended({key}, {int.from_bytes(digest, 'big') >> 2})"

    def unit(self, key: str, purpose: str) -> str:
        """Return a number from 0 to below 1, as a double precision number."""
        return f"(({self.bits(key, purpose)} & 4503599627370495) / 4503599627370496::float8)"

    def below(self, key: str, purpose: str, limit: str) -> str:
        """Return a whole number from 0 to below `limit` (an SQL expression), as a bigint."""
        return f"floor({self.unit(key, purpose)} * ({limit}))::bigint"

    def pick(self, key: str, purpose: str, array: str) -> str:
        """Return an element of an array."""
        return f"({array})[1 + {self.below(key, purpose, f'cardinality({array})')}]"


class Statements:
    """The statements for one seed, rendered, by the names of their files."""

    def __init__(self, seed: int) -> None:
        dice = Dice(seed)
        self._jinja = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "sql"), undefined=StrictUndefined, autoescape=False
        )
        self._jinja.globals.update(CONSTANTS, bits=dice.bits, unit=dice.unit, below=dice.below, pick=dice.pick)
        # The second in which a row of demo_payment was recorded: over the counter, some minutes later.
        late = dice.bits("payment.n * 1000 + payment.part", "recorded")
        at_a_counter = f"payment.method_no in ({CONSTANTS['cash']}, {CONSTANTS['cheque']})"
        # An officer's number, from 0: those of a branch are consecutive.
        self._jinja.globals["officer_slot"] = lambda branch, loan: (
            f"(({branch} - 1) * {OFFICERS_PER_BRANCH} + {dice.below(loan, 'officer', str(OFFICERS_PER_BRANCH))})"
        )
        # The day on which a loan's instalment is due, counted from the day it was disbursed.
        self._jinja.globals["due_day"] = lambda day, step, weekly: (
            f"case when {weekly} then {day} + 7 * {step} "
            f"else (date '1970-01-01' + ({day})::integer + {step} * interval '1 month')::date - date '1970-01-01' end"
        )
        self._jinja.globals["recorded"] = f"(payment.paid + case when {at_a_counter} then {late} & 1023 else 0 end)"

    def __getitem__(self, name: str) -> bytes:
        return self._jinja.get_template(f"{name}.sql").render().encode()


def parameters(seed: int, payments: int, customers: int, today: datetime.date) -> dict[str, Any]:
    """Return what the statements take as parameters, except the product catalogue."""
    digest = hashlib.blake2b(f"{seed}/identity".encode(), digest_size=4).digest()
    return {
        "payments": payments,
        "customers": customers,
        "today": (today - datetime.date(1970, 1, 1)).days,
        "segments": list(names.SEGMENTS),
        "segment_bounds": _bounds(names.SEGMENT_WEIGHTS),
        "methods": list(names.METHODS),
        "identity_offset": int.from_bytes(digest, "big"),
        **_branch_parameters(seed),
        **_name_parameters(),
    }


def _bounds(weights: Sequence[float]) -> list[float]:
    """Return the lower bounds of intervals within 0 to 1 that are as wide as the weights, for width_bucket()."""
    total = sum(weights)
    bounds, reached = [], 0.0
    for weight in weights:
        bounds.append(reached / total)
        reached += weight
    return bounds


def _choice(array: Sequence[str], *key: object) -> str:
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return array[int.from_bytes(digest, "big") % len(array)]


def _branch_parameters(seed: int) -> dict[str, Any]:
    """Return the branches as arrays, sorted so that those of a city, and of a country, stand next to each other."""
    branches = names.read_branches()
    countries = [country.name for country in names.COUNTRIES]
    cities: dict[tuple[int, str], list[names.Branch]] = {}
    for branch in branches:
        cities.setdefault((countries.index(branch.country), branch.city), []).append(branch)
    cities = dict(sorted(cities.items(), key=lambda item: item[0][0]))
    ordered = [branch for of_city in cities.values() for branch in of_city]
    starts, position = [], 1
    for of_city in cities.values():
        starts.append(position)
        position += len(of_city)
    per_country = [sum(branch.country == name for branch in ordered) for name in countries]
    return {
        "city_bounds": _bounds([names.CITY_WEIGHTS.get(city, 1.2) for _, city in cities]),
        "city_names": [city for _, city in cities],
        "city_country": [country + 1 for country, _ in cities],
        "city_start": starts,
        "city_count": [len(of_city) for of_city in cities.values()],
        "country_start": [1 + sum(per_country[:index]) for index in range(len(countries))],
        "country_count": per_country,
        "country_names": countries,
        "branch_codes": [branch.branch_code for branch in ordered],
        "officers": [
            f"{_choice(country.first_names, seed, branch.branch_code, slot, 'first')} "
            f"{_choice(country.family_names, seed, branch.branch_code, slot, 'family')}"
            for branch in ordered
            for country in (names.COUNTRIES[countries.index(branch.country)],)
            for slot in range(OFFICERS_PER_BRANCH)
        ],
    }


def _name_parameters() -> dict[str, Any]:
    def starts(lengths: list[int]) -> list[int]:
        return [sum(lengths[:index]) for index in range(len(lengths))]

    first = [len(country.first_names) for country in names.COUNTRIES]
    family = [len(country.family_names) for country in names.COUNTRIES]
    return {
        "first_names": [name for country in names.COUNTRIES for name in country.first_names],
        "first_start": starts(first),
        "first_count": first,
        "family_names": [name for country in names.COUNTRIES for name in country.family_names],
        "family_start": starts(family),
        "family_count": family,
        "dial_codes": [country.dial_code for country in names.COUNTRIES],
        "trades": list(names.TRADES),
        "trade_endings": list(names.TRADE_ENDINGS),
        "company_names": list(names.COMPANY_NAMES),
        "industries": list(names.INDUSTRIES),
        "company_endings": list(names.COMPANY_ENDINGS),
    }


def product_parameters(cursor: psycopg.Cursor[TupleRow]) -> dict[str, Any]:
    """Return the product catalogue as arrays, with how likely each segment takes which product."""
    products = cursor.execute(
        sql.SQL("""
        select
            product_id, product_type, ceil(min_amount * 100)::bigint,
            floor(least(max_amount, %(highest)s) * 100)::bigint, min_tenure_months, least(max_tenure_months, 900),
            {is_weekly}
        from operational.loan_products
        where max_amount >= 1 and min_amount < %(highest)s and min_tenure_months <= 900
        order by product_id
        """).format(is_weekly=sql.SQL(IS_WEEKLY)),
        {"highest": HIGHEST_AMOUNT},
    ).fetchall()
    if not products:
        raise UserError(
            "Expected loan products to lend, found none in operational.loan_products. "
            "`make up` brings the catalogue into a book without products; then fill again."
        )

    def weight(segment: str, product: TupleRow) -> float:
        if product[6]:
            return names.WEEKLY_WEIGHTS[segment]
        return ADVANCE_SHARE if product[5] <= ADVANCE_TENURE else 1.0

    def share(segment: str, product: TupleRow) -> float:
        alike = sum(weight(segment, other) for other in products if other[1] == product[1])
        return names.PRODUCT_WEIGHTS[segment][product[1]] * weight(segment, product) / alike

    parameters: dict[str, Any] = {
        "product_ids": [product[0] for product in products],
        "product_min": [max(product[2], 100) for product in products],
        "product_max": [product[3] for product in products],
        "product_shortest": [product[4] for product in products],
        "product_longest": [product[5] for product in products],
        "product_rate": [
            round(10_000 * (ADVANCE_RATE if is_weekly or longest <= ADVANCE_TENURE else names.BASE_RATES[product_type]))
            for _, product_type, _, _, _, longest, is_weekly in products
        ],
        "product_is_weekly": [product[6] for product in products],
    }
    for segment in names.SEGMENTS:
        parameters[f"{segment}_products"] = _bounds([share(segment, product) for product in products])
        parameters[f"{segment}_methods"] = _bounds(names.METHOD_WEIGHTS[segment])
    return parameters
