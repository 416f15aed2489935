"""The same project on a Citus cluster gives what it gives on one server (needs a PostgreSQL that has the extension)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from eds.book.demo import fill
from eds.cluster.connections import connect
from eds.runtime.local.runtime import LocalRuntime
from eds.warehouse.runs import DATA_BUILD
from support.citus_cluster import citus_cluster
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.placement import declared
from support.platform import Platform, changed_nodes, project_copy
from support.random_book import KINDS, Change, apply

from .test_increments import contents
from .test_schema_change import edit

pytestmark = pytest.mark.proof

UNKNOWN_LOAN = -(2**63)
RUN_IN = ("operational", "staging", "snapshots", "changes", "warehouse", "publish", "audit")
DECLARED = {
    placement: {name for name, (place, _) in declared().items() if place == placement}
    for placement in ("distributed", "reference")
}


@pytest.fixture(scope="module")
def cluster(all_servers: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Yield the same OLTP cluster with a Citus coordinator and two workers for its warehouse."""
    if not all_servers.warehouse("select 1 from pg_available_extensions where name = 'citus'"):
        pytest.skip(
            "The PostgreSQL of the tests has no extension citus: install it, or name the bin folder of one that has it "
            "in PG_BINDIR."
        )
    # The servers' unprivileged account must get through.
    place = tmp_path_factory.mktemp("citus")
    for folder in (place, place.parent, place.parent.parent):
        folder.chmod(0o755)
    with citus_cluster(all_servers.settings, place) as settings:
        yield Platform(LocalRuntime(settings))


def empty(warehouse: Platform) -> None:
    """Put back a warehouse that has never run; the database, which all nodes know, stays."""
    with connect(warehouse.warehouse_conninfo, autocommit=True) as connection:
        connection.execute("set client_min_messages = warning")
        for (statement,) in connection.execute(
            "select format('drop %%s if exists %%s cascade', case relkind when 'v' then 'view' else 'table' end, "
            "oid::regclass) from pg_class where relnamespace::regnamespace::text = any (%s) and relkind in ('r', 'v')",
            (list(RUN_IN),),
        ).fetchall():
            connection.execute(statement)


def comparable(warehouse: Platform) -> dict[str, list[tuple[Any, ...]]]:
    """Return every mart and published table; the unknown loan has a number on a cluster only."""
    return {
        table: [tuple(None if value == UNKNOWN_LOAN else value for value in row) for row in rows]
        for table, rows in contents(warehouse).items()
    }


def placed(warehouse: Platform) -> dict[str, set[str]]:
    """Return the names of the tables that are not ordinary ones, by their kind of placement."""
    result: dict[str, set[str]] = {}
    query = (
        "select relname, citus_table_type from citus_tables "
        "inner join pg_class on pg_class.oid = citus_tables.table_name"
    )
    for name, kind in warehouse.warehouse(query):
        result.setdefault(kind, set()).add(name)
    return result


def rows_by_worker(warehouse: Platform, table: str) -> dict[int, int]:
    """Count the rows of a table on each node, by its port, as the shards themselves report."""
    return dict(
        warehouse.warehouse(
            "select nodeport, sum(result::bigint)::bigint from run_command_on_shards(%s, 'select count(*) from %%s') "
            "inner join citus_shards using (shardid) group by nodeport",
            (table,),
        )
    )


def test_a_cluster_gives_what_one_server_gives_through_random_changes(platform, cluster, chance):
    empty(cluster)
    with connect(platform.superuser_conninfo) as connection:
        fill.fill(connection, fill.Scale.parse("1000"))
    for _ in range(4):
        platform.wait_for_replicas()
        for warehouse in (platform, cluster):
            result = warehouse.dbt(*DATA_BUILD, environment={"ETL_MAX_DELETE_SHARE": "1"})
            assert result.exit_code == 0, result.run
        assert comparable(cluster) == comparable(platform)
        assert_landing_equals_source(cluster)
        assert_views_equal_the_oltp(cluster)
        for kind in chance.sample(KINDS, k=len(KINDS)):
            apply(platform.app_conninfo, Change(kind, chance.randrange(1000), chance.randrange(1000)))
    platform.wait_for_replicas()
    cluster.build()

    # A full computation gives what the increments have given.
    for options in ([], ["--full-refresh"], ["--vars", "{reconcile: true, full_tests: true}"]):
        again = cluster.build(*options)
        assert changed_nodes(cluster, again.run["run_id"]) == [], options
    assert cluster.dbt("test").exit_code == 0

    assert placed(cluster) == DECLARED
    for (table,) in cluster.warehouse(
        "select table_name::text from citus_tables where citus_table_type = 'distributed'"
    ):
        rows = rows_by_worker(cluster, table)
        # A book may have few installments.
        assert len(rows) == 2 and (all(rows.values()) or sum(rows.values()) < 50), table
        assert sum(rows.values()) == cluster.warehouse(f"select count(*) from {table}")[0][0]


