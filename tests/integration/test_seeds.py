"""Seeds as people edit them: codes keep their zeros, and what is wrong with a file is named before it is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eds.warehouse.runs import RECONCILE_VARS
from support.book import add_customer, add_loan, pay
from support.oracle import assert_views_equal_the_oltp
from support.platform import Platform, project_copy

pytestmark = pytest.mark.proof

HEADER = "branch_code,branch_name,city,region,country\n"
# What the file holds, and what the message must name.
UNSOUND = {
    "a code twice": (
        HEADER + "001,A,X,X,Kenya\n002,B,X,X,Kenya\n001,C,X,X,Kenya\n",
        r"branch_code 001 is in lines 2, 4",
    ),
    "no code": (HEADER + "001,A,X,X,Kenya\n,B,X,X,Kenya\n", r"line 3 has no branch_code"),
    "blanks around a code": (HEADER + " 001,A,X,X,Kenya\n", r"line 2 has blanks around its branch_code ' 001'"),
    "a column that nobody described": (
        "branch_code,branch_name,city,region,country,manager\n001,A,X,X,Kenya,Ann\n",
        r"column manager is not described.*seeds/branches\.yml",
    ),
    "a column missing": ("branch_code,branch_name,city,region\n001,A,X,X\n", r"column country is missing"),
    "a column twice": (
        "branch_code,branch_name,city,region,country,city\n001,A,X,X,Kenya,Y\n",
        # agate renames it, and says so.
        r"city_2",
    ),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return project_copy(tmp_path / "project")


def test_codes_keep_their_zeros_and_a_described_column_is_loaded(platform: Platform, project: Path) -> None:
    with platform.app() as connection:
        for code in ("001", "1", "0010", "1e3"):
            pay(connection, add_loan(connection, add_customer(connection), branch_code=code))
    platform.wait_for_replicas()
    # A warehouse that has the seed as it was.
    platform.build()
    (project / "seeds/branches.csv").write_text(
        HEADER
        + "001,Head Office,Nairobi,Nairobi,Kenya\n002,Second,,,Kenya\n0010,Third,X,X,Kenya\n1e3,2024-01-01,X,X,null\n"
    )
    changed = platform.of_project(project)
    changed.build()
    assert platform.warehouse(
        "select branch_code, branch_name from warehouse.dim_branch where branch_code ~ '^[0-9]' order by 1"
    ) == [("001", "Head Office"), ("0010", "Third"), ("002", "Second"), ("1", "1"), ("1e3", "2024-01-01")]
    assert_views_equal_the_oltp(platform)

    with (project / "seeds/branches.csv").open("w") as file:
        file.write("branch_code,branch_name,city,region,country,manager\n001,Head Office,Nairobi,Nairobi,Kenya,007\n")
    description = project / "seeds/branches.yml"
    description.write_text(
        description.read_text().replace("        country: text\n", "        country: text\n        manager: text\n")
    )
    changed.build()
    assert platform.warehouse("select branch_code, manager from staging.branches") == [("001", "007")]
    assert_views_equal_the_oltp(platform)


def test_what_is_wrong_with_a_file_is_named_and_the_table_stays_as_it_was(platform: Platform, project: Path) -> None:
    platform.build("-s", "branches")
    before = platform.warehouse("select * from staging.branches order by 1")
    changed = platform.of_project(project)
    for case, (text, message) in UNSOUND.items():
        (project / "seeds/branches.csv").write_text(text)
        result = changed.dbt("build", "-s", "branches")
        assert result.exit_code != 0, case
        assert re.search(message, result.run["error_message"], re.S), result.run["error_message"]
        assert platform.warehouse("select * from staging.branches order by 1") == before


# Rows of each kind of column that were changed, removed and added, and columns.
CHANGED_SEEDS = (
    (
        "update staging.payment_methods set method_name = 'Cheque' where method_code = 'cash'",
        "update staging.payment_methods set is_digital = false where method_code = 'mpesa'",
        "update staging.provision_bands set provision_rate = 0, max_days = 1 where scheme = 'sa_dhan'",
        "update staging.branches set branch_name = '' where branch_code = 'NRB01'",
    ),
    (
        "delete from staging.branches where branch_code = 'NRB01'",
        "insert into staging.provision_bands select * from staging.provision_bands limit 1",
        "alter table staging.payment_methods add column note text",
    ),
    ("delete from staging.branches", "alter table staging.provision_bands alter column provision_rate type text"),
)
# What a run writes only when it loads a seed.
LOADED = (
    "select model_name, updated_at from audit.model_states "
    "where model_name in ('branches', 'payment_methods', 'provision_bands') order by 1"
)


def test_rows_that_were_changed_by_hand_are_loaded_again_by_a_reconcile(small_book: Platform) -> None:
    platform = small_book
    nightly = ("--vars", str(RECONCILE_VARS))
    contents = [
        f"select to_jsonb(x) from {table} as x order by 1"
        for table in (
            *("staging.branches", "staging.payment_methods", "staging.provision_bands"),
            *("publish.dim_payment_method", "publish.dim_provision_band", "publish.dim_branch"),
        )
        if platform.warehouse("select to_regclass(%s)::text", (table,)) != [(None,)]
    ]
    assert len(contents) > 3
    before, loaded = [platform.warehouse(each) for each in contents], platform.warehouse(LOADED)
    platform.build(*nightly)
    assert platform.warehouse(LOADED) == loaded, "a seed that is as its file was loaded again"
    for statements in CHANGED_SEEDS:
        for statement in statements:
            platform.warehouse(statement)
        platform.build(*nightly)
        assert [platform.warehouse(each) for each in contents] == before, statements
        assert_views_equal_the_oltp(platform)
