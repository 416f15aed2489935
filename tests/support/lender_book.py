"""Random loans with schedules and payments of all kinds, changes to them, and what the oracle says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import dict_row

from eds.cluster.connections import connect
from support.book import add_customer, add_loan
from support.lender_oracle import BANDS, ZERO, Installment, Loan, Payment, Truth, annuity, cents, months_after

BRANCHES = ("NRB01", "MSA01", "KSM01", None)
# The columns that a dashboard's filters act on.
FILTERED = ("branch_code", "product_type", "loan_officer", "customer_segment")
# Of the default scheme, the greatest number of days past due in each class but the last.
CLASSES = (
    (0, "regular"), (30, "past_due_1_30"), (60, "past_due_31_60"), (90, "past_due_61_90"),
    (180, "past_due_91_180"), (365, "past_due_181_365"),
)  # fmt: skip
OFFICERS = ("Achieng", "Baraka", None)
SHAPES = ("annuity",) * 8 + (
    "weekly",
    "fortnightly",
    "irregular",
    "grace",
    "balloon",
    "unordered",
    "odd_terms",
    "no_day",
)
# How a borrower behaves: most pay on the day, and every rule of payment meets somebody.
HABITS = (
    "good", "good", "late", "early", "ahead", "stops", "never", "part", "cent_short", "prepays", "interest_only",
    "penal_interest", "settles", "closes", "before_disbursement", "dated_ahead", "taken_over", "overpays",
)  # fmt: skip


def at(random: Random, day: date) -> datetime:
    """Return an instant of a day in UTC, now and then at its very ends."""
    hour, minute = random.choice(((0, 0), (9, 30), (9, 30), (22, 15), (23, 59)))
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZoneInfo("UTC"))


def _lender_schedule(random: Random, shape: str, amount: Decimal, start: date) -> list[Installment]:
    """Return a schedule as a lender would record it: its principal sums to the amount."""
    count = random.randint(2, 14)
    parts = [(amount / count).quantize(Decimal("0.01"), ROUND_DOWN)] * (count - 1)
    parts.append(amount - sum(parts))
    if shape == "grace":
        parts = [ZERO] * random.randint(1, 3) + parts
    elif shape == "balloon":
        parts = [ZERO] * count + [amount]
    rows, due = [], start
    for number, principal in enumerate(parts, start=1):
        days = {"weekly": 7, "fortnightly": 14}.get(shape, random.randint(10, 45))
        due = months_after(start, number) if shape in ("grace", "balloon") else due + timedelta(days=days)
        interest = ZERO if random.random() < 0.15 else cents(f"{random.randint(1, 900)}.{random.randint(0, 99):02}")
        rows.append(Installment(number * random.choice((1, 1, 1)), due, principal, interest))
    if shape == "unordered":
        rows[0], rows[1] = (
            Installment(rows[0].number, rows[1].due_date, rows[0].principal, rows[0].interest),
            Installment(rows[1].number, rows[0].due_date, rows[1].principal, rows[1].interest),
        )
    elif random.random() < 0.2:
        # numbers with gaps
        rows = [Installment(each.number * 10, each.due_date, each.principal, each.interest) for each in rows]
    return rows


def add_random_loan(connection: psycopg.Connection, random: Random, today: date) -> int:
    """Add a loan of a random shape with the payments of a random borrower. Returns its key."""
    customer = add_customer(connection, f"Borrower {random.randint(1, 999)}", segment=random.choice(("retail", "sme")))
    shape, habit = random.choice(SHAPES), random.choice(HABITS)
    amount = random.choice(
        (cents("0.05"), cents("3000"), cents(f"{random.randint(100, 99999)}.{random.randint(0, 99):02}"))
    )
    rate = Decimal(random.choice(("0", "12", "18.5", "24.7531", "120", "9.9999")))
    tenure = random.choice((1, 2, 3, 6, 12, 18, 24))
    start = today - timedelta(days=random.choice((random.randint(0, 40), random.randint(20, 560))))
    maturity = months_after(start, tenure)
    if shape == "odd_terms":
        maturity += timedelta(days=random.choice((-1, 1, 40)))
    has_day = shape != "no_day"
    loan = add_loan(
        connection, customer, str(amount), interest_rate=rate, tenure_months=tenure,
        status=random.choices(("active", "defaulted", "pending"), (18, 1, 1))[0],
        disbursed_at=at(random, start) if has_day else None,
        maturity_date=maturity if has_day else None,
        outstanding_balance=amount, branch_code=random.choice(BRANCHES), loan_officer=random.choice(OFFICERS),
        product_id=random.randint(1, 6),
    )  # fmt: skip
    if shape in ("weekly", "fortnightly", "irregular", "grace", "balloon", "unordered"):
        schedule = _lender_schedule(random, shape, amount, start)
        add_installments(connection, loan, schedule)
    else:
        schedule = annuity(amount, rate, tenure, start)
    pay_as(connection, random, loan, habit, schedule, start, amount, today)
    if random.random() < 0.12:
        write_off(connection, random, loan, today)
    return loan


def add_installments(connection: psycopg.Connection, loan: int, schedule: list[Installment]) -> None:
    for each in schedule:
        connection.execute(
            "insert into operational.loan_installments (loan_id, installment_no, due_date, principal_due, "
            "interest_due) values (%s, %s, %s, %s, %s)",
            (loan, each.number, each.due_date, each.principal, each.interest),
        )


def add_payment(
    connection: psycopg.Connection, loan: int, moment: datetime, principal: Decimal, interest: Decimal,
    penalty: Decimal = ZERO, *, moves_balance: bool = True,
) -> None:  # fmt: skip
    """Insert a payment, and take its principal off the balance."""
    if principal + interest + penalty <= 0:
        return
    connection.execute(
        "insert into operational.payments (loan_id, amount, principal_portion, interest_portion, penalty_portion, "
        "payment_method, payment_date) values (%s, %s, %s, %s, %s, 'cash', %s)",
        (loan, principal + interest + penalty, principal, interest, penalty, moment),
    )
    if moves_balance:
        connection.execute(
            "update operational.loans set outstanding_balance = outstanding_balance - %s where loan_id = %s",
            (principal, loan),
        )


def pay_as(
    connection: psycopg.Connection, random: Random, loan: int, habit: str, schedule: list[Installment], start: date,
    amount: Decimal, today: date,
) -> None:  # fmt: skip
    """Add the payments of a borrower with a habit, up to today."""
    if habit == "never" or amount < 1:
        return
    left = amount
    stop = random.randint(0, len(schedule)) if habit in ("stops", "settles", "prepays", "closes") else len(schedule)
    if habit == "before_disbursement":
        add_payment(connection, loan, at(random, start - timedelta(days=random.randint(1, 40))), cents("5"), cents("1"))
        left -= 5
    for position, each in enumerate(schedule):
        day = each.due_date + timedelta(
            days={"late": random.randint(1, 75), "early": -random.randint(0, 5)}.get(habit, random.choice((0, 0, 0, 1)))
        )
        if habit == "ahead" and position < 3:
            day = start + timedelta(days=random.randint(0, 5))
        if day > today or position >= stop or left <= 0:
            break
        principal, interest = min(each.principal, left), each.interest
        if habit == "part" and random.random() < 0.4:
            principal = (principal / 2).quantize(Decimal("0.01"))
        elif habit == "cent_short" and random.random() < 0.3:
            principal = max(principal - cents("0.01"), ZERO)
        elif habit == "interest_only":
            principal = ZERO
        elif habit == "penal_interest":
            shift = min(principal, cents("3.33"))
            principal, interest = principal - shift, interest + shift
        add_payment(connection, loan, at(random, day), principal, interest, random.choice((ZERO, ZERO, cents("7"))),
                    moves_balance=habit != "taken_over" or position >= 2)  # fmt: skip
        left -= principal
    when = min(today, max(start, start + timedelta(days=random.randint(0, 200))))
    if habit == "prepays" and left > 1:
        add_payment(connection, loan, at(random, when), (left * Decimal("0.6")).quantize(Decimal("0.01")), ZERO)
    elif habit in ("settles", "closes") and left > 0:
        add_payment(connection, loan, at(random, when), left, ZERO if habit == "settles" else cents("1.11"))
        connection.execute("update operational.loans set status = 'repaid' where loan_id = %s", (loan,))
    elif habit == "dated_ahead" and left > 1:
        add_payment(connection, loan, at(random, today + timedelta(days=random.randint(1, 70))), cents("1"), cents("1"))
    elif habit == "overpays":
        add_payment(connection, loan, at(random, when), left, cents("10"))
        add_payment(connection, loan, at(random, when + timedelta(days=40)), ZERO, cents("2"))


def write_off(connection: psycopg.Connection, random: Random, loan: int, today: date) -> None:
    """Write a loan off, dated back or not dated, perhaps with its balance set to nothing; some pay afterwards."""
    day = random.choice((None, today, today - timedelta(days=random.randint(1, 200))))
    connection.execute(
        "update operational.loans set status = 'written_off', written_off_on = %s, outstanding_balance = "
        "case when %s then 0 else outstanding_balance end where loan_id = %s",
        (day, random.random() < 0.3, loan),
    )
    if random.random() < 0.5:
        add_payment(
            connection, loan, at(random, (day or today) + timedelta(days=random.randint(0, 60))),
            cents("1"), cents("0.50"), moves_balance=False,
        )  # fmt: skip


CHANGES = (
    "new_loan", "new_loan", "pay_today", "pay_today", "pay_back", "pay_back", "pay_ahead", "reverse", "move_day",
    "move_day", "move_loan", "edit_portions", "change_balance", "write_off", "take_back", "change_terms",
    "restructured_on", "top_up", "replace_schedule",
    "drop_schedule", "move_installment", "change_branch", "change_officer", "change_product",
    "change_segment", "disburse", "delete_loan", "repaid",
)  # fmt: skip


def random_change(connection: psycopg.Connection, random: Random, today: date) -> str:
    """Make one change of the application. Returns its kind."""
    kind = random.choice(CHANGES)
    loans = [row[0] for row in connection.execute("select loan_id from operational.loans order by 1").fetchall()]
    payments = connection.execute(
        "select payment_id, loan_id, principal_portion from operational.payments order by 1"
    ).fetchall()
    if kind == "new_loan" or not loans:
        add_random_loan(connection, random, today)
        return kind
    loan = random.choice(loans)

    def update(assignment: str, *values: Any) -> None:
        connection.execute(f"update operational.loans set {assignment} where loan_id = %s", (*values, loan))

    if kind in ("pay_today", "pay_back", "pay_ahead"):
        days = {"pay_today": 0, "pay_back": -random.randint(1, 250), "pay_ahead": random.randint(1, 20)}[kind]
        add_payment(connection, loan, at(random, today + timedelta(days=days)), cents(f"{random.randint(0, 300)}.07"),
                    cents(f"{random.randint(0, 30)}.50"), random.choice((ZERO, cents("2"))))  # fmt: skip
    elif kind in ("reverse", "move_day", "move_loan", "edit_portions") and payments:
        payment, of_loan, principal = random.choice(payments)
        loan = of_loan
        if kind == "reverse":
            connection.execute("delete from operational.payments where payment_id = %s", (payment,))
            if random.random() < 0.8:
                update("outstanding_balance = outstanding_balance + %s", principal)
        elif kind == "move_day":
            connection.execute(
                "update operational.payments set payment_date = payment_date + %s * interval '1 day' "
                "where payment_id = %s",
                (random.choice((-90, -40, -1, 1, 35, 80)), payment),
            )
        elif kind == "move_loan":
            other = random.choice(loans)
            connection.execute("update operational.payments set loan_id = %s where payment_id = %s", (other, payment))
            update("outstanding_balance = outstanding_balance + %s", principal)
            loan = other
            update("outstanding_balance = outstanding_balance - %s", principal)
        else:
            connection.execute(
                "update operational.payments set principal_portion = principal_portion - 1, "
                "interest_portion = interest_portion + 1 where payment_id = %s and principal_portion >= 1",
                (payment,),
            )
    elif kind == "change_balance":
        update("outstanding_balance = outstanding_balance + %s", cents(str(random.choice((-20, 15)))))
    elif kind == "write_off":
        write_off(connection, random, loan, today)
    elif kind == "take_back":
        update("status = 'active', written_off_on = null")
    elif kind == "repaid":
        update("status = 'repaid'")
    elif kind == "change_terms":
        update("interest_rate = %s, tenure_months = %s, maturity_date = (disbursed_at at time zone 'UTC')::date "
               "+ %s * interval '1 month'", 6 + random.randint(0, 9), *([random.randint(1, 30)] * 2))  # fmt: skip
    elif kind == "restructured_on":
        update("restructured_on = %s", random.choice((today, None)))
    elif kind == "top_up":
        update(
            "amount = amount + 100, outstanding_balance = outstanding_balance + 100, disbursed_at = %s",
            at(random, today),
        )
    elif kind in ("replace_schedule", "drop_schedule"):
        connection.execute("delete from operational.loan_installments where loan_id = %s", (loan,))
        if kind == "replace_schedule":
            shape = random.choice(("weekly", "grace", "irregular"))
            start = today - timedelta(days=random.randint(0, 200))
            add_installments(connection, loan, _lender_schedule(random, shape, cents("500"), start))
    elif kind == "move_installment":
        connection.execute(
            "update operational.loan_installments set loan_id = %s, installment_no = installment_no + 1000 "
            "where installment_id = (select min(installment_id) from operational.loan_installments)",
            (loan,),
        )
    elif kind in ("change_branch", "change_officer", "change_product"):
        column, values = {
            "change_branch": ("branch_code", BRANCHES),
            "change_officer": ("loan_officer", OFFICERS),
            "change_product": ("product_id", range(1, 7)),
        }[kind]
        update(f"{column} = %s", random.choice(values))
    elif kind == "change_segment":
        connection.execute(
            "update operational.customers set segment = 'corporate' where customer_id = "
            "(select customer_id from operational.loans where loan_id = %s)",
            (loan,),
        )
    elif kind == "disburse":
        update("status = 'active', disbursed_at = coalesce(disbursed_at, %s)", at(random, today))
    elif kind == "delete_loan":
        for table in ("payments", "loan_installments", "loans"):
            connection.execute(f"delete from operational.{table} where loan_id = %s", (loan,))
    return kind


# --- the oracle's view of a book --------------------------------------------------------------------------------------


@dataclass
class Past:
    """What the versions of a loan, which the runs have seen, say of its past."""

    written_off_at: datetime | None = None
    has_other_terms: bool = False


TERMS = ("principal_amount", "interest_rate", "tenure_months", "disbursed_at", "maturity_date")


def pasts_in(platform: Any) -> dict[int, Past]:
    """Walk through each loan's versions, oldest first."""
    result: dict[int, Past] = {}
    before: dict[str, Any] = {}
    for version in rows_of(platform, "select * from snapshots.loans_snapshot order by loan_id, dbt_valid_from"):
        past = result.setdefault(version["loan_id"], Past())
        if before.get("loan_id") != version["loan_id"] or before["is_deleted"]:
            before = {"loan_status": "pending"}
        if not version["is_deleted"]:
            if version["loan_status"] == "written_off" != before["loan_status"]:
                past.written_off_at = version["dbt_valid_from"]
            if before["loan_status"] != "pending" and any(version[term] != before[term] for term in TERMS):
                past.has_other_terms = True
        before = version
    return result


