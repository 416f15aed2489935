"""A new column and a new table of the source go through to a mart by editing YAML and SQL alone, as the README says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from eds.base.settings import ROOT
from eds.cluster.connections import connect
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform, gaps_unnoted, project_copy

pytestmark = pytest.mark.proof
REPORTS = ROOT / "infra/primary/sql/030_reports.sql"


def edit(file: Path, before: str, added: str) -> None:
    """Put text in front of the first place where `before` stands."""
    text = file.read_text(encoding="utf-8")
    assert before in text, f"{file.name} has no {before!r}"
    file.write_text(text.replace(before, added + before, 1), encoding="utf-8")


def as_owner(platform: Platform, *statements: str) -> None:
    with connect(platform.superuser_conninfo) as connection:
        connection.execute("set role loans_owner")
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return project_copy(tmp_path / "project")


@pytest.fixture
def collateral_value(small_book: Platform) -> Iterator[Platform]:
    """Yield the source with one more nullable column in loans, which has values in old rows already."""
    platform = small_book
    as_owner(
        platform,
        "alter table operational.loans add column collateral_value numeric(14, 2)",
        "select etl.publish_table('operational.loans')",
    )
    with gaps_unnoted(platform), connect(platform.superuser_conninfo) as connection:
        # Filled without a trace in the feed, as a migration may do it: the whole table must be read once.
        connection.execute("alter table operational.loans disable trigger user")
        connection.execute("update operational.loans set collateral_value = 100.50 * loan_id where loan_id < 4")
        for trigger in ("loans_stamp_row", "loans_audit", "loans_no_truncate"):
            connection.execute(f"alter table operational.loans enable always trigger {trigger}")
    platform.wait_for_replicas()
    yield platform
    as_owner(
        platform,
        "drop view operational.vw_active_loans, operational.vw_customer_payment_summary, etl.loans_changes",
        "alter table operational.loans drop column collateral_value",
        "select etl.publish_table('operational.loans')",
    )
    with connect(platform.superuser_conninfo) as connection:
        connection.execute(REPORTS.read_text(encoding="utf-8"))


def test_a_new_column_goes_from_the_source_to_a_mart_with_old_rows_filled(collateral_value, project):
    platform = collateral_value
    # The project as it was does not mind the new column.
    platform.build()
    assert_views_equal_the_oltp(platform)

    edit(
        project / "models/staging/__sources.yml",
        "          - name: outstanding_balance\n",
        "          - name: collateral_value\n            data_type: numeric(14, 2)\n",
    )
    edit(project / "models/staging/stg_loans.sql", "    outstanding_balance,\n", "    collateral_value,\n")
    mart = project / "models/marts/fact_loans.sql"
    edit(mart, "        loans.outstanding_balance,\n", "        loans.collateral_value,\n")
    edit(mart, "    outstanding_balance,\n    principal_owed", "    collateral_value,\n")
    edit(
        project / "models/marts/fact_loans.yml",
        "      - name: outstanding_balance\n",
        "      - name: collateral_value\n        data_type: numeric(14, 2)\n        description: Value pledged.\n",
    )
    changed = platform.of_project(project)
    changed.build()
    expected = platform.primary("select loan_id, collateral_value from operational.loans order by 1")
    assert expected[0] == (1, Decimal("100.50"))
    assert expected[-1][1] is None
    assert platform.warehouse("select loan_id, collateral_value from warehouse.fact_loans order by 1") == expected
    assert_landing_equals_source(platform)

    # From now on it travels like every other column.
    with platform.app() as connection:
        connection.execute("update operational.loans set collateral_value = 7 where loan_id = 6")
    platform.wait_for_replicas()
    assert changed.build().run["extraction_mode"] == "changes"
    assert platform.warehouse("select collateral_value from warehouse.fact_loans where loan_id = 6") == [(Decimal(7),)]
    assert_views_equal_the_oltp(platform)


# A source table of which the project knows nothing, and what one writes to have it in a mart.
GUARANTORS_TABLE = """
    create table operational.guarantors (
        guarantor_id bigint generated always as identity primary key,
        loan_id bigint not null references operational.loans,
        relationship text,
        pledged numeric(14, 2) not null,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now()
    )
"""
GUARANTORS_SOURCE = """\
      - name: guarantors
        description: Who answers for a loan.
        config:
          meta:
            key: guarantor_id
        columns:
          - {name: guarantor_id, data_type: bigint}
          - {name: loan_id, data_type: bigint}
          - {name: relationship, data_type: text}
          - {name: pledged, data_type: "numeric(14, 2)"}
          - {name: created_at, data_type: timestamptz}
          - {name: updated_at, data_type: timestamptz}
