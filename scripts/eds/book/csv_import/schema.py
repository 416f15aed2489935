"""The operational tables as an import sees them: columns, defaults, references, rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString


@dataclass(frozen=True)
class Column:
    """A column of a table, and so of its file.

    kind: the column's SQL type. default_is_now: whether its default is the time of the import, which differs each time.
    is_number_like: whether its texts are mostly digits, so that a spreadsheet takes them for numbers or dates.
    is_group: whether the dashboards have a line for each of its texts. is_past: whether it is the day of something that
    has happened.
    """

    name: LiteralString
    kind: LiteralString
    nullable: bool = False
    has_default: bool = False
    default_is_now: bool = False
    is_percent: bool = False
    unique: bool = False
    references: LiteralString | None = None
    is_number_like: bool = False
    is_group: bool = False
    is_past: bool = False

    @property
    def required(self) -> bool:
        """Whether each file of the table must have the column, with a value in each row."""
        return not self.nullable and not self.has_default


@dataclass(frozen=True)
class Rule:
    """A CHECK of the database in a lender's words.

    columns: those that it looks at; a problem names the first of them that the file has. holds: an SQL condition,
    which a row breaks when it is false (null passes, as in CHECK). expected: an SQL expression of type text. cause:
    what the rows that break it have in common, where `expected` says more. codes: the values of a column of codes.
    """

    columns: tuple[LiteralString, ...]
    holds: LiteralString
    expected: LiteralString
    cause: LiteralString = ""
    codes: tuple[LiteralString, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of schema operational with what its file may hold.

    key_size: so many of its first columns are the key by which a file's rows and the table's are the same. is_optional:
    whether a book needs none of it; the database of an earlier version may not have the table then.
    """

    name: LiteralString
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]
    key_size: int = 1
    is_optional: bool = False

    @property
    def file(self) -> str:
        """The name of the table's file."""
        return f"{self.name}.csv"

    @property
    def key(self) -> Column:
        """The key, or the first of its columns."""
        return self.columns[0]

    @property
    def keys(self) -> tuple[Column, ...]:
        """The columns of the key."""
        return self.columns[: self.key_size]

    def codes(self, column: Column) -> tuple[LiteralString, ...]:
        """Return the values that a column of codes may have, () for another column."""
        return next((rule.codes for rule in self.rules if rule.codes and rule.columns == (column.name,)), ())


def _one_of(column: LiteralString, *values: LiteralString) -> Rule:
    quoted: LiteralString = ", ".join(f"'{value}'" for value in values)
    words: LiteralString = ", ".join(values)
    return Rule((column,), f"{column} in ({quoted})", f"'one of {words}'", codes=values)


def _not_blank(column: LiteralString) -> Rule:
    return Rule((column,), f"{column} <> ''", "'a text that is not empty'")


def _above_zero(column: LiteralString) -> Rule:
    return Rule((column,), f"{column} > 0", "'a number above 0'")


def _not_negative(column: LiteralString) -> Rule:
    return Rule((column,), f"{column} >= 0", "'0 or more'")


def _ordered(least: LiteralString, greatest: LiteralString) -> Rule:
    return Rule(
        (greatest, least),
        f"{least} <= {greatest}",
        f"format('{least} must not be above {greatest} (found {least} %s, {greatest} %s)', {least}, {greatest})",
        cause=f"{least} above {greatest}",
    )


_MONEY: LiteralString = "numeric(14, 2)"
_CREATED_AT = Column("created_at", "timestamptz", has_default=True, default_is_now=True)