def loans_in(
    connection: psycopg.Connection, timezone: str = "UTC", pasts: Mapping[int, Past] | None = None
) -> dict[int, Loan]:
    """Return the loans of the OLTP with all that is theirs."""
    zone = ZoneInfo(timezone)

    def day(moment: datetime | None) -> date | None:
        return moment.astimezone(zone).date() if moment else None

    cursor = connection.cursor(row_factory=dict_row)
    result = {}
    for row in cursor.execute("select * from operational.loans").fetchall():
        created = day(row["created_at"])
        assert created is not None
        past = (pasts or {}).get(row["loan_id"], Past())
        result[row["loan_id"]] = Loan(
            row["loan_id"], row["amount"], row["interest_rate"], row["tenure_months"], row["status"],
            day(row["disbursed_at"]), row["maturity_date"], row["outstanding_balance"], created,
            row["written_off_on"], day(past.written_off_at), row["restructured_on"], past.has_other_terms,
        )  # fmt: skip
    for row in cursor.execute("select * from operational.payments").fetchall():
        paid = day(row["payment_date"])
        assert paid is not None
        result[row["loan_id"]].payments.append(Payment(paid, row["principal_portion"], row["interest_portion"]))
    for row in cursor.execute("select * from operational.loan_installments").fetchall():
        result[row["loan_id"]].installments.append(
            Installment(row["installment_no"], row["due_date"], row["principal_due"], row["interest_due"])
        )
    return result


