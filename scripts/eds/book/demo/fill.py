"""The demo loan book: a bank of any size, invented, the same each time for the same seed.

Everything is drawn from hashes of (seed, purpose, row number) and computed in whole cents, with no other arithmetic on
floating-point numbers than the operations that IEEE 754 defines to the last bit. So the book depends neither on the
order in which a plan visits rows, nor on the server's version or platform.
"""

# What is put into a statement here are constants of this file and expressions made from them; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import csv
import datetime
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row

from eds.base import console
from eds.base.errors import UserError
from eds.base.settings import ROOT

BRANCHES_FILE = ROOT / "seeds" / "branches.csv"

PAYMENTS_PER_LOAN = 17
PAYMENTS_PER_CUSTOMER = 50
MOST_PAYMENTS = 1_000_000_000
NAMED_SCALES = {"empty": 0, "small": 20_000, "medium": 250_000, "large": 2_000_000}

HISTORY_DAYS = 5 * 365 + 1  # loans were disbursed in these days before today
CUSTOMER_DAYS = HISTORY_DAYS + 365  # the bank had its first customers a year before
OFFICERS_PER_BRANCH = 4

# In the order of the numbers 1, 2, 3 … that the statements below use.
SEGMENTS = ("retail", "sme", "corporate")
SEGMENT_WEIGHTS = (0.80, 0.16, 0.04)
METHODS = ("mpesa", "bank_transfer", "cash", "cheque", "online")
MPESA, BANK_TRANSFER, CASH, CHEQUE, ONLINE = 1, 2, 3, 4, 5
METHOD_WEIGHTS = {
    "retail": (0.74, 0.07, 0.12, 0.01, 0.06),
    "sme": (0.50, 0.22, 0.12, 0.06, 0.10),
    "corporate": (0.06, 0.58, 0.02, 0.20, 0.14),
}
# A mobile-money transaction has this limit, in cents; what is more goes through the bank.
MPESA_LIMIT = 250_000_00

PRODUCT_WEIGHTS = {
    "retail": {"personal": 0.50, "education": 0.12, "business": 0.20, "auto": 0.12, "mortgage": 0.06},
    "sme": {"business": 0.62, "auto": 0.18, "personal": 0.10, "mortgage": 0.06, "education": 0.04},
    "corporate": {"business": 0.58, "auto": 0.22, "mortgage": 0.14, "personal": 0.03, "education": 0.03},
}
# The lowest yearly rate of a product type in percent; loans lie up to six points above it.
BASE_RATES = {"personal": 15.0, "mortgage": 11.0, "business": 14.0, "auto": 13.0, "education": 9.5}
ADVANCE_TENURE = 6  # a product no longer than this many months is an advance: dearer, and taken less often
ADVANCE_SHARE = 0.35
ADVANCE_RATE = 21.0
# Products above this are left out: a schedule in cents would not fit a 64-bit integer.
HIGHEST_AMOUNT = 100_000_000_000

CITY_WEIGHTS = {
    "Nairobi": 34.0,
    "Mombasa": 11.0,
    "Kisumu": 6.5,
    "Nakuru": 6.5,
    "Eldoret": 5.0,
    "Thika": 3.5,
    "Kiambu": 2.5,
    "Kampala": 5.0,
    "Dar es Salaam": 4.0,
    "Kigali": 2.5,
}


# What holds in every book after every commit, to the cent. Each query returns the rows that break the rule.
BOOK_RULES = {
    "the portions are not negative and sum to the amount": """
        select payment_id, amount, principal_portion, interest_portion, penalty_portion
        from operational.payments
        where principal_portion + interest_portion + penalty_portion <> amount
            or least(principal_portion, interest_portion, penalty_portion) < 0 or amount <= 0
    """,
    "a disbursed loan owes its amount less the principal paid": """
        select loans.loan_id, loans.amount, loans.outstanding_balance, paid.principal
        from operational.loans
        left join (
            select loan_id, sum(principal_portion) as principal from operational.payments group by loan_id
        ) as paid on loans.loan_id = paid.loan_id
        where loans.disbursed_at is not null
            and (
                loans.outstanding_balance <> loans.amount - coalesce(paid.principal, 0)
                or loans.outstanding_balance < 0
            )
    """,
    "a disbursed loan is repaid when it owes nothing, and only then": """
        select loan_id, status, outstanding_balance
        from operational.loans
        where disbursed_at is not null and (status = 'repaid') <> (outstanding_balance = 0)
    """,
    "no payment comes before the disbursement": """
        select payments.payment_id, payments.payment_date, loans.disbursed_at
        from operational.payments
        inner join operational.loans on payments.loan_id = loans.loan_id
        where loans.disbursed_at is null or payments.payment_date < loans.disbursed_at
    """,
    "a loan is pending when it is not disbursed, and then owes nothing": """
        select loan_id, status, disbursed_at, maturity_date, outstanding_balance
        from operational.loans
        where (status = 'pending') <> (disbursed_at is null)
            or (disbursed_at is null) <> (maturity_date is null)
            or (status = 'pending' and outstanding_balance <> 0)
    """,
}


