"""What the history of customers and loans should be, kept in plain Python beside the warehouse's.

It knows nothing of snapshots, landing tables or SQL of the warehouse: it looks at the OLTP tables at the moment of each
run, and follows the definitions in docs/decisions.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import dict_row

from eds.cluster.connections import connect

OPEN_PAST = datetime(1900, 1, 1, tzinfo=UTC)
OPEN_FUTURE = datetime(9999, 12, 31, tzinfo=UTC)
TRACKED = {
    "customers": ("full_name", "city", "country", "segment", "is_active"),
    "loans": (
        "customer_id",
        "product_id",
        "amount",
        "interest_rate",
        "tenure_months",
        "status",
        "disbursed_at",
        "maturity_date",
        "loan_officer",
        "branch_code",
    ),
}
KEYS = {"customers": "customer_id", "loans": "loan_id"}
# Each dimension's query gives: key, the attributes in the order of TRACKED, valid_from, valid_to, is_current.
DIMENSIONS = {
    "customers": "select customer_id, full_name, city, country, customer_segment, is_active, valid_from, valid_to, "
    "is_current from warehouse.dim_customer where customer_sk <> -1",
    "loans": "select loan_id, customer_id, product_sk / 1000000, principal_amount, interest_rate, tenure_months, "
    "loan_status, disbursed_at, maturity_date, loan_officer, branch_code, valid_from, valid_to, is_current "
    "from warehouse.dim_loan where loan_sk <> -1",
}


@dataclass
class Version:
    """One version of a row; attributes is None while the row was deleted."""

    attributes: tuple[Any, ...] | None
    valid_from: datetime
    valid_to: datetime = OPEN_FUTURE


@dataclass
class Row:
    """Everything known of one key."""

    last_seen: dict[str, Any] | None = None
    changed_at: datetime = OPEN_PAST
    versions: list[Version] = field(default_factory=list)

    def see(self, row: dict[str, Any] | None, at: datetime, tracked: tuple[str, ...]) -> None:
        """Note that a run sees the row, or (None) that it is gone."""
        if row == self.last_seen:
            return
        self.changed_at = max(at, self.changed_at + timedelta(microseconds=1))
        self.last_seen = row
        attributes = tuple(row[name] for name in tracked) if row else None
        if self.versions and self.versions[-1].attributes == attributes:
            return
        if self.versions:
            self.versions[-1].valid_to = self.changed_at
        self.versions.append(Version(attributes, self.changed_at if self.versions else OPEN_PAST))

    def at(self, moment: datetime) -> Version | None:
        """Return the version valid at a time, if the row existed then."""
        for version in self.versions:
            if version.valid_from <= moment < version.valid_to:
                return version if version.attributes else None
        return None


class History:
    """The history of both tables, built up run by run."""

    def __init__(self, oltp: str) -> None:
        self.oltp = oltp
        self.rows: dict[str, dict[int, Row]] = {"customers": {}, "loans": {}}
        self.payments: list[dict[str, Any]] = []

    def observe(self) -> None:
        """Take in what a run sees now. The OLTP must stand still."""
        with connect(self.oltp) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            deleted: dict[tuple[str, int], datetime] = {}
            for entry in cursor.execute(
                "select table_name, record_id, change_time from operational.audit_log where operation = 'DELETE' "
                "order by change_time"
            ):
                deleted[entry["table_name"], entry["record_id"]] = entry["change_time"]
            for table, key in KEYS.items():
                present = {row[key]: row for row in cursor.execute(f"select * from operational.{table}")}
                known = self.rows[table]
                for number, row in present.items():
                    known.setdefault(number, Row()).see(row, row["updated_at"], TRACKED[table])
                for number, entity in known.items():
                    if number not in present and entity.last_seen is not None:
                        entity.see(None, deleted[table, number], TRACKED[table])
            self.payments = cursor.execute("select * from operational.payments").fetchall()

    def dimension(self, table: str) -> set[tuple[Any, ...]]:
        """Return the rows that the table's dimension should have, as its query in DIMENSIONS gives them."""
        return {
            (key, *version.attributes, version.valid_from, version.valid_to, version.valid_to == OPEN_FUTURE)
            for key, row in self.rows[table].items()
            for version in row.versions
            if version.attributes is not None
        }

    def facts(self) -> set[tuple[Any, ...]]:
        """For each payment: key, start of the loan's version, customer and start of its version (None: unknown)."""
        result = set()
        for payment in self.payments:
            moment = payment["payment_date"]
            loan_row = self.rows["loans"][payment["loan_id"]]
            loan = loan_row.at(moment)
            assert loan_row.last_seen is not None
            holder = loan.attributes[0] if loan and loan.attributes else loan_row.last_seen["customer_id"]
            customer = self.rows["customers"][holder].at(moment)
            result.add(
                (
                    payment["payment_id"],
                    loan.valid_from if loan else None,
                    holder if customer else None,
                    customer.valid_from if customer else None,
                )
            )
        return result

    def compare(self, platform: Any) -> None:
        """Compare the warehouse with all of it. Raises AssertionError with the first rows that differ."""
        for table, query in DIMENSIONS.items():
            _same(table, set(platform.warehouse(query)), self.dimension(table))
        found = platform.warehouse(
            "select payments.payment_id, case when loans.loan_sk <> -1 then loans.valid_from end, "
            "customers.customer_id, case when customers.customer_sk <> -1 then customers.valid_from end "
            "from warehouse.fact_payments as payments "
            "join warehouse.dim_loan as loans on loans.loan_sk = payments.loan_sk "
            "join warehouse.dim_customer as customers on customers.customer_sk = payments.customer_sk"
        )
        _same("fact_payments", set(found), self.facts())


def _same(name: str, found: set[tuple[Any, ...]], expected: set[tuple[Any, ...]]) -> None:
    def first(rows: set[tuple[Any, ...]]) -> str:
        return "\n  ".join(str(row) for row in sorted(rows, key=str)[:5]) or "none"

    assert found == expected, (
        f"{name} differs.\nonly in the warehouse:\n  {first(found - expected)}\n"
        f"only by the oracle:\n  {first(expected - found)}"
    )