"""
STG_GUARANTORS = """\
-- depends_on: {{ ref('extraction') }}
select
    guarantor_id,
    loan_id,
    relationship,
    pledged as pledged_amount,
    _deleted_at is not null as is_deleted,
    _run_id
from {{ source('operational', 'guarantors') }}
"""
FACT_GUARANTEES = """\
{{ config(unique_key=['guarantor_id']) }}

{% set since = increment() %}
select
    {% if since %}
    is_deleted as is_removed,
    {% endif %}
    guarantor_id,
    loan_id,
    relationship,
    pledged_amount
from {{ ref('stg_guarantors') }}

{% if since %}
where _run_id > {{ since.landing_run_id }}
{% else %}
where not is_deleted
{% endif %}
"""
FACT_GUARANTEES_YML = """\
version: 2
models:
  - name: fact_guarantees
    description: One row per guarantee that stands.
    constraints:
      - {type: primary_key, columns: [guarantor_id], warn_unsupported: false}
    columns:
      - {name: guarantor_id, data_type: bigint, description: Key.}
      - {name: loan_id, data_type: bigint, description: The loan.}
      - {name: relationship, data_type: text, description: To the borrower.}
      - {name: pledged_amount, data_type: "numeric(14, 2)", description: The most it costs the guarantor.}
"""


@pytest.fixture
def guarantors(small_book: Platform) -> Iterator[Platform]:
    """Yield the source with one more table in the change feed."""
    platform = small_book
    as_owner(platform, GUARANTORS_TABLE, "select etl.publish_table('operational.guarantors')")
    platform.primary("grant select, insert, update, delete on operational.guarantors to app_user")
    yield platform
    as_owner(platform, "drop table operational.guarantors cascade")


def test_a_new_source_table_goes_to_a_mart_of_its_own(guarantors, project):
    platform = guarantors

    def pledge(*statements: tuple[str, tuple[Any, ...]]) -> None:
        with platform.app() as connection:
            for statement, values in statements:
                connection.execute(statement, values)
        platform.wait_for_replicas()

    insert = "insert into operational.guarantors (loan_id, relationship, pledged) values (%s, %s, %s)"
    pledge((insert, (1, "sister", "500.00")), (insert, (2, None, "70.00")), (insert, (2, "employer", "80.00")))
    edit(project / "models/staging/__sources.yml", "      - name: loans\n", GUARANTORS_SOURCE)
    (project / "models/staging/stg_guarantors.sql").write_text(STG_GUARANTORS)
    (project / "models/marts/fact_guarantees.sql").write_text(FACT_GUARANTEES)
    (project / "models/marts/fact_guarantees.yml").write_text(FACT_GUARANTEES_YML)
    changed = platform.of_project(project)
    expected = "select guarantor_id, loan_id, relationship, pledged from operational.guarantors order by 1"
    found = "select * from warehouse.fact_guarantees order by 1"

    # The first run that knows the table reads it whole, the others by what changes alone.
    assert changed.build().run["extraction_mode"] == "changes"
    assert platform.warehouse(found) == platform.primary(expected)
    pledge(
        ("delete from operational.guarantors where guarantor_id = %s", (1,)),
        (
            "update operational.guarantors set pledged = pledged + 1, relationship = %s where guarantor_id = %s",
            ("x", 2),
        ),
        (insert, (3, "neighbour", "9.99")),
    )
    result = changed.build()
    assert (result.run["rows_inserted"], result.run["rows_updated"], result.run["rows_deleted"]) == (1, 1, 1)
    assert platform.warehouse(found) == platform.primary(expected)
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection)))
    platform.wait_for_replicas()
    changed.build()
    assert_views_equal_the_oltp(platform)


# --- names and types as other schemas have them -----------------------------------------------------------------------

# column of the source: its type there, its type in __sources.yml, a value, another value
UNUSUAL_COLUMNS = {
    "group": ("text", "text", "'a'", "'b'"),
    "Loan Officer": ("text", "text", "'Ann'", "'Ben'"),
    "creditScore": ("integer", "integer", "700", "701"),
    'say "hi"': ("text", "text", "'x'", "null"),
    "größe": ("numeric", "numeric", "1.0", "1.00"),
    "as_json": ("json", "json", """'{"a": 1}'""", """'{"a":1}'"""),
    "as_jsonb": ("jsonb", "jsonb", """'{"a": 1}'""", "null"),
    "as_xml": ("xml", "xml", "'<a/>'", "'<b/>'"),
    "place": ("point", "point", "'(1,2)'", "'(1,3)'"),
    "grade": ("operational.risk_grade", "text", "'A'", "'B'"),
    "grades": ("operational.risk_grade[]", "text[]", "'{A,B}'", "'{}'"),
    "share": ("operational.percent", "numeric(5, 2)", "12.5", "99"),
    "days": ("integer[]", "integer[]", "'{1,null}'", "'{2}'"),
    "flags": ("bit(3)", "bit(3)", "'101'", "'111'"),
    "photo": ("bytea", "bytea", r"'\x00ff'", r"'\xff'"),
    "term": ("interval", "interval", "'1 year 2 days'", "'0'"),
}


@pytest.fixture
def unusual_columns(small_book: Platform) -> Iterator[Platform]:
    """Yield the source's customers with columns of unusual names and types, and a table of an unusual name."""
    platform = small_book
    as_owner(
        platform,
        "create type operational.risk_grade as enum ('A', 'B')",
        "create domain operational.percent as numeric(5, 2) check (value between 0 and 100)",
        *(
            f"""alter table operational.customers add column "{name.replace('"', '""')}" {kind}"""
            for name, (kind, *_) in UNUSUAL_COLUMNS.items()
        ),
        "select etl.publish_table('operational.customers')",
        'create table operational."Own Table" ("Id" integer primary key, "order" text, '
        "created_at timestamptz not null default now(), updated_at timestamptz not null default now())",
        """select etl.publish_table('operational."Own Table"')""",
    )
    platform.wait_for_replicas()
    yield platform
    as_owner(
        platform,
        "drop view operational.vw_active_loans, operational.vw_customer_payment_summary, etl.customers_changes",
        *(
            f"""alter table operational.customers drop column "{name.replace('"', '""')}" """
            for name in UNUSUAL_COLUMNS
        ),
        "drop domain operational.percent",
        "drop type operational.risk_grade",
        'drop table operational."Own Table" cascade',
        "select etl.publish_table('operational.customers')",
    )
    with connect(platform.superuser_conninfo) as connection:
        connection.execute(REPORTS.read_text(encoding="utf-8"))


