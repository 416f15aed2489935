"""What the operations compute without a server: gaps of an archive, targets of a recovery, names, sizes, rules."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import psycopg
import pytest

from eds.base.errors import UserError
from eds.base.settings import Settings
from eds.cluster import provision, repository
from eds.ops import backup, pitr, privileges, recovery, replication, restore, restore_points
from eds.runtime.member import Member


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
        ("0/3000060", ["recovery_target_lsn = '0/3000060'"]),
        ("1a/ff", ["recovery_target_lsn = '1A/FF'"]),
    ],
)
def test_a_target_is_a_moment_a_restore_point_or_the_end(text: str, lines: list[str]) -> None:
    assert pitr.Target.parse(text).conf("3") == ["recovery_target_timeline = '3'", *lines]


@pytest.mark.parametrize(
    "text",
    ["", "it's", "a b", "31.01.2026", "9999-01-01 00:00:00+00", "x' y = 'z", "0/", "0/x", "0/123456789", "31/01/2026"],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="TO is"):
        pitr.Target.parse(text)


def backup_that_ended(position: str, label: str = "20260131-020000F") -> repository.BaseBackup:
    at = datetime(2026, 1, 31, 2, tzinfo=UTC)
    return repository.BaseBackup(label, "full", 1, at, "0/2000028", position, "", 0, 0, error=False)


DAMAGED = f"{pitr.DAMAGED_BASE} (exit code 55):\nERROR: [055]: unable to open missing file"


@pytest.mark.parametrize(
    ("reasons", "chosen", "unreadable"),
    [
        ([None, None], "first", 0),
        ([DAMAGED, None], "second", 1),
        (["FATAL: recovery ended before configured recovery target", None], "second", 0),
        ([DAMAGED, DAMAGED], None, 0),
        (["The recovery failed:\nFATAL: could not restore file", None], None, 0),
    ],
)
def test_a_backup_that_cannot_be_read_is_passed_over_and_named(
    reasons: list[str | None], chosen: str | None, unreadable: int
) -> None:
    candidates = [
        pitr.Plan(backup_that_ended("0/2000100", label), repository.Chain((1, 2), [], []))
        for label in ("first", "second")
    ]
    answers = {plan.base.label: reason for plan, reason in zip(candidates, reasons, strict=True)}

    def attempt(plan: pitr.Plan) -> None:
        if reason := answers[plan.base.label]:
            raise UserError(reason)

    if chosen is None:
        with pytest.raises(UserError, match=r"unable to open missing file|cannot be read"):
            pitr.first_that_leads(candidates, attempt, pitr.Target())
        return
    plan, named = pitr.first_that_leads(candidates, attempt, pitr.Target())
    assert (plan.base.label, len(named)) == (chosen, unreadable)


LOG_OF_RECOVERY = """\
2026-11-28 01:57:20.101 UTC [71] LOG:  starting point-in-time recovery to 2026-11-28 01:56:53+00
2026-11-28 01:57:21.480 UTC [71] LOG:  recovery stopping before commit of transaction 993, time 2027-01-07 01:45:02.5+00
2026-11-28 01:57:21.480 UTC [71] LOG:  redo done at 0/80004A8 system usage: CPU: user: 0.00 s
2026-11-28 01:57:21.481 UTC [71] LOG:  last completed transaction was at log time 2026-11-28 01:44:58.25+00
"""
WAL_AFTER_IT = """\
rmgr: Transaction len (rec/tot):     46/    46, tx:        993, lsn: 0/080004D0, prev 0/08000498, \
desc: COMMIT 2027-01-07 01:45:02.500000 UTC
rmgr: Transaction len (rec/tot):    421/   421, tx:        994, lsn: 0/08000700, prev 0/080006D0, \
desc: COMMIT 2026-11-28 01:45:40.000001 UTC; inval msgs: catcache 55
rmgr: Transaction len (rec/tot):     54/    54, tx:          0, lsn: 0/08000900, prev 0/08000700, \
desc: COMMIT_PREPARED 995: 2026-11-28 01:56:51.125000 UTC
"""


class SideThatLogs:
    """A server that has recovered, as far as its log goes."""

    def tail(self, _lines: int) -> list[str]:
        return LOG_OF_RECOVERY.splitlines()


def test_a_recovery_that_a_clock_ahead_has_stopped_says_what_is_missing_and_where_it_is() -> None:
    side, now = cast(Member, SideThatLogs()), datetime(2026, 11, 28, 1, 58, tzinfo=UTC)
    newest, stop = recovery.newest_commit(side), recovery.stopped_before(side)
    assert (newest, stop) == (
        datetime(2026, 11, 28, 1, 44, 58, 250000, UTC),
        datetime(2027, 1, 7, 1, 45, 2, 500000, UTC),
    )
    assert stop and pitr.is_suspect(newest, stop, now)
    later = [each for each in restore_points.parse_commits(WAL_AFTER_IT) if each[1] < now]
    assert [at for at, _ in later] == ["0/08000700", "0/08000900"]
    text = str(pitr.stopped_early(stop, now, later))
    assert "stamped 2027-01-07 01:45:02 UTC: the clock of the server was ahead then. 2 commits" in text
    assert "the last one of 2026-11-28 01:56:51 UTC. TO=0/08000900 recovers up to that one" in text
    # Without any after it, it is not known what the target's time would have been.
    assert "whatever its time" in str(pitr.stopped_early(stop, now, []))


def test_a_recovery_to_a_quiet_time_or_among_commits_in_disorder_is_complete() -> None:
    stop, now = datetime(2026, 11, 28, 1, 45, tzinfo=UTC), datetime(2026, 11, 28, 9, tzinfo=UTC)
    assert not pitr.is_suspect(stop - timedelta(seconds=2), stop, now)
    # Hours without a commit look like a clock that has jumped, until the WAL after them is read.
    assert pitr.is_suspect(stop - timedelta(hours=2), stop, now)
    assert pitr.stopped_early(stop, now, []) is None
    assert pitr.stopped_early(stop, now, [("0/8000700", stop - timedelta(milliseconds=3))]) is None
    jumped = str(pitr.stopped_early(stop, now, [("0/8000700", stop - timedelta(minutes=30))]))
    assert "was ahead then, or was set back later" in jumped


def test_the_repository_of_this_machine_is_preferred_of_backups_that_one_command_made() -> None:
    gap = [("000000010000000000000002", "000000010000000000000002")]

    def plan(label: str, number: int, minutes: int, *, missing: bool = False) -> pitr.Plan:
        base = backup_that_ended("0/2000100", label)
        made = base.finished_at + timedelta(minutes=minutes)
        base = dataclasses.replace(base, repository=number, finished_at=made)
        return pitr.Plan(base, repository.Chain((1, 2), gap if missing else [], []))

    candidates = [
        plan("old", 1, -600),
        plan("far", 2, 12),
        plan("near", 1, 5),
        plan("earlier", 1, 1),
        plan("broken", 1, 600, missing=True),
    ]
    labels = [each.base.label for each in sorted(candidates, key=pitr.preference)]
    assert labels == ["near", "earlier", "far", "old", "broken"]


@pytest.mark.parametrize(
    ("text", "reached"), [("0/2000100", True), ("0/20000FF", False), ("1/0", True), ("latest", True)]
)
def test_a_recovery_to_a_position_starts_from_a_backup_that_ended_before_it(text: str, reached: bool) -> None:
    assert pitr.Target.parse(text).is_behind(backup_that_ended("0/2000100")) == reached


def test_a_moment_without_a_zone_is_utc() -> None:
    assert pitr.Target.parse("2026-01-31 14:32:05").moment == datetime(2026, 1, 31, 14, 32, 5, tzinfo=UTC)


def test_the_free_space_of_a_directory_is_read_in_bytes() -> None:
    listing = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda1 51437848 2048 4096 1% /\n"
    assert recovery.free_bytes(listing) == 4096 * 1024


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


@pytest.mark.parametrize(
    ("version", "restricts"),
    [
        ("psql (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)", False),
        ("psql (PostgreSQL) 15.14", True),
        ("psql (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", True),
        ("psql (PostgreSQL) 16.9", False),
        ("psql (PostgreSQL) 17.6", True),
        ("psql (PostgreSQL) 18.0", True),
        ("psql (PostgreSQL) 19beta1", False),
        ("psql (PostgreSQL) 12.22", False),
        ("", False),
    ],
)
def test_whether_a_psql_can_be_kept_from_commands(version, restricts):
    assert restore._psql_restricts(version) is restricts


@pytest.mark.parametrize("ours", [False, True])
def test_a_dumps_own_restriction_is_left_out_and_other_commands_are_refused(ours):
    dump = [b"\\restrict aZ09\n", b"set x = 1;\n", b"COPY public.t (a) FROM stdin;\n", b"\\N\n", b"\\.\n"]
    lines = [*dump, b"\\unrestrict aZ09\n"]
    assert list(backup.without_commands(lines, Path("x"), ours=ours)) == dump[1:]
    for command in (b"\\! id\n", b"  \\o |id\n", b"\\restrict a b\n"):
        if ours:
            assert list(backup.without_commands([command], Path("x"), ours=True)) == [command]
        else:
            with pytest.raises(UserError, match="command of psql"):
                list(backup.without_commands([command], Path("x"), ours=False))


MANIFEST: dict[str, object] = {
    "kind": "operational",
    "sha256": "0" * 64,
    "made_at": "2026-01-31T14:32:05+00:00",
    "rows": {"operational.loans": 3, '"Odd schema"."a ""table"""': 0},
}