def truths(platform: Any, timezone: str = "UTC", tolerance: Decimal = ZERO) -> dict[int, Truth]:
    """Return the oracle's view of each loan, from the OLTP's rows and the versions that the runs have seen."""
    pasts = pasts_in(platform)
    with connect(platform.superuser_conninfo) as connection:
        return {key: Truth(loan, tolerance) for key, loan in loans_in(connection, timezone, pasts).items()}


def as_of(platform: Any, timezone: str = "UTC") -> date:
    """Return the as-of date."""
    moment: datetime = platform.warehouse("select snapshot_time from audit.extraction_state")[0][0]
    return moment.astimezone(ZoneInfo(timezone)).date()


def rows_of(platform: Any, query: str) -> list[dict[str, Any]]:
    with connect(platform.warehouse_conninfo) as connection:
        return connection.cursor(row_factory=dict_row).execute(query).fetchall()


def assert_positions_equal_the_oracle(platform: Any, book: dict[int, Truth]) -> None:
    """Compare the schedule and position of each loan in fact_loans and fact_installments."""
    found = {
        row["loan_id"]: row
        for row in rows_of(
            platform,
            "select loan_id, schedule_source, installment_count, installments_paid, first_unpaid_due_date, "
            "is_in_portfolio from warehouse.fact_loans",
        )
    }
    expected = {
        loan_id: {
            "loan_id": loan_id,
            "schedule_source": truth.source,
            "installment_count": len(truth.schedule),
            "installments_paid": truth.paid_count(),
            "first_unpaid_due_date": truth.first_unpaid(),
            "is_in_portfolio": truth.in_portfolio_today(),
        }
        for loan_id, truth in book.items()
    }
    _compare("fact_loans", found, expected)
    installments = {
        (row["loan_id"], row["installment_no"]): row
        for row in rows_of(platform, "select * from warehouse.fact_installments")
    }
    _compare(
        "fact_installments",
        installments,
        {
            (loan_id, each.number): {
                "loan_id": loan_id,
                "installment_no": each.number,
                "due_date": each.due_date,
                "principal_due": each.principal,
                "interest_due": each.interest,
                "is_paid": position <= truth.paid_count(),
            }
            for loan_id, truth in book.items()
            for position, each in enumerate(truth.schedule, start=1)
        },
    )


