"""Settings: where they come from, and what a wrong one is answered with."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from eds.base import settings
from eds.base.errors import UserError
from eds.base.settings import ENV_EXAMPLE, ROOT, Settings, ensure_env_file
from eds.warehouse import runs


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a fresh .env in a directory of its own, and an environment without any of our variables."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    path = tmp_path / ".env"
    ensure_env_file(path)
    monkeypatch.setenv("EDS_ENV_FILE", str(path))
    settings.load.cache_clear()
    return path


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    settings.load.cache_clear()
    yield
    settings.load.cache_clear()


def test_a_new_env_file_is_private_and_has_a_different_password_for_everybody(env_file: Path) -> None:
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    loaded = settings.load()
    passwords = {getattr(loaded, name.lower()).get_secret_value() for name in Settings.secret_names()}
    assert len(passwords) == len(Settings.secret_names())
    assert min(map(len, passwords)) >= 30


def test_a_second_call_changes_nothing_and_a_missing_secret_is_added(env_file: Path) -> None:
    before = env_file.read_text(encoding="utf-8")
    assert ensure_env_file(env_file) is False
    assert env_file.read_text(encoding="utf-8") == before
    shorter = "\n".join(line for line in before.splitlines() if not line.startswith("ETL_WRITER_PASSWORD=")) + "\n"
    env_file.write_text(shorter, encoding="utf-8")
    assert ensure_env_file(env_file) is True
    after = env_file.read_text(encoding="utf-8")
    assert after.startswith(shorter.rstrip("\n"))
    assert "ETL_WRITER_PASSWORD=" in after


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with env_file.open("a", encoding="utf-8") as file:
        file.write("PRIMARY_PORT=7001\nREPLICA1_PORT=7002\n")
    monkeypatch.setenv("PRIMARY_PORT", "8001")
    loaded = settings.load()
    assert (loaded.primary_port, loaded.replica1_port, loaded.replica2_port) == (8001, 7002, 5434)


@pytest.mark.parametrize(
    ("given", "warehouse", "oltp"),
    [
        ({}, "256MB", "128MB"),
        ({"MEMORY": "4GB"}, "256MB", "128MB"),
        ({"MEMORY": "24GB"}, "5376MB", "768MB"),
        ({"MEMORY": "24GB", "OLTP_MEMORY": "512MB"}, "5376MB", "512MB"),
        ({"MEMORY": "1MB"}, "1MB", "1MB"),
    ],
)
def test_the_servers_share_the_memory_of_the_machine(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], warehouse: str, oltp: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    loaded = settings.load()
    assert (loaded.warehouse_memory, loaded.oltp_memory) == (warehouse, oltp)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRIMARY_PORT", "0"),
        ("PRIMARY_PORT", "seven"),
        ("WAREHOUSE_PORT", "70000"),
        ("ETL_SCHEDULE", "banana"),
        ("ETL_MAX_DELETE_SHARE", "2"),
        ("WAREHOUSE_MEMORY", "lots"),
        ("RUNTIME", "cloud"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        settings.load()
    assert name in str(caught.value)
    assert value in str(caught.value)


def test_every_wrong_value_is_named_at_once_and_no_password_is_shown(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIMARY_PORT", "x")
    monkeypatch.setenv("ETL_SCHEDULE", "y")
    password = settings_password(env_file)
    with pytest.raises(UserError) as caught:
        settings.load()
    assert "PRIMARY_PORT" in str(caught.value)
    assert "ETL_SCHEDULE" in str(caught.value)
    assert password not in str(caught.value)


def settings_password(env_file: Path) -> str:
    line = next(
        line for line in env_file.read_text(encoding="utf-8").splitlines() if line.startswith("POSTGRES_PASSWORD=")
    )
    return line.split("=", 1)[1]


def test_two_services_on_one_port_are_reported(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE_PORT", "5432")
    with pytest.raises(UserError, match="5432"):
        settings.load()


def test_without_an_env_file_the_message_tells_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDS_ENV_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="make up"):
        settings.load()


# --- the file -----------------------------------------------------------------------------------------------------


def test_the_example_names_every_setting_and_gives_no_secret_away() -> None:
    text = ENV_EXAMPLE.read_text(encoding="utf-8")
    named = dict(re.findall(r"(?m)^#?([A-Z][A-Z0-9_]*)=(.*)$", text))
    assert set(named) == {name.upper() for name in Settings.model_fields}
    assert {named[name] for name in Settings.secret_names()} == {""}
    defaults = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    for name, value in named.items():
        if value and name != "RUNTIME":
            assert value == str(defaults[name]).replace("True", "true"), name


def test_what_a_person_wrote_into_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    written = "# mine\r\nexport POSTGRES_PASSWORD = 'own'\r\nAPP_USER_PASSWORD=\"\"\r\nPRIMARY_PORT=7001\r\n"
    path.write_bytes(written.encode())
    path.chmod(0o644)
    assert ensure_env_file(path) is True
    text = path.read_bytes().decode()
    assert text.startswith("# mine\r\nexport POSTGRES_PASSWORD = 'own'\r\nAPP_USER_PASSWORD=")
    assert re.search(r"^APP_USER_PASSWORD=[\w-]{30,}\r\nPRIMARY_PORT=7001\r$", text, re.MULTILINE)
    assert text.count("POSTGRES_PASSWORD") == 2  # and WAREHOUSE_POSTGRES_PASSWORD, which was missing
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_env_file(path) is False
    assert [each.name for each in tmp_path.iterdir()] == [".env"]


def test_a_file_that_others_may_read_is_closed(env_file: Path) -> None:
    env_file.chmod(0o644)
    assert ensure_env_file(env_file) is False
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write another account's file")
def test_a_file_of_another_account_stays_that_accounts(env_file: Path) -> None:
    env_file.write_text("PRIMARY_PORT=7001\n", encoding="utf-8")
    os.chown(env_file, 65534, 65534)
    assert ensure_env_file(env_file) is True
    assert (env_file.stat().st_uid, env_file.stat().st_gid) == (65534, 65534)


def test_a_file_that_is_no_text_is_named(env_file: Path) -> None:
    env_file.write_bytes(b"PRIMARY_PORT=\xff\n")
    for read in (settings.load, ensure_env_file):
        with pytest.raises(UserError, match=r"\.env is not a text file in UTF-8 \(byte 13\)"):
            read()


def test_a_file_that_cannot_be_read_is_named(env_file: Path) -> None:
    env_file.unlink()
    env_file.mkdir()
    for read in (settings.load, ensure_env_file):
        with pytest.raises(UserError, match=r"\.env cannot be read: Is a directory"):
            read()


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none/\.env cannot be written: No such file or directory"):
        ensure_env_file(tmp_path / "none" / ".env")


def test_lines_without_effect_are_reported(env_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with env_file.open("a", encoding="utf-8") as file:
        file.write("this is nothing\nPRIMAY_PORT=7001\nCOMPOSE_PROJECT_NAME=mine\n")
    line = env_file.read_text(encoding="utf-8").splitlines().index("this is nothing") + 1
    with pytest.raises(UserError) as caught:
        settings.load()
    assert str(caught.value).splitlines()[1:-1] == [
        f"  line {line}: expected NAME=value, or # before a comment",
        "  PRIMAY_PORT: there is no such setting; did you mean PRIMARY_PORT?",
    ]
    assert capfd.readouterr() == ("", "")


# --- the values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PRIMARY_PORT", "1.5", "expected a port, a whole number from 1 to 65535"),
        ("METABASE_PORT", "-1", "expected a port, a whole number from 1 to 65535"),
        ("METABASE_ADMIN_EMAIL", "admin", "expected an e-mail address such as admin@enterprise.local"),
        ("CURRENCY", "shillings", "expected the three letters of a currency, such as KES"),
        ("PGADMIN_PORT", "http", "expected a port, a whole number from 1 to 65535"),
        ("DOCS_PORT", "65536", "expected a port, a whole number from 1 to 65535"),
        ("WAREHOUSE_HOST", "my host", "expected a host name or an address such as 127.0.0.1"),
        (
            "OLTP_DB",
            "Loans",
            "expected a database's name: small letters, digits and _, no digit first, 63 at most",
        ),
        ("SEED", "x", "expected a whole number"),
        ("PG_DURABLE", "perhaps", "expected true or false"),
        ("RUNTIME", "cloud", "expected docker or local"),
        ("ETL_ATTEMPTS", "0", "expected 1 or more"),
        ("ETL_ATTEMPTS", "11", "expected 10 at most"),
        ("ETL_MAX_DELETE_SHARE", "0", "expected more than 0.0"),
        ("ETL_MAX_DELETE_SHARE", "half", "expected a number such as 0.5"),
        (
            "ETL_SCHEDULE",
            "hourly",
            "expected five cron fields such as '*/15 * * * *' (Wrong number of fields)",
        ),
        ("OLTP_MEMORY", "1kB", "expected a size such as 256MB or 2GB, from 1MB to 1024GB"),
        ("WAREHOUSE_MEMORY", "2000GB", "expected a size such as 256MB or 2GB, from 1MB to 1024GB"),
        ("MAX_SLOT_WAL_KEEP_SIZE", "2 GB", "expected a size such as 256MB or 2GB, from 1MB to 1024GB"),
        ("SCALE", "small\nlarge", "expected text without line breaks and control characters"),
        *(
            (
                "PROVISION_SCHEME",
                scheme,
                "expected a scheme of seeds/provision_bands.csv: "
                "ke_bank, ke_microfinance_bank, sa_dhan, tz_microfinance",
            )
            for scheme in ("nosuch", "KE_BANK", "ke_bank; drop")
        ),
    ],
)
def test_a_wrong_value_is_reported_as_the_file_has_it(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        settings.load()
    assert str(caught.value).splitlines() == [
        "Wrong settings in .env or the environment:",
        f"  {name}: {expected} (found {value!r} in the environment)",
        "Correct them there; .env.example explains each one.",
    ]


def test_a_scheme_that_the_lender_added_is_accepted(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bands = tmp_path / "provision_bands.csv"
    bands.write_text(
        settings.PROVISION_BANDS.read_text(encoding="utf-8") + "Board-2026,all,0,2147483647,0.01,1\n", encoding="utf-8"
    )
    monkeypatch.setattr(settings, "PROVISION_BANDS", bands)
    monkeypatch.setenv("PROVISION_SCHEME", "Board-2026")
    assert settings.load().provision_scheme == "Board-2026"


@pytest.mark.parametrize("text", [None, "", "no,such,column\n1,2,3\n", "scheme\n"])
def test_a_seed_of_schemes_that_cannot_be_read_is_left_to_the_build(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    monkeypatch.setattr(settings, "PROVISION_BANDS", tmp_path / "provision_bands.csv")
    if text is not None:
        settings.PROVISION_BANDS.write_text(text, encoding="utf-8")
    assert settings.load().provision_scheme == "sa_dhan"


def test_a_wrong_value_of_the_file_is_not_blamed_on_the_environment(env_file: Path) -> None:
    with env_file.open("a", encoding="utf-8") as file:
        file.write("SEED=x\n")
    with pytest.raises(UserError, match=r"SEED: expected a whole number \(found 'x'\)\n"):
        settings.load()


def test_a_wrong_or_missing_password_is_named_but_not_shown(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = env_file.read_text(encoding="utf-8")
    env_file.write_text(re.sub(r"(?m)^ETL_WRITER_PASSWORD=.*$", "ETL_WRITER_PASSWORD=", text), encoding="utf-8")
    monkeypatch.setenv("APP_USER_PASSWORD", "two\nlines")
    with pytest.raises(UserError) as caught:
        settings.load()
    assert str(caught.value).splitlines()[1:-1] == [
        "  APP_USER_PASSWORD: expected text without line breaks and control characters",
        "  ETL_WRITER_PASSWORD: missing; `make up` generates it",
    ]


def test_all_services_on_a_port_of_another_are_named(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCS_PORT", "5433")
    monkeypatch.setenv("PGBOUNCER_PORT", "5432")
    with pytest.raises(UserError) as caught:
        settings.load()
    assert "PRIMARY_PORT and PGBOUNCER_PORT are both 5432; REPLICA1_PORT and DOCS_PORT are both 5433" in str(
        caught.value
    )
    # On another address of the machine it is another port.
    monkeypatch.setenv("PGBOUNCER_HOST", "127.0.0.2")
    monkeypatch.delenv("DOCS_PORT")
    assert settings.load().pgbouncer_port == 5432


def test_an_empty_value_is_none(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with env_file.open("a", encoding="utf-8") as file:
        file.write("PG_BINDIR=\nSEED=\n")
    monkeypatch.setenv("PRIMARY_PORT", "")
    loaded = settings.load()
    assert (loaded.pg_bindir, loaded.seed, loaded.primary_port) == (None, 42, 5432)


def test_a_relative_state_directory_is_in_the_checkout(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().state == ROOT / ".state"
    settings.load.cache_clear()
    monkeypatch.setenv("STATE_DIR", "../elsewhere")
    assert settings.load().state == ROOT.parent / "elsewhere"
    settings.load.cache_clear()
    monkeypatch.setenv("STATE_DIR", "~nosuchaccount/state")
    with pytest.raises(UserError, match="~nosuchaccount"):
        _ = settings.load().state


def test_the_fingerprint_distinguishes_settings_passwords_too(env_file: Path) -> None:
    loaded = settings.load()
    secret = type(loaded.etl_writer_password)
    assert loaded.model_copy().fingerprint() == loaded.fingerprint()
    assert loaded.model_copy(update={"seed": 43}).fingerprint() != loaded.fingerprint()
    assert loaded.model_copy(update={"etl_writer_password": secret("x")}).fingerprint() != loaded.fingerprint()


# --- what dbt gets --------------------------------------------------------------------------------------------------


def test_dbt_is_given_every_setting_that_its_project_reads(env_file: Path) -> None:
    files = [ROOT / "profiles.yml", ROOT / "dbt_project.yml"]
    files += [
        path
        for folder in ("macros", "models", "snapshots", "seeds", "tests/sql")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".sql", ".yml")
    ]
    read = {
        name for path in files for name in re.findall(r"env_var\(\s*'([A-Z0-9_]+)'", path.read_text(encoding="utf-8"))
    }
    # Of a run, of the shell, or of dbt's own; none of them is a setting.
    others = {"ETL_TRIGGER", "ETL_STARTED_BY", "DBT_DEV_SCHEMA", "USER", "HOSTNAME"}
    assert "ETL_MAX_DELETE_SHARE" in read
    assert read - others <= set(runs.dbt_environment(settings.load()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRIMARY_PORT", "7001"),
        ("RUNTIME", "local"),
        ("SCALE", "empty"),
        ("STATE_DIR", "some where/it's here"),
        ("ETL_SCHEDULE", "*/5 * * * *"),
        ("METABASE_JAR", 'back\\slash "quoted" #1'),
        ("APP_USER_PASSWORD", "a'b\\c d#e"),
        ("PGADMIN_EMAIL", "jane@lender.test"),
    ],
)
def test_what_the_environment_gave_is_kept_in_the_file(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    wanted = settings.load()
    before = env_file.read_text(encoding="utf-8").splitlines()
    assert settings.differing_from_file() == {name: value}
    settings.keep_in_env_file({name: value})
    assert settings.differing_from_file() == {}
    monkeypatch.delenv(name)
    assert settings.load() == wanted
    after = env_file.read_text(encoding="utf-8").splitlines()
    # In the place of the setting's own line or comment, and nothing else is changed.
    assert [a.split("=")[0].lstrip("#") for a in after] == [b.split("=")[0].lstrip("#") for b in before]
    assert len(set(after) - set(before)) == 1
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600


def test_a_former_name_of_a_setting_is_read_and_kept_under_the_new_one(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WITHOUT", "pgadmin")
    assert settings.load().left_out == ("pgadmin",)
    assert settings.given_by_environment() == {"DISABLED_SERVICES": "pgadmin"}
    monkeypatch.delenv("WITHOUT")
    settings.load.cache_clear()
    with env_file.open("a", encoding="utf-8") as file:
        file.write("WITHOUT=metabase\n")
    assert settings.load().left_out == ("metabase",)


def test_blank_variables_and_those_that_are_no_settings_are_not_kept(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SCALE", ""), ("FORCE", "1"), ("NAME", "wsl"), ("EDS_SECRETS_DIR", "")):
        monkeypatch.setenv(name, value)
    assert settings.differing_from_file() == {}


def test_the_state_directory_of_the_file_is_found_whatever_the_environment_says(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIR", "/elsewhere")
    assert settings.file_state_directory() == ROOT / ".state"
    settings.keep_in_env_file({"STATE_DIR": str(tmp_path / "a b")})
    assert settings.file_state_directory() == tmp_path / "a b"


@pytest.mark.parametrize(
    ("values", "encrypted"),
    [
        ({}, False),
        ({"primary_host": "localhost"}, False),
        ({"primary_host": "127.0.0.2", "warehouse_host": "::1"}, False),
        ({"warehouse_host": "10.0.0.7"}, True),
        ({"pgbouncer_host": "0.0.0.0"}, True),
        ({"replica2_host": "db2.bank.example"}, True),
        ({"replica2_host": "db2.bank.example", "tls": "off"}, False),
        ({"tls": "on"}, True),
    ],
)
def test_sessions_are_encrypted_as_soon_as_a_host_is_not_this_machine(values, encrypted):
    defaults = {name: field.default for name, field in settings.Settings.model_fields.items()}
    assert settings.Settings.model_construct(**(defaults | values)).uses_tls is encrypted
