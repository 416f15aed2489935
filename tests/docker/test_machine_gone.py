"""The machine is gone: a fresh checkout on another one, the second repository and its key bring the book back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from eds.base.services import SIDE
from eds.base.settings import OPTIONAL_SERVICES

from .conftest import throw_away

KEY = "BACKUP_REPO2_CIPHER_KEY"


def test_one_command_brings_the_book_back_in_containers(engine: None) -> None:
    with tempfile.TemporaryDirectory(prefix="second-repository-") as name:
        repository = Path(name) / "repository"
        repository.mkdir()
        Path(name).chmod(0o755)
        # The account of the servers in the containers writes there.
        repository.chmod(0o777)
        values = {
            "BACKUP_REPO2": "posix",
            "BACKUP_REPO2_PATH": str(repository),
            "DISABLED_SERVICES": ",".join(OPTIONAL_SERVICES),
            "SCALE": "1000",
        }
        with throw_away() as gone:
            gone.values |= values
            gone.up()
            gone.eds("backup", "--kind", "physical", "--type", "full")
            gone.query("primary", "insert into operational.customers (full_name) values ('archived')")
            gone.eds("wal", "--switch")
            book = gone.query("primary", "select count(*), sum(amount), max(payment_id) from operational.payments")
            key = gone.settings.backup_repo2_cipher_key.get_secret_value()
        with throw_away() as other:
            other.values |= values
            other.env_file.unlink()
            refused = other.eds("restore-machine", code=1)
            assert f"{KEY} is missing" in refused
            other.env_file.write_text(f"{KEY}={key}\n", encoding="utf-8")
            output = other.eds("restore-machine")
            assert key not in output
            assert "all invariants hold" in output
            assert "RPO: " in output
            assert "RTO: " in output
            assert (
                other.query("primary", "select count(*), sum(amount), max(payment_id) from operational.payments")
                == book
            )
            assert other.value("primary", "select count(*) from operational.customers where full_name = 'archived'")
            other.assert_warehouse_equals_book()
            assert SIDE not in other.eds("ps")
            # Archiving goes on, and it is a book like any other: nothing restores over it unasked.
            other.eds("wal", "--switch")
            other.eds("backup", "--kind", "physical", "--type", "full")
            assert "has a loan book already" in other.eds("restore-machine", code=1)
