"""What the operations compute without a server: gaps of an archive, targets of a recovery, names, sizes, rules."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from eds.base.errors import UserError
from eds.cluster import provision
from eds.ops import backup, pitr, privileges, replication


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("latest", []),
        (
            "2026-01-31 14:32:05+00",
            ["recovery_target_time = '2026-01-31T14:32:05+00:00'", "recovery_target_inclusive = off"],
        ),
        (
            "2026-01-31T17:32:05.25+03:00",
            ["recovery_target_time = '2026-01-31T17:32:05.250000+03:00'", "recovery_target_inclusive = off"],
        ),
        ("before_import", ["recovery_target_name = 'before_import'"]),
    ],
)
def test_a_target_is_a_moment_a_restore_point_or_the_end(text: str, lines: list[str]) -> None:
    assert pitr.Target.parse(text).conf("3") == ["recovery_target_timeline = '3'", *lines]


@pytest.mark.parametrize("text", ["", "it's", "a b", "31.01.2026", "9999-01-01 00:00:00+00", "x' y = 'z"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="TO is"):
        pitr.Target.parse(text)


def test_a_moment_without_a_zone_is_utc() -> None:
    assert pitr.Target.parse("2026-01-31 14:32:05").moment == datetime(2026, 1, 31, 14, 32, 5, tzinfo=UTC)


def test_names_of_backups_and_nothing_else() -> None:
    for name in (
        "backup_operational_20260131_020000.sql.gz",
        "backup_warehouse_20260131_020000.dump",
    ):
        assert backup.NAME.fullmatch(name)
    for name in (
        "backup_operational_20260131_020000.sql.gz.manifest.json",
        ".incoming.backup_warehouse_20260131_020000.dump",
        "backup_physical_20260131_020000",
        "backup_other_20260131_020000.dump",
        "loans.sql.gz",
    ):
        assert not backup.NAME.fullmatch(name)


def test_a_manifest_that_is_no_json_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "backup_operational_20260131_020000.dump"
    path.touch()
    backup.manifest_path(path).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        backup._read_manifest(path)
    backup.manifest_path(path).write_text(json.dumps({"kind": "operational"}), encoding="utf-8")
    assert backup._read_manifest(path) == {"kind": "operational"}


def test_sizes_for_a_person() -> None:
    assert [replication.size(number) for number in (None, 0, 1023, 1024, 16 * 2**20, 3 * 2**40)] == [
        "",
        "0 B",
        "1023 B",
        "1.0 kB",
        "16.0 MB",
        "3072.0 GB",
    ]


def test_rules_go_from_the_object_to_its_schema_to_a_beginning() -> None:
    rules: privileges.Rules = {"a.t": {"x": "1"}, "a.*": {"x": "2"}, "dev_*.*": {"x": "3"}}
    assert privileges._rule(rules, "a.t") == {"x": "1"}
    assert privileges._rule(rules, "a.other") == {"x": "2"}
    assert privileges._rule(rules, "dev_me.t") == {"x": "3"}
    assert privileges._rule(rules, "b.t") is None
    assert privileges._rule({"dev_*": {"x": "4"}}, "dev_me") == {"x": "4"}
    assert privileges._rule({"dev_*": {"x": "4"}}, "other") is None


@pytest.mark.parametrize("password", ["simple", "with blank", "Ümläut-ß", "𝔘nicode", "a" * 200, "quote'\"\\"])
def test_a_password_is_compared_with_its_verifier_without_a_login(password):
    # libpq makes the verifier; no server is asked.
    connection = psycopg.pq.PGconn.connect_start(b"host=127.0.0.1 port=1")
    verifier = connection.encrypt_password(password.encode(), b"somebody", b"scram-sha-256").decode()
    assert provision.verifies(verifier, password)
    assert not provision.verifies(verifier, password + "x")
    assert not provision.verifies("md5" + "0" * 32, password)
    assert not provision.verifies(None, password)
