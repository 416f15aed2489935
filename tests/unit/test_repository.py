"""What pgBackRest says of a repository: gaps, chains along timelines, damage."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eds.base.errors import UserError
from eds.cluster import repository

HASH = "5fcd4fd87c45fcb38996aaa1ed5171e84c185cec"
MB16 = repository.SEGMENT_BYTES


def archive(*names: str) -> dict[str, int]:
    return {f"{name[:16]}/{name}-{HASH}.lz4": 100 for name in names}


@given(st.sets(st.integers(min_value=0, max_value=700)), st.integers(min_value=1, max_value=40))
def test_gaps_are_the_missing_segments_between_the_first_and_the_last(present: set[int], number: int) -> None:
    line = repository.Timeline(number, dict.fromkeys(present, 1))
    missing = {each for low, high in line.gaps() for each in range(low, high + 1)}
    assert missing == (set(range(min(present), max(present) + 1)) - present if present else set())


def test_only_complete_segments_count() -> None:
    files = archive("0000000100000000000000FE", "0000000100000000000000FF", "000000010000000100000000") | {
        f"0000000100000001/000000010000000100000002.partial-{HASH}.lz4": 5,
        "00000002.history": 1,
        "0000000100000000/000000010000000000000002.00000028.backup": 1,
        f"0000000200000001/000000020000000100000001-{HASH}": 7,
    }
    found = repository.timelines(files)
    # 256 segments of 16 MB to a file number: …FF is followed by …100000000.
    assert sorted(found[1].segments) == [254, 255, 256]
    assert found[1].gaps() == []
    assert found[2].segments == {257: 7}
    assert repository.histories(files) == {2: "00000002.history"}


def test_two_segments_of_the_same_content_are_named_whatever_their_compression() -> None:
    names = ("000000010000000000000003", "000000010000000000000004")
    other = {
        f"0000000100000000/000000010000000000000005-{HASH[::-1]}.zst": 100,
        # A promotion leaves the beginning of a segment beside the whole one.
        f"0000000100000000/000000010000000000000006.partial-{HASH}.zst": 100,
        "00000002.history": 1,
    }
    assert repository.doubled(archive(names[0]) | other) == []
    assert repository.doubled(archive(names[0]) | other | {f"{names[1]}-{HASH}.zst": 100}) == [list(names)]


@pytest.mark.parametrize("number", [0, 255, 256, 257, 5000])
def test_the_name_of_a_segment_leads_back_to_its_number(number: int) -> None:
    name = repository.segment_name(3, number)
    assert repository.timelines(archive(name))[3].segments == {number: 100}


HISTORY = "1\t0/5000100\tno recovery target specified\n\n2\t0/8000000\tbefore 2026-01-31\n"


def test_a_history_is_a_list_of_stretches() -> None:
    assert repository.stretches(3, HISTORY) == [
        repository.Stretch(1, 0, 0x5000100),
        repository.Stretch(2, 0x5000100, 0x8000000),
        repository.Stretch(3, 0x8000000, None),
    ]
    assert repository.stretches(1, None) == [repository.Stretch(1, 0, None)]


def test_a_damaged_history_is_named() -> None:
    with pytest.raises(UserError, match="history of timeline 3 is damaged"):
        repository.stretches(3, "1 not-a-position\n")


def along_three_timelines() -> list[str]:
    return [
        *(repository.segment_name(1, number) for number in (2, 3, 4)),
        *(repository.segment_name(2, number) for number in (5, 6, 7)),
        *(repository.segment_name(3, number) for number in (8, 9)),
    ]


def test_a_chain_follows_the_timelines_and_ends_with_the_newest_segment() -> None:
    names = along_three_timelines()
    result = repository.chain(
        repository.timelines(archive(*names)), repository.stretches(3, HISTORY), start="0/2000028"
    )
    assert result == repository.Chain(last=(3, 9), missing=[], needed=names)


@pytest.mark.parametrize("lost", along_three_timelines()[:-1])
def test_every_missing_segment_of_a_chain_is_found(lost: str) -> None:
    names = [name for name in along_three_timelines() if name != lost]
    result = repository.chain(
        repository.timelines(archive(*names)), repository.stretches(3, HISTORY), start="0/2000028"
    )
    assert result.missing == [(lost, lost)]


def test_a_chain_without_what_it_should_reach_has_a_gap_at_its_end() -> None:
    result = repository.chain(
        repository.timelines(archive(*along_three_timelines())),
        repository.stretches(3, HISTORY),
        start="0/2000028",
        end=11 * MB16 + 5,
    )
    assert result.missing == [(repository.segment_name(3, 10), repository.segment_name(3, 11))]


def test_what_is_before_the_backup_or_on_another_branch_is_not_needed() -> None:
    stray = [repository.segment_name(1, 9), repository.segment_name(4, 9), repository.segment_name(1, 1)]
    result = repository.chain(
        repository.timelines(archive(*along_three_timelines(), *stray)),
        repository.stretches(3, HISTORY),
        start="0/6000028",
    )
    assert result.missing == []
    assert result.needed[0] == repository.segment_name(2, 6)


def a_backup(
    label: str, start: str = "0/2000028", stop: str = "0/3000050", *, error: bool = False
) -> repository.BaseBackup:
    return repository.BaseBackup(
        label=label,
        type="full",
        repository=1,
        finished_at=datetime.strptime(label[-16:-1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC),
        start_lsn=start,
        stop_lsn=stop,
        start_segment=repository.segment_name(1, repository.lsn(start) // MB16),
        database_bytes=0,
        repository_bytes=0,
        error=error,
    )


def test_the_newest_backup_is_one_from_which_the_history_leads_on() -> None:
    first, second = a_backup("20261126-004412F"), a_backup("20261127-004412F", "0/4000028", "0/4000050")
    # Made on timeline 1 after it was left at 0/5000100, and one with a page that is broken.
    branch, broken = a_backup("20261128-004412F", "0/6000028", "0/6000050"), a_backup("20261129-004412F", error=True)
    parts = repository.stretches(3, HISTORY)
    assert repository.newest_on_history([second, first, branch, broken], parts) == second
    assert repository.newest_on_history([branch, broken], parts) is None
    assert repository.newest_on_history([branch, broken], repository.stretches(1, None)) == branch


@pytest.mark.parametrize(
    ("file", "needed"),
    [
        (f"15-1/0000000100000000/000000010000000000000004-{HASH}.zst", True),
        (f"15-1/0000000200000000/000000020000000000000005-{HASH}.zst", True),
        (f"15-1/0000000100000000/000000010000000000000003-{HASH}.zst", False),
        ("20261126-004412F/bundle/1", True),
        ("20261126-004412F_20261127-003000D/bundle/1", True),
        ("20261126-004412F_20261128-003000I/bundle/1", False),
        ("20261119-004412F/bundle/1", False),
        ("20261119-004412F_20261120-003000D/pg_data/base/1", False),
        # What cannot be classified counts.
        ("backup.info", True),
    ],
)
def test_what_a_recovery_from_the_newest_backup_reads_is_needed(file: str, needed: bool) -> None:
    assert repository.is_needed(file, a_backup("20261126-004412F_20261127-003000D", "0/4000028")) == needed


VERIFY_OK = """stanza: oltp
status: ok
  archiveId: 15-1, total WAL checked: 7, total valid WAL: 7
