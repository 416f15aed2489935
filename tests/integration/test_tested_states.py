"""Only tested states are published, and what was rebuilt, changed by hand or redefined reaches the views."""

from __future__ import annotations

import copy
import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from eds.cluster.connections import connect
from eds.ops.checks.dashboard_figures import dashboard_figures
from eds.ops.checks.result import Failed
from eds.warehouse.runs import DATA_BUILD, RECONCILE_VARS, dbt_executable
from support.book import add_customer, add_loan, pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform, project_copy

pytestmark = pytest.mark.proof

NIGHTLY = ("--vars", str(RECONCILE_VARS))


def pay_and_wait(platform: Platform, loan: int = 1) -> None:
    """Make one more payment, replayed by the replicas."""
    with platform.app() as connection:
        pay(connection, loan, "20.00", "2.00")
    platform.wait_for_replicas()


# --- what was dropped -------------------------------------------------------------------------------------------------

# Marts, change logs, published copies, histories, views below and above the marts, the record of the publication.
# Marts are dropped together when none of the group is computed from another: a rebuilt mart would hide the loss.
DROPPED = (
    ("table warehouse.agg_payments", "table publish.agg_loans cascade", "table snapshots.customers_snapshot"),
    ("table warehouse.agg_customers", "table changes.fact_payments", "view warehouse.vw_monthly_revenue"),
    ("table warehouse.fact_payments", "table changes.dim_customer"),
    ("table warehouse.fact_loans cascade",),
    ("table warehouse.dim_customer cascade", "table snapshots.loans_snapshot"),
    ("table warehouse.dim_branch cascade",),
    ("table publish.published_state cascade", "view staging.stg_loans cascade"),
)


def assert_what_was_dropped_returns(platform: Platform, *dropped: str) -> None:
    for each in dropped:
        platform.warehouse(f"drop {each}")
    with platform.app() as connection:
        pay(connection, 2, "20.00", "2.00")
        connection.execute("update operational.customers set city = city || '!' where customer_id = 3")
        connection.execute(
            "delete from operational.payments where payment_id = "
            "(select max(payment_id) from operational.payments where loan_id = 3)"
        )
        connection.execute(
            "update operational.loans set outstanding_balance = outstanding_balance + 100 where loan_id = 3"
        )
        pay(connection, 3, "20.00", "2.00")
    platform.wait_for_replicas()
    platform.build()
    assert_views_equal_the_oltp(platform)


def test_what_was_dropped_is_rebuilt_and_its_published_copy_follows(small_book):
    # The run that rebuilds one group brings the group before it the next changes; the last has nothing to rebuild.
    for dropped in (*DROPPED, ()):
        assert_what_was_dropped_returns(small_book, *dropped)
    assert small_book.dbt("test").exit_code == 0


def test_a_landing_table_that_was_dropped_is_loaded_with_what_was_deleted(small_book):
    """Each of the four, with rows that went before the last run and rows that have gone since."""
    platform = small_book
    product = 6

    def delete(customer: int) -> None:
        with platform.app() as connection:
            connection.execute("delete from operational.payments where loan_id = %s", (customer,))
            connection.execute("delete from operational.loans where loan_id = %s", (customer,))
            connection.execute("delete from operational.customers where customer_id = %s", (customer,))
            connection.execute("delete from operational.loan_products where product_id = %s", (product,))
        platform.wait_for_replicas()

    delete(1)
    platform.build()
    for customer, table in enumerate(("payments", "loans", "customers", "loan_products"), start=2):
        product -= 1
        delete(customer)
        platform.warehouse(f"drop table operational.{table} cascade")
        platform.build()
        assert_landing_equals_source(platform)
        assert_views_equal_the_oltp(platform)
    pay_and_wait(platform, 6)
    platform.build()
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)
    platform.build(*NIGHTLY)
    assert platform.dbt("test").exit_code == 0
    assert platform.warehouse("select count(*) from operational.customers where _deleted_at is not null") == [(5,)]


def test_the_record_of_an_earlier_version_gets_the_columns_that_it_lacks(small_book):
    small_book.warehouse(
        "alter table audit.etl_runs drop column extraction_reason; alter table audit.model_runs drop column failures"
    )
    assert small_book.build(*NIGHTLY).run["extraction_reason"] == "asked for"
    assert small_book.warehouse("select count(*) > 0 from audit.model_runs where failures = 0") == [(True,)]


AGG_METHODS = """
{{ config(unique_key=['method_sk'], accumulate=['payment_count', 'payment_amount'], delete_when='payment_count = 0') }}

-- depends_on: {{ ref('fact_payments') }}
{% set since = increment() %}
select
    method_sk,
    sum(_sign)::bigint as payment_count,
    sum(_sign * payment_amount) as payment_amount
from
    {% if since %}
    {{ changes_of('fact_payments') }}
where _run_id > {{ since.run_id }}
    {% else %}
    (select *, 1 as _sign from {{ ref('fact_payments') }}) as payments
    {% endif %}
group by method_sk
"""
AGG_METHODS_YML = """
version: 2
models:
  - name: agg_methods
    config:
      meta: {placement: coordinator}
    constraints:
      - {type: primary_key, columns: [method_sk], warn_unsupported: false}
    columns:
      - {name: method_sk, data_type: bigint}
      - {name: payment_count, data_type: bigint}
      - {name: payment_amount, data_type: "numeric(38, 2)"}
"""


