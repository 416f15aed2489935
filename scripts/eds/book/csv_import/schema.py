"""The operational tables as an import sees them: columns, defaults, references, rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString


@dataclass(frozen=True)
class Column:
    """A column of a table, and so of its file.

    kind: the column's SQL type. default_is_now: whether its default is the time of the import, which differs each time.
    is_number_like: whether its texts are mostly digits, so that a spreadsheet takes them for numbers. is_group: whether
    the dashboards have a line for each of its texts. is_past: whether it is the day of something that has happened.
    usual_names: what other systems call it, squeezed; names that are spelled like its own are not among them.
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
    usual_names: tuple[LiteralString, ...] = ()

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
_CUSTOMER_ID: tuple[LiteralString, ...] = (
    "clientid",
    "clientno",
    "custid",
    "custno",
    "borrowerid",
    "borrowerno",
    "memberid",
    "memberno",
    "cif",
    "cifno",
)
_LOAN_ID: tuple[LiteralString, ...] = (
    "loanno",
    "loannumber",
    "loanaccountno",
    "loanaccountnumber",
    "accountno",
    "accountnumber",
    "acctno",
    "accno",
    "acno",
    "contractno",
)
_CREATED_AT = Column("created_at", "timestamptz", has_default=True, default_is_now=True)