def described(project: Path, columns: dict[str, str], more: str = "") -> None:
    """Describe further columns of the customers, and further tables, in the project's sources."""
    lines = "".join(
        f"          - name: {json.dumps(name)}\n            data_type: {json.dumps(kind)}\n"
        for name, kind in columns.items()
    )
    edit(project / "models/staging/__sources.yml", "      - name: loan_products\n", lines + more)


OWN_TABLE = """\
      - name: "Own Table"
        config:
          meta: {key: Id}
        columns:
          - {name: Id, data_type: integer}
          - {name: order, data_type: text}
          - {name: created_at, data_type: timestamptz}
          - {name: updated_at, data_type: timestamptz}
"""


def test_names_that_need_quotes_and_types_without_equality_arrive_and_change(unusual_columns, project):
    platform = unusual_columns
    described(project, {name: kind for name, (_, kind, *_) in UNUSUAL_COLUMNS.items()}, OWN_TABLE)
    extract = ("build", "-s", "extraction")
    # A column of a domain with a check makes PostgreSQL rewrite the table, which the trail notes.
    assert platform.dbt(*extract).exit_code == 0
    changed = platform.of_project(project)
    names = ", ".join(f"""c."{name.replace('"', '""')}"::text""" for name in UNUSUAL_COLUMNS)

    def compare(mode: str, rows: tuple[int, int, int]) -> None:
        platform.wait_for_replicas()
        result = changed.dbt(*extract)
        assert result.exit_code == 0, result.run
        found = [result.run[f"rows_{what}"] for what in ("inserted", "updated", "deleted")]
        assert (result.run["extraction_mode"], tuple(found)) == (mode, rows)
        for query in (
            f"select customer_id, {names} from operational.customers as c {{}} order by 1",
            'select "Id", "order" from operational."Own Table" {} order by 1',
        ):
            landed = platform.warehouse(query.format("where _deleted_at is null"))
            assert landed == platform.primary(query.format(""))

    def put(value: int) -> None:
        values = ", ".join(
            f""""{name.replace('"', '""')}" = {column[value]}""" for name, column in UNUSUAL_COLUMNS.items()
        )
        platform.primary(f"update operational.customers set {values} where customer_id <= 2")

    put(2)
    platform.primary("""insert into operational."Own Table" ("Id", "order") values (1, 'x'), (2, null), (3, 'z')""")
    compare("changes", (3, 2, 0))
    put(3)
    platform.primary("""update operational."Own Table" set "order" = 'y' where "Id" = 2""")
    platform.primary("""delete from operational."Own Table" where "Id" = 1""")
    compare("changes", (0, 3, 1))
    # Every row is compared again, and none is taken for another.
    result = changed.dbt(*extract, "--vars", "{reconcile: true}")
    assert (result.run["extraction_mode"], result.run["rows_updated"]) == ("reconcile", 0)
    # No row is written, and two read differently.
    as_owner(platform, "alter type operational.risk_grade rename value 'B' to 'Z'")
    compare("reconcile", (0, 2, 0))