def test_a_mart_that_a_version_of_the_project_did_not_have_misses_nothing(small_book, tmp_path):
    """It comes with one version, goes with the next, and comes back: meanwhile change logs were pruned without it."""
    platform = small_book
    project = project_copy(tmp_path / "project")
    with_mart = platform.of_project(project)
    (project / "models/marts/agg_methods.sql").write_text(AGG_METHODS, encoding="utf-8")
    (project / "models/marts/agg_methods.yml").write_text(AGG_METHODS_YML, encoding="utf-8")
    before = "-- depends_on: {{ ref('dim_customer') }}"
    replace(project / "models/marts/published_state.sql", before, before + "\n-- depends_on: {{ ref('agg_methods') }}")
    for builder in (with_mart, with_mart, platform, platform, platform, with_mart, with_mart):
        pay_and_wait(platform)
        builder.build()
    assert platform.warehouse("select sum(payment_count), sum(payment_amount) from warehouse.agg_methods") == (
        platform.primary("select count(*), sum(amount) from operational.payments")
    )


# --- what was changed by hand -----------------------------------------------------------------------------------------

WRONG_SUMS = (
    "update warehouse.agg_payments_by_month set payment_amount = payment_amount + 100000",
    "update warehouse.agg_payments set interest_amount = 'NaN'",
)
# History that disagrees with the source is seen where it is shown: in the dimensions, from the next change on.
SEEN_BY_TESTS = (
    "update warehouse.agg_loans set outstanding_balance = outstanding_balance + 1",
    "update warehouse.fact_loans set total_paid = total_paid + 1, interest_rate = 0 where loan_id = 1",
    "update warehouse.fact_payments set payment_amount = payment_amount + case payment_id when 1 then 1 else -1 end "
    "where payment_id in (1, 2)",
    "update warehouse.dim_customer set customer_segment = 'corporate' where customer_id = 1",
    "update publish.agg_loans set loan_count = loan_count + 1",
    "update publish.dim_branch set branch_code = 'X' where branch_code = 'NRB01'",
)
# One night repairs a group: nothing in it is computed from something else in it.
CHANGED_BY_HAND = (
    (
        *WRONG_SUMS,
        "update warehouse.agg_customers set total_paid = total_paid + 1 where customer_id = 1",
        "update snapshots.loans_snapshot set loan_status = 'defaulted' where loan_id = 1",
        *SEEN_BY_TESTS[4:],
    ),
    (
        SEEN_BY_TESTS[0],
        "delete from warehouse.agg_customers where customer_id = 2",
        "delete from publish.agg_payments_by_month",
        "update snapshots.customers_snapshot set customer_segment = 'corporate' where customer_id = 1",
    ),
    (
        SEEN_BY_TESTS[1],
        "insert into publish.agg_customers (customer_id, full_name, customer_segment, total_loans, total_paid, "
        "payment_count) values (999, 'Nobody', 'retail', 0, 0, 0)",
    ),
    SEEN_BY_TESTS[2:4],
)


@pytest.mark.parametrize("statement", SEEN_BY_TESTS)
def test_a_change_by_hand_is_found_by_the_tests(small_book, statement):
    small_book.warehouse(statement)
    assert small_book.dbt("test").exit_code != 0


def assert_the_nightly_run_repairs(platform: Platform, *statements: str) -> None:
    for statement in statements:
        platform.warehouse(statement)
    platform.build(*NIGHTLY)
    assert_views_equal_the_oltp(platform)


def test_changes_by_hand_are_repaired_by_the_nightly_run(small_book):
    for statements in CHANGED_BY_HAND:
        assert_the_nightly_run_repairs(small_book, *statements)
    assert small_book.dbt("test").exit_code == 0


@pytest.mark.parametrize("statement", WRONG_SUMS)
def test_an_aggregate_that_disagrees_with_the_others_is_not_published(small_book, statement):
    platform = small_book
    before = platform.view("vw_monthly_revenue")
    platform.warehouse(statement)
    pay_and_wait(platform)
    result = platform.dbt(*DATA_BUILD)
    assert result.exit_code != 0
    assert "assert_aggregates_agree" in result.run["error_message"]
    assert platform.view("vw_monthly_revenue") == before


def test_verify_reads_the_views_and_finds_an_aggregate_changed_by_hand(small_book):
    assert "13 totals" in dashboard_figures(small_book.cluster)
    for table in ("agg_portfolio_totals", "agg_officer_totals", "agg_portfolio_by_due_date"):
        change = f"update publish.{table} set outstanding_principal = outstanding_principal"
        small_book.warehouse(f"{change} + 1")
        with pytest.raises(Failed, match="make reconcile"):
            dashboard_figures(small_book.cluster)
        small_book.warehouse(f"{change} - 1")
    for statement in (
        WRONG_SUMS[0],
        "update publish.agg_customers set total_loans = total_loans + 1 where customer_id = 1",
    ):
        small_book.warehouse(statement)
        with pytest.raises(Failed, match="make reconcile"):
            dashboard_figures(small_book.cluster)
        small_book.build(*NIGHTLY)
    assert "13 totals" in dashboard_figures(small_book.cluster)