TABLES: tuple[Table, ...] = (
    Table(
        "customers",
        (
            Column("customer_id", "integer"),
            Column("full_name", "text"),
            Column("email", "text", nullable=True, unique=True),
            Column("phone", "text", nullable=True, is_number_like=True),
            Column("national_id", "text", nullable=True, unique=True, is_number_like=True),
            Column("date_of_birth", "date", nullable=True, is_past=True),
            Column("city", "text", nullable=True),
            Column("country", "text", has_default=True),
            Column("segment", "text", has_default=True),
            Column("is_active", "boolean", has_default=True),
            _CREATED_AT,
        ),
        (_not_blank("full_name"), _one_of("segment", "retail", "sme", "corporate")),
    ),
    Table(
        "loan_products",
        (
            Column("product_id", "integer"),
            Column("product_name", "text"),
            Column("product_type", "text"),
            Column("min_amount", _MONEY),
            Column("max_amount", _MONEY),
            Column("min_tenure_months", "integer"),
            Column("max_tenure_months", "integer"),
            Column("is_active", "boolean", has_default=True),
            _CREATED_AT,
        ),
        (
            _not_blank("product_name"),
            _one_of("product_type", "personal", "mortgage", "business", "auto", "education"),
            _not_negative("min_amount"),
            _above_zero("min_tenure_months"),
            _ordered("min_amount", "max_amount"),
            _ordered("min_tenure_months", "max_tenure_months"),
        ),
    ),
    Table(
        "loans",
        (
            Column("loan_id", "bigint"),
            Column("customer_id", "integer", references="customers"),
            Column("product_id", "integer", references="loan_products"),
            Column("amount", _MONEY),
            Column("interest_rate", "numeric(7, 4)", is_percent=True),
            Column("tenure_months", "integer"),
            Column("status", "text", has_default=True),
            Column("disbursed_at", "timestamptz", nullable=True, is_past=True),
            Column("maturity_date", "date", nullable=True),
            Column("outstanding_balance", _MONEY, has_default=True),
            Column("loan_officer", "text", nullable=True, is_group=True),
            Column("branch_code", "text", nullable=True, is_number_like=True, is_group=True),
            Column("written_off_on", "date", nullable=True, is_past=True),
            Column("restructured_on", "date", nullable=True, is_past=True),
            _CREATED_AT,
        ),
        (
            _above_zero("amount"),
            _not_negative("interest_rate"),
            _above_zero("tenure_months"),
            _one_of("status", "pending", "active", "repaid", "defaulted", "written_off"),
        ),
    ),
    Table(
        "payments",
        (
            Column("payment_id", "bigint"),
            Column("loan_id", "bigint", references="loans"),
            Column("amount", _MONEY),
            Column("principal_portion", _MONEY),
            Column("interest_portion", _MONEY),
            Column("penalty_portion", _MONEY, has_default=True),
            Column("payment_method", "text"),
            Column("reference_number", "text", nullable=True, is_number_like=True),
            Column("payment_date", "timestamptz", has_default=True, default_is_now=True, is_past=True),
            Column("recorded_by", "text", nullable=True),
            Column("notes", "text", nullable=True),
            _CREATED_AT,
        ),
        (
            Rule(
                ("amount",),
                "amount > 0",
                "case when amount < 0 then 'a number above 0; a payment that was reversed is left out, and so is its "
                "reversal' else 'a number above 0' end",
            ),
            Rule(
                ("amount", "principal_portion", "interest_portion", "penalty_portion"),
                "principal_portion + interest_portion + penalty_portion = amount",
                "format('principal + interest + penalty must equal amount (found %s+%s+%s=%s, amount %s)', "
                "principal_portion, interest_portion, penalty_portion, "
                "principal_portion + interest_portion + penalty_portion, amount)",
                cause="principal + interest + penalty is not the amount",
            ),
            _one_of("payment_method", "mpesa", "bank_transfer", "cash", "cheque", "online"),
        ),
    ),
    Table(
        "loan_installments",
        (
            Column("loan_id", "bigint", references="loans"),
            Column("installment_no", "integer"),
            Column("due_date", "date"),
            Column("principal_due", _MONEY),
            Column("interest_due", _MONEY, has_default=True),
            _CREATED_AT,
        ),
        (_above_zero("installment_no"), _not_negative("principal_due"), _not_negative("interest_due")),
        key_size=2,
        is_optional=True,
    ),
)
"""The tables, parents before children: the order in which they are read and written."""