WRONG: list[dict[str, object]] = [
    {"kind": "physical"},
    {"kind": ["operational"]},
    {"sha256": "../../etc/passwd"},
    {"sha256": None},
    {"made_at": "yesterday"},
    {"made_at": "2026-01-31T14:32:05"},
    {"made_at": 7},
    {"rows": None},
    {"rows": []},
    {"rows": {"operational.loans": "3"}},
    {"rows": {"operational.loans": -1}},
    {"rows": {"operational.loans": True}},
    {"rows": {"operational.loans; drop table operational.loans": 3}},
    {"rows": {"(select 1) as x": 1}},
    {"rows": {"loans": 1}},
    {"rows": {"operational.loans\n": 1}},
    {"rows": {'"a"b"."c"': 1}},
]


def _named_with(tmp_path: Path, text: str) -> backup.Backup:
    (tmp_path / "backup_operational_20260131_143205.sql.gz").touch()
    (tmp_path / "backup_operational_20260131_143205.sql.gz.manifest.json").write_text(text, encoding="utf-8")
    settings = Settings.model_construct(backup_dir=tmp_path)
    return backup.named(settings, str(tmp_path / "backup_operational_20260131_143205.sql.gz"))


def test_a_manifest_as_it_is_written_is_accepted(tmp_path):
    assert _named_with(tmp_path, json.dumps(MANIFEST)).manifest == MANIFEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "null",
        "7",
        "{}",
        "[" * 100000,
        *(json.dumps(MANIFEST | change) for change in WRONG),
    ],
)
def test_a_manifest_of_another_kind_ends_in_a_sentence(tmp_path, text):
    with pytest.raises(UserError, match="manifest"):
        _named_with(tmp_path, text)


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/below", "{file}", "{file}/below", "{link}"])
def test_backup_path_that_is_no_directory_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    settings = Settings.model_construct(backup_dir=Path(place.format(file=tmp_path / "file", link=tmp_path / "link")))
    for action in (lambda: backup.find(settings), lambda: backup.directory(settings).__enter__()):
        with pytest.raises(UserError, match="no directory"):
            action()