# --- what was redefined -----------------------------------------------------------------------------------------------


def replace(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{file.name} has {text.count(before)} times {before!r}"
    file.write_text(text.replace(before, after), encoding="utf-8")


# What is changed (file, text, what replaces it), and a query of the warehouse with what it shows afterwards.
REDEFINED = (
    (
        "a rule of staging",
        ("models/staging/stg_customers.sql", "trim(full_name) as", "upper(trim(full_name)) as"),
        "select count(*) from warehouse.vw_top_customers where full_name <> upper(full_name)",
        0,
    ),
    (
        "a seed",
        ("seeds/payment_methods.csv", "M-Pesa", "Mobile money"),
        "select count(*) from warehouse.vw_payment_by_method where method_name = 'Mobile money'",
        1,
    ),
    (
        "a macro in a mart's SQL",
        (
            "macros/helpers/branch_sk.sql",
            "substr(md5({{ branch_code }}), 1, 15)",
            "substr(md5({{ branch_code }}), 2, 15)",
        ),
        "select count(*) from warehouse.dim_branch as branches "
        "where branch_sk <> -1 and branch_sk <> ('x' || substr(md5(branch_code), 2, 15))::bit(60)::bigint",
        0,
    ),
    (
        "the scale of a contract's column",
        (
            "models/marts/agg_payments.yml",
            "payment_amount\n        data_type: numeric(38, 2)",
            "payment_amount\n        data_type: numeric(38, 4)",
        ),
        "select count(distinct format_type(atttypid, atttypmod)) from pg_attribute where attname = 'payment_amount' "
        "and attrelid in ('warehouse.agg_payments'::regclass, 'publish.agg_payments'::regclass, "
        "'changes.agg_payments'::regclass) and atttypmod = (38 << 16 | 4) + 4",
        1,
    ),
    (
        "a type of a column that a view reads from the mart itself",
        (
            "models/marts/fact_loans.yml",
            "principal_paid\n        data_type: numeric(38, 2)",
            "principal_paid\n        data_type: numeric(38, 4)",
        ),
        "select count(*) from pg_attribute where attname = 'principal_paid' and atttypmod = (38 << 16 | 4) + 4 "
        "and attrelid = 'warehouse.fact_loans'::regclass and to_regclass('warehouse.loans_in_arrears') is not null",
        1,
    ),
    (
        "a type of a column that a view shows",
        (
            "models/marts/agg_payments_by_month.yml",
            "penalty_amount\n        data_type: numeric(38, 2)",
            "penalty_amount\n        data_type: numeric(38, 6)",
        ),
        "select format_type(atttypid, atttypmod) from pg_attribute where attname = 'total_penalty' "
        "and attrelid = 'warehouse.vw_monthly_revenue'::regclass",
        "numeric(38,6)",
    ),
    (
        "a new not_null",
        (
            "models/marts/agg_customers.yml",
            'data_type: text\n        description: "City of residence today; null when blank."',
            'data_type: text\n        description: "City of residence today; null when blank."\n        constraints:\n'
            "          - type: not_null\n            warn_unsupported: false",
        ),
        "select attnotnull from pg_attribute where attname = 'city' and attrelid = 'warehouse.agg_customers'::regclass",
        True,
    ),
    (
        "a dropped not_null",
        (
            "models/marts/dim_customer.yml",
            "description: \"{{ doc('customer_segment') }}\"\n        constraints:\n"
            "          - type: not_null\n            warn_unsupported: false",
            "description: \"{{ doc('customer_segment') }}\"",
        ),
        "select attnotnull from pg_attribute where attname = 'customer_segment' "
        "and attrelid = 'warehouse.dim_customer'::regclass",
        False,
    ),
    (
        "a description",
        (
            "models/marts/dim_branch.yml",
            'description: "Region in which the branch is."',
            'description: "Region of the country."',
        ),
        "select col_description('warehouse.dim_branch'::regclass, attnum) from pg_attribute where attname = 'region' "
        "and attrelid = 'warehouse.dim_branch'::regclass",
        "Region of the country.",
    ),
)


# By their numbers: changes of which none would do the work of another one that is not noticed.
REDEFINED_TOGETHER = ((1, 3, 4, 6, 8), (0, 5), (2, 7))


def test_a_changed_rule_reaches_old_rows_of_the_marts_and_the_views(small_book, tmp_path):
    platform = small_book
    project = project_copy(tmp_path / "project")
    changed = platform.of_project(project)
    changed.build()
    versions = platform.warehouse("select count(*) from warehouse.dim_customer")
    assert sorted(number for together in REDEFINED_TOGETHER for number in together) == [*range(len(REDEFINED))]
    for together in REDEFINED_TOGETHER:
        for number in together:
            file, before, after = REDEFINED[number][1]
            replace(project / file, before, after)
        changed.build()
        for number in together:
            what, _, question, expected = REDEFINED[number]
            assert platform.warehouse(question) == [(expected,)], what
    # A rule is no change of a customer: it makes no version.
    assert platform.warehouse("select count(*) from warehouse.dim_customer") == versions
    # The views read as before, by the same role, and the rest of their figures is the source's.
    assert sum(row["total_revenue"] for row in platform.view("vw_monthly_revenue")) == sum(
        row[0] for row in platform.primary("select amount from operational.payments")
    )
    pay_and_wait(platform)
    changed.build()
    assert platform.warehouse("select sum(payment_count) from warehouse.vw_monthly_revenue") == [(19,)]


def test_a_description_alone_recomputes_no_mart(small_book, tmp_path):
    platform = small_book
    project = project_copy(tmp_path / "project")
    changed = platform.of_project(project)
    changed.build()
    # A row that a full computation would put right.
    platform.warehouse("update warehouse.fact_payments set payment_amount = payment_amount + 1 where payment_id = 1")
    replace(project / "models/marts/fact_payments.yml", "{{ doc('payment_amount') }}", "Amount that was received.")
    replace(
        project / "models/staging/stg_payments.yml", "name: stg_payments", "name: stg_payments\n    docs: {show: true}"
    )
    changed.build()
    assert platform.warehouse(
        "select payments.payment_amount - landing.amount from warehouse.fact_payments as payments "
        "join operational.payments as landing using (payment_id) where payment_id = 1"
    ) == [(1,)]


# --- runs that read nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("build",), ("run",), ("build", "--full-refresh"), ("snapshot",)])
def test_an_empty_run_takes_nothing_in_and_removes_nothing(small_book, command):
    platform = small_book
    before = platform.view("vw_branch_performance")
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection, "New", segment="sme")))
        connection.execute("update operational.customers set segment = 'corporate' where customer_id = 1")
    platform.wait_for_replicas()
    platform.build("--select", "extraction")
    result = platform.dbt(*command, "--empty")
    assert result.exit_code == 0, result.run
    assert platform.view("vw_branch_performance") == before
    platform.build()
    assert_views_equal_the_oltp(platform)
    assert platform.dbt("test").exit_code == 0