TABLES: tuple[Table, ...] = (
    Table(
        "customers",
        (
            Column("customer_id", "integer", usual_names=_CUSTOMER_ID),
            Column(
                "full_name",
                "text",
                usual_names=("name", "clientname", "customername", "borrowername", "membername", "accountname"),
            ),
            Column("email", "text", nullable=True, unique=True, usual_names=("mail", "emailaddress")),
            Column(
                "phone",
                "text",
                nullable=True,
                is_number_like=True,
                usual_names=("mobile", "mobileno", "mobilenumber", "msisdn", "telephone", "tel", "contactno"),
            ),
            Column(
                "national_id",
                "text",
                nullable=True,
                unique=True,
                is_number_like=True,
                usual_names=("idno", "idnumber", "nationalidno", "passportno", "documentno", "nic"),
            ),
            Column("date_of_birth", "date", nullable=True, is_past=True, usual_names=("dob", "birthdate", "birthday")),
            Column("city", "text", nullable=True, usual_names=("town",)),
            Column("country", "text", has_default=True),
            Column("segment", "text", has_default=True, usual_names=("customertype", "clienttype", "category")),
            Column("is_active", "boolean", has_default=True, usual_names=("active", "clientstatus", "customerstatus")),
            _CREATED_AT,
        ),
        (_not_blank("full_name"), _one_of("segment", "retail", "sme", "corporate")),
    ),
    Table(
        "loan_products",
        (
            Column("product_id", "integer", usual_names=("productcode", "productno", "loantypeid", "schemecode")),
            Column("product_name", "text", usual_names=("product", "loanproduct", "scheme")),
            Column("product_type", "text", usual_names=("loantype", "type")),
            Column("min_amount", _MONEY, usual_names=("minimumamount", "minimumprincipal", "minprincipal")),
            Column("max_amount", _MONEY, usual_names=("maximumamount", "maximumprincipal", "maxprincipal")),
            Column("min_tenure_months", "integer", usual_names=("minterm", "minimumterm", "mintenor")),
            Column("max_tenure_months", "integer", usual_names=("maxterm", "maximumterm", "maxtenor")),
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
            Column("loan_id", "bigint", usual_names=_LOAN_ID),
            Column("customer_id", "integer", references="customers", usual_names=_CUSTOMER_ID),
            Column(
                "product_id",
                "integer",
                references="loan_products",
                usual_names=("productcode", "loantypeid", "schemecode"),
            ),
            Column(
                "amount",
                _MONEY,
                usual_names=(
                    "principal",
                    "principalamount",
                    "loanamount",
                    "loanamt",
                    "disbursedamount",
                    "approvedamount",
                ),
            ),
            Column(
                "interest_rate",
                "numeric(7, 4)",
                is_percent=True,
                usual_names=("rate", "nominalrate", "annualrate", "apr"),
            ),
            Column(
                "tenure_months",
                "integer",
                usual_names=(
                    "term",
                    "tenor",
                    "termmonths",
                    "loanterm",
                    "noofinstallments",
                    "noofinstalments",
                    "duration",
                ),
            ),
            Column("status", "text", has_default=True, usual_names=("loanstatus", "accountstatus", "accountstate")),
            Column(
                "disbursed_at",
                "timestamptz",
                nullable=True,
                is_past=True,
                usual_names=("disbursementdate", "disbursaldate", "disbdate", "valuedate", "startdate", "releasedate"),
            ),
            Column(
                "maturity_date", "date", nullable=True, usual_names=("expirydate", "enddate", "duedate", "finalduedate")
            ),
            Column(
                "outstanding_balance",
                _MONEY,
                has_default=True,
                usual_names=(
                    "balance",
                    "principalbalance",
                    "principaloutstanding",
                    "outstandingprincipal",
                    "outstanding",
                    "osbalance",
                ),
            ),
            Column(
                "loan_officer",
                "text",
                nullable=True,
                is_group=True,
                usual_names=("officer", "creditofficer", "accountofficer", "relationshipmanager", "fieldofficer"),
            ),
            Column(
                "branch_code",
                "text",
                nullable=True,
                is_group=True,
                usual_names=("branch", "branchid", "branchname", "office", "solid"),
            ),
            Column("written_off_on", "date", nullable=True, is_past=True, usual_names=("writeoffdate",)),
            Column(
                "restructured_on",
                "date",
                nullable=True,
                is_past=True,
                usual_names=("restructuredate", "rescheduledate", "reschedulingdate"),
            ),
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
            Column(
                "payment_id",
                "bigint",
                usual_names=("transactionid", "transactionno", "tranid", "txnid", "trxid", "receiptid"),
            ),
            Column("loan_id", "bigint", references="loans", usual_names=_LOAN_ID),
            Column(
                "amount",
                _MONEY,
                usual_names=("amountpaid", "paidamount", "paymentamount", "transactionamount", "txnamount", "total"),
            ),
            Column("principal_portion", _MONEY, usual_names=("principal", "principalpaid", "principalamount")),
            Column("interest_portion", _MONEY, usual_names=("interest", "interestpaid", "interestamount")),
            Column(
                "penalty_portion",
                _MONEY,
                has_default=True,
                usual_names=("penalty", "penalties", "penaltypaid", "fees", "latefee", "charges"),
            ),
            Column("payment_method", "text", usual_names=("method", "mode", "paymentmode", "paymenttype", "channel")),
            Column(
                "reference_number",
                "text",
                nullable=True,
                is_number_like=True,
                usual_names=("reference", "refno", "receiptno", "receiptnumber", "voucherno"),
            ),
            Column(
                "payment_date",
                "timestamptz",
                has_default=True,
                default_is_now=True,
                is_past=True,
                usual_names=("transactiondate", "trandate", "txndate", "trxdate", "valuedate", "paidon", "date"),
            ),
            Column(
                "recorded_by",
                "text",
                nullable=True,
                usual_names=("user", "username", "teller", "postedby", "createdby"),
            ),
            Column("notes", "text", nullable=True, usual_names=("narration", "remarks", "description", "comment")),
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
            Column("loan_id", "bigint", references="loans", usual_names=_LOAN_ID),
            Column(
                "installment_no",
                "integer",
                usual_names=("instalment", "installment", "instalmentno", "period", "sequence", "seqno"),
            ),
            Column("due_date", "date", usual_names=("repaymentdate", "scheduledate", "date")),
            Column("principal_due", _MONEY, usual_names=("principal", "principalamount")),
            Column("interest_due", _MONEY, has_default=True, usual_names=("interest", "interestamount")),
            _CREATED_AT,
        ),
        (_above_zero("installment_no"), _not_negative("principal_due"), _not_negative("interest_due")),
        key_size=2,
        is_optional=True,
    ),
)
"""The tables, parents before children: the order in which they are read and written."""