class Replacements:
    """The lender's schedules as each run has seen them: which loans had theirs replaced while they were disbursed."""

    def __init__(self) -> None:
        self.last: dict[int, list[tuple[date, Decimal, Decimal]]] = {}
        self.replaced: set[int] = set()

    def take_in(self, book: dict[int, Truth]) -> None:
        for loan_id, truth in book.items():
            ordered = sorted(truth.loan.installments, key=lambda each: each.number)
            now = [(each.due_date, each.principal, each.interest) for each in ordered]
            if now and self.last.get(loan_id, now) != now:
                self.replaced.add(loan_id)
            if truth.loan.status == "pending":
                self.last.pop(loan_id, None)
            elif now:
                self.last[loan_id] = now


def assert_restructured_equal_the_oracle(platform: Any, book: dict[int, Truth], replacements: Replacements) -> None:
    """Compare which loans are restructured. replacements: takes in the book after each run."""
    replacements.take_in(book)
    _compare(
        "is_restructured",
        dict(platform.warehouse("select loan_id, is_restructured from warehouse.fact_loans")),
        {
            loan_id: bool(truth.loan.restructured_on) or truth.loan.has_other_terms or loan_id in replacements.replaced
            for loan_id, truth in book.items()
        },
    )


def last_month_end(day: date) -> date:
    """Return the end of the last month that has ended by a day."""
    return day.replace(day=1) - timedelta(days=1)