def test_the_first_run_may_be_empty(platform):
    with platform.app() as connection:
        pay(connection, add_loan(connection, add_customer(connection)))
    platform.wait_for_replicas()
    platform.build("--select", "extraction")
    platform.dbt("build", "--empty")
    platform.build()
    assert_views_equal_the_oltp(platform)


# --- what was not tested ----------------------------------------------------------------------------------------------


def spoil_fact_payments(platform: Platform) -> None:
    """Make the marts wrong behind dbt's back, in a way that a test notices, and run into it."""
    platform.warehouse(
        "create function public.spoil() returns trigger language plpgsql as "
        "'begin new.customer_sk := 999; return new; end'"
    )
    platform.warehouse(
        "create trigger spoil before insert on warehouse.fact_payments for each row execute function public.spoil()"
    )
    pay_and_wait(platform)
    failed = platform.dbt(*DATA_BUILD)
    assert "relationships_fact_payments_customer_sk" in failed.run["error_message"]


# Builds that leave the failed test out.
UNTESTED_BUILDS = (
    ("build", "--select", "published_state"),
    ("build", "--exclude-resource-type", "test"),
    ("build", "--exclude", "test_type:generic"),
    ("build", "--select", "published_state", "agg_payments", "--indirect-selection", "empty"),
    ("build", "--select", "+published_state", "--indirect-selection", "empty"),
)


def failed_state_stays_unpublished(platform: Platform) -> None:
    before = platform.view("vw_monthly_revenue")
    spoil_fact_payments(platform)
    for command in UNTESTED_BUILDS:
        result = platform.dbt(*command)
        assert result.exit_code != 0, command
        assert platform.view("vw_monthly_revenue") == before, command
        assert "relationships_fact_payments_customer_sk" in result.run["error_message"], command
    assert platform.dbt("run").exit_code == 0
    assert platform.view("vw_monthly_revenue") == before


def test_a_state_whose_test_failed_is_published_by_no_command(small_book):
    failed_state_stays_unpublished(small_book)


def older_rows_are_tested_under_a_new_rule(platform: Platform) -> None:
    """Change a rule of staging, and no landing row: a test refuses the rows that the rule now computes.

    platform: of a project of its own, which is edited.
    """
    platform.build()
    before = platform.view("vw_loan_status_distribution")
    rule = platform.project / "models/staging/stg_customers.sql"
    text = rule.read_text(encoding="utf-8")
    replace(rule, "segment as", "'private'::text as")
    try:
        for _ in range(2):
            failed = platform.dbt(*DATA_BUILD)
            assert failed.exit_code != 0, "a state that fails its test was published"
            assert "accepted_values_stg_customers_customer_segment" in failed.run["error_message"]
            assert platform.view("vw_loan_status_distribution") == before
    finally:
        rule.write_text(text, encoding="utf-8")


