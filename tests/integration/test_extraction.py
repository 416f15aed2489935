"""The extraction: which source it reads, what it asks of it, what it does when the source is another one."""

from __future__ import annotations

import re
import time
from collections import defaultdict

import pytest

from eds.cluster.connections import connect
from eds.warehouse.runs import DATA_BUILD
from support.book import pay
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import TABLES, Platform, gaps_unnoted, use_only


@pytest.mark.parametrize("name", ["replica1", "replica2", "primary"])
def test_a_run_reads_whichever_server_it_is_given(small_book, name):
    platform = small_book
    use_only(platform, name)
    with platform.app() as connection:
        pay(connection, 1, "5.00", "0.50")
    platform.wait_for_replicas()
    result = platform.build()
    assert result.run["source_host"].endswith(str(platform.servers[name].port))
    assert_landing_equals_source(platform)


@pytest.mark.proof
def test_a_replica_that_is_behind_is_never_read_backwards(small_book):
    platform = small_book
    with connect(platform.servers["replica1"].superuser_conninfo(), autocommit=True) as replica:
        replica.execute("select pg_wal_replay_pause()")
        try:
            with platform.app() as connection:
                pay(connection, 1, "5.00", "0.50")
                connection.execute("update operational.customers set city = 'Eldoret' where customer_id = 2")
            use_only(platform, "primary")
            platform.build()
            assert_landing_equals_source(platform)
            # Now the paused replica is preferred again, and behind what the warehouse has seen.
            use_only(platform, "replica1", "replica2", "primary")
            result = platform.build()
            assert not result.run["source_host"].endswith(str(platform.servers["replica1"].port))
            assert_landing_equals_source(platform)
            # With nobody else to ask, the run fails and says why; nothing goes backwards.
            use_only(platform, "replica1")
            failed = platform.dbt(*DATA_BUILD, environment={"ETL_SOURCE_WAIT_SECONDS": "1"})
            assert failed.exit_code != 0
            assert "is behind what the warehouse has seen" in failed.run["error_message"]
            assert_landing_equals_source(platform)
        finally:
            replica.execute("select pg_wal_replay_resume()")
    platform.wait_for_replicas()
    platform.build()
    assert_views_equal_the_oltp(platform)


# What makes the source look like another one, and what the run says then.
OTHERS = [
    ("update audit.extraction_state set system_identifier = '1'", "another cluster"),
    ("update audit.extraction_state set timeline = 0", "timeline 1 after 0"),
    ("update audit.extraction_trail set xact_id = '1'", "or its trail was shortened or changed"),
    ("update audit.extraction_state set proven_entries = proven_entries + 1", "put back to an earlier state"),
]


@pytest.mark.parametrize(("pretend", "reason"), OTHERS)
def test_another_source_is_compared_row_by_row_and_repaired(small_book, pretend, reason):
    platform = small_book
    # What differs between the landing tables and the source, without a trace in the change feed.
    platform.warehouse("update operational.customers set city = 'Nowhere' where customer_id = 1")
    platform.warehouse("delete from operational.payments where payment_id = 2")
    platform.warehouse(
        "insert into operational.payments select 99, loan_id, amount, principal_portion, interest_portion, "
        "penalty_portion, payment_method, reference_number, payment_date, recorded_by, notes, created_at, updated_at, "
        "_run_id, _changed_at from operational.payments where payment_id = 1"
    )
    platform.warehouse(pretend)
    result = platform.build()
    assert result.run["extraction_mode"] == "reconcile"
    assert reason in result.run["extraction_reason"]
    assert_landing_equals_source(platform)
    # A deleted landing row is the one thing that leaves no trace for the models; the run above re-inserted it.
    assert_views_equal_the_oltp(platform)


def test_a_primary_that_was_restored_to_an_earlier_state_is_compared(small_book):
    platform = small_book
    use_only(platform, "primary")
    platform.warehouse("update operational.customers set city = 'Nowhere' where customer_id = 1")
    platform.warehouse(
        "update audit.extraction_state set watermark = '900000000'::xid8, snapshot_xmax = '900000000'::xid8"
    )
    result = platform.build()
    assert result.run["extraction_mode"] == "reconcile"
    assert_landing_equals_source(platform)


