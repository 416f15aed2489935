"""`make verify`: whether everything does what it should, shown by doing it. `make health`: the short form."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from psycopg import sql

from eds.base.console import out
from eds.base.errors import UserError
from eds.base.services import ServiceState
from eds.base.settings import Settings, load
from eds.book.invariants import INVARIANTS, violations
from eds.cluster.connections import Cluster, connect
from eds.cluster.provision import OLTP_ROLES, WAREHOUSE_ROLES
from eds.cluster.queries import (
    answers,
    current_position,
    fetch_all,
    fetch_dicts,
    fetch_value,
    in_recovery,
    wait_for,
    wait_for_replay,
)
from eds.dashboards import metabase
from eds.ops import privileges, replication
from eds.runtime.choice import select_runtime
from eds.runtime.client_programs import connection_args, run_program
from eds.runtime.member import Runtime
from eds.runtime.ports import bind_error
from eds.warehouse import runs

app = typer.Typer()

# A replica that is further behind than this (bytes of WAL) fails.
MOST_LAG_BYTES = 64 * 1024 * 1024
ARRIVES_SECONDS = 15.0
ARCHIVED_SECONDS = 30.0
RUN_ENDS_SECONDS = 60.0
METABASE_SECONDS = 5.0
# A larger book is not dumped whole by a check.
WHOLE_DUMP_BYTES = 256 * 1024 * 1024
VIEWS = (
    "vw_monthly_revenue",
    "vw_top_customers",
    "vw_loan_status_distribution",
    "vw_payment_by_method",
    "vw_branch_performance",
)
BUSINESS_TABLES = {
    "customers": "customer_id",
    "loan_products": "product_id",
    "loans": "loan_id",
    "payments": "payment_id",
}
PROBE = sql.Identifier("platform", "verify_probe")
COLOURS = {"PASS": "green", "WARN": "yellow", "SKIP": "yellow", "FAIL": "bold red"}


class Failed(Exception):
    """A check found something that is not as it should be."""


class Warned(Exception):
    """A check found something that a person should know, and that stops nothing."""


class Skipped(Exception):
    """A check that does not apply here, and why."""


@dataclass(frozen=True)
class Result:
    """What came of one check. status: PASS, WARN, SKIP or FAIL."""

    group: str
    name: str
    status: str
    detail: str


@dataclass
class Verification:
    """Runs checks one after the other; what one raises is its result and never ends the others."""

    runtime: Runtime
    report: Callable[[Result], None] = lambda result: None
    results: list[Result] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.runtime.settings

    def check(self, group: str, name: str, action: Callable[[], str | None]) -> bool:
        """Run one check: `action` returns what it saw. Returns whether it did not fail."""
        try:
            result = Result(group, name, "PASS", action() or "")
        except Warned as found:
            result = Result(group, name, "WARN", str(found))
        except Skipped as reason:
            result = Result(group, name, "SKIP", str(reason))
        except (Failed, UserError, psycopg.Error, OSError) as error:
            result = Result(group, name, "FAIL", str(error).strip() or type(error).__name__)
        self.results.append(result)
        self.report(result)
        return result.status != "FAIL"

    def count(self, status: str) -> int:
        return sum(result.status == status for result in self.results)


def _must(condition: object, message: str) -> None:
    if not condition:
        raise Failed(message)


# --- the checks -------------------------------------------------------------------------------------------------------


def verify(runtime: Runtime, report: Callable[[Result], None]) -> Verification:
    """Check everything, and report each result as it comes. No check leaves a row behind."""
    run, cluster = Verification(runtime, report), runtime.cluster
    _services(run)
    if run.check("OLTP", "the primary answers", lambda: _is_primary(cluster)):
        _oltp(run)
        _replication(run)
        _archive(run)
        _backup(run)
    if run.check("warehouse", "the warehouse answers", lambda: _version(cluster)):
        _warehouse(run)
    _roles(run)
    return run


def _services(run: Verification) -> None:
    cluster = run.runtime.cluster

    def look(status: str, detail: str) -> str:
        if status == "absent":
            raise Skipped(detail)
        _must(status == "running", f"{status}: `make up` starts it")
        return detail

    states = run.runtime.states()
    for state in states:
        run.check("services", f"{state.name} runs", lambda state=state: look(state.status, state.detail))  # type: ignore[misc]
    run.check("services", "PgBouncer serves queries on both databases", lambda: _pooled(cluster, states))


def _pooled(cluster: Cluster, states: list[ServiceState]) -> str:
    for state in states:
        if state.name == "pgbouncer" and state.status == "absent":
            raise Skipped(state.detail)
    found = {}
    for database, replica in (("loans_db", False), ("loans_db_ro", True)):
        with connect(cluster.pooled_conninfo(database), prepare_threshold=None) as connection:
            row = connection.execute("select pg_is_in_recovery(), inet_server_port()").fetchone()
        _must(row and row[0] is replica, f"{database} leads to a {'primary' if replica else 'replica'}")
        found[database] = row[1] if row else None
    return ", ".join(f"{database} → port {port}" for database, port in found.items())


def _is_primary(cluster: Cluster) -> str:
    server = cluster.primary
    _must(not in_recovery(server), f"{server.name} at port {server.port} is a replica; who is the primary? (`make ps`)")
    return f"{server.name}, PostgreSQL {fetch_value(server, 'show server_version')}"


def _version(cluster: Cluster) -> str:
    return f"PostgreSQL {fetch_value(cluster.warehouse, 'show server_version')}"


def _oltp(run: Verification) -> None:
    cluster = run.runtime.cluster
    server = cluster.primary
    counts: dict[str, int] = {}

    def has_data(table: str) -> str:
        counts[table] = fetch_value(server, f"select count(*) from operational.{table}")  # noqa: S608 - names of our own
        if not counts[table]:
            raise Warned("it is empty (`make demo` fills an empty book)")
        return f"{counts[table]} rows"

    def triggers() -> str:
        rows = fetch_all(
            server,
            "select count(*) filter (where tgenabled = 'A'), count(*) from pg_trigger "
            "where tgrelid = any(%s::regclass[]) and not tgisinternal",
            ([f"operational.{table}" for table in (*BUSINESS_TABLES, "audit_log")],),
        )
        expected = 3 * len(BUSINESS_TABLES) + 1
        _must(
            rows[0] == (expected, expected), f"{expected} should be enabled always, found {rows[0][0]} of {rows[0][1]}"
        )
        return f"{expected} triggers, enabled always"

    def invariants() -> str:
        if broken := violations(server):
            raise Warned("; ".join(f"{count} rows break: {name}" for name, count in broken.items()))
        return f"{len(INVARIANTS)} rules hold"

    for table in (*BUSINESS_TABLES, "audit_log", "vw_active_loans", "vw_customer_payment_summary"):
        run.check("OLTP", f"operational.{table} has rows", lambda table=table: has_data(table))  # type: ignore[misc]
    run.check("OLTP", "the audit trail cannot be bypassed", triggers)
    run.check("OLTP", "the invariants of the books hold", invariants)
    run.check(
        "OLTP", "the application can write, and every change is in the trail", lambda: _application_writes(cluster)
    )
    run.check("OLTP", "data checksums are on and no block is broken", lambda: _checksums(cluster))


def _application_writes(cluster: Cluster) -> str:
    """A customer with a loan and a payment, written with the application's rights and rolled back."""
    # Keys that no sequence gives out, so that no key is used up.
    key = -secrets.randbelow(2**31 - 1) - 1
    trail = "select count(*), count(distinct operation) from operational.audit_log where record_id = %s"
    with cluster.primary.connect() as connection:
        connection.execute("set session authorization app_user")
        connection.execute("insert into operational.customers (customer_id, full_name) values (%s, 'verify')", (key,))
        connection.execute(
            "insert into operational.loans (loan_id, customer_id, product_id, amount, interest_rate, tenure_months, "
            "status, disbursed_at, outstanding_balance) "
            "select %s, %s, min(product_id), 100, 12, 12, 'active', now(), 100 from operational.loan_products",
            (key, key),
        )
        connection.execute(
            "insert into operational.payments (payment_id, loan_id, amount, principal_portion, interest_portion, "
            "payment_method) values (%s, %s, 10, 9, 1, 'cash')",
            (key, key),
        )
        connection.execute("update operational.loans set outstanding_balance = 91 where loan_id = %s", (key,))
        connection.execute("delete from operational.payments where payment_id = %s", (key,))
        # The application may not read the trail.
        connection.execute("reset session authorization")
        row = connection.execute(f"{trail} and changed_by = 'app_user'", (key,)).fetchone()
        connection.rollback()
    _must(row == (5, 3), f"five changes of three kinds should be in the trail as app_user's, found {row}")
    left = fetch_all(cluster.primary, trail, (key,))[0][0]
    _must(left == 0, f"{left} rows are left in the trail")
    return "insert, update and delete recorded, then rolled back"


