"""A sandbox for several database sessions that act at once: who does what, who waits for whom, what each sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from rich.markup import escape

from eds.base.console import out
from eds.base.errors import UserError
from eds.cluster.connections import Cluster, connect
from eds.cluster.locks import command_lock
from eds.cluster.queries import wait_for

SCHEMA = "concurrency"
# How long a statement that should not wait, or whose wait should end, may take.
PATIENCE_SECONDS = 30.0
COLUMN = 46
COLOURS = ("cyan", "magenta", "yellow", "blue")
LOANS = 20


class Timeline:
    """Prints a scenario as a time line: a column for each session, or plain lines for a log."""

    def __init__(self, *, plain: bool) -> None:
        self.plain = plain
        self.began = time.monotonic()
        self.columns: list[str] = []

    def begin(self, title: str, text: str) -> None:
        """Begin a scenario."""
        self.began, self.columns = time.monotonic(), []
        out.print()
        out.print(
            f"{title}: {text}" if self.plain else f"[bold]{escape(title)}[/]  {escape(text)}", markup=not self.plain
        )

    def line(self, who: str, text: str, *, good: bool | None = None) -> None:
        """Print a line of a session. good: colours it as an answer that helps or hurts."""
        moment = f"{time.monotonic() - self.began:7.3f} s"
        if self.plain:
            out.print(f"{moment}  {who}: {text}", markup=False, soft_wrap=True)
            return
        if who not in self.columns:
            self.columns.append(who)
        at = self.columns.index(who)
        colour = {True: "green", False: "red"}.get(good, COLOURS[at % len(COLOURS)])  # type: ignore[arg-type]
        indent = " " * (COLUMN * min(at, 2))
        out.print(f"[dim]{moment} │[/] {indent}[{colour}]{escape(who)}: {escape(text)}[/]", soft_wrap=True)

    def note(self, text: str, *, good: bool | None = None) -> None:
        """Print a line of the scenario itself."""
        moment = f"{time.monotonic() - self.began:7.3f} s"
        if self.plain:
            out.print(f"{moment}  {text}", markup=False, soft_wrap=True)
            return
        colour = {True: "green", False: "bold red"}.get(good, "bold")  # type: ignore[arg-type]
        out.print(f"[dim]{moment} │[/] [{colour}]{escape(text)}[/]", soft_wrap=True)


class Session:
    """A database session with a thread of its own. Statements are printed before they run, and their results after."""

    def __init__(self, sandbox: Sandbox, name: str, *, silent: bool = False) -> None:
        self.sandbox, self.name, self.silent = sandbox, name, silent
        self.connection = connect(sandbox.conninfo, autocommit=True, application_name=f"concurrency {name}")
        self.connection.execute(sql.SQL("set search_path = {}").format(sql.Identifier(SCHEMA)))
        self.pid = self.connection.info.backend_pid
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def _run(self, statement: str) -> list[tuple[Any, ...]] | int:
        cursor = self.connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else cursor.rowcount

    def _print(self, text: str, good: bool | None = None) -> None:
        if not self.silent:
            self.sandbox.timeline.line(self.name, text, good=good)

    def start(self, statement: str) -> Future[list[tuple[Any, ...]] | int]:
        """Begin a statement without waiting for it; `finish` gives its result."""
        self._print(" ".join(statement.split()))
        return self._thread.submit(self._run, statement)

    def finish(self, running: Future[list[tuple[Any, ...]] | int]) -> Any:
        """Wait for a statement. Returns rows, or the number of rows it changed; raises psycopg's errors."""
        try:
            result = running.result(PATIENCE_SECONDS)
        except psycopg.Error as error:
            self._print(f"→ {error.sqlstate} {str(error).splitlines()[0]}", good=False)
            raise
        except TimeoutError as error:
            raise UserError(f"Session {self.name} waited longer than {PATIENCE_SECONDS:.0f} s.") from error
        if isinstance(result, list):
            self._print("→ " + ("; ".join(", ".join(map(str, row)) for row in result) or "no row"))
        elif result > 0:
            self._print(f"→ {result} row{'s' if result > 1 else ''}")
        return result

    def do(self, statement: str) -> Any:
        """Run a statement to its end."""
        return self.finish(self.start(statement))

    def value(self, statement: str) -> Any:
        """Return the single value that a query gives."""
        return self.do(statement)[0][0]

    def fails(self, running: Future[Any] | str, kind: type[psycopg.Error]) -> bool:
        """Return whether a statement ends in this error; the transaction is rolled back then."""
        try:
            self.finish(self.start(running) if isinstance(running, str) else running)
        except kind:
            self.do("rollback")
            return True
        return False

    def close(self) -> None:
        # A statement that still waits would keep the thread.
        if not self.connection.closed:
            self.connection.cancel()
        self._thread.shutdown()
        self.connection.close()