REFUSED_COLUMNS = (
    ({"grade": "operational.risk_grade"}, r"type of customers\.grade \(operational\.risk_grade\)"),
    ({"grade": "nosuch"}, r"type of customers\.grade \(nosuch\)"),
    ({"grade": "integer"}, r"column customers\.grade is text, expected integer"),
    ({"creditscore": "integer"}, r"column customers\.creditscore is gone"),
    ({"share": "numeric"}, r"column customers\.share is numeric\(5,2\), expected numeric"),
    ({"_run_id": "bigint"}, r"customers\._run_id has a name that the landing tables use"),
)


def test_a_column_that_cannot_be_read_as_described_is_refused_by_name_before_any_harm(unusual_columns, tmp_path):
    platform = unusual_columns
    landing = "select attname from pg_attribute where attrelid = 'operational.customers'::regclass order by attnum"
    before = platform.warehouse(landing)
    for number, (columns, message) in enumerate(REFUSED_COLUMNS):
        project = project_copy(tmp_path / f"project{number}")
        described(project, columns)
        result = platform.of_project(project).dbt("build", "-s", "extraction")
        assert result.exit_code != 0, columns
        assert re.search(message, result.run["error_message"]), result.run["error_message"]
        assert platform.warehouse(landing) == before
    # The next run, of the project as it was, continues.
    with platform.app() as connection:
        pay(connection, 1)
    platform.wait_for_replicas()
    platform.build()
    assert_views_equal_the_oltp(platform)


DEALS = """\
      - name: deals
        config:
          meta: {{key: {key}}}
        columns:
          - {{name: deal_id, data_type: bigint}}
          - {{name: contract_no, data_type: {contract_no}}}
          - {{name: quantity, data_type: {kind}}}
          - {{name: note, data_type: {note}}}
          - {{name: created_at, data_type: timestamptz}}
          - {{name: updated_at, data_type: timestamptz}}
"""


@pytest.fixture
def deals(small_book: Platform) -> Iterator[Platform]:
    """Yield a source with one more table of twelve rows."""
    platform = small_book
    as_owner(
        platform,
        "create table operational.deals (deal_id bigint primary key, contract_no bigint not null unique, "
        "quantity bigint, note text, created_at timestamptz not null default now(), "
        "updated_at timestamptz not null default now())",
        "select etl.publish_table('operational.deals')",
        "insert into operational.deals (deal_id, contract_no, quantity, note) "
        "select number, 3000000000 + number, 3000000000 + number, 'note ' || number "
        "from generate_series(1, 12) as number",
    )
    platform.wait_for_replicas()
    yield platform
    as_owner(platform, "drop table operational.deals cascade")