def test_foreign_tables_that_were_changed_by_hand_are_made_again(small_book):
    platform = small_book
    # Each would bring the rows of the payments with another value in one of their columns, or no deletion.
    for change in (
        "payments_changes alter column amount options (add column_name 'principal_portion')",
        "feed_events alter column operation options (add column_name 'table_name')",
        "trail_transactions alter column log_id options (add column_name 'xact_id')",
    ):
        platform.warehouse(f"alter foreign table operational_fdw.{change}")
    with platform.app() as connection:
        pay(connection, 1, "5.00", "0.50")
        connection.execute("delete from operational.payments where payment_id = 2")
    platform.wait_for_replicas()
    assert platform.build().run["extraction_mode"] == "changes"
    assert_landing_equals_source(platform)
    made = "select array_agg(ftrelid::text order by ftrelid) from pg_foreign_table"
    before = platform.warehouse(made)
    platform.build()
    assert platform.warehouse(made) == before


@pytest.mark.proof
def test_the_nightly_reconcile_repairs_what_the_feed_does_not_have_and_refuses_to_empty(small_book):
    platform = small_book
    with gaps_unnoted(platform), connect(platform.superuser_conninfo) as connection:
        connection.execute("alter table operational.customers disable trigger customers_audit")
        connection.execute("update operational.customers set city = 'Untold' where customer_id = 1")
        connection.execute("alter table operational.customers enable always trigger customers_audit")
    platform.wait_for_replicas()
    platform.build()
    assert platform.warehouse("select city from operational.customers where customer_id = 1") == [("Nairobi",)]
    platform.build("--vars", "{reconcile: true, full_tests: true}")
    assert platform.warehouse("select city from operational.customers where customer_id = 1") == [("Untold",)]
    assert_views_equal_the_oltp(platform)


def test_only_changed_rows_travel(small_book):
    """The filter on the transaction id must reach the source, or each run reads whole tables."""
    platform = small_book
    with connect(platform.writer_conninfo) as connection:
        plan = "\n".join(
            row[0]
            for row in connection.execute(
                "explain (verbose, costs off) select distinct on (payment_id) payment_id, amount "
                "from operational_fdw.payments_changes where xact_id >= '700'::xid8"
            )
        )
    remote = next(line for line in plan.splitlines() if "Remote SQL" in line)
    assert "xact_id >= '700'" in remote, plan
    with connect(platform.superuser_conninfo) as connection:
        connection.execute("set enable_seqscan = off")
        source_plan = "\n".join(
            row[0]
            for row in connection.execute("explain select * from etl.payments_changes where xact_id >= '700'::xid8")
        )
    assert "audit_log_xact_id_idx" in source_plan, source_plan


# How a run comes to read the payments, and from where it fetches them.
READ = {
    "changes": ("select 1", "{}", ["etl.payments_changes"]),
    "comparison": ("select 1", "{reconcile: true}", ["operational.payments"]),
    "first load": ("drop table operational.payments cascade", "{}", ["operational.payments", "etl.feed_events"]),
}


def fetched(platform: Platform, log_of: str, begin: int) -> dict[str, set[int]]:
    """Return of how many rows each fetch was that a server's log has, by where the texts came from."""
    [log] = (platform.runtime.home.path / "log").glob(f"{log_of}-*.log")
    sizes, relation = defaultdict(set), ""
    for found in re.finditer(
        r"DECLARE c\d+ CURSOR FOR\s+SELECT (.*?) FROM (\S+)|FETCH (\d+) FROM c", log.read_text(encoding="utf-8")[begin:]
    ):
        if found[3]:
            sizes[relation].add(int(found[3]))
        else:
            relation = found[2] if re.search("notes|old_values", found[1]) else "what is narrow"
    return sizes