def test_a_rule_under_which_older_rows_fail_a_test_is_not_published(small_book, tmp_path):
    platform = small_book
    project = project_copy(tmp_path / "project")
    changed = platform.of_project(project)
    older_rows_are_tested_under_a_new_rule(changed)
    # The same where a mart's own rule makes the rows.
    mart = project / "models/marts/fact_payments.sql"
    replace(mart, "coalesce(dim_customer.customer_sk, {{ unknown_sk() }}) as customer_sk", "999::bigint as customer_sk")
    before = platform.view("vw_monthly_revenue")
    for _ in range(2):
        failed = changed.dbt(*DATA_BUILD)
        assert failed.exit_code != 0
        assert "relationships_fact_payments_customer_sk" in failed.run["error_message"]
    assert platform.view("vw_monthly_revenue") == before
    # The project itself repairs what the rules made, and tests it.
    platform.build()
    assert_views_equal_the_oltp(platform)
    assert platform.dbt("test").exit_code == 0


def rows_that_change_with_others_are_tested(platform: Platform) -> None:
    """Change a payment's row by its loan's: it is tested though the payment itself did not change."""
    # From here on tests look at changes, as they are defined in this project.
    platform.build()
    before = platform.view("vw_branch_performance")
    platform.warehouse(
        "create function public.spoil() returns trigger language plpgsql as "
        "'begin new.customer_sk := 999; return new; end'"
    )
    platform.warehouse(
        "create trigger spoil before update on warehouse.fact_payments for each row execute function public.spoil()"
    )
    with platform.app() as connection:
        connection.execute("update operational.loans set branch_code = 'MSA01' where loan_id = 1")
    platform.wait_for_replicas()
    failed = platform.dbt(*DATA_BUILD)
    assert failed.exit_code != 0, "a spoiled row was published"
    assert "relationships_fact_payments_customer_sk" in failed.run["error_message"]
    assert platform.view("vw_branch_performance") == before


def test_rows_that_change_with_those_of_another_table_are_tested(small_book):
    rows_that_change_with_others_are_tested(small_book)


def test_a_state_that_was_tested_by_another_command_is_published(small_book):
    platform = small_book
    pay_and_wait(platform)
    # dbt run runs no snapshot, and the marts do not take in more than the snapshots have.
    platform.build("--select", "extraction", "loans_snapshot", "customers_snapshot", "--exclude-resource-type", "test")
    assert platform.dbt("run").exit_code == 0
    refused = platform.dbt("build", "--select", "published_state", "--exclude-resource-type", "test")
    assert "have not passed" in refused.run["error_message"]
    assert platform.dbt("test").exit_code == 0
    assert platform.dbt("build", "--select", "published_state", "--exclude-resource-type", "test").exit_code == 0
    assert_views_equal_the_oltp(platform)
    # What changed since is not covered by these tests.
    pay_and_wait(platform)
    assert platform.dbt("run").exit_code == 0
    assert platform.dbt("build", "--select", "published_state", "--exclude-resource-type", "test").exit_code != 0


def test_a_state_that_has_not_changed_needs_no_further_test(small_book):
    assert small_book.dbt("build", "--select", "published_state", "--exclude-resource-type", "test").exit_code == 0


def manifest_of_dev(platform: Platform) -> str:
    """Return a directory with the manifest of target dev, which --defer takes relations from."""
    state = platform.target_path / "manifest_of_dev"
    subprocess.run(
        [
            *(dbt_executable(), "--quiet", "parse", "--target", "dev", "--target-path", state),
            *("--project-dir", platform.project, "--profiles-dir", platform.project),
        ],
        env=os.environ | platform.dbt_environment,
        check=True,
    )
    return str(state)


def build_dev(platform: Platform, **environment: str) -> Platform:
    """Build target dev, from the landing tables of prod. Returns a platform with a target directory of its own."""
    dev = copy.copy(platform)
    dev.target_path = platform.target_path / "dev"
    assert dev.dbt(*DATA_BUILD, "--target", "dev", environment=environment).exit_code == 0
    return dev


def assert_it_stays_unpublished(platform: Platform) -> None:
    refused = platform.dbt("build", "--select", "published_state", "--exclude-resource-type", "test")
    assert refused.exit_code != 0, "a state was published that was not tested"
    assert "have not passed" in refused.run["error_message"]


def deferred_tests_publish_nothing(platform: Platform) -> str:
    """Test the relations of dev, which are sound, where those of prod are not. Returns the folder of dev's manifest."""
    before = platform.view("vw_monthly_revenue")
    spoil_fact_payments(platform)
    assert platform.dbt("run").exit_code == 0
    build_dev(platform)
    assert_it_stays_unpublished(platform)
    state = manifest_of_dev(platform)
    assert platform.dbt("test", "--defer", "--favor-state", "--state", state).exit_code == 0
    assert_it_stays_unpublished(platform)
    assert platform.view("vw_monthly_revenue") == before
    return state