@dataclass(frozen=True)
class Country:
    """Names of a country's people, and its telephone code."""

    name: str
    dial_code: str
    first_names: tuple[str, ...]
    family_names: tuple[str, ...]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COUNTRIES = (
    Country(
        "Kenya",
        "254",
        _names(
            "Achieng Akinyi Amina Anne Atieno Brian Caroline Catherine Charles Chebet Cynthia Daniel David "
            "Dennis Diana Dorothy Edwin Elizabeth Esther Eunice Evans Faith Fatuma Felix Florence Francis "
            "George Grace Halima Hassan Ian Irene Jackline James Jane Janet Joan John Joseph Joshua Joyce "
            "Judith Kennedy Kevin Lilian Lucy Lydia Margaret Martin Mary Mercy Michael Moses Nancy Naomi Otieno "
            "Patrick Paul Peter Purity Rose Ruth Samuel Sharon Stephen Susan Teresia Victor Vincent Wanjiru"
        ),
        _names(
            "Abdi Achieng Adhiambo Ali Barasa Cherono Chepkoech Cheruiyot Gathoni Gitau Githinji Juma Kamau "
            "Karanja Kariuki Kemboi Kiplagat Kiprono Kiptoo Kimani Kinyua Koech Korir Langat Maina Makau Mbugua "
            "Mohamed Mugo Muriithi Musyoka Muthoni Mutua Mutuku Mwangi Mwende Ndung'u Ngugi Njenga Njeri "
            "Njoroge Njuguna Nyaga Nyambura Ochieng Odhiambo Ogutu Okoth Omondi Onyango Opiyo Otieno Ouma Owino "
            "Rotich Ruto Simiyu Wafula Wairimu Waithaka Wambui Wanjala Wanyama Were"
        ),
    ),
    Country(
        "Uganda",
        "256",
        _names(
            "Agnes Allan Annet Brenda Deo Derrick Doreen Emmanuel Esther Fred Godfrey Grace Hellen Henry "
            "Herbert Ivan Jackson Joan Joseph Julius Justine Lawrence Lillian Mariam Moses Patience Prossy "
            "Richard Robert Ronald Rebecca Sarah Scovia Stella Sylvia Violet"
        ),
        _names(
            "Acen Achan Akello Asiimwe Atim Byaruhanga Kaggwa Kamya Kasozi Kato Kirabo Kiwanuka Lubega Lukwago "
            "Mugisha Mukasa Musoke Mutebi Nabirye Nakato Nakimera Namukasa Namutebi Nansubuga Nsubuga Ocen "
            "Odongo Okello Okot Opio Ssebunya Ssekandi Ssemakula Tumusiime Tumwine Wasswa"
        ),
    ),
    Country(
        "Tanzania",
        "255",
        _names(
            "Abdallah Aisha Amani Anna Asha Baraka Daudi Elia Emanuel Fatma Furaha Godwin Hamisi Hawa Imani "
            "Jafari Janeth Juma Khadija Lulu Mariamu Mwanaidi Neema Omari Pendo Rajabu Rehema Salma Selemani "
            "Sophia Tumaini Upendo Yusuf Zainabu Zawadi"
        ),
        _names(
            "Chuwa Hassani Kapinga Kimaro Kisanga Komba Lema Lyimo Magesa Mahenge Makame Malecela Massawe "
            "Mbwana Mchome Mgaya Mhando Minja Mkapa Mmari Mollel Mosha Mrema Msuya Mushi Mwakyusa Mwinyi Ngowi "
            "Nyerere Rashidi Sanga Shayo Shirima Swai Tarimo Urassa"
        ),
    ),
    Country(
        "Rwanda",
        "250",
        _names(
            "Alice Aline Alphonse Angelique Chantal Claudine Clementine Diane Divine Emile Eric Espoir Gaspard "
            "Grace Immaculee Innocent Jeanne Josiane Josue Marie Olivier Pacifique Pascal Solange Theogene "
            "Vestine Yvette Yves"
        ),
        _names(
            "Bizimana Gasana Habimana Hakizimana Ingabire Iradukunda Kagabo Kalisa Kamanzi Karangwa Mugabo "
            "Mukamana Mukandayisenga Munyaneza Murekatete Mutesi Ndayisaba Ngabo Niyonsaba Niyonzima Nkurunziza "
            "Nsengimana Rukundo Rwigema Tuyisenge Umutoni Uwase Uwimana"
        ),
    ),
)
TRADES = (
    "Agrovet",
    "Auto Spares",
    "Bakery",
    "Boda Services",
    "Boutique",
    "Butchery",
    "Cereals",
    "Chemist",
    "Cyber & Printing",
    "Dairy",
    "Electricals",
    "Fresh Produce",
    "Furniture Works",
    "General Stores",
    "Hardware",
    "Hotel",
    "Poultry Farm",
    "Salon & Spa",
    "Tailoring",
    "Timber Yard",
    "Transporters",
    "Welding Works",
)
TRADE_ENDINGS = ("Enterprises", "& Sons", "Traders", "Ventures", "Supplies", "Agencies", "Limited", "Partners")
COMPANY_NAMES = (
    "Acacia",
    "Amboseli",
    "Aberdare",
    "Baobab",
    "Great Lakes",
    "Highland",
    "Jambo",
    "Jubilee",
    "Kifaru",
    "Kilele",
    "Lakeshore",
    "Longonot",
    "Mara",
    "Nyota",
    "Pwani",
    "Rift Valley",
    "Savannah",
    "Simba",
    "Tausi",
    "Twiga",
    "Umoja",
    "Victoria",
    "Zawadi",
)
INDUSTRIES = (
    "Agro Processors",
    "Beverages",
    "Building Products",
    "Cold Chain",
    "Construction",
    "Distributors",
    "Engineering",
    "Flour Mills",
    "Freight & Logistics",
    "Horticulture",
    "Packaging",
    "Pharmaceuticals",
    "Plastics",
    "Schools",
    "Solar",
    "Steel",
    "Tea Growers",
    "Textiles",
)
COMPANY_ENDINGS = ("Ltd", "Group Ltd", "Holdings Ltd", "(EA) Ltd", "PLC")


@dataclass(frozen=True)
class Branch:
    """One branch of the bank, as seeds/branches.csv has it."""

    branch_code: str
    branch_name: str
    city: str
    region: str
    country: str


def read_branches(path: Path = BRANCHES_FILE) -> list[Branch]:
    """The bank's branches, in the order of the file. Raises UserError when the file cannot be used."""
    columns = list(Branch.__dataclass_fields__)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != columns:
                raise UserError(
                    f"Expected the columns {', '.join(columns)} in {path}, found {', '.join(reader.fieldnames or [])}. "
                    "Mend the file's first line."
                )
            branches = [Branch(**row) for row in reader]
    except OSError as error:
        raise UserError(
            f"Expected the list of branches in {path}, found: {error.strerror}. Restore the file."
        ) from error
    known = {country.name for country in COUNTRIES}
    strange = sorted({branch.country for branch in branches} - known)
    if strange or not branches:
        raise UserError(
            f"Expected branches in {', '.join(sorted(known))} in {path}, found {', '.join(strange) or 'none'}. "
            "Mend the file, or add the country's names to COUNTRIES in scripts/eds/book/demo/fill.py."
        )
    return branches