class Sandbox:
    """Copies of loans in a schema of their own, sessions of the application's role, and a list of checked outcomes."""

    def __init__(self, cluster: Cluster, timeline: Timeline) -> None:
        self.timeline = timeline
        self.conninfo = cluster.app_conninfo()
        self.admin = cluster.primary.connect(autocommit=True)
        self.sessions: list[Session] = []
        self.outcomes: list[tuple[str, bool]] = []

    def reset(self) -> None:
        """Fresh copies of the first loans of the book, made up when it has too few. The books are only read."""
        self.admin.execute("set client_min_messages = warning")
        self.clear()
        self.admin.execute(
            f"""
            create schema {SCHEMA};
            create table {SCHEMA}.loans (
                loan_id bigint primary key,
                customer_id bigint not null,
                outstanding_balance numeric(14, 2) not null check (outstanding_balance >= 0),
                version integer not null default 1
            );
            insert into {SCHEMA}.loans (loan_id, customer_id, outstanding_balance)
            select row_number() over (order by loan_id), customer_id, 1000 + outstanding_balance
            from (select * from operational.loans order by loan_id limit {LOANS}) as first_loans;
            insert into {SCHEMA}.loans (loan_id, customer_id, outstanding_balance)
            select number, number, 1000 from generate_series(1, {LOANS}) as number
            on conflict do nothing;
            create table {SCHEMA}.collections (
                collection_id bigint generated always as identity primary key,
                loan_id bigint not null references {SCHEMA}.loans,
                done_by text
            );
            insert into {SCHEMA}.collections (loan_id) select loan_id from {SCHEMA}.loans where loan_id <= 6
            order by loan_id;
            grant usage on schema {SCHEMA} to app_user;
            grant select, insert, update, delete on all tables in schema {SCHEMA} to app_user
            """.encode()
        )

    def clear(self) -> None:
        """End the sessions and remove the copies."""
        for session in self.sessions:
            session.close()
        self.sessions.clear()
        self.admin.execute(f"drop schema if exists {SCHEMA} cascade".encode())

    def close(self) -> None:
        """Leave nothing behind."""
        try:
            self.clear()
        finally:
            self.admin.close()

    def session(self, name: str, *, silent: bool = False) -> Session:
        """Return another session. silent: what it does is not printed."""
        session = Session(self, name, silent=silent)
        self.sessions.append(session)
        return session

    def balance(self, loan_id: int) -> Any:
        """Return a loan's balance as committed now."""
        row = self.admin.execute(
            f"select outstanding_balance from {SCHEMA}.loans where loan_id = %s".encode(),
            (loan_id,),
        ).fetchone()
        assert row is not None
        return row[0]

    def waits(self, session: Session, by: Session | None = None) -> bool:
        """Wait until a session waits for a lock (that `by` holds). Returns whether it does."""
        query = "select wait_event_type = 'Lock', pg_blocking_pids(pid) from pg_stat_activity where pid = %s"

        def blocked() -> bool:
            row = self.admin.execute(query, (session.pid,)).fetchone()
            return bool(row and row[0] and row[1] and (by is None or by.pid in row[1]))

        try:
            wait_for(blocked, PATIENCE_SECONDS / 3, "")
        except UserError:
            return False
        if not session.silent:
            self.timeline.line(session.name, f"… waits for {by.name if by else 'another session'}")
        return True

    def check(self, what: str, holds: object) -> None:
        """Record an outcome: what should be so, and whether it is."""
        self.outcomes.append((what, bool(holds)))
        self.timeline.note(f"{'✓' if holds else '✗'} {what}", good=bool(holds))


@contextmanager
def open_sandbox(cluster: Cluster, *, plain: bool) -> Iterator[Sandbox]:
    """Yield a sandbox, removed at the end whatever happens."""
    # Two at once would use the same copies.
    with command_lock(cluster.primary, "concurrency", "The demonstration"):
        sandbox = Sandbox(cluster, Timeline(plain=plain))
        try:
            yield sandbox
        finally:
            sandbox.close()


Scenario = Callable[[Sandbox], None]