def _checksums(cluster: Cluster) -> str:
    server = cluster.primary
    _must(fetch_value(server, "show data_checksums") == "on", "data checksums are off")
    broken = fetch_value(server, "select coalesce(sum(checksum_failures), 0)::bigint from pg_stat_database")
    _must(broken == 0, f"{broken} broken blocks were read: restore, or fail over")
    return ""


@contextmanager
def _probe(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """A table with one row on the primary. Yields the row's text and the WAL position behind it; drops the table."""
    with cluster.primary.connect(autocommit=True) as connection:
        # Two at once would drop each other's table.
        connection.execute("select pg_advisory_lock(hashtext('platform.verify_probe'))")
        text = secrets.token_hex(8)
        try:
            # Also what a killed one has left.
            connection.execute(sql.SQL("drop table if exists {}").format(PROBE))
            connection.execute(sql.SQL("create table {} (text text)").format(PROBE))
            connection.execute(sql.SQL("insert into {} values (%s)").format(PROBE), (text,))
            row = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone()
            yield text, str(row[0] if row else "")
        finally:
            connection.execute(sql.SQL("drop table if exists {}").format(PROBE))


def _replication(run: Verification) -> None:
    cluster = run.runtime.cluster
    known = cluster.servers
    names = cluster.replica_names

    def refuses(name: str) -> str:
        conninfo = cluster.conninfo(known[name], "app_user")
        with connect(conninfo) as connection:
            try:
                connection.execute("insert into operational.customers (full_name) values ('verify')")
            except psycopg.errors.ReadOnlySqlTransaction as error:
                return str(error).strip()
            finally:
                connection.rollback()
        raise Failed("it accepted a write")

    def streams(name: str) -> str:
        rows = fetch_dicts(
            cluster.primary,
            "select state, sync_state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint as lag "
            "from pg_stat_replication where application_name = %s",
            (name,),
        )
        _must(rows, "it is not connected to the primary: `make up` repairs it")
        row = rows[0]
        _must(row["state"] == "streaming", f"its state is {row['state']}")
        _must(row["lag"] is not None and row["lag"] <= MOST_LAG_BYTES, f"it is {replication.size(row['lag'])} behind")
        return f"{row['sync_state']}, {replication.size(row['lag'])} behind"

    def recovering(name: str) -> str:
        _must(in_recovery(known[name]), "it is no replica: two servers take writes; see docs/runbooks.md")
        return ""

    for name in names:
        run.check("replication", f"{name} is in recovery", lambda name=name: recovering(name))  # type: ignore[misc]
        run.check("replication", f"{name} streams and is near", lambda name=name: streams(name))  # type: ignore[misc]
        run.check("replication", f"{name} refuses writes", lambda name=name: refuses(name))  # type: ignore[misc]

    def arrives() -> str:
        server = cluster.primary
        for name in names:
            _must(answers(known[name]), f"{name} does not answer")
        with _probe(cluster) as (text, position):
            for name in names:
                wait_for_replay(known[name], position, ARRIVES_SECONDS)
                _must(
                    fetch_value(known[name], "select text from platform.verify_probe") == text,
                    f"{name} shows another row",
                )
        gone = current_position(server)
        for name in names:
            wait_for_replay(known[name], gone, ARRIVES_SECONDS)
            _must(
                fetch_value(known[name], "select to_regclass('platform.verify_probe') is null"), f"{name} keeps the row"
            )
        return f"seen on {' and '.join(names)}, and removed again"

    run.check("replication", "a row written on the primary is readable on every replica", arrives)


def _archive(run: Verification) -> None:
    def arrives() -> str:
        from eds.ops import wal

        segment, seconds = wal.switch_and_wait(run.runtime, ARCHIVED_SECONDS)
        return f"{segment} arrived after {seconds:.1f} s"

    run.check("WAL archive", "a switched segment arrives, whole", arrives)


def _backup(run: Verification) -> None:
    cluster = run.runtime.cluster

    def dump() -> str:
        server = cluster.primary
        whole = fetch_value(server, "select pg_database_size(current_database())") <= WHOLE_DUMP_BYTES
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "verify.dump"
            arguments = [*connection_args(server, database=server.database), "--format=custom", f"--file={file}"]
            if not whole:
                arguments.append("--schema-only")
            run_program(run.settings, "pg_dump", arguments, password=server.superuser_password)
            listing = run_program(run.settings, "pg_restore", ["--list", file])
            run_program(run.settings, "pg_restore", ["--file=/dev/null", file])
            entries = sum(not line.startswith(";") for line in listing.splitlines())
            size = replication.size(file.stat().st_size)
        _must(entries, "the dump is empty")
        return f"{size}, {entries} entries, read back{'' if whole else '; schema only, the book is large'}"

    run.check("backup", "a dump can be made and read back", dump)


def _warehouse(run: Verification) -> None:
    cluster = run.runtime.cluster
    settings = run.settings
    server = cluster.warehouse
    reader = cluster.conninfo(server, "warehouse_reader")

    def filled(table: str) -> str:
        count = fetch_value(server, f"select count(*) from warehouse.{table}")  # noqa: S608 - names of the catalogue
        _must(count, "it is empty")
        return f"{count} rows"

    def shows(view: str) -> str:
        with connect(reader) as connection:
            row = connection.execute(f"select count(*) from warehouse.{view}".encode()).fetchone()  # noqa: S608
        _must(row and row[0], "it shows nothing")
        return f"{row[0] if row else 0} rows"

    def successes() -> str:
        row = fetch_all(
            server,
            "select count(*) filter (where status = 'success'), count(*) filter (where status = 'failed'), "
            "(array_agg(status order by run_id desc) filter (where status <> 'running'))[1] from audit.etl_runs",
            database=settings.warehouse_db,
        )[0]
        _must(row[0], "no run has ever succeeded")
        if row[2] == "failed":
            raise Warned("the last run failed: `make etl` shows why; the views keep the last good state")
        return f"{row[0]} succeeded, {row[1]} failed"

    def fresh() -> str:
        _, minutes = runs.last_success(settings)
        _must(minutes is not None, "no run has ever succeeded")
        limit = settings.etl_fresh_minutes
        _must(minutes is not None and minutes <= limit, f"{minutes:.0f} minutes old, expected {limit} at most")
        return f"{minutes:.1f} minutes old"

    for table in (
        "dim_customer",
        "dim_loan",
        "dim_product",
        "dim_date",
        "dim_payment_method",
        "dim_branch",
        "fact_loans",
        "fact_payments",
    ):
        run.check("star schema", f"warehouse.{table} is filled", lambda table=table: filled(table))  # type: ignore[misc]
    for view in VIEWS:
        run.check("dashboards", f"{view} answers", lambda view=view: shows(view))  # type: ignore[misc]
    run.check("dashboards", "Metabase is healthy", lambda: _metabase(settings))
    run.check("runs", "there are successes, and the last run is one", successes)
    run.check("runs", "the last success is fresh", fresh)
    run.check("figures", "every table of the warehouse equals the OLTP's, by month", lambda: figures(cluster))


def _metabase(settings: Settings) -> str:
    if bind_error(settings.metabase_host, settings.metabase_port) is None:
        raise Skipped(
            f"nothing listens at {metabase.address(settings)}: `make metabase` starts it where it is installed"
        )
    metabase.Client(metabase.address(settings)).wait_until_ready(METABASE_SECONDS)
    return metabase.address(settings)


def _roles(run: Verification) -> None:
    cluster = run.runtime.cluster
    settings = run.settings
    known = cluster.servers
    primary, warehouse = cluster.primary, known["warehouse"]

    def logs_in(place: Any, role: str) -> str:
        options = {"replication": "true"} if role == "replicator" else {}
        password = getattr(settings, f"{role}_password").get_secret_value()
        with psycopg.connect(place.conninfo(role, password, "postgres" if options else None, **options)):
            return ""

    def matrix(place: Any, expected: privileges.Matrix) -> str:
        with place.connect() as connection:
            found, compared = privileges.differences(connection, expected)
        _must(not found, "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else ""))
        return f"{compared} cells as expected"

    for place, roles in ((primary, OLTP_ROLES), (warehouse, WAREHOUSE_ROLES)):
        for role in roles:
            run.check(
                "roles",
                f"{role} logs in with its password",
                lambda place=place, role=role: logs_in(place, role),  # type: ignore[misc]
            )
    run.check(
        "roles", "OLTP: each role may do what it should and nothing else", lambda: matrix(primary, privileges.OLTP)
    )
    run.check(
        "roles",
        "warehouse: each role may do what it should and nothing else",
        lambda: matrix(warehouse, privileges.WAREHOUSE),
    )


# --- figures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counterpart:
    """A table of the source and where the warehouse has its rows: what to group by and what to sum on either side."""

    table: str
    source_group: str
    source_columns: tuple[str, ...]
    place: str
    group: str
    columns: tuple[str, ...]


def _month(column: str) -> str:
    return f"to_char({column} at time zone 'UTC', 'YYYY-MM')"


def _counterparts() -> list[Counterpart]:
    sums = {
        "customers": ("created_at", ()),
        "loan_products": ("created_at", ("min_amount", "max_amount")),
        "loans": ("created_at", ("amount", "outstanding_balance", "interest_rate")),
        "payments": ("payment_date", ("amount", "principal_portion", "interest_portion", "penalty_portion")),
    }
    landing = "(select * from operational.{} where _deleted_at is null) as landing"
    result = [
        Counterpart(table, _month(time), columns, landing.format(table), _month(time), columns)
        for table, (time, columns) in sums.items()
    ]
    result.append(
        Counterpart(
            "payments",
            _month("payment_date"),
            sums["payments"][1],
            "warehouse.fact_payments",
            _month("payment_date"),
            ("payment_amount", "principal_amount", "interest_amount", "penalty_amount"),
        )
    )
    result.append(
        Counterpart(
            "loans",
            "status",
            sums["loans"][1],
            "warehouse.fact_loans",
            "loan_status",
            ("principal_amount", "outstanding_balance", "interest_rate"),
        )
    )
    return result


def _figures_of(
    connection: psycopg.Connection, relation: str, group: str, columns: tuple[str, ...], key: str, left_out: list[int]
) -> dict[str, tuple[Any, ...]]:
    """Count and sums of a relation by group, without the rows of these keys."""
    sums = "".join(f", coalesce(sum({column}), 0)" for column in columns)
    query = f"select {group}, count(*){sums} from {relation} where not {key} = any(%s) group by 1"  # noqa: S608
    return {row[0]: row[1:] for row in connection.execute(query.encode(), (left_out,)).fetchall()}


def figures(cluster: Cluster) -> str:
    """Compare counts and sums by table and month between source and warehouse. Returns what was compared.

    Rows that changed since the last extraction's watermark are left out on both sides, by their keys, so that the
    comparison is exact also under live traffic.
    """
    warehouse, primary = cluster.warehouse, cluster.primary
    running = "select count(*) from audit.etl_runs where status = 'running'"
    wait_for(lambda: fetch_value(warehouse, running) == 0, RUN_ENDS_SECONDS, "no run of the warehouse is running")
    with (
        warehouse.connect() as target,
        primary.connect() as source,
    ):
        for connection in (target, source):
            connection.execute("set transaction isolation level repeatable read, read only")
        known = target.execute(
            "select watermark::text, system_identifier, timeline from audit.extraction_state"
        ).fetchone()
        _must(known, "nothing was ever extracted: `make etl NOW=1`")
        watermark, *identity = known or ()
        now = source.execute("select system_identifier, timeline from etl.source_state").fetchone()
        if now is None or tuple(identity) != tuple(now):
            raise Failed("the source was failed over or restored since the last run: `make etl NOW=1` compares it all")
        touched: dict[str, list[int]] = {}
        for table, keys in source.execute(
            "select table_name, array_agg(distinct record_id) from operational.audit_log "
            "where xact_id >= %s::xid8 group by table_name",
            (watermark,),
        ):
            touched[table] = keys
        if reloaded := [table for table, keys in touched.items() if 0 in keys]:
            raise Failed(f"{', '.join(reloaded)} were reloaded since the last run: `make etl NOW=1` reads them")
        groups = 0
        counterparts = _counterparts()
        for pair in counterparts:
            key, left_out = BUSINESS_TABLES[pair.table], touched.get(pair.table, [])
            relation = f"operational.{pair.table}"
            theirs = _figures_of(source, relation, pair.source_group, pair.source_columns, key, left_out)
            ours = _figures_of(target, pair.place, pair.group, pair.columns, key, left_out)
            if different := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
                name = different[0]
                raise Failed(
                    f"{pair.table} of {name}: the warehouse has (count, sums) {_plain(ours.get(name))}, the OLTP "
                    f"{_plain(theirs.get(name))}, in {pair.place.split()[-1]}; {len(different)} groups differ. "
                    "`make reconcile` repairs it"
                )
            groups += len(theirs)
    left = sum(map(len, touched.values()))
    return f"{len(counterparts)} comparisons of {groups} groups" + (
        f"; {left} rows changed since the last run and were left out" if left else ""
    )


def _plain(values: tuple[Any, ...] | None) -> str:
    return ", ".join(map(str, values)) if values else "nothing"


# --- health -----------------------------------------------------------------------------------------------------------


def health(runtime: Runtime) -> dict[str, Any]:
    """The state in seconds, as plain data. `problems` is empty when all is well."""
    settings, cluster = runtime.settings, runtime.cluster
    problems: list[str] = []
    services = {state.name: state.status for state in runtime.states()}
    problems += [f"{name} is {status}" for name, status in services.items() if status in ("stopped", "unhealthy")]
    found: dict[str, Any] = {"healthy": False, "primary": cluster.primary_name, "services": services}

    def look(what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (UserError, psycopg.Error) as error:
            problems.append(f"{what}: {str(error).strip().splitlines()[0]}")
            return None

    if services.get(cluster.primary_name) == "running":
        stream = look("replication", lambda: replication.status(cluster))
        if stream:
            found["replicas"] = {row["application_name"]: row["lag_bytes"] for row in stream["replicas"]}
            problems += [f"{name} does not stream" for name in replication.missing(stream)]
            problems += [
                f"{row['application_name']} is {replication.size(row['lag_bytes'])} behind"
                for row in stream["replicas"]
                if (row["lag_bytes"] or 0) > MOST_LAG_BYTES
            ]
        failing = look("WAL archive", lambda: _archive_fails(cluster))
        found["archive_fails"] = failing
        if failing:
            problems.append(f"WAL is not archived: {failing}")
    last = look("warehouse", lambda: runs.last_success(settings)) if services.get("warehouse") == "running" else None
    finished, minutes = last or (None, None)
    fresh = minutes is not None and minutes <= settings.etl_fresh_minutes
    found |= {
        "fresh": fresh,
        "last_success": finished.isoformat() if finished else None,
        "age_minutes": round(minutes, 2) if minutes is not None else None,
        "limit_minutes": settings.etl_fresh_minutes,
    }
    if not fresh and last is not None:
        problems.append(
            "no successful run yet"
            if minutes is None
            else f"the last success is {minutes:.0f} minutes old (limit {settings.etl_fresh_minutes})"
        )
    return found | {"healthy": not problems, "problems": problems}


def _archive_fails(cluster: Cluster) -> str | None:
    """The segment whose archiving failed last, when none was archived since."""
    row = fetch_all(
        cluster.primary,
        "select last_failed_wal from pg_stat_archiver "
        "where last_failed_time > coalesce(last_archived_time, '-infinity')",
    )
    return row[0][0] if row else None


# --- commands ---------------------------------------------------------------------------------------------------------


@app.command(name="verify")
def verify_command(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Check everything by using it, one line per check. Exit code 1 when one fails. Leaves no row behind."""
    settings = load()
    group = ""

    def report(result: Result) -> None:
        nonlocal group
        if result.group != group:
            group = result.group
            out.print(f"[bold]{group}[/]")
        out.print(f"  [{COLOURS[result.status]}]{result.status}[/]  {result.name}", end="")
        out.print(f"  [dim]{result.detail}[/]" if out.is_terminal else f"  {result.detail}", markup=out.is_terminal)

    run = verify(select_runtime(settings)[0], (lambda result: None) if as_json else report)
    counts = {status: run.count(status) for status in COLOURS}
    if as_json:
        print(json.dumps({"counts": counts, "checks": [vars(result) for result in run.results]}))
    else:
        out.print(
            f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['WARN']} warnings, {counts['SKIP']} skipped"
        )
    raise typer.Exit(1 if counts["FAIL"] else 0)


@app.command(name="health")
def health_command(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Check services, replication, archive and freshness in a second. Exit code 1 when one is not well."""
    settings = load()
    found = health(select_runtime(settings)[0])
    if as_json:
        print(json.dumps(found))
    elif found["healthy"]:
        out.print(f"[green]healthy[/]: last success {found['age_minutes']:.1f} minutes ago")
    else:
        for problem in found["problems"]:
            out.print(f"[red]{problem}[/]")
    raise typer.Exit(0 if found["healthy"] else 1)