def test_a_warehouse_of_one_server_moves_to_a_cluster_with_its_history(platform, cluster, chance, capfd):
    empty(cluster)
    with connect(platform.superuser_conninfo) as connection:
        fill.fill(connection, fill.Scale.parse("500"))
    one_server = {"DBT_TARGET": "prod"}
    for _ in range(2):
        platform.wait_for_replicas()
        assert cluster.dbt(*DATA_BUILD, environment=one_server).exit_code == 0
        for kind in ("change_segment", "change_branch", "move_payment"):
            apply(platform.app_conninfo, Change(kind, chance.randrange(1000), chance.randrange(1000)))
    assert placed(cluster) == {}
    before = contents(cluster)

    capfd.readouterr()
    assert cluster.dbt(*DATA_BUILD).exit_code != 0
    assert "dbt run-operation place_all_tables" in capfd.readouterr().out
    for _ in range(2):
        assert cluster.dbt("run-operation", "place_all_tables").exit_code == 0
    assert placed(cluster) == DECLARED
    assert comparable(cluster) == before
    platform.wait_for_replicas()
    cluster.build()
    assert_landing_equals_source(cluster)
    assert_views_equal_the_oltp(cluster)


def test_a_mart_whose_columns_change_keeps_its_place(platform, cluster, tmp_path):
    empty(cluster)
    with connect(platform.superuser_conninfo) as connection:
        fill.fill(connection, fill.Scale.parse("500"))
    platform.wait_for_replicas()
    cluster.build()
    project = project_copy(tmp_path / "project")
    marts = project / "models/marts"
    edit(
        marts / "fact_payments.sql",
        "    payment_date,\n    payment_month\nfrom final",
        "    payment_amount * 2 as twice,\n",
    )
    edit(
        marts / "fact_payments.yml",
        "      - name: payment_date\n",
        "      - name: twice\n        data_type: numeric(20, 2)\n        description: Twice the amount.\n",
    )
    # A staging view over a distributed table, which must be recreated for it.
    payments = project / "models/staging/stg_payments.sql"
    edit(payments, "    _changed_at as changed_at,\n", "    notes is null as is_bare,\n")
    # And one of a reference table.
    edit(marts / "dim_product.yml", "      - name: is_active\n", "      - name: label\n        data_type: text\n")
    edit(marts / "dim_product.sql", "        -- booleans\n", "        product_name as label,\n")
    edit(marts / "dim_product.sql", "    is_active\nfrom final\nunion all", "    label,\n")
    edit(marts / "dim_product.sql", "    false as is_active\n", "    null as label,\n")
    changed = cluster.of_project(project)
    changed.build()
    assert placed(cluster) == DECLARED
    twice = "select count(*) from warehouse.fact_payments where twice = 2 * payment_amount"
    labelled = "select distinct label = product_name from warehouse.dim_product where product_sk > 0"
    assert (cluster.warehouse(twice), cluster.warehouse(labelled)) == ([(500,)], [(True,)])
    assert changed_nodes(cluster, changed.build().run["run_id"]) == []
    cluster.build()
    assert_views_equal_the_oltp(cluster)


def test_target_citus_on_one_server_is_refused_with_what_to_do(platform, capfd):
    capfd.readouterr()
    assert platform.dbt(*DATA_BUILD, environment={"DBT_TARGET": "citus"}).exit_code != 0
    assert "has no extension citus. Set DBT_TARGET=prod" in capfd.readouterr().out
    assert not platform.warehouse("select to_regclass('audit.etl_runs')")[0][0]
    platform.build()