def test_tests_of_another_targets_relations_publish_nothing(small_book):
    platform = small_book
    state = deferred_tests_publish_nothing(platform)
    # dbt reads variables as well.
    variables = {"DBT_DEFER": "true", "DBT_FAVOR_STATE": "true", "DBT_STATE": state}
    assert platform.dbt("test", environment=variables).exit_code == 0
    assert_it_stays_unpublished(platform)
    # Tests of another target are recorded there, whatever its schema is called.
    named = {"DBT_DEV_SCHEMA": "audit"}
    assert build_dev(platform, **named).dbt("test", "--target", "dev", environment=named).exit_code == 0
    assert_it_stays_unpublished(platform)


def test_another_target_extracts_nothing(small_book):
    before = small_book.warehouse("select * from audit.extraction_state")
    pay_and_wait(small_book)
    assert small_book.dbt(*DATA_BUILD, "--target", "dev", "--vars", "{extract: true}").exit_code != 0
    assert small_book.warehouse("select * from audit.extraction_state") == before
    small_book.build()
    assert_views_equal_the_oltp(small_book)


def test_a_run_that_may_read_another_targets_relations_changes_nothing(small_book):
    platform = small_book
    before = platform.warehouse("select * from audit.model_states order by 1")
    state = manifest_of_dev(platform)
    pay_and_wait(platform)
    for command in (("build",), ("run",), ("build", "--select", "published_state"), ("snapshot",)):
        assert platform.dbt(*command, "--defer", "--state", state).exit_code != 0, command
    assert platform.dbt("build", "--state", state, environment={"DBT_DEFER": "true"}).exit_code != 0
    assert platform.warehouse("select * from audit.model_states order by 1") == before
    # A state alone serves to select nodes.
    platform.build("--state", state)
    assert_views_equal_the_oltp(platform)


# --- definitions that were replaced by hand ---------------------------------------------------------------------------


def replace_view(platform: Platform, view: str, condition: str) -> None:
    """Let a view leave rows out, as the role of the runs."""
    definition = platform.warehouse(f"select pg_get_viewdef('{view}'::regclass)")[0][0].rstrip(";")
    with connect(platform.writer_conninfo) as connection:
        connection.execute(
            f"create or replace view {view} as select * from ({definition}) as x where {condition}".encode()
        )


def replaced_views_return(platform: Platform) -> None:
    """Replace views below the marts, below other views and above the marts: the next run puts all of it right."""
    replace_view(platform, "staging.stg_payments", "payment_id > 5")
    # Read by the customers' history through another view.
    replace_view(platform, "staging.stg_customers", "customer_id > 2")
    replace_view(platform, "warehouse.vw_branch_performance", "false")
    with connect(platform.writer_conninfo) as connection:
        connection.execute("alter view warehouse.vw_monthly_revenue rename column total_revenue to payment_count_x")
        connection.execute("alter view warehouse.vw_monthly_revenue rename column payment_count_x to total_revenue")
    pay_and_wait(platform)
    platform.build()
    assert_views_equal_the_oltp(platform)


# Views and functions; the state of a mart is noted in each run.
HAS_NO_ROWS = (
    "stored_definition is not null and model_name <> 'operational_fdw' "
    "and not exists (select from pg_class where relname = model_name and relkind in ('r', 'p'))"
)


def test_views_that_were_replaced_by_hand_are_made_again(small_book):
    platform = small_book
    replaced_views_return(platform)
    assert platform.dbt("test").exit_code == 0
    states = f"select model_name, repaired_run_id, updated_at from audit.model_states where {HAS_NO_ROWS} order by 1"
    made = platform.warehouse(states)
    repaired = {name: run for name, run, _ in made if run}
    assert set(repaired) == {"stg_payments", "stg_customers", "vw_branch_performance"}
    # What read the view of the customers through another view was computed anew.
    assert platform.warehouse(
        "select recomputed_run_id from audit.model_states where model_name = 'int_customers_to_snapshot'"
    ) == [(repaired["stg_customers"],)]
    # Once, and not in each run.
    for options in ((), NIGHTLY):
        platform.build(*options)
        assert platform.warehouse(states) == made


def test_marts_that_were_computed_from_a_replaced_view_are_put_right(small_book):
    """The marts follow also when the run that finds the view ends before it comes to them."""
    platform = small_book
    replace_view(platform, "staging.stg_payments", "payment_id > 5")
    # A run that cannot know it computes the marts from it.
    known = "update audit.model_states set stored_definition = {} where model_name = 'stg_payments'"
    made = platform.warehouse("select stored_definition from audit.model_states where model_name = 'stg_payments'")
    platform.warehouse(known.format("md5(pg_get_viewdef('staging.stg_payments'::regclass))"))
    platform.build(*NIGHTLY)
    assert platform.warehouse("select count(*) from warehouse.fact_payments") == [(13,)]
    platform.warehouse(known.format(f"'{made[0][0]}'"))
    platform.build("--select", "stg_payments")
    assert platform.warehouse("select count(*) from warehouse.fact_payments") == [(13,)]
    platform.build()
    assert_views_equal_the_oltp(platform)


