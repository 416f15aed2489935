"""WAL archive and dumps: both are made, and read back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from eds.base.disk import size as format_size
from eds.cluster.queries import fetch_value
from eds.ops import wal
from eds.ops.checks.result import Skipped, Verification, must
from eds.runtime.client_programs import connection_args, run_program

ARCHIVED_SECONDS = 30.0
# Of a book larger than this, the check dumps the schema only.
COMPLETE_DUMP_BYTES = 256 * 1024 * 1024


def check_archive(run: Verification) -> None:
    """Check that WAL arrives in the archive."""

    def arrives() -> str:
        if why := run.runtime.why_no_repository:
            raise Skipped(why)
        segment, seconds = wal.switch_and_wait(run.runtime, ARCHIVED_SECONDS)
        return f"{segment} arrived after {seconds:.1f} s"

    run.check("WAL archive", "a switched segment arrives, complete", arrives)


def check_dump(run: Verification) -> None:
    """Check that a dump can be made and read back."""

    def dump() -> str:
        server = run.cluster.primary
        complete = fetch_value(server, "select pg_database_size(current_database())") <= COMPLETE_DUMP_BYTES
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "verify.dump"
            arguments = [*connection_args(server, database=server.database), "--format=custom", f"--file={file}"]
            if not complete:
                arguments.append("--schema-only")
            run_program(run.runtime.settings, "pg_dump", arguments, password=server.superuser_password)
            listing = run_program(run.runtime.settings, "pg_restore", ["--list", file])
            run_program(run.runtime.settings, "pg_restore", ["--file=/dev/null", file])
            entries = sum(not line.startswith(";") for line in listing.splitlines())
            size = format_size(file.stat().st_size)
        must(entries, "the dump is empty")
        return f"{size}, {entries} entries, read back{'' if complete else '; schema only, the book is large'}"

    run.check("backup", "a dump can be made and read back", dump)