@dataclass(frozen=True)
class Scale:
    """How big a book is wanted: numbers of rows. Payments are met, loans and customers follow from them about."""

    customers: int
    loans: int
    payments: int

    @classmethod
    def of_payments(cls, payments: int) -> Self:
        """The scale with this many payments; 0 is the empty book."""
        if payments == 0:
            return cls(0, 0, 0)
        return cls(
            customers=max(1, round(payments / PAYMENTS_PER_CUSTOMER)),
            loans=max(1, round(payments / PAYMENTS_PER_LOAN)),
            payments=payments,
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """A scale from what a person types: empty, small, medium, large, or a number of payments (250k, 1_000_000, 1M).

        Raises UserError for anything else.
        """
        wanted = text.strip().lower()
        if wanted in NAMED_SCALES:
            return cls.of_payments(NAMED_SCALES[wanted])
        match = re.fullmatch(r"([0-9]+(?:_[0-9]+)*)(\.[0-9]+)?([km]?)", wanted, re.ASCII)
        if match and len(wanted) <= 30:
            whole, fraction, unit = match.groups()
            digits = len(fraction or ".") - 1
            units = int(whole.replace("_", "") + (fraction or ".")[1:]) * {"": 1, "k": 1_000, "m": 1_000_000}[unit]
            payments, rest = divmod(units, 10**digits)
            if rest == 0 and 0 < payments <= MOST_PAYMENTS:
                return cls.of_payments(payments)
        raise UserError(
            f"Expected a scale: {', '.join(NAMED_SCALES)}, or a whole number of payments from 1 to "
            f"{MOST_PAYMENTS:,} such as 1000000, 250k or 1M; found {text!r}. Choose one of these, for example: small."
        )


@dataclass(frozen=True)
class Summary:
    """What a book has after filling: rows per table, and how many seconds it took."""

    customers: int
    loan_products: int
    loans: int
    payments: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.customers:,} customers, {self.loans:,} loans, {self.payments:,} payments in {self.seconds:.1f} s"