@pytest.mark.parametrize("rows_left", ["payment_id > 5", None])
def test_a_view_of_an_unknown_definition_is_made_again(small_book, rows_left):
    """A record of an earlier version does not say what was made: once, every view is."""
    platform = small_book
    columns = "drop column stored_definition, drop column repaired_run_id"
    if rows_left:
        replace_view(platform, "staging.stg_payments", rows_left)
    platform.warehouse(f"alter table audit.model_states {columns}")
    run = platform.build().run["run_id"]
    assert platform.warehouse(
        "select run_id, repaired_run_id from audit.model_states where model_name = 'stg_payments'"
    ) == [(run, 0)]
    assert platform.warehouse("select count(*) from staging.stg_payments") == [(18,)]


def replaced_functions_return(platform: Platform) -> None:
    """Replace a function, and add one that takes its calls: the next run puts both right."""
    for name, schema in (("annuity_schedule", "staging"), ("portfolio_as_of", "warehouse")):
        definitions = (
            "select string_agg(pg_get_functiondef(oid), ';') from pg_proc "
            f"where proname = '{name}' and pronamespace = '{schema}'::regnamespace"
        )
        made = platform.warehouse(definitions)
        with connect(platform.writer_conninfo) as connection:
            spoiled = made[0][0].replace("$function$", "$function$ /* by hand */", 1)
            connection.execute(spoiled.encode())
            connection.execute(
                f"create function {schema}.{name}(text) returns text language sql as 'select $1'".encode()
            )
        assert platform.warehouse(definitions) != made
        platform.build()
        assert platform.warehouse(definitions) == made


def test_functions_that_were_replaced_by_hand_are_made_again(small_book):
    replaced_functions_return(small_book)
    assert_views_equal_the_oltp(small_book)
    states = f"select model_name, updated_at from audit.model_states where {HAS_NO_ROWS} order by 1"
    made = small_book.warehouse(states)
    small_book.build()
    assert small_book.warehouse(states) == made


def views_are_readable_again(platform: Platform) -> None:
    """Take grants from views and a mart, set options of views, give one away: the next run puts all of it back."""
    views = ("vw_monthly_revenue", "vw_payment_by_method", "vw_branch_performance", "vw_data_as_of")
    state = (
        "select relname, pg_get_userbyid(relowner), reloptions, "
        "(select array_agg(entry::text order by entry::text) from unnest(relacl) as entry) from pg_class "
        f"where relname in {(*views, 'stg_loans', 'fact_loans')} "
        "and relnamespace in ('warehouse'::regnamespace, 'staging'::regnamespace) order by 1"
    )
    before = platform.warehouse(state)
    marts = "select model_name, created_run_id, recomputed_run_id from audit.model_states order by 1"
    made = platform.warehouse(marts)
    platform.warehouse(
        "revoke select on warehouse.vw_monthly_revenue from warehouse_reader; "
        "alter view warehouse.vw_payment_by_method set (security_invoker = true); "
        "alter view warehouse.vw_branch_performance owner to postgres; "
        "alter view warehouse.vw_data_as_of set (security_barrier = true); "
        "alter view staging.stg_loans set (security_invoker = true); "
        "revoke select on warehouse.fact_loans from warehouse_reader; "
        "revoke execute on function warehouse.portfolio_as_of(date) from public"
    )
    platform.build()
    assert platform.warehouse(state) == before, "grants, options or owners are not as they were"
    for view in views:
        platform.view(view)
    assert platform.warehouse(
        "select has_function_privilege('warehouse_reader', 'warehouse.portfolio_as_of(date)', 'execute')"
    ) == [(True,)]
    # None of it decides about rows: nothing is computed anew for it.
    assert platform.warehouse(marts) == made


def test_grants_options_and_owners_that_were_altered_are_put_back(small_book):
    platform = small_book
    views_are_readable_again(platform)
    # Once, and a grant that somebody adds is no reason to make a view again.
    platform.warehouse("grant select on warehouse.vw_monthly_revenue to etl_writer, warehouse_owner")
    noted = "select model_name, updated_at from audit.model_states where " + HAS_NO_ROWS + " order by 1"
    before = platform.warehouse(noted)
    platform.build()
    assert platform.warehouse(noted) == before
    assert_views_equal_the_oltp(platform)


# --- readers ----------------------------------------------------------------------------------------------------------

IMPATIENT = ("--vars", "{ddl_lock_attempts: 2}")