def assert_months_equal_the_oracle(platform: Any, book: dict[int, Truth], timezone: str = "UTC") -> None:
    """Compare every row of the loans' history."""
    last = last_month_end(as_of(platform, timezone))
    expected = {(row["loan_id"], row["month_end"]): row for truth in book.values() for row in truth.month_ends(last)}
    names = ", ".join(next(iter(expected.values()), {"loan_id": 0, "month_end": 0}))
    found = {
        (row["loan_id"], row["month_end"]): row
        for row in rows_of(platform, f"select {names} from warehouse.fact_loan_month_end")
    }
    _compare("fact_loan_month_end", found, expected)


def _of(rows: Iterable[dict[str, Any]], *keys: str) -> dict[Any, dict[str, Any]]:
    return {tuple(row[key] for key in keys): row for row in rows}


def _sums(rows: Iterable[dict[str, Any]], keys: tuple[str, ...], *columns: str) -> dict[Any, dict[str, Any]]:
    """Sum columns of rows by keys; `loan_count` counts them."""
    result: dict[Any, dict[str, Any]] = {}
    for row in rows:
        group = tuple(row[key] for key in keys)
        total = result.setdefault(group, dict(zip(keys, group, strict=True)) | dict.fromkeys(columns, ZERO))
        for column in columns:
            total[column] += 1 if column == "loan_count" else row[column]
    return result


def _ratio(part: Decimal, whole: Decimal) -> Decimal | None:
    return (100 * part / whole).quantize(Decimal("0.01"), ROUND_HALF_UP) if whole else None