@pytest.mark.proof
@pytest.mark.parametrize("way", READ)
def test_fetches_of_wide_rows_are_bounded_by_bytes(small_book, way):
    platform = small_book
    before, what, relations = READ[way]
    use_only(platform, "primary")
    # 100 kB that compression makes small, and 100 kB that it does not.
    noise = "(select string_agg(md5(random()::text), '') from generate_series(1, 3125))"
    with platform.app() as connection:
        for key, notes in ((1, "repeat('x', 100000)"), (2, noise), (3, noise)):
            connection.execute(f"update operational.payments set notes = {notes} where payment_id = {key}")
        connection.execute("delete from operational.payments where payment_id = 3")
    platform.warehouse(before)
    [log] = (platform.runtime.home.path / "log").glob("primary-*.log")
    begin = len(log.read_text(encoding="utf-8"))
    platform.primary("alter role etl_reader set log_statement = 'all'")
    try:
        platform.build("--vars", "{max_fetch_bytes: 1000000, " + what[1:])
    finally:
        platform.primary("alter role etl_reader reset log_statement")
    sizes = fetched(platform, "primary", begin)
    for relation in relations:
        assert sizes[relation] and all(1 < rows * 100_000 <= 1_000_000 for rows in sizes[relation]), sizes
    # Nothing stays behind.
    assert (
        platform.warehouse("select ftrelid::regclass from pg_foreign_table where ftoptions::text like '%fetch_size%'")
        == []
    )
    assert_landing_equals_source(platform)
    with platform.app() as connection:
        connection.execute("update operational.payments set notes = null")
    platform.build()
    assert_landing_equals_source(platform)


@pytest.mark.proof
def test_a_demo_book_filled_after_the_first_run_arrives_though_the_trail_was_off(platform):
    from eds.book.demo import fill

    platform.build()
    with connect(platform.superuser_conninfo) as connection:
        fill.fill(connection, fill.Scale.parse("1000"))
    platform.wait_for_replicas()
    result = platform.build()
    assert result.run["extraction_mode"] == "reconcile"
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
def test_a_run_reads_standbys_whatever_isolation_is_set_for_the_warehouse(small_book, isolation):
    platform = small_book
    database = platform.settings.warehouse_db
    with platform.app() as connection:
        pay(connection, 1)
    platform.wait_for_replicas()
    platform.warehouse(f"alter database {database} set default_transaction_isolation = '{isolation}'")
    try:
        assert "replica" in platform.build().run["source_host"]
    finally:
        platform.warehouse(f"alter database {database} reset default_transaction_isolation")
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
@pytest.mark.parametrize("side", ["source", "warehouse"])
def test_quoted_names_for_a_whole_database_stop_no_run(small_book, side):
    """Names and types of the two sides are compared as texts, which this setting changes on one of them."""
    platform = small_book
    ask = platform.primary if side == "source" else platform.warehouse
    database = platform.settings.oltp_db if side == "source" else platform.settings.warehouse_db
    with platform.app() as connection:
        pay(connection, 1)
    ask(f"alter database {database} set quote_all_identifiers = on")
    try:
        platform.wait_for_replicas()
        platform.build()
    finally:
        ask(f"alter database {database} reset quote_all_identifiers")
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_tables_that_are_published_under_quoted_names_stop_no_run(small_book):
    """As `make up` and a DBA publish them, while etl_reader has the setting off."""
    platform = small_book
    database = platform.settings.oltp_db
    platform.primary(f"alter database {database} set quote_all_identifiers = on")
    try:
        for table in TABLES:
            platform.primary(f"select etl.publish_table('operational.{table}')")
        with platform.app() as connection:
            pay(connection, 1)
        platform.wait_for_replicas()
        assert platform.build().run["extraction_mode"] == "changes"
    finally:
        platform.primary(f"alter database {database} reset quote_all_identifiers")
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_settings_of_the_warehouse_that_change_how_definitions_read_compute_nothing_again(small_book):
    platform = small_book
    settings = {
        "quote_all_identifiers": "on",
        "datestyle": "'German'",
        "intervalstyle": "'iso_8601'",
        "extra_float_digits": "0",
        "bytea_output": "'escape'",
        "timezone": "'Asia/Tokyo'",
    }
    database = platform.settings.warehouse_db
    states = "select model_name, stored_definition from audit.model_states order by 1"
    before = platform.warehouse(states)
    for name, value in settings.items():
        platform.warehouse(f"alter database {database} set {name} = {value}")
    try:
        with connect(platform.writer_conninfo) as connection:
            for name in settings:
                ((source,),) = connection.execute(
                    "select source from pg_settings where name ~* %s", (f"^{name}$",)
                ).fetchall()
                # Clients set some of them themselves.
                assert source in ("database user", "client"), name
        platform.build()
    finally:
        for name in settings:
            platform.warehouse(f"alter database {database} reset {name}")
    assert platform.warehouse(states) == before


