"""The one way in which files are written, and the one in which programs are run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from eds.base import programs
from eds.base.errors import UserError
from eds.base.files import write_atomically

PYTHON = [sys.executable, "-c"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_a_file_has_its_content_and_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    assert write_atomically(path, "text\r\nwith line ends as they are\n", mode=mode) is True
    assert path.read_bytes() == b"text\r\nwith line ends as they are\n"
    assert path.stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_has_the_content_already_is_not_written_and_only_its_permissions_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "same", mode=0o644)
    before = path.stat().st_ino
    assert write_atomically(path, "same", mode=0o600) is False
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (before, 0o600)
    assert write_atomically(path, "other", mode=0o600) is True


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_readable_by_its_owner_alone_until_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        seen.append(os.fstat(handle).st_mode & 0o777)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "secret", "text", mode=0o644)
    assert seen[0] == 0o600


def test_a_failure_shows_the_last_lines_of_the_programs_errors_and_what_failed() -> None:
    script = "import sys; print('output'); [print('line', n, file=sys.stderr) for n in range(40)]; sys.exit(3)"
    with pytest.raises(UserError, match=r"the dump failed \(exit code 3\):\nline 25\n") as caught:
        programs.run([*PYTHON, script], what="the dump")
    assert str(caught.value).endswith("line 39")
    assert "output" not in str(caught.value)


def test_a_failure_without_errors_shows_the_output_and_one_without_output_nothing() -> None:
    with pytest.raises(UserError, match=r"failed \(exit code 1\):\nonly this$"):
        programs.run([*PYTHON, "print('only this'); raise SystemExit(1)"])
    with pytest.raises(UserError, match=r"failed \(exit code 1\)$"):
        programs.run([*PYTHON, "raise SystemExit(1)"])


def test_a_program_that_is_missing_or_takes_too_long_is_a_failure_like_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        programs.run([tmp_path / "none"])
    assert programs.run([tmp_path / "none"], check=False).code == 127
    late = programs.run([*PYTHON, "import time; time.sleep(60)"], check=False, timeout=0.1)
    assert (late.code, late.ok) == (124, False)


def test_output_and_errors_are_apart_or_in_their_order() -> None:
    script = "import sys; print('a', flush=True); print('b', file=sys.stderr, flush=True); print('c')"
    apart = programs.run([*PYTHON, script])
    assert (apart.output, apart.errors) == ("a\nc\n", "b\n")
    assert programs.run([*PYTHON, script], merge=True).output == "a\nb\nc\n"


def test_standard_input_is_empty_unless_given() -> None:
    script = "import sys; print(len(sys.stdin.read()))"
    assert programs.run([*PYTHON, script]).output == "0\n"
    assert programs.run([*PYTHON, script], stdin="four").output == "4\n"