def assert_views_equal_the_oracle(platform: Any, book: dict[int, Truth], timezone: str = "UTC") -> None:
    """Compare the views of today and portfolio_as_of with the oracle's loans, those of months with their rows."""
    day = as_of(platform, timezone)
    with connect(platform.superuser_conninfo) as connection:
        loans = _of(
            connection.cursor(row_factory=dict_row)
            .execute(
                "select loan_id, status, coalesce(branch_code, 'unknown') as branch_code, product_type, "
                "coalesce(loan_officer, 'unassigned') as loan_officer, segment as customer_segment, "
                "paid as collected_amount from operational.loans "
                "join operational.loan_products on loan_products.product_id = loans.product_id "
                "join operational.customers on customers.customer_id = loans.customer_id "
                "cross join lateral (select coalesce(sum(amount), 0) as paid from operational.payments "
                "where payments.loan_id = loans.loan_id) as payments"
            )
            .fetchall(),
            "loan_id",
        )
    restructured = dict(platform.warehouse("select loan_id, is_restructured from warehouse.fact_loans"))
    today: list[dict[str, Any]] = []
    for (loan_id,), row in loans.items():
        truth = book[loan_id]
        inside = truth.in_portfolio_today()
        late = truth.days_past_due_today(day) if inside else 0
        owed = truth.loan.balance if inside else ZERO
        first = truth.first_unpaid()
        unpaid: list[tuple[date, Decimal]] = []
        cumulative, settled = (
            ZERO,
            max(truth.money(), sum((i.amount for i in truth.schedule[: truth.paid_count()]), ZERO)),
        )
        for each in truth.schedule:
            lower, cumulative = cumulative, cumulative + each.amount
            unpaid.append((each.due_date, cumulative - min(max(settled, lower), cumulative)))
        overdue = sum((amount for due, amount in unpaid if due < day), ZERO)
        if truth.schedule and day > truth.schedule[-1].due_date:
            overdue = max(overdue, owed)
        ladder_of_loan = {f"par_{limit}": owed if late > limit else ZERO for limit in (30, 60, 90, 180)}
        today.append(row | ladder_of_loan | {
            "inside": inside, "schedule_source": truth.source, "days": late, "outstanding_principal": owed,
            "gross_loan_portfolio": owed, "band": next((n for limit, n in BANDS if late <= limit), "over_360"),
            "par_1": owed if late >= 1 else ZERO,
            "overdue_amount": overdue if first and inside else ZERO, "unpaid": unpaid if inside else [],
            "scheduled": owed if truth.schedule else ZERO, "first": first,
            "stage": 3 if row["status"] == "defaulted" or late > 90 else 2 if restructured[loan_id] or late > 30 else 1,
        })  # fmt: skip
    portfolio = [row for row in today if row["inside"]]
    scheduled = [row for row in portfolio if row["schedule_source"] != "none"]

    def check_grain(name: str, keys: tuple[str, ...], columns: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> None:
        """Compare the sums of a view that has more dimensions, where one of them is not 0."""
        found: dict[Any, dict[str, Any]] = {}
        for row in platform.view(name):
            group = tuple(row[key] for key in keys)
            total = found.setdefault(group, dict(zip(keys, group, strict=True)) | dict.fromkeys(columns, ZERO))
            for column in columns:
                total[column] += row[column]
        expected = _sums(rows, keys, *columns)
        _compare(name, *(
            {key: row for key, row in sums.items() if any(row[column] for column in columns)}
            for sums in (found, expected)
        ))  # fmt: skip

    def view(name: str, *keys: str) -> dict[Any, dict[str, Any]]:
        return _of(platform.view(name), *keys)

    def check(name: str, keys: tuple[str, ...], columns: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> None:
        found = {k: {c: row[c] for c in (*keys, *columns)} for k, row in view(name, *keys).items()}
        expected = _sums(rows, keys, *columns)
        # Some views list every band, class or stage.
        _compare(name, {k: v for k, v in found.items() if k in expected or any(v[c] for c in columns)}, expected)

    ladder = ("loan_count", "gross_loan_portfolio", "par_1", "par_30", "par_60", "par_90", "par_180")
    check("vw_portfolio_at_risk", ("branch_code", "product_type"), ladder, portfolio)
    sums = _sums(portfolio, ("branch_code", "product_type"), "par_30", "scheduled")
    ratios = {
        key: row["par_30_ratio"] for key, row in view("vw_portfolio_at_risk", "branch_code", "product_type").items()
    }
    assert ratios == {key: _ratio(row["par_30"], row["scheduled"]) for key, row in sums.items()}
    check("vw_schedule_coverage", ("schedule_source",), ("loan_count", "gross_loan_portfolio"), portfolio)
    check("vw_arrears_ageing", ("band",), ("loan_count", "outstanding_principal", "overdue_amount"), scheduled)
    check("vw_ifrs9_stages", ("stage",), ("loan_count", "outstanding_principal"), scheduled)
    check("vw_loan_classification", ("class",), ("loan_count", "outstanding_principal"),
          [row | {"class": next((n for limit, n in CLASSES if row["days"] <= limit), "past_due_over_365")}
           for row in scheduled])  # fmt: skip
    for row in platform.view("vw_loan_classification"):
        provision = row["outstanding_principal"] * row["provision_rate"]
        assert row["provision_amount"] == provision.quantize(Decimal("0.01"), ROUND_HALF_UP)
    officers = _sums(
        portfolio, ("branch_code", "loan_officer"), "loan_count", "gross_loan_portfolio", "par_30", "scheduled"
    )
    collected = _sums(today, ("branch_code", "loan_officer"), "collected_amount")
    nothing = {"loan_count": 0, "gross_loan_portfolio": ZERO, "par_30": ZERO, "scheduled": ZERO}
    expected_officers = {}
    for key, row in collected.items():
        figures = dict(officers.get(key, nothing | {"branch_code": key[0], "loan_officer": key[1]}))
        ratio = _ratio(figures["par_30"], figures.pop("scheduled"))
        expected_officers[key] = figures | {"par_30_ratio": ratio, "collected_amount": row["collected_amount"]}
    _compare("vw_officer_performance", view("vw_officer_performance", "branch_code", "loan_officer"), expected_officers)
    # A branch that expects nothing is not listed: what is paid ahead is no longer due.
    coming = [
        {key: row[key] for key in FILTERED} | {"due_within_days": days, "amount": amount}
        for row in scheduled for due, amount in row["unpaid"] for days in (30, 60, 90)
        if amount and 0 < (due - day).days <= days
    ]  # fmt: skip
    check("vw_expected_collections", ("branch_code", "due_within_days"), ("amount",), coming)
    # What the filters act on.
    check_grain("vw_expected_dues", (*FILTERED, "due_within_days"), ("amount",), coming)
    banded = [row if row["schedule_source"] != "none" else row | {"band": "no schedule"} for row in portfolio]
    measures = ("loan_count", "outstanding_principal", "overdue_amount")
    check_grain("vw_portfolio_quality", (*FILTERED, "band"), measures, banded)
    _compare(
        "loans_in_arrears",
        {key: (row["days_past_due"], row["outstanding_principal"], row["overdue_amount"], row["branch_code"])
         for key, row in view("loans_in_arrears", "loan_id").items()},
        {(row["loan_id"],): (row["days"], row["outstanding_principal"], row["overdue_amount"], row["branch_code"])
         for row in portfolio if row["days"] >= 1},
    )  # fmt: skip
    for past in (
        day,
        day - timedelta(days=1),
        last_month_end(day),
        day - timedelta(days=100),
        day - timedelta(days=400),
    ):
        found = _of(rows_of(platform, f"select * from warehouse.portfolio_as_of('{past}')"), "loan_id")
        for row in found.values():
            del row["branch_code"]
        _compare(f"portfolio_as_of {past}", found, {
            (loan_id,): {"loan_id": loan_id, "outstanding_principal": truth.owed(past),
                         "days_past_due": truth.days_past_due(past), "overdue_amount": truth.overdue(past)}
            for loan_id, truth in book.items() if truth.in_portfolio(past)
        })  # fmt: skip
    assert_views_of_months_follow_from_their_rows(platform, check, check_grain, timezone)


def assert_views_of_months_follow_from_their_rows(platform: Any, check: Any, check_grain: Any, timezone: str) -> None:
    """Check the views by month: sums of the loans' rows, at the branch, officer and segment of the history then."""
    rows = rows_of(
        platform,
        "select months.*, branches.branch_code, product_type, amount from warehouse.fact_loan_month_end as months "
        "join warehouse.dim_branch as branches on branches.branch_sk = months.branch_sk "
        "join warehouse.dim_product as products on products.product_sk = months.product_sk "
        "join (select loan_id, principal_amount as amount from warehouse.fact_loans) as loans "
        "on loans.loan_id = months.loan_id",
    )
    history = rows_of(
        platform,
        "select loan_id, customer_id, coalesce(branch_code, 'unknown') as branch_code, "
        "coalesce(loan_officer, 'unassigned') as loan_officer, dbt_valid_from, dbt_valid_to, "
        "row_number() over (partition by loan_id order by dbt_valid_from) as version from snapshots.loans_snapshot",
    )
    borrowers = rows_of(
        platform,
        "select customer_id, customer_segment, dbt_valid_from, dbt_valid_to, "
        "row_number() over (partition by customer_id order by dbt_valid_from) as version "
        "from snapshots.customers_snapshot",
    )

    def valid_at(midnight: datetime, versions: list[dict[str, Any]], key: str, value: int) -> list[dict[str, Any]]:
        return [
            version
            for version in versions
            if version[key] == value
            and (version["version"] == 1 or version["dbt_valid_from"] < midnight)
            and version["dbt_valid_to"] >= midnight
        ]

    limits = {"par_1": 0, "par_30": 30, "par_60": 60, "par_90": 90, "par_180": 180}
    for row in rows:
        midnight = datetime.combine(row["month_end"] + timedelta(days=1), datetime.min.time(), ZoneInfo(timezone))
        (loan,) = valid_at(midnight, history, "loan_id", row["loan_id"])
        (borrower,) = valid_at(midnight, borrowers, "customer_id", loan["customer_id"])
        then = loan | {"customer_segment": borrower["customer_segment"]}
        _compare("a row of the history", *(
            {(row["loan_id"], row["month_end"]): {key: of[key] for key in FILTERED if key != "product_type"}}
            for of in (row, then)
        ))  # fmt: skip
        row["gross_loan_portfolio"] = row["outstanding_principal"]
        row |= {
            name: row["outstanding_principal"] if row["days_past_due"] > days else ZERO for name, days in limits.items()
        }
        row["month"] = row["month_end"].replace(day=1)
        row["scheduled_portfolio"] = row["outstanding_principal"] if row["schedule_source"] != "none" else ZERO
    flows = ("due_amount", "paid_on_time", "paid_of_due", "paid_of_arrears", "paid_ahead", "overdue_amount",
             "written_off_amount", "recovered_amount")  # fmt: skip
    check_grain("vw_month_ends", (*FILTERED, "month"),
                ("loan_count", "gross_loan_portfolio", "scheduled_portfolio", *limits, *flows), rows)  # fmt: skip
    check("vw_portfolio_at_risk_by_month", ("month_end", "branch_code"), ("gross_loan_portfolio", *limits), rows)
    check("vw_collections_by_month", ("month_end", "branch_code"),
          ("due_amount", "paid_on_time", "paid_of_due", "paid_of_arrears", "paid_ahead"), rows)  # fmt: skip
    for row in platform.view("vw_collections_by_month"):
        assert row["on_time_rate"] == _ratio(row["paid_on_time"], row["due_amount"])
        assert row["current_collection_rate"] == _ratio(row["paid_of_due"] + row["paid_of_arrears"], row["due_amount"])
    check("vw_write_offs", ("month_end", "branch_code"), ("written_off_amount", "recovered_amount"),
          [row for row in rows if row["written_off_amount"] or row["recovered_amount"]])  # fmt: skip
    known = [row for row in rows if row["schedule_source"] != "none"]
    check("vw_loan_migration", ("month_end", "state_before", "state"), ("loan_count", "outstanding_principal"), known)
    last = max((row["month_end"] for row in known), default=date.min)
    check_grain("vw_last_migration", (*FILTERED, "month", "state_before", "state"),
                ("loan_count", "outstanding_principal"),
                [row | {"state_before": row["state_before"] or "new"} for row in known
                 if row["month_end"] == last_month_end(as_of(platform, timezone))])  # fmt: skip
    youngest = {row["cohort_month"].year: row["cohort_month"] for row in sorted(known, key=lambda r: r["cohort_month"])}
    vintages, events = [], []
    for row in known:
        age = (
            12 * (row["month_end"].year - row["cohort_month"].year) + row["month_end"].month - row["cohort_month"].month
        )
        earlier = [r for r in known if r["loan_id"] == row["loan_id"] and r["month_end"] <= row["month_end"]]
        ages = 12 * (last.year - row["cohort_month"].year) + last.month - row["cohort_month"].month
        worst, worst_before = (
            max((r["days_past_due"] for r in earlier if r is not row or with_it), default=0)
            for with_it in (True, False)
        )
        newest = youngest[row["cohort_month"].year]
        if age <= 12 * (last.year - newest.year) + last.month - newest.month:
            events.append({key: row[key] for key in FILTERED} | {
                "cohort": str(row["cohort_month"].year), "months_on_book": age,
                "disbursed_amount": row["amount"] if row["state_before"] is None else ZERO,
                "first_over_30_amount": row["amount"] if worst > 30 >= worst_before else ZERO,
                "first_over_90_amount": row["amount"] if worst > 90 >= worst_before else ZERO,
                "written_off_amount": row["written_off_amount"],
            })  # fmt: skip
        for later in range(age, ages + 1):
            vintages.append({
                "cohort_month": row["cohort_month"], "months_on_book": later,
                "written_off_amount": row["written_off_amount"],
                "disbursed_amount": row["amount"] if row["state_before"] is None else ZERO,
                "ever_30_amount": row["amount"] if worst > 30 >= worst_before else ZERO,
                "ever_90_amount": row["amount"] if worst > 90 >= worst_before else ZERO,
            })  # fmt: skip
    check("vw_vintages", ("cohort_month", "months_on_book"),
          ("disbursed_amount", "ever_30_amount", "ever_90_amount", "written_off_amount"), vintages)  # fmt: skip
    check_grain("vw_vintage_curves", (*FILTERED, "cohort", "months_on_book"),
                ("disbursed_amount", "first_over_30_amount", "first_over_90_amount", "written_off_amount"),
                events)  # fmt: skip
    # Each curve reaches the month that all cohorts of its year have reached, also when nothing was added in it.
    grain = (*FILTERED, "product", "cohort", "months_on_book")
    curves = [tuple(row[key] for key in grain) for row in platform.view("vw_vintage_curves")]
    assert len(curves) == len(set(curves)), "vw_vintage_curves has a row of its grain twice"
    ends = {str(year): 12 * (last.year - month.year) + last.month - month.month for year, month in youngest.items()}
    assert {curve[:-1] for curve in curves if curve[-1] == 0} <= {
        curve[:-1] for curve in curves if curve[-1] == ends[curve[-2]]
    }


def _compare(name: str, found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    wrong = [key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)]
    shown = "\n".join(
        f"{key}:\n  found    {_differing(found.get(key), expected.get(key))}\n"
        f"  expected {_differing(expected.get(key), found.get(key))}"
        for key in sorted(wrong, key=str)[:5]
    )
    assert not wrong, f"{name} differs from the oracle in {len(wrong)} rows:\n{shown}"


def _differing(row: Any, other: Any) -> Any:
    if not (isinstance(row, dict) and isinstance(other, dict)):
        return row
    return {name: str(value) for name, value in row.items() if other.get(name) != value}
