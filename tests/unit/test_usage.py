"""A mistake in a command line ends in a sentence with the option's name, what was expected, and what was found."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eds import cli
from eds.base.errors import UserError
from eds.base.settings import Settings, ensure_env_file, load
from eds.dashboards import site
from eds.runtime.ports import free_ports


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """Leave the process as it was: a command line closes what it makes to others."""
    before = os.umask(0o077)
    os.umask(before)
    yield
    os.umask(before)


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Return exit code and standard error of a command line, without what a terminal's width did to it."""
    monkeypatch.setattr(sys, "argv", ["eds", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(str(ended.value.code)), " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("etl", "--limit=0"), "LIMIT=0: expected a whole number from 1 to 1,000,000. Example: LIMIT=15"),
        (("etl", "--limit=-3"), "LIMIT=-3: expected a whole number from 1 to"),
        (("etl", "--limit=" + "9" * 20), "expected a whole number from 1 to"),
        (("etl", "--limit=x"), "LIMIT=x: expected a whole number"),
        (("logs", "--lines=1.5"), "LINES=1.5: expected a whole number"),
        (("backup", "--keep=0"), "KEEP=0: expected a whole number from 1 to"),
        (("pitr", "--timeline="), "TIMELINE=: expected a whole number from 1 to"),
        (("demo", "--seed=seven"), "SEED=seven: expected a whole number. Example: SEED=42"),
        (("simulate", "--rate=fast"), "RATE=fast: expected a number. Example: RATE=20"),
        (("etl", "--nosuch=1"), "--nosuch"),
        (("etl", "now"), "etl --help"),
        (("nosuch",), "nosuch"),
        (("psql",), "--help"),
    ],
)
def test_a_wrong_value_is_explained_in_our_words(capsys, monkeypatch, arguments, message):
    code, shown = refused(capsys, monkeypatch, *arguments)
    assert code == 2
    assert shown.startswith("Error: ")
    assert message in shown
    assert "Input should" not in shown


def test_without_arguments_there_is_the_help(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["eds"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert "etl" in shown.out + shown.err
    assert "Error" not in shown.err


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process have the settings of a platform that does not run."""
    ensure_env_file(tmp_path / "env")
    names = ("PRIMARY_PORT", "REPLICA1_PORT", "REPLICA2_PORT", "WAREHOUSE_PORT", "PITR_PORT")
    values = {name: str(port) for name, port in zip(names, free_ports(5), strict=True)}
    values |= {"EDS_ENV_FILE": str(tmp_path / "env"), "STATE_DIR": str(tmp_path / "state"), "RUNTIME": "local"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("psql", "primary", "--role=nobody"), "ROLE is 'nobody': expected one of app_user, readonly_user, "),
        (("psql", "primary", "--role=App_User"), "ROLE is 'App_User': expected one of app_user"),
        (("psql", "primary", "--role=etl_writer"), "those that log in on primary"),
        (
            ("psql", "warehouse", "--role=app_user"),
            "expected one of warehouse_user, etl_writer, warehouse_reader, postgres",
        ),
        (("psql", "primary", "--role=metabase_admin"), "expected one of app_user"),
        (("psql", "primry"), "Choose one of: primary, replica1"),
        (("psql", "warehouse"), "Is the platform up?"),
        (("psql", "recovered"), "make pitr"),
        (("restore", "--file=/"), "/ is a directory: expected the file of a dump"),
        (("restore", "--file=."), ". is a directory: expected the file of a dump"),
        (("restore", "--file=.."), ".. is a directory: expected the file of a dump"),
        (("backup", "--type=full"), "make backup KIND=physical TYPE=full"),
        (("backup", "--kind=operational", "--type=diff"), "TYPE=diff is a physical backup's, not a dump's"),
        (("backup", "--kind=physical", "--format=custom"), "FORMAT and KEEP are a dump's"),
        (("backup", "--kind=physical", "--keep=3"), "BACKUP_KEEP_FULL"),
        (("backup", "--type=odd"), "TYPE is odd: expected one of full"),
        (("close", "--again"), "Example: make close MONTH=2026-10 AGAIN=1"),
        (("export", "--filters=branch"), "The filter branch has no value"),
        (("export", "--filters=segment=sme&segment=retail"), "segment is given twice: of several values any may hold"),
        (("restore", "--file=~no-such-account/backup_operational.sql.gz"), "home of an account that does not exist"),
    ],
)
def test_unknown_role_server_or_file_is_refused_with_the_known_ones(
    capsys, monkeypatch, nothing_runs, arguments, message
):
    code, shown = refused(capsys, monkeypatch, *arguments)
    assert code == 1
    assert message in shown


def test_a_taken_port_of_the_pages_names_who_has_it(tmp_path):
    ensure_env_file(tmp_path / "env")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        values = {"_env_file": tmp_path / "env", "state_dir": tmp_path, "docs_port": taken.getsockname()[1]}
        with pytest.raises(UserError, match=rf"cannot be used: taken by .*\(pid {os.getpid()}\)"):
            site.server(Settings(**values))


def test_a_home_that_the_shell_did_not_replace_is_found(tmp_path, monkeypatch):
    book = tmp_path / "book"
    book.mkdir()
    (book / "loans.csv").write_text("Loan ID\n1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    # zsh gives make this word as it stands.
    monkeypatch.setattr(sys, "argv", ["eds", "import-template", "--dir=~/book"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert (book / "mapping.yml").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("import-template", "--dir=~no-such-account/book"),
        ("import", "--dir=~no-such-account/book"),
        ("import", "--dir=.", "--mapping=~no-such-account/mapping.yml"),
    ],
)
def test_home_of_an_unknown_account_is_refused(capsys, monkeypatch, arguments):
    code, shown = refused(capsys, monkeypatch, *arguments)
    assert code == 1
    assert "names the home of an account that does not exist" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--dir=nowhere",), "There is no directory nowhere"),
        (("--dir=.", "--format=excel"), "FORMAT=excel: expected one of auto"),
        (("--dir=.", "--dates=day"), "DATES=day: expected dmy"),
        (("--dir=.", "--mapping=nowhere.yml"), "The mapping file nowhere.yml cannot be read"),
        (("--dir=.",), "holds none of the files customers.csv"),
    ],
)
def test_the_arguments_of_an_import_are_checked_without_a_database(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    def no_connection(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "connect", no_connection)
    code, shown = refused(capsys, monkeypatch, "import", *arguments)
    assert code == 1
    assert expected in shown


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--help",), 0), (("health", "--help"), 0), (("env",), 0), (("nosuch",), 2), (("etl", "--limit=0"), 2)],
)
def test_a_command_whose_output_nobody_reads_has_its_own_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    env_file = tmp_path / "env"
    ensure_env_file(env_file)
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "eds", *arguments],
            env=os.environ | {"EDS_ENV_FILE": str(env_file), "STATE_DIR": str(tmp_path / "state")},
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    assert done.returncode == code, done.stderr
    assert "Broken pipe" not in done.stderr
    assert "Traceback" not in done.stderr
