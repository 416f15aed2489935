"""What pg_waldump says of a former primary's WAL: nothing lost is one thing, nothing readable another."""

from __future__ import annotations

import pytest

from eds.cluster.members import parse_commits

RECORD = "rmgr: Transaction len (rec/tot):    421/   421, tx:        768, lsn: 0/13016AE0, prev 0/13016AA0, desc: "
END = "pg_waldump: error: error in WAL record at 0/13016AE0: invalid record length at 0/13016C88: wanted 24, got 0"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (f"{RECORD}COMMIT 2026-01-31 12:11:48.064163 UTC\n{END}\n", 1),
        (f"{RECORD}ABORT 2026-01-31 12:11:48.064163 UTC\n{END}\n", 0),
        ("pg_waldump: error: could not find a valid record after 0/50000A0\n", 0),
        ('pg_waldump: error: could not find file "000000010000000000000005": No such file or directory\n', None),
        ("pg_waldump: error: could not find any WAL file\n", None),
        (f'{RECORD}COMMIT 2026-01-31\npg_waldump: error: could not find file "000000010000000000000005": No\n', 1),
    ],
)
def test_wal_that_cannot_be_read_is_not_taken_for_wal_without_a_commit(output: str, expected: int | None) -> None:
    found = parse_commits(output)
    assert (None if found is None else len(found)) == expected