class _Dice:
    """SQL expressions of deterministic randomness: a function of the seed, a purpose and a row's number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def bits(self, key: str, purpose: str) -> str:
        """64 random bits, as a bigint. key: an SQL expression of a bigint."""
        digest = hashlib.blake2b(f"{self._seed}/{purpose}".encode(), digest_size=8).digest()
        return f"hashint8extended({key}, {int.from_bytes(digest, 'big') >> 2})"

    def unit(self, key: str, purpose: str) -> str:
        """A number from 0 to below 1, as a double precision number."""
        return f"(({self.bits(key, purpose)} & 4503599627370495) / 4503599627370496::float8)"

    def below(self, key: str, purpose: str, limit: str) -> str:
        """A whole number from 0 to below `limit` (an SQL expression), as a bigint."""
        return f"floor({self.unit(key, purpose)} * ({limit}))::bigint"

    def pick(self, key: str, purpose: str, array: str) -> str:
        """An element of an array."""
        return f"({array})[1 + {self.below(key, purpose, f'cardinality({array})')}]"


def _bounds(weights: Sequence[float]) -> list[float]:
    """The lower bounds of intervals within 0 to 1 that are as wide as the weights, for width_bucket()."""
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
    """The branches as arrays, sorted so that those of a city, and of a country, stand next to each other."""
    branches = read_branches()
    countries = [country.name for country in COUNTRIES]
    cities: dict[tuple[int, str], list[Branch]] = {}
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
        "city_bounds": _bounds([CITY_WEIGHTS.get(city, 1.2) for _, city in cities]),
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
            for country in (COUNTRIES[countries.index(branch.country)],)
            for slot in range(OFFICERS_PER_BRANCH)
        ],
    }


def _name_parameters() -> dict[str, Any]:
    def starts(lengths: list[int]) -> list[int]:
        return [sum(lengths[:index]) for index in range(len(lengths))]

    first = [len(country.first_names) for country in COUNTRIES]
    family = [len(country.family_names) for country in COUNTRIES]
    return {
        "first_names": [name for country in COUNTRIES for name in country.first_names],
        "first_start": starts(first),
        "first_count": first,
        "family_names": [name for country in COUNTRIES for name in country.family_names],
        "family_start": starts(family),
        "family_count": family,
        "dial_codes": [country.dial_code for country in COUNTRIES],
        "trades": list(TRADES),
        "trade_endings": list(TRADE_ENDINGS),
        "company_names": list(COMPANY_NAMES),
        "industries": list(INDUSTRIES),
        "company_endings": list(COMPANY_ENDINGS),
    }


def _product_parameters(cursor: psycopg.Cursor[TupleRow]) -> dict[str, Any]:
    """The product catalogue as arrays, with how likely each segment takes which product."""
    products = cursor.execute(
        """
        select
            product_id, product_type, ceil(min_amount * 100)::bigint,
            floor(least(max_amount, %(highest)s) * 100)::bigint, min_tenure_months, least(max_tenure_months, 900)
        from operational.loan_products
        where max_amount >= 1 and min_amount < %(highest)s and min_tenure_months <= 900
        order by product_id
        """,
        {"highest": HIGHEST_AMOUNT},
    ).fetchall()
    if not products:
        raise UserError(
            "Expected loan products to lend, found none in operational.loan_products. "
            "Apply infra/primary/sql/050_products.sql, which brings the catalogue, and fill again."
        )

    def share(segment: str, product: TupleRow) -> float:
        advance = product[5] <= ADVANCE_TENURE
        alike = [other for other in products if other[1] == product[1]]
        weights = [ADVANCE_SHARE if other[5] <= ADVANCE_TENURE else 1.0 for other in alike]
        return PRODUCT_WEIGHTS[segment][product[1]] * (ADVANCE_SHARE if advance else 1.0) / sum(weights)

    parameters: dict[str, Any] = {
        "product_ids": [product[0] for product in products],
        "product_min": [max(product[2], 100) for product in products],
        "product_max": [product[3] for product in products],
        "product_shortest": [product[4] for product in products],
        "product_longest": [product[5] for product in products],
        "product_rate": [
            round((ADVANCE_RATE if product[5] <= ADVANCE_TENURE else BASE_RATES[product[1]]) * 10_000)
            for product in products
        ],
    }
    for segment in SEGMENTS:
        parameters[f"{segment}_products"] = _bounds([share(segment, product) for product in products])
        parameters[f"{segment}_methods"] = _bounds(METHOD_WEIGHTS[segment])
    return parameters


# Days are numbers of days since 1970-01-01, moments are seconds since then (UTC), money is cents, rates are
# ten-thousandths of a percent a year. A loan's number n is its rank among the drawn ones; identifiers come at the end.
# `offset 0` keeps the planner from merging a sub-query, which would compute its expressions several times over.
_WORK_TABLES = """
create temporary table demo_customer (
    n bigint primary key, segment_no integer, city_no integer, country_no integer, home_branch bigint, joined bigint,
    customer_id integer
) on commit drop;
create temporary table demo_loan (
    n bigint primary key, customer_n bigint, segment_no integer, product_id integer, amount bigint, rate bigint,
    tenure integer, instalment bigint, applied bigint, disbursed bigint, branch_no bigint, officer_no bigint,
    favourite integer, careless boolean, last_step integer, settles boolean, stops boolean, loan_id bigint
) on commit drop;
create temporary table demo_payment (
    n bigint, part bigint, paid bigint, method_no integer, principal bigint, interest bigint, penalty bigint,
    remark integer
) on commit drop;
create temporary table demo_paid (
    n bigint primary key, payments bigint, principal bigint, last_recorded bigint
) on commit drop;
"""


def _draw_customers(dice: _Dice) -> str:
    """Customers with the day they joined, the lower numbers earlier."""
    return f"""
    insert into demo_customer (n, segment_no, city_no, country_no, home_branch, joined)
    select
        n, segment_no, city_no, (%(city_country)s::integer[])[city_no],
        (%(city_start)s::integer[])[city_no] + {dice.below("n", "branch", "(%(city_count)s::integer[])[city_no]")},
        (%(today)s::bigint - {CUSTOMER_DAYS + 1} + floor({CUSTOMER_DAYS} * rank)::bigint)
        * 86400 + 18000 + {dice.below("n", "joined", "32400")}
    from (
        select
            n,
            width_bucket({dice.unit("n", "segment")}, %(segment_bounds)s::float8[]) as segment_no,
            width_bucket({dice.unit("n", "city")}, %(city_bounds)s::float8[]) as city_no,
            (n - {dice.unit("n", "rank")}) / %(customers)s::float8 as rank
        from generate_series(1, %(customers)s::bigint) as n
        offset 0
    ) as drawn
    """


def _draw_loans(dice: _Dice) -> str:
    """Loans number %(first)s to %(last)s: to whom, how much, how long, and how the borrower will behave."""
    return f"""
    insert into demo_loan (
        n, customer_n, segment_no, product_id, amount, rate, tenure, instalment, applied, disbursed, branch_no,
        officer_no, favourite, careless, last_step, settles, stops
    )
    with dated as materialized (
        -- A few wait for their money; the others got it on some day, more of them lately. Nothing happens on Sundays.
        select
            n, waits,
            applied_day - (mod(applied_day + 4, 7) = 0)::integer as applied_day,
            disbursed_day - (mod(disbursed_day + 4, 7) = 0)::integer as disbursed_day
        from (
            select
                n, waits,
                case
                    when waits then %(today)s::bigint - 1 - floor(40 * when_applied * when_applied)::bigint
                    else disbursed_day - 2 - floor(13 * when_applied * when_applied)::bigint
                end as applied_day,
                disbursed_day
            from (
                select
                    n,
                    {dice.unit("n", "waits")} < 0.025 as waits,
                    {dice.unit("n", "applied")} as when_applied,
                    %(today)s::bigint - {HISTORY_DAYS} + floor(
                        {HISTORY_DAYS} * (sqrt(0.36 + 1.6 * {dice.unit("n", "disbursed")}) - 0.6) / 0.8
                    )::bigint as disbursed_day
                from generate_series(%(first)s::bigint, %(last)s::bigint) as n
                offset 0
            ) as drawn
            offset 0
        ) as undated
    ),
    owned as materialized (
        -- Any of those who were customers by then, new ones rather than old ones.
        select
            dated.n, dated.waits, dated.applied_day, dated.disbursed_day, customer.n as customer_n,
            customer.segment_no, customer.home_branch, customer.country_no,
            case customer.segment_no
                when 1 then width_bucket({dice.unit("dated.n", "product")}, %(retail_products)s::float8[])
                when 2 then width_bucket({dice.unit("dated.n", "product")}, %(sme_products)s::float8[])
                else width_bucket({dice.unit("dated.n", "product")}, %(corporate_products)s::float8[])
            end as product_no,
            case customer.segment_no
                when 1 then width_bucket({dice.unit("dated.n", "favourite")}, %(retail_methods)s::float8[])
                when 2 then width_bucket({dice.unit("dated.n", "favourite")}, %(sme_methods)s::float8[])
                else width_bucket({dice.unit("dated.n", "favourite")}, %(corporate_methods)s::float8[])
            end as favourite,
            {dice.unit("dated.n", "amount")} as amount_draw,
            {dice.unit("dated.n", "tenure")} as tenure_draw,
            {dice.unit("dated.n", "behaviour")} as behaviour,
            {dice.unit("dated.n", "stop")} as stop_draw
        from (
            select
                dated.*,
                (applied_day - %(today)s::bigint + {CUSTOMER_DAYS + 1}) / {CUSTOMER_DAYS}::float8 as elapsed,
                {dice.unit("n", "customer")} as customer_draw
            from dated
            offset 0
        ) as dated
        inner join demo_customer as customer
            on customer.n = least(
                %(customers)s::bigint,
                1 + floor(
                    %(customers)s::bigint * greatest(elapsed, 0) * (customer_draw + sqrt(customer_draw)) / 2
                )::bigint
            )
    ),
    sized as materialized (
        select
            owned.*,
            product_min + (product_max - product_min) * case segment_no
                when 1 then 0.005 + 0.28 * amount_draw * amount_draw * amount_draw
                when 2 then 0.02 + 0.55 * amount_draw * amount_draw
                else 0.15 + 0.85 * amount_draw
            end as wish,
            shortest + floor((longest - shortest + 1) * tenure_draw * (1.6 - 0.6 * tenure_draw))::bigint as months,
            product_rate + 2500 * {dice.below("n", "rate", "25")} - (array[0, 5000, 15000])[segment_no] as rate
        from (
            select
                owned.*,
                (%(product_min)s::bigint[])[product_no] as product_min,
                (%(product_max)s::bigint[])[product_no] as product_max,
                (%(product_shortest)s::integer[])[product_no] as shortest,
                (%(product_longest)s::integer[])[product_no] as longest,
                (%(product_rate)s::bigint[])[product_no] as product_rate
            from owned
            offset 0
        ) as owned
    ),
    rounded as materialized (
        -- People borrow round amounts for usual times, as far as the product allows.
        select
            sized.*,
            greatest(product_min, least(product_max, round_to * floor(wish / round_to + 0.5)::bigint)) as amount,
            greatest(shortest, least(longest, month_step * ((months + month_step / 2) / month_step)))::integer as tenure
        from (
            select
                sized.*,
                case
                    when wish < 10000000 then 50000
                    when wish < 100000000 then 500000
                    else 5000000
                end as round_to,
                case when months > 24 then 12 when months > 6 then 3 else 1 end as month_step
            from sized
            offset 0
        ) as sized
    ),
    behaving as (
        select
            rounded.*,
            behaviour >= 0.93 as stops,
            behaviour >= 0.87 and behaviour < 0.93 as settles
        from rounded
        offset 0
    )
    select
        n, customer_n, segment_no, (%(product_ids)s::integer[])[product_no], amount, rate, tenure,
        round(amount * (rate / 12000000.0) * growth / (growth - 1))::bigint,
        applied_day * 86400 + 18000 + {dice.below("n", "applied second", "32400")},
        case when not waits then disbursed_day * 86400 + 21600 + {dice.below("n", "disbursed second", "28800")} end,
        branch_no,
        1 + (branch_no - 1) * {OFFICERS_PER_BRANCH} + {dice.below("n", "officer", str(OFFICERS_PER_BRANCH))},
        favourite,
        behaviour >= 0.60 and not settles,
        case
            when stops then floor(stop_draw * stop_draw * 0.8 * tenure)::integer
            when settles then greatest(1, floor((0.3 + 0.5 * stop_draw) * tenure)::integer)
            else tenure
        end,
        settles, stops
    from (
        select
            behaving.*,
            power(1 + rate / 12000000.0, tenure::numeric) as growth,
            case
                when {dice.unit("n", "elsewhere")} < 0.92 then home_branch
                else (%(country_start)s::integer[])[country_no]
                    + {dice.below("n", "other branch", "(%(country_count)s::integer[])[country_no]")}
            end as branch_no
        from behaving
        offset 0
    ) as complete
    """


def _draw_payments(dice: _Dice) -> str:
    """Every payment of the loans number %(first)s to %(last)s: each round of the recursion is one instalment of each
    loan that goes on, with the interest that is due on its balance.

    Two draws of 64 bits give each instalment four numbers of 16 bits each.
    """
    return f"""
    insert into demo_payment (n, part, paid, method_no, principal, interest, penalty, remark)
    with recursive walk as (
        select
            n, 0 as step, amount as balance, disbursed / 86400 as last_day, instalment, rate, tenure, last_step,
            settles, careless, favourite, (date '1970-01-01' + (disbursed / 86400)::integer) as disbursed_on,
            0::bigint as first_day, 0::bigint as second_day, 0::bigint as first_second, 0::bigint as second_second,
            0 as method_no, 0::bigint as principal, 0::bigint as interest, 0::bigint as penalty,
            0::bigint as first_principal, 0::bigint as first_interest, false as is_split, 0 as remark
        from demo_loan
        where disbursed is not null and n between %(first)s::bigint and %(last)s::bigint
        union all
        select
            n, step, balance - principal, case when is_split then second_day else paid_day end, instalment, rate,
            tenure, last_step, settles, careless, favourite, disbursed_on, paid_day, second_day,
            case
                when method_no in ({MPESA}, {ONLINE}) then 10800 + (((draw >> 48) & 65535) * 57600 >> 16)
                else 19800 + (((draw >> 48) & 65535) * 28800 >> 16)
            end,
            case
                when method_no in ({MPESA}, {ONLINE}) then 10800 + (((more >> 48) & 65535) * 57600 >> 16)
                else 19800 + (((more >> 48) & 65535) * 28800 >> 16)
            end,
            method_no, principal, interest, penalty,
            -- What comes first pays the interest first.
            case when is_split then first_amount - least(interest, first_amount) else principal end,
            case when is_split then least(interest, first_amount) else interest end,
            is_split, remark
        from (
            select
                dated.*,
                case
                    when paid_day - due_day > 5
                        then instalment * (200 + 10 * least(paid_day - due_day, 60)) / 10000
                    else 0
                end as penalty,
                case
                    when settles and step = last_step then 1
                    when is_split then 2
                    when paid_day - due_day >= 30 then 4
                    else 0
                end as remark,
                second_open_day + (
                    method_no in ({BANK_TRANSFER}, {CASH}, {CHEQUE}) and mod(second_open_day + 4, 7) = 0
                )::integer as second_day,
                (principal + interest) * (19661 + (((more >> 16) & 65535) * 26214 >> 16)) >> 16 as first_amount
            from (
                select
                    n, step, balance, instalment, rate, tenure, last_step, settles, careless, favourite, disbursed_on,
                    draw, more, due_day, interest, principal, method_no, is_split, paid_day,
                    paid_day + 2 + (((more >> 32) & 65535) * 12 >> 16) as second_open_day
                from (
                    select
                        priced.*,
                        open_day + (
                            method_no in ({BANK_TRANSFER}, {CASH}, {CHEQUE}) and mod(open_day + 4, 7) = 0
                        )::integer as paid_day
                    from (
                        select
                            due.*,
                            -- One payment after the other: who is behind pays the older instalment first.
                            greatest(last_day + 1, due_day + case
                                when not careless and (draw & 65535) < 52429
                                    then (((draw >> 16) & 65535) * 4 >> 16) - 2
                                when not careless then 2 + (((draw >> 16) & 65535) * 6 >> 16)
                                when (draw & 65535) < 34000 then (((draw >> 16) & 65535) * 5 >> 16)
                                when (draw & 65535) < 61000 then 5 + (((draw >> 16) & 65535) * 20 >> 16)
                                -- Missed, and caught up a month or two later.
                                else 30 + (((draw >> 16) & 65535) * 31 >> 16)
                            end) as open_day,
                            case when clears then balance else least(balance, greatest(instalment - interest, 0)) end
                                as principal,
                            case
                                when wished_method = {MPESA}
                                    and case when clears then balance else instalment end > {MPESA_LIMIT}
                                    then {BANK_TRANSFER}
                                else wished_method
                            end as method_no,
                            careless and not clears and instalment >= 10000 and (more & 65535) < 9000 as is_split
                        from (
                            select
                                walked.*,
                                (disbursed_on + step * interval '1 month')::date - date '1970-01-01' as due_day,
                                (balance * rate + 6000000) / 12000000 as interest,
                                step = tenure or (settles and step = last_step) as clears,
                                case
                                    when ((draw >> 32) & 65535) < 55700 then favourite
                                    when ((more >> 48) & 65535) < 39300 then {MPESA}
                                    when ((more >> 48) & 65535) < 49100 then {CASH}
                                    when ((more >> 48) & 65535) < 57000 then {BANK_TRANSFER}
                                    when ((more >> 48) & 65535) < 63500 then {ONLINE}
                                    else {CHEQUE}
                                end as wished_method
                            from (
                                select
                                    n, step + 1 as step, balance, last_day, instalment, rate, tenure, last_step,
                                    settles, careless, favourite, disbursed_on,
                                    {dice.bits("n * 1000 + step", "instalment")} as draw,
                                    {dice.bits("n * 1000 + step", "instalment, more")} as more
                                from walk
                                where step < last_step and balance > 0
                                offset 0
                            ) as walked
                            offset 0
                        ) as due
                        offset 0
                    ) as priced
                    offset 0
                ) as opened
                where paid_day < %(today)s::bigint
                offset 0
            ) as dated
            offset 0
        ) as parted
    )
    select
        walk.n, 2 * walk.step + part.number, part.paid, walk.method_no, part.principal, part.interest, part.penalty,
        part.remark
    from walk
    cross join lateral (
        values
        (
            0, first_day * 86400 + first_second, first_principal, first_interest,
            case when is_split then 0 else penalty end, remark
        ),
        (
            1, second_day * 86400 + second_second, principal - first_principal, interest - first_interest, penalty,
            remark + 1
        )
    ) as part (number, paid, principal, interest, penalty, remark)
    where walk.step > 0 and (part.number = 0 or walk.is_split) and part.paid < %(today)s::bigint * 86400
    """


# The greatest number of first loans that together have no more payments than wanted, and one further loan that has as
# many as are missing then (or nearly): so the number of payments is met, also when it is small.
_CHOOSE_LOANS = """
with counted as (
    select loan.n, coalesce(paid.payments, 0) as payments,
        sum(coalesce(paid.payments, 0)) over (order by loan.n) as reached
    from demo_loan as loan
    left join demo_paid as paid on loan.n = paid.n
),
whole as (
    select coalesce(max(n), 0) as last_n, coalesce(max(reached), 0) as reached
    from counted
    where reached <= %(payments)s
),
further as (
    select counted.n
    from counted, whole
    where counted.n > whole.last_n and counted.payments <= %(payments)s - whole.reached
    order by counted.payments desc, counted.n
    limit 1
)
delete from demo_loan
using whole
where demo_loan.n > whole.last_n and demo_loan.n is distinct from (select further.n from further)
"""

_NUMBER_LOANS = """
update demo_loan
set loan_id = ranked.loan_id
from (select n, row_number() over (order by applied, n) as loan_id from demo_loan) as ranked
where demo_loan.n = ranked.n
"""


def _number_customers(dice: _Dice) -> str:
    """Identifiers rise with the moment of joining, and nobody has a loan before it."""
    return f"""
    update demo_customer
    set joined = ranked.joined, customer_id = ranked.customer_id
    from (
        select n, joined, row_number() over (order by joined, n) as customer_id
        from (
            select customer.n,
                least(customer.joined, first_loan.applied - 86400 * (1 + {dice.below("customer.n", "before", "9")}))
                    as joined
            from demo_customer as customer
            left join (select customer_n, min(applied) as applied from demo_loan group by customer_n) as first_loan
                on customer.n = first_loan.customer_n
            offset 0
        ) as moved
    ) as ranked
    where demo_customer.n = ranked.n
    """


def _insert_customers(dice: _Dice) -> str:
    # The identity number is a permutation of the customers' numbers: the multiplier and the modulus have no common
    # divisor.
    return f"""
    insert into operational.customers (
        customer_id, full_name, email, phone, national_id, date_of_birth, city, country, segment, is_active,
        created_at, updated_at
    )
    select
        customer_id, full_name,
        case
            when {dice.unit("n", "has email")} < 0.95 or segment_no > 1
                then lower(trim('.' from regexp_replace(replace(full_name, '''', ''), '[^A-Za-z]+', '.', 'g')))
                    || customer_id || (array['@example.com', '@example.org', '@example.net'])[1 + mod(customer_id, 3)]
        end,
        '+' || (%(dial_codes)s::text[])[country_no] || '7'
            || lpad({dice.below("n", "phone", "100000000")}::text, 8, '0'),
        case
            when segment_no > 1 then 'BRN-' || identity_number
            when country_no = 2 then 'CM' || to_char(born, 'YY') || identity_number || 'KE'
            when country_no = 3 then to_char(born, 'YYYYMMDD') || '-' || identity_number
            when country_no = 4 then '1' || to_char(born, 'YYYY') || '8' || identity_number || '45'
            else identity_number::text
        end,
        case when segment_no = 1 then born end,
        (%(city_names)s::text[])[city_no], (%(country_names)s::text[])[country_no],
        (%(segments)s::text[])[segment_no],
        not (changed and leaves),
        to_timestamp(joined),
        to_timestamp(case
            when changed
                then joined + {dice.below("n", "changed second", "greatest(%(today)s::bigint * 86400 - joined, 1)")}
            else joined
        end)
    from (
        select
            n, customer_id, segment_no, city_no, country_no, joined,
            case segment_no
                when 1 then first_name || ' ' || family_name
                when 2 then family_name || ' ' || {dice.pick("n", "trade", "%(trades)s::text[]")} || ' '
                    || {dice.pick("n", "trade ending", "%(trade_endings)s::text[]")}
                else {dice.pick("n", "company", "%(company_names)s::text[]")} || ' '
                    || {dice.pick("n", "industry", "%(industries)s::text[]")} || ' '
                    || {dice.pick("n", "company ending", "%(company_endings)s::text[]")}
            end as full_name,
            10000000 + mod(n * 7368787 + %(identity_offset)s::bigint, 89999999) as identity_number,
            date '1970-01-01' + (joined / 86400 - 7600 - {dice.below("n", "born", "14000")})::integer as born,
            {dice.unit("n", "changed")} < 0.18 as changed,
            {dice.unit("n", "leaves")} < 0.22 as leaves
        from (
            select
                customer.*,
                (%(first_names)s::text[])[(%(first_start)s::integer[])[country_no] + 1
                    + {dice.below("n", "first name", "(%(first_count)s::integer[])[country_no]")}] as first_name,
                (%(family_names)s::text[])[(%(family_start)s::integer[])[country_no] + 1
                    + {dice.below("n", "family name", "(%(family_count)s::integer[])[country_no]")}] as family_name
            from demo_customer as customer
            offset 0
        ) as named
        offset 0
    ) as person
    order by customer_id
    """


def _insert_loans(dice: _Dice) -> str:
    """Loans with the balance and the status that their payments lead to. A default is noticed 90 days after the first
    instalment that stayed away, a write-off follows nine months later at the earliest.
    """
    return f"""
    insert into operational.loans (
        loan_id, customer_id, product_id, amount, interest_rate, tenure_months, status, disbursed_at, maturity_date,
        outstanding_balance, loan_officer, branch_code, created_at, updated_at
    )
    select
        loan_id, customer_id, product_id, amount * 0.01, rate * 0.0001, tenure,
        case
            when disbursed is null then 'pending'
            when balance = 0 then 'repaid'
            when written_off < %(today)s::bigint then 'written_off'
            when defaulted < %(today)s::bigint then 'defaulted'
            else 'active'
        end,
        to_timestamp(disbursed),
        (date '1970-01-01' + (disbursed / 86400)::integer + tenure * interval '1 month')::date,
        case when disbursed is null then 0 else balance end * 0.01,
        (%(officers)s::text[])[officer_no],
        (%(branch_codes)s::text[])[branch_no],
        to_timestamp(applied),
        to_timestamp(greatest(
            applied, disbursed, last_recorded,
            case when balance > 0 and defaulted < %(today)s::bigint then defaulted * 86400 + 7200 end,
            case when balance > 0 and written_off < %(today)s::bigint then written_off * 86400 + 7200 end
        ))
    from (
        select
            *,
            case
                when stops and {dice.unit("n", "is written off")} < 0.7
                    then defaulted + 275 + {dice.below("n", "written off", "180")}
            end as written_off
        from (
            select
                loan.*, customer.customer_id, paid.last_recorded, loan.amount - coalesce(paid.principal, 0) as balance,
                case
                    when loan.stops then (
                        date '1970-01-01' + (loan.disbursed / 86400)::integer
                        + (loan.last_step + 1) * interval '1 month'
                    )::date - date '1970-01-01' + 90
                end as defaulted
            from demo_loan as loan
            inner join demo_customer as customer on loan.customer_n = customer.n
            left join demo_paid as paid on loan.n = paid.n
            offset 0
        ) as stopping
        offset 0
    ) as ending
    order by loan_id
    """


def _recorded(dice: _Dice) -> str:
    """The second in which a row of demo_payment was recorded: what passes over a counter, some minutes later."""
    bits = dice.bits("payment.n * 1000 + payment.part", "recorded")
    return f"(payment.paid + case when payment.method_no in ({CASH}, {CHEQUE}) then {bits} & 1023 else 0 end)"


def _insert_payments(dice: _Dice) -> str:
    # A reference of mobile money is unique: its last seven letters are a permutation of the payment's identifier.
    return f"""
    insert into operational.payments (
        payment_id, loan_id, amount, principal_portion, interest_portion, penalty_portion, payment_method,
        reference_number, payment_date, recorded_by, notes, created_at, updated_at
    )
    select
        payment_id, loan_id, (principal + interest + penalty) * 0.01, principal * 0.01, interest * 0.01,
        penalty * 0.01, (%(methods)s::text[])[method_no],
        case method_no
            when {MPESA} then
                chr(65 + mod(paid / 31556952, 26)::integer) || chr(65 + mod(paid / 2629746, 12)::integer)
                || chr(65 + mod(paid / 86400, 26)::integer)
                || translate(
                    lpad(to_hex((payment_id * 96199021) & 268435455), 7, '0'), '0123456789abcdef', 'QK7R2ZT4MXWB9HCL'
                )
            when {BANK_TRANSFER} then
                'FT' || to_char(paid_at, 'YYDDD') || lpad(mod(payment_id, 100000000)::text, 8, '0')
            when {CASH} then 'RCT-' || branch_code || '-' || lpad(payment_id::text, 8, '0')
            when {CHEQUE} then 'CHQ' || lpad((draw & 1048575)::text, 7, '0')
            else 'WEB-' || to_hex((payment_id * 2654435761) & 4294967295)
        end,
        paid_at,
        case
            when method_no = {MPESA} then 'mpesa-gateway'
            when method_no = {ONLINE} then 'web-portal'
            when method_no = {BANK_TRANSFER} then 'bank-import'
            else 'teller.' || lower(branch_code) || '.' || 1 + ((draw >> 20) & 3)
        end,
        case
            when remark = 1 then 'Early settlement'
            when remark = 2 and ((draw >> 24) & 3) = 0 then 'Part payment'
            when remark = 3 and ((draw >> 24) & 3) = 0 then 'Rest of instalment'
            when remark = 4 and ((draw >> 24) & 1) = 0 then 'Arrears cleared'
            when ((draw >> 26) & 127) = 0 then 'Paid by a relative'
        end,
        recorded_at, recorded_at
    from (
        select
            ordered.*,
            to_timestamp(paid) as paid_at,
            to_timestamp(recorded) as recorded_at
        from (
            select
                row_number() over (order by payment.paid, payment.n, payment.part) as payment_id,
                loan.loan_id, payment.principal, payment.interest, payment.penalty, payment.method_no, payment.paid,
                payment.remark, {_recorded(dice)} as recorded,
                (%(branch_codes)s::text[])[loan.branch_no] as branch_code,
                {dice.bits("payment.n * 1000 + payment.part", "payment")} as draw
            from demo_payment as payment
            inner join demo_loan as loan on payment.n = loan.n
            offset 0
        ) as ordered
        offset 0
    ) as recorded
    """


_FILLED = ("customers", "loans", "payments")
_TRIGGERS = ("stamp_row", "audit", "no_truncate")


class _Filling:
    """One transaction that fills the book: statements over one cursor, with the same parameters for each."""

    def __init__(self, cursor: psycopg.Cursor[TupleRow], scale: Scale, seed: int, today: datetime.date) -> None:
        self._cursor = cursor
        self._scale = scale
        self._dice = _Dice(seed)
        digest = hashlib.blake2b(f"{seed}/identity".encode(), digest_size=4).digest()
        self._parameters: dict[str, Any] = {
            "payments": scale.payments,
            "customers": scale.customers,
            "today": (today - datetime.date(1970, 1, 1)).days,
            "segments": list(SEGMENTS),
            "segment_bounds": _bounds(SEGMENT_WEIGHTS),
            "methods": list(METHODS),
            "identity_offset": int.from_bytes(digest, "big"),
            **_branch_parameters(seed),
            **_name_parameters(),
        }

    def _run(self, statement: str, **parameters: Any) -> int:
        self._cursor.execute(statement.encode(), {**self._parameters, **parameters})
        return self._cursor.rowcount

    def prepare(self) -> None:
        """Lock the tables, refuse filled ones, and switch their triggers off until the end."""
        self._cursor.execute(
            """
            set local lock_timeout = '15s';
            set local timezone = 'UTC';
            set local search_path = pg_temp, pg_catalog;
            set local work_mem = '128MB';
            set local synchronous_commit = off;
            set local jit = off;
            set local max_parallel_workers_per_gather = 0;
            """
        )
        try:
            self._cursor.execute(
                "lock table operational.customers, operational.loan_products, operational.loans, operational.payments "
                "in share row exclusive mode"
            )
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise UserError(
                f"Expected the loan book's tables in schema operational, found: {error.diag.message_primary}. "
                "Start the platform with `make up`, which creates them."
            ) from error
        except psycopg.errors.LockNotAvailable as error:
            raise UserError(
                "Expected the loan book to be at rest, found transactions at work in its tables. "
                "Stop what writes to it (for example the simulation) and fill again."
            ) from error
        for table in _FILLED:
            query = sql.SQL("select from {} limit 1").format(sql.Identifier("operational", table))
            if self._cursor.execute(query).fetchone() is not None:
                raise UserError(
                    f"Expected an empty loan book, found rows in operational.{table}. "
                    "Nothing was changed. Fill a new book, or delete the rows of this one first."
                )

    def switch_triggers(self, action: str) -> None:
        """action: `disable`, or `enable always`."""
        for table in _FILLED:
            for trigger in _TRIGGERS:
                self._cursor.execute(
                    sql.SQL("alter table {} {} trigger {}").format(
                        sql.Identifier("operational", table),
                        sql.SQL("disable" if action == "disable" else "enable always"),
                        sql.Identifier(f"{table}_{trigger}"),
                    )
                )

    def draw(self) -> None:
        """Draw customers, loans and payments into work tables: as many loans as the payments need, and some more."""
        self._parameters.update(_product_parameters(self._cursor))
        self._cursor.execute(_WORK_TABLES)
        self._run(_draw_customers(self._dice))
        self._cursor.execute("analyze demo_customer")
        drawn, reached = 0, 0
        # A few hundred at least, so that among them is one with the number of payments that is missing at the end.
        wanted = max(600, round(self._scale.loans * 1.02))
        while reached < self._scale.payments:
            numbers = {"first": drawn + 1, "last": wanted}
            self._run(_draw_loans(self._dice), **numbers)
            reached += self._run(_draw_payments(self._dice), **numbers)
            drawn = wanted
            # Catalogues of short loans have fewer payments per loan: draw on, by what was seen so far.
            missing = self._scale.payments - reached
            wanted = drawn + max(600, round(missing * 1.05 * drawn / max(reached, 1)))

    def choose(self) -> None:
        """Keep as many loans as have the wanted number of payments, and give them their identifiers."""
        self._run(
            f"""
            insert into demo_paid (n, payments, principal, last_recorded)
            select n, count(*), sum(principal), max({_recorded(self._dice)})
            from demo_payment as payment
            group by n
            """
        )
        self._cursor.execute("analyze demo_paid")
        self._run(_CHOOSE_LOANS)
        self._run(_NUMBER_LOANS)
        self._run(_number_customers(self._dice))
        self._cursor.execute("analyze demo_customer; analyze demo_loan; analyze demo_payment")

    def insert_customers(self) -> None:
        self._run(_insert_customers(self._dice))

    def insert_loans(self) -> None:
        self._run(_insert_loans(self._dice))

    def insert_payments(self) -> None:
        self._run(_insert_payments(self._dice))

    def finish(self) -> None:
        """Tell the feed that the tables were filled with the trail off, and let identifiers go on after the last."""
        for table, key in zip(_FILLED, ("customer_id", "loan_id", "payment_id"), strict=True):
            name = sql.Identifier("operational", table)
            self._cursor.execute(
                "insert into operational.audit_log (table_name, operation, record_id) values (%s, 'RELOAD', 0)",
                (table,),
            )
            sequence, next_key = self._cursor.execute(
                sql.SQL("select pg_get_serial_sequence(%s, %s), (select coalesce(max({}), 0) + 1 from {})").format(
                    sql.Identifier(key), name
                ),
                (f"operational.{table}", key),
            ).fetchone() or ("", 1)
            # Unlike setval(), this belongs to the transaction.
            self._cursor.execute(
                sql.SQL("alter sequence {} restart with {}").format(sql.SQL(sequence), sql.Literal(next_key))
            )


def fill(conn: psycopg.Connection[Any], scale: Scale, seed: int = 42, today: datetime.date | None = None) -> Summary:
    """Fill an empty loan book, in one transaction, and analyze its tables afterwards.

    conn: a connection to the OLTP database as its superuser (or an owner of the tables), with no transaction open.
    scale: how big; the empty scale leaves the product catalogue alone. seed: the same seed, scale, day and catalogue
    give the same rows. today: everything in the book happened before this day began in UTC (default: the current one).
    Returns the numbers of rows. Raises UserError, and changes nothing, when the tables are missing, in use or not
    empty, when there is nothing to lend, or when `today` lies in the future.
    """
    started = time.monotonic()
    current_day = datetime.datetime.now(datetime.UTC).date()
    today = today or current_day
    if today > current_day:
        raise UserError(f"Expected a day up to {current_day} as the book's last, found {today}. Choose an earlier one.")
    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        raise ValueError("fill() needs a connection without an open transaction")
    with conn.cursor(row_factory=tuple_row) as cursor:
        with conn.transaction():
            filling = _Filling(cursor, scale, seed, today)
            filling.prepare()
            if scale.payments:
                stages: list[tuple[str, Callable[[], None]]] = [
                    ("Drawing loans and payments", filling.draw),
                    ("Choosing loans", filling.choose),
                    ("Writing customers", filling.insert_customers),
                    ("Writing loans", filling.insert_loans),
                    ("Writing payments", filling.insert_payments),
                    ("Finishing", filling.finish),
                ]
                filling.switch_triggers("disable")
                with console.bar(f"Filling the loan book: {scale.payments:,} payments", len(stages)) as advance:
                    for label, stage in stages:
                        advance(0, label)
                        stage()
                        advance(1, label)
                filling.switch_triggers("enable always")
        with console.step("Analyzing the loan book"), conn.transaction():
            cursor.execute(
                "analyze operational.customers, operational.loan_products, operational.loans, operational.payments"
            )
            counts = cursor.execute(
                """
                select
                    (select count(*) from operational.customers), (select count(*) from operational.loan_products),
                    (select count(*) from operational.loans), (select count(*) from operational.payments)
                """
            ).fetchone() or (0, 0, 0, 0)
    customers, loan_products, loans, payments = counts
    return Summary(customers, loan_products, loans, payments, time.monotonic() - started)