"""
VERIFY_SWAPPED = """P01   INFO: invalid checksum '15-1/0000000100000000/000000010000000000000004-1fb4d8e079ca.lz4'
P00   INFO: verify command end: completed successfully (435ms)
stanza: oltp
status: error
  archiveId: 15-1, total WAL checked: 8, total valid WAL: 6
    checksum invalid: 2
"""


def test_damage_that_verify_reports_with_exit_code_zero_is_damage() -> None:
    assert repository.parse_verify(VERIFY_OK).ok
    swapped = repository.parse_verify(VERIFY_SWAPPED)
    assert (swapped.ok, swapped.damaged) == (
        False,
        ["15-1/0000000100000000/000000010000000000000004-1fb4d8e079ca.lz4"],
    )


def test_a_segment_that_cannot_be_decompressed_is_named() -> None:
    name = f"15-1/0000000100000000/000000010000000000000001-{HASH}.zst"
    output = f"""P01   INFO: invalid result {name}: [29] raised from local-1 protocol: zst error: [-20] Data corruption
                  [FormatError] on retry after 15000ms
stanza: oltp
status: error
"""
    assert repository.parse_verify(output).damaged == [name]


@pytest.mark.parametrize("output", ["", "ERROR: [055]: unable to load info file", "status: ok\nstatus: error"])
def test_a_check_that_did_not_happen_proves_nothing(output: str) -> None:
    assert not repository.parse_verify(output).ok


INFO = json.dumps(
    [
        {
            "archive": [
                {"database": {"id": 1, "repo-key": 1}, "id": "15-1", "max": "000000010000000000000003", "min": "0"}
            ],
            "backup": [
                {
                    "archive": {"start": "000000010000000000000002", "stop": "000000010000000000000003"},
                    "database": {"id": 1, "repo-key": 1},
                    "error": False,
                    "info": {"delta": 5, "repository": {"delta": 4534382, "size": 4534382}, "size": 22992375},
                    "label": "20261126-004412F",
                    "lsn": {"start": "0/2000028", "stop": "0/3000050"},
                    "prior": None,
                    "timestamp": {"start": 1795653852, "stop": 1795653855},
                    "type": "full",
                }
            ],
            "db": [{"id": 1, "repo-key": 1, "system-id": 7712274560290123712, "version": "15"}],
            "name": "oltp",
            "repo": [
                {"cipher": "none", "key": 1, "status": {"code": 0, "message": "ok"}},
                {"cipher": "none", "key": 2, "status": {"code": 2, "message": "no valid backups"}},
                {"cipher": "none", "key": 3, "status": {"code": 99, "message": "other"}},
            ],
        }
    ]
)


def test_info_is_read() -> None:
    info = repository.parse_info(INFO)
    assert [(each.label, each.timeline, each.start_lsn) for each in info.backups] == [
        ("20261126-004412F", 1, "0/2000028")
    ]
    assert info.problems == ["repository 3: other"]


def test_a_repository_without_our_stanza_is_reported() -> None:
    assert "make up" in repository.parse_info("[]").problems[0]
    with pytest.raises(UserError, match="gave unexpected output"):
        repository.parse_info("no json")


def test_a_repository_that_cannot_be_decrypted_is_a_problem_in_one_line() -> None:
    message = "[FormatError] unable to load info file 'backup.info':\\nFormatError: at line 1: \x07\x9f_K\x04"
    text = (
        '[{"archive":[],"backup":[],"db":[],"name":"oltp","repo":[{"key":2,"status":{"code":99,"message":"'
        + message
        + '"}}]}]'
    )
    info = repository.parse_info(text)
    assert info.backups == []
    assert info.problems == ["repository 2: [FormatError] unable to load info file 'backup.info':"]