def readers_go_on_beside_an_idle_one(platform: Platform) -> None:
    """Add a column to a published table while one reader is idle in a transaction: the others read on.

    The run gives up, and names who blocks it. platform: of a project of its own, which is edited.
    """
    mart, contract = (platform.project / f"models/marts/agg_loans.{suffix}" for suffix in ("sql", "yml"))
    before = mart.read_text(encoding="utf-8"), contract.read_text(encoding="utf-8")
    platform.build()
    contract.write_text(
        before[1].replace(
            "      - name: payment_count\n",
            "      - name: rate_ceiling\n        data_type: numeric(10, 4)\n        description: One more.\n"
            "      - name: payment_count\n",
        ),
        encoding="utf-8",
    )
    mart.write_text(
        before[0].replace("    payment_count\nfrom final", "    36.0 as rate_ceiling,\n    payment_count\nfrom final"),
        encoding="utf-8",
    )
    reads, slow = 0, False
    try:
        with connect(platform.reader_conninfo + " application_name=quarterly_report") as idle:
            idle.execute("select * from warehouse.vw_branch_performance")
            child = platform.start_dbt(*DATA_BUILD, *IMPATIENT)
            while child.is_alive() and not slow:
                with connect(platform.reader_conninfo) as reader:
                    reader.execute("set statement_timeout = '4s'")
                    try:
                        reader.execute("select * from warehouse.vw_branch_performance")
                    except psycopg.errors.QueryCanceled:
                        slow = True
                reads += 1
        child.join()
        assert not slow, "readers wait for a reader that is idle"
        assert child.exitcode != 0
        assert reads > 5
        message = platform.warehouse("select error_message from audit.etl_runs order by run_id desc limit 1")[0][0]
        assert "warehouse_reader" in message
        assert "quarterly_report" in message
        platform.build()
        assert platform.warehouse("select distinct rate_ceiling from publish.agg_loans") == [(36,)]
    finally:
        mart.write_text(before[0], encoding="utf-8")
        contract.write_text(before[1], encoding="utf-8")


def test_readers_go_on_while_a_new_column_waits_and_the_run_names_who_blocks_it(small_book, tmp_path):
    changed = small_book.of_project(project_copy(tmp_path / "project"))
    readers_go_on_beside_an_idle_one(changed)
    assert_views_equal_the_oltp(changed)


# What the next run has to change, below a reader: a relation, and what is done to it before.
CHANGED_BELOW_A_READER = {
    "a seed whose file changed": (
        "staging.provision_bands",
        "update audit.model_states set definition_hash = 'another' where model_name = 'provision_bands'",
    ),
    "a seed with another column": (
        "staging.provision_bands",
        "alter table staging.provision_bands add column note text; "
        "delete from audit.model_states where model_name = 'provision_bands'",
    ),
    "a change log without a column": ("changes.fact_loans", "alter table changes.fact_loans drop column total_paid"),
    "a landing table with a column more": (
        "operational.payments",
        "alter table operational.payments add column note text",
    ),
    "the staging view above it": ("staging.stg_payments", "alter table operational.payments add column note text"),
    "a landing table without one of its own columns": (
        "operational.payments",
        "alter table operational.payments drop column _deleted_at cascade",
    ),
    "a history with a required column": (
        "snapshots.loans_snapshot",
        "alter table snapshots.loans_snapshot add column note text not null default 'x'; "
        "alter table snapshots.loans_snapshot alter column note drop default",
    ),
    "a history without a column": (
        "snapshots.loans_snapshot",
        "alter table snapshots.loans_snapshot drop written_off_on",
    ),
    "a foreign table": (
        "operational_fdw.payments",
        "alter foreign table operational_fdw.payments options (add fetch_size '7')",
    ),
    "the record of the runs": ("audit.etl_runs", "alter table audit.etl_runs drop column source_name"),
    "a view with an option": (
        "warehouse.vw_monthly_revenue",
        "alter view warehouse.vw_monthly_revenue set (security_invoker = true)",
    ),
}


def nobody_holds_a_run(platform: Platform, what: str) -> None:
    """Change a relation below somebody who reads and stays: the run gives up, and names who blocks it."""
    relation, change = CHANGED_BELOW_A_READER[what]
    with connect(platform.writer_conninfo, autocommit=True) as connection:
        connection.execute(change.encode())
    with platform.app() as connection:
        pay(connection, 1, "20.00", "2.00")
        connection.execute(
            "update operational.loans set outstanding_balance = outstanding_balance + 1 where loan_id = 2"
        )
    platform.wait_for_replicas()
    user = platform.cluster.conninfo(platform.cluster.warehouse, "warehouse_user")
    slow = False
    with connect(user + " application_name=quarterly_report") as idle:
        # Anybody may: the time limit of the role is only its default.
        idle.execute("set idle_in_transaction_session_timeout = 0")
        # Planned, and not read: the lock is the same, also of a foreign table that this role may not read.
        idle.execute(f"explain select * from {relation}")
        child = platform.start_dbt(*DATA_BUILD, *IMPATIENT)
        while child.is_alive() and not slow:
            with connect(user) as reader:
                reader.execute("set lock_timeout = '4s'")
                try:
                    reader.execute(f"explain select * from {relation}")
                except psycopg.errors.LockNotAvailable:
                    slow = True
                except psycopg.errors.UndefinedTable:
                    pass
    child.join()
    assert not slow, "readers wait for a reader that is idle"
    assert child.exitcode != 0
    if relation != "audit.etl_runs":
        message = platform.warehouse("select error_message from audit.etl_runs order by run_id desc limit 1")[0][0]
        assert "cannot be changed while it is in use by" in message
        assert relation.split(".")[1] in message
        assert "quarterly_report" in message
    platform.build()
    assert_views_equal_the_oltp(platform)


@pytest.mark.parametrize("what", CHANGED_BELOW_A_READER)
def test_somebody_who_reads_and_stays_holds_no_run(small_book, what):
    nobody_holds_a_run(small_book, what)