def test_a_type_becomes_narrower_and_the_key_another_column(deals, project):
    platform, sources = deals, project / "models/staging/__sources.yml"
    others = sources.read_text(encoding="utf-8")
    columns = "deal_id, contract_no, quantity, note"

    def described_as(**kinds: str) -> Platform:
        sources.write_text(others, encoding="utf-8")
        edit(
            sources,
            "      - name: loan_products\n",
            DEALS.format(**{"key": "deal_id", "contract_no": "bigint", "kind": "integer", "note": "integer"} | kinds),
        )
        changed: Platform = platform.of_project(project)
        return changed

    def extract(changed: Platform, *options: str) -> dict[str, Any]:
        platform.wait_for_replicas()
        result = changed.dbt("build", "-s", "extraction", *options)
        assert result.exit_code == 0, result.run
        assert result.run is not None
        assert platform.warehouse(f"select {columns} from operational.deals where _deleted_at is null order by 1") == (
            platform.primary(f"select {columns} from operational.deals order by 1")
        )
        return result.run

    def refused(changed: Platform) -> str:
        platform.wait_for_replicas()
        result = changed.dbt("build", "-s", "extraction")
        assert result.exit_code != 0
        return str(result.run["error_message"])

    first = described_as(kind="bigint", note="text")
    extract(first)
    # What does not fit into the types to come is deleted, or corrected; the trail and the landing table have it.
    platform.primary("delete from operational.deals where deal_id in (1, 2)")
    extract(first)
    platform.primary("update operational.deals set quantity = deal_id, note = 3 * deal_id")
    platform.primary("delete from operational.deals where deal_id = 3")
    as_owner(
        platform,
        "drop view etl.deals_changes",
        "alter table operational.deals alter column quantity type integer, "
        "alter column note type integer using note::integer",
        "select etl.publish_table('operational.deals')",
    )
    assert "column deals.quantity is integer, expected bigint" in refused(first)
    narrower = described_as()
    extract(narrower)
    gone = "select deal_id, quantity from operational.deals where _deleted_at is not null order by 1"
    assert [row[0] for row in platform.warehouse(gone)] == [1, 2, 3]
    platform.warehouse("drop table operational.deals cascade")
    extract(narrower)
    # Of the last one, the trail has a value that fits.
    assert platform.warehouse(gone) == [(1, None), (2, None), (3, 3)]
    extract(narrower, "--vars", "{reconcile: true}")

    # Two rows have the former key.
    as_owner(
        platform,
        "alter table operational.deals drop constraint deals_pkey",
        "alter table operational.deals add primary key (contract_no)",
        "insert into operational.deals (deal_id, contract_no) values (4, 77)",
    )
    assert "or another than etl.publish_table() makes" in refused(narrower)
    platform.primary("select etl.publish_table('operational.deals')")
    assert "column deals.contract_no is the primary key, and not the key of that table in the YAML" in refused(narrower)
    moved = described_as(key="contract_no")
    extract(moved)
    platform.primary("update operational.deals set note = 5 where contract_no = 77")
    platform.primary("delete from operational.deals where contract_no = 3000000005")
    assert extract(moved)["extraction_mode"] == "changes"
    extract(moved, "--vars", "{reconcile: true}")

    # The key's own type becomes narrower.
    platform.primary("update operational.deals set contract_no = deal_id where deal_id > 4")
    as_owner(
        platform,
        "delete from operational.deals where contract_no > 2147483647",
        "drop view etl.deals_changes",
        "alter table operational.deals alter column contract_no type integer",
        "select etl.publish_table('operational.deals')",
    )
    last = described_as(key="contract_no", contract_no="integer")
    extract(last, "--vars", "{allow_mass_delete: true}")
    extract(last, "--vars", "{reconcile: true}")


def test_a_dimension_goes_into_an_aggregate_and_its_published_copy_and_out_again(small_book, project):
    """Another key: rows of the former grain cannot be matched with those of the new one."""
    platform, model = small_book, project / "models/marts/lending/agg_portfolio_totals"
    sql, yml = model.with_suffix(".sql"), model.with_suffix(".yml")
    edit(sql, "'schedule_source', ", "'customer_segment', ")
    edit(sql, "        schedule_source,\n", "        customer_segment,\n")
    edit(sql, "schedule_source, is_restructured, is_defaulted\n)", "customer_segment, ")
    edit(sql, "\n    schedule_source,\n", "\n    customer_segment,")
    edit(yml, "schedule_source, is_restructured", "customer_segment, ")
    edit(
        yml,
        "      - name: schedule_source\n",
        "      - name: customer_segment\n        data_type: text\n        description: Of the borrowers.\n",
    )

    def copy_is_its_mart(names: str) -> None:
        rows = [
            platform.warehouse(f"select {names} from {schema}.agg_portfolio_totals order by {names}")
            for schema in ("warehouse", "publish")
        ]
        assert rows[0] == rows[1] != []

    own = "branch_sk, product_sk, schedule_source, is_restructured, is_defaulted, loan_count, outstanding_principal"
    for changed, names in ((platform.of_project(project), f"customer_segment, {own}"), (platform, own)):
        changed.build()
        copy_is_its_mart(names)
        with platform.app() as connection:
            pay(connection, add_loan(connection, add_customer(connection, segment="sme")))
        platform.wait_for_replicas()
        changed.build()
        copy_is_its_mart(names)