@pytest.mark.proof
def test_a_run_outlasts_a_limit_on_idle_transactions_that_is_set_for_the_source(small_book):
    """The source's session is idle while the warehouse writes what it has read."""
    platform = small_book
    database = platform.settings.oltp_db
    with platform.app() as connection:
        pay(connection, 1)
        connection.execute("update operational.loans set loan_officer = 'Achieng' where loan_id = 3")
    platform.primary(f"alter database {database} set idle_in_transaction_session_timeout = '300ms'")
    try:
        platform.wait_for_replicas()
        with platform.held_run("loans") as child:
            time.sleep(1)
        child.join()
        assert child.exitcode == 0
    finally:
        platform.primary(f"alter database {database} reset idle_in_transaction_session_timeout")
    assert_views_equal_the_oltp(platform)


@pytest.mark.proof
def test_a_book_that_was_filled_is_compared_once_while_an_older_transaction_stays_open(small_book):
    platform = small_book
    with connect(platform.app_conninfo) as older:
        older.execute("update operational.customers set city = 'Kitale' where customer_id = 1")
        platform.primary(
            "insert into operational.audit_log (table_name, operation, record_id) values ('payments', 'RELOAD', 0)"
        )
        platform.wait_for_replicas()
        modes = [platform.build().run["extraction_mode"] for _ in range(3)]
        assert modes.count("reconcile") == 1
        assert modes[0] == "reconcile"
        older.commit()
    platform.wait_for_replicas()
    platform.build()
    assert_landing_equals_source(platform)


# --- the guard against an emptied source, at its edges ----------------------------------------------------------------

# Of eighteen payments: how many are deleted, how many arrive, the share that may go, whether the run compares all rows,
# and whether it takes them over.
DELETIONS = [
    (9, 0, "0.5", False, True),
    (10, 0, "0.5", False, False),
    (10, 1, "0.5", False, True),
    (17, 0, "0.95", False, True),
    (18, 0, "0.99", False, False),
    (18, 0, "1", False, True),
    (18, 1, "0.5", False, False),
    # Others came for all of them: that the feed says so is enough, unless everything is compared.
    (18, 18, "0.5", False, True),
    (18, 18, "0.5", True, False),
    # Under ten rows a share means little; the last ones never go unasked.
    (9, 0, "0", False, True),
    (10, 0, "0", False, False),
    (9, 0, "0", True, True),
]


@pytest.mark.proof
@pytest.mark.parametrize(("deleted", "inserted", "share", "compare", "taken_over"), DELETIONS)
def test_a_table_may_lose_its_share_and_not_a_row_more(small_book, deleted, inserted, share, compare, taken_over):
    platform = small_book
    with platform.app() as connection:
        connection.execute("delete from operational.payments where payment_id <= %s", (deleted,))
        for _ in range(inserted):
            pay(connection, 1, "1.00", "0.50")
    platform.wait_for_replicas()
    options = ("--vars", "{reconcile: true}") if compare else ()
    result = platform.dbt("run", "--select", "extraction", *options, environment={"ETL_MAX_DELETE_SHARE": share})
    if taken_over:
        assert result.exit_code == 0, result.run
        assert_landing_equals_source(platform)
    else:
        assert result.exit_code != 0
        assert f"has lost {deleted if compare else deleted - inserted} of the 18 rows" in result.run["error_message"]
        assert platform.warehouse("select count(*) from operational.payments where _deleted_at is null") == [(18,)]
