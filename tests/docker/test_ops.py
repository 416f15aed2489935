"""Operations on the stack: verify, archive, backups, restore, recovery, passwords."""

from __future__ import annotations

import json
from datetime import UTC

from eds.base.services import SIDE

from .conftest import Stack

BOOK = "select count(*), sum(amount), max(payment_id) from operational.payments"


def backup(stack: Stack, kind: str) -> str:
    """Make a backup. Returns its name."""
    path = stack.eds("backup", "--kind", kind).split(f"backup_{kind}_")[1].split()[0]
    return f"backup_{kind}_{path}"


def failures(stack: Stack) -> list[str]:
    """Return what `make verify` finds wrong."""
    checks = json.loads(stack.eds("verify", "--json"))["checks"]
    assert len(checks) > 50
    return [check["name"] for check in checks if check["status"] == "FAIL"]


def test_verify_passes_and_the_archive_has_no_gap(stack: Stack) -> None:
    stack.eds("etl", "--now")
    assert failures(stack) == []
    assert "in the archive after" in stack.eds("wal", "--switch")
    assert json.loads(stack.eds("health", "--json"))["problems"] == []


def test_a_dump_is_restored_and_the_warehouse_follows(stack: Stack) -> None:
    before = stack.query("primary", BOOK)
    name = backup(stack, "operational")
    stack.query("primary", "delete from operational.payments where payment_id % 10 = 0")
    stack.eds("etl", "--now")
    stack.eds("restore", "--file", name, "--force")
    assert stack.query("primary", BOOK) == before
    stack.assert_warehouse_equals_book()


def test_a_physical_backup_recovers_the_book_to_a_point_in_time(stack: Stack) -> None:
    for kind in ("full", "diff", "incr"):
        stack.eds("backup", "--kind", "physical", "--type", kind)
    stack.eds("backups", "--verify")
    assert "the backup is proven" in stack.eds("drill")
    assert json.loads(stack.eds("health", "--json"))["last_proven_restore"]

    before = stack.query("primary", BOOK)
    moment = stack.value("primary", "select clock_timestamp()")
    stack.query("primary", "delete from operational.payments where payment_id % 3 = 0")
    output = stack.eds("pitr", "--to", moment.astimezone(UTC).isoformat())
    assert "invariants hold" in output
    assert [tuple(map(str, before[0]))] == [
        tuple(line.split("|")) for line in stack.eds("psql", "recovered", "--tuples", stdin=BOOK).split()
    ]
    assert stack.query("primary", BOOK) != before
    # In the place of the primary: the replicas and the warehouse follow.
    stack.eds("etl", "--now")
    output = stack.eds("pitr", "--to", moment.astimezone(UTC).isoformat(), "--promote", "--force")
    assert "pgdata.aside-" in output
    stack.wait_healthy()
    assert stack.query("primary", BOOK) == before
    assert stack.query("replica1", BOOK) == stack.query("replica2", BOOK) == before
    stack.assert_warehouse_equals_book()
    assert not stack.runtime.member(SIDE).is_running()
    assert failures(stack) == []
    # The next recovery finds its way along the new timeline.
    stack.eds("backup", "--kind", "physical")
    assert "invariants hold" in stack.eds("pitr", "--to", "latest")
    assert stack.eds("pitr", "--remove").strip() == "removed"


def test_a_recovery_that_leads_nowhere_leaves_nothing(stack: Stack) -> None:
    output = stack.eds("pitr", "--to", "never_made", code=1)
    assert "holds a restore point 'never_made'" in output
    assert stack.runtime.member(SIDE).remove() is False


def test_a_password_is_rotated(stack: Stack) -> None:
    old = stack.settings.app_user_password.get_secret_value()
    stack.eds("rotate-password", "--role", "app_user")
    new = stack.settings.app_user_password.get_secret_value()
    assert new != old
    assert failures(stack) == []
