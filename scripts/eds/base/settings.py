"""The platform's settings: read once, from the environment and from `.env`; the environment wins."""

from __future__ import annotations

import csv
import datetime
import difflib
import functools
import hashlib
import io
import ipaddress
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from eds.base.errors import UserError
from eds.base.files import write_atomically

ROOT = Path(__file__).resolve().parents[3]
ENV_FILE = ROOT / ".env"
ENV_EXAMPLE = ROOT / ".env.example"
PROVISION_BANDS = ROOT / "seeds" / "provision_bands.csv"

SERVICES_WITH_HOST = ("primary", "replica1", "replica2", "warehouse", "pgbouncer", "metabase")
SERVICES_WITHOUT_HOST = ("pgadmin", "docs", "pitr")
# Services that the Docker runtime can do without.
OPTIONAL_SERVICES = ("metabase", "pgadmin", "docs")
# Former names of settings, accepted for one version.
FORMER_NAMES = {"without": "DISABLED_SERVICES"}
# The settings that each kind of second repository requires.
REPOSITORY_OPTIONS = {
    "posix": ("backup_repo2_path",),
    "sftp": ("backup_repo2_sftp_host", "backup_repo2_sftp_host_user", "backup_repo2_sftp_private_key_file"),
    "s3": (
        "backup_repo2_s3_bucket",
        "backup_repo2_s3_endpoint",
        "backup_repo2_s3_region",
        "backup_repo2_s3_key",
        "backup_repo2_s3_key_secret",
    ),
    "azure": ("backup_repo2_azure_account", "backup_repo2_azure_container", "backup_repo2_azure_key"),
    "gcs": ("backup_repo2_gcs_bucket", "backup_repo2_gcs_key"),
}
# The schedules of backups and of their verification. OFF: never.
BACKUP_SCHEDULES = (
    "backup_full_schedule",
    "backup_diff_schedule",
    "backup_dump_schedule",
    "backup_verify_schedule",
    "drill_schedule",
)
OFF = "off"
SIZE_UNITS = {"kB": 1, "MB": 1024, "GB": 1024 * 1024}
# How similar a name in .env must be to a setting's name to count as a typing error (0 to 1).
TYPO_LIKENESS = 0.85


def _blank_is_none(value: object) -> object:
    return None if value == "" else value


Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$")]
WebAddress = Annotated[str, Field(pattern=r"^https?://\S+$")]
DatabaseName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]
ProjectName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")]
Digest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
OptionalPath = Annotated[Path | None, BeforeValidator(_blank_is_none)]
OptionalText = Annotated[str | None, BeforeValidator(_blank_is_none)]


class Settings(BaseSettings):
    """Every setting, with its default. `.env.example` explains them; names here are the variables in lower case."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=False)

    runtime: Annotated[Literal["docker", "local"] | None, BeforeValidator(_blank_is_none)] = None

    # The addresses of the services.
    primary_host: Host = "127.0.0.1"
    primary_port: Port = 5432
    replica1_host: Host = "127.0.0.1"
    replica1_port: Port = 5433
    replica2_host: Host = "127.0.0.1"
    replica2_port: Port = 5434
    warehouse_host: Host = "127.0.0.1"
    warehouse_port: Port = 5435
    pgbouncer_host: Host = "127.0.0.1"
    pgbouncer_port: Port = 6432
    metabase_host: Host = "127.0.0.1"
    metabase_port: Port = 3000
    pgadmin_port: Port = 5050
    docs_port: Port = 8080
    # The recovered cluster beside the primary.
    pitr_port: Port = 5436

    oltp_db: DatabaseName = "loans_db"
    warehouse_db: DatabaseName = "warehouse_db"

    # The embedded runtime.
    state_dir: OptionalPath = None
    pg_bindir: OptionalPath = None
    pg_os_user: OptionalText = None
    pg_durable: bool = True

    # The Docker runtime.
    compose_project_name: ProjectName = "eds"
    disabled_services: Annotated[str, Field(validation_alias=AliasChoices("disabled_services", "without"))] = ""
    # Digests of the public images; blank: the image that the tag names.
    postgres_digest: Digest = ""
    debian_digest: Digest = ""
    python_digest: Digest = ""
    metabase_digest: Digest = ""
    pgadmin_digest: Digest = ""
    nginx_digest: Digest = ""
    pgadmin_email: Annotated[str, Field(pattern=r"^[^@\s'\"]+@[^@\s'\"]+$")] = "admin@enterprise.local"

    # The demo loan book.
    scale: str = "small"
    seed: int = 42

    # The warehouse's runs.
    etl_schedule: str = "*/15 * * * *"
    etl_reconcile_schedule: str = "30 2 * * *"
    etl_max_delete_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    etl_source_wait_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    etl_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    etl_fresh_minutes: Annotated[int, Field(ge=1)] = 40
    dbt_target: Literal["prod", "citus", "dev"] = "prod"
    # Where a failed run, and the next success, are reported.
    alert_command: OptionalText = None
    alert_webhook: Annotated[WebAddress | None, BeforeValidator(_blank_is_none)] = None

    # Encrypted sessions. Unset: on as soon as a server is on another host than this.
    tls: Annotated[Literal["on", "off"] | None, BeforeValidator(_blank_is_none)] = None
    tls_ca_file: OptionalPath = None

    # The lender's figures. What follows from one of these is computed again when it changes.
    business_timezone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")] = "UTC"
    arrears_tolerance: Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=2)] = Decimal("0.00")
    provision_scheme: str = "sa_dhan"
    close_day: Annotated[int, Field(ge=1, le=28)] = 5

    # Durability beyond one machine, and backups.
    synchronous: Literal["on", "off"] = "off"
    backup_dir: OptionalPath = None
    backup_keep: Annotated[int, Field(ge=1)] = 7
    # When backups are made and test restores run, as cron expressions; off: never.
    backup_full_schedule: str = "30 0 * * 0"
    backup_diff_schedule: str = "30 0 * * 1-6"
    backup_dump_schedule: str = "30 1 * * *"
    backup_verify_schedule: str = "30 2 * * *"
    drill_schedule: str = "30 3 * * 0"
    # The age from which the last backup, and the last proven restore, count as too old.
    backup_fresh_hours: Annotated[int, Field(ge=1)] = 50
    drill_fresh_days: Annotated[int, Field(ge=1)] = 15
    # How many full physical backups are kept; or, when the window is set, all that a recovery within that many days
    # needs.
    backup_keep_full: Annotated[int, Field(ge=1)] = 2
    backup_window_days: Annotated[int, Field(ge=0)] = 0
    # A second repository, away from this machine's disk; BACKUP_REPO2_… are pgBackRest's options for its kind.
    backup_repo2: Literal["", "posix", "sftp", "s3", "azure", "gcs"] = ""
    backup_repo2_path: str = ""
    backup_repo2_s3_bucket: str = ""
    backup_repo2_s3_endpoint: str = ""
    backup_repo2_s3_region: str = ""
    backup_repo2_s3_key: str = ""
    backup_repo2_s3_key_secret: SecretStr | None = None
    backup_repo2_s3_uri_style: Literal["host", "path"] = "host"
    backup_repo2_azure_account: str = ""
    backup_repo2_azure_container: str = ""
    backup_repo2_azure_key: SecretStr | None = None
    backup_repo2_gcs_bucket: str = ""
    backup_repo2_gcs_key: str = ""
    backup_repo2_sftp_host: str = ""
    backup_repo2_sftp_host_user: str = ""
    backup_repo2_sftp_private_key_file: str = ""
    backup_repo2_sftp_host_key_hash_type: str = "sha256"
    backup_repo2_storage_host: str = ""
    backup_repo2_storage_port: Annotated[Port | None, BeforeValidator(_blank_is_none)] = None
    backup_repo2_storage_ca_file: str = ""
    # Dashboards and documentation. Metabase may see the warehouse at another address than this machine does.
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "KES"
    docs_dir: OptionalPath = None
    metabase_jar: OptionalPath = None
    metabase_admin_email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")] = "admin@enterprise.local"
    metabase_start_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    metabase_warehouse_host: Annotated[Host | None, BeforeValidator(_blank_is_none)] = None
    metabase_warehouse_port: Annotated[Port | None, BeforeValidator(_blank_is_none)] = None

    max_slot_wal_keep_size: str = "2GB"
    # The machine's memory, from which the servers' shares follow; shared_buffers of an OLTP server and of the
    # warehouse.
    memory: str = "4GB"
    oltp_memory: str = "128MB"
    warehouse_memory: str = "256MB"

    # Secrets: generated into .env.
    postgres_password: SecretStr
    app_user_password: SecretStr
    readonly_user_password: SecretStr
    etl_reader_password: SecretStr
    replicator_password: SecretStr
    pgbouncer_lookup_password: SecretStr
    warehouse_postgres_password: SecretStr
    warehouse_user_password: SecretStr
    etl_writer_password: SecretStr
    warehouse_reader_password: SecretStr
    metabase_admin_password: SecretStr
    metabase_db_password: SecretStr
    pgadmin_password: SecretStr
    # Encrypts the second repository. Whoever loses it has lost that repository.
    backup_repo2_cipher_key: SecretStr

    @field_validator("business_timezone")
    @classmethod
    def _is_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("expected the name of a time zone such as Africa/Nairobi") from error
        return value

    @field_validator("provision_scheme")
    @classmethod
    def _is_scheme(cls, value: str) -> str:
        # A seed that cannot be read is for the build to complain of, which says what is wrong with it.
        if (schemes := provision_schemes()) and value not in schemes:
            raise ValueError(f"expected a scheme of seeds/{PROVISION_BANDS.name}: {', '.join(schemes)}")
        return value

    @field_validator("etl_schedule", "etl_reconcile_schedule")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        try:
            # A schedule may be well-formed and yet never come, such as 31 February.
            next(CronSim(value, datetime.datetime.now(datetime.UTC)))
        except (CronSimError, StopIteration) as error:
            raise ValueError(
                f"expected five cron fields such as '*/15 * * * *' ({error or 'it never comes'})"
            ) from error
        return value

    @field_validator(*BACKUP_SCHEDULES)
    @classmethod
    def _is_cron_or_off(cls, value: str) -> str:
        return value if value == OFF else cls._is_cron(value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read a backup schedule that `.env` leaves blank as off: every other blank setting has its default."""
        path = getattr(dotenv_settings, "env_file", None)
        held = dotenv_values(path, interpolate=False) if path else {}
        blank = {name: OFF for name in BACKUP_SCHEDULES if held.get(name.upper()) == ""}
        return init_settings, env_settings, dotenv_settings, InitSettingsSource(settings_cls, blank)

    @field_validator("disabled_services")
    @classmethod
    def _names_services(cls, value: str) -> str:
        if unknown := sorted(set(_words(value)) - set(OPTIONAL_SERVICES)):
            raise ValueError(f"expected some of {', '.join(OPTIONAL_SERVICES)}, not {', '.join(unknown)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _share_memory(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Give the servers, where their own memory is not set, a share of the machine's.

        The warehouse gets a quarter of what is beyond the 3 GB that everything else needs on a small machine.
        """
        memory = size_in_kb(str(values.get("memory") or ""))
        if memory:
            shares = {
                "warehouse_memory": max(memory // 16, (memory - 3 * SIZE_UNITS["GB"]) // 4),
                "oltp_memory": memory // 32,
            }
            for name, share in shares.items():
                values.setdefault(name, f"{max(1, share // SIZE_UNITS['MB'])}MB")
        return values

    @field_validator("max_slot_wal_keep_size", "memory", "oltp_memory", "warehouse_memory")
    @classmethod
    def _is_size(cls, value: str) -> str:
        kilobytes = size_in_kb(value)
        if kilobytes is None or not SIZE_UNITS["MB"] <= kilobytes <= 1024 * SIZE_UNITS["GB"]:
            raise ValueError("expected a size such as 256MB or 2GB, from 1MB to 1024GB")
        return value

    @field_validator("*")
    @classmethod
    def _fits_on_a_line(cls, value: Any) -> Any:
        # Settings are written into configuration and password files of one line each.
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        if not text.isprintable():
            raise ValueError("expected text without line breaks and control characters")
        return value

    @model_validator(mode="after")
    def _second_repository_is_complete(self) -> Settings:
        needed = REPOSITORY_OPTIONS.get(self.backup_repo2, ())
        if missing := [name.upper() for name in needed if not getattr(self, name)]:
            raise ValueError(f"BACKUP_REPO2={self.backup_repo2} also needs {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        seen: dict[tuple[str, int], str] = {}
        clashes = []
        for name in (*SERVICES_WITH_HOST, *SERVICES_WITHOUT_HOST):
            place = (getattr(self, f"{name}_host", "127.0.0.1"), getattr(self, f"{name}_port"))
            if place in seen:
                clashes.append(f"{seen[place].upper()}_PORT and {name.upper()}_PORT are both {place[1]}")
            seen.setdefault(place, name)
        if clashes:
            raise ValueError("; ".join(clashes) + ": each service needs a port of its own")
        return self

    @property
    def state(self) -> Path:
        """The directory of everything this checkout keeps outside of git: data, logs, process ids."""
        return from_root(self.state_dir) if self.state_dir else ROOT / ".state"

    @property
    def uses_tls(self) -> bool:
        """Whether every session with the servers is encrypted."""
        if self.tls is not None:
            return self.tls == "on"
        hosts = (self.primary_host, self.replica1_host, self.replica2_host, self.warehouse_host, self.pgbouncer_host)
        return not all(is_loopback(host) for host in hosts)

    @property
    def ca_file(self) -> Path:
        """The certificate of the CA that the servers' certificates are of."""
        return from_root(self.tls_ca_file) if self.tls_ca_file else self.state / "tls" / "ca.crt"

    @property
    def backups(self) -> Path:
        """The directory of the backups."""
        return from_root(self.backup_dir) if self.backup_dir else self.state / "backups"

    @property
    def backup_schedules(self) -> dict[str, str]:
        """The schedules of backups and drills that are on, by the names of their settings."""
        return {name: value for name in BACKUP_SCHEDULES if (value := getattr(self, name)) != OFF}

    @property
    def repository_options(self) -> dict[str, str]:
        """The options of the second repository for pgBackRest, by their names there without `repo2-`."""
        prefix, kind = "backup_repo2_", self.backup_repo2
        found = {}
        for name in type(self).model_fields:
            if name.startswith((f"{prefix}{kind}_", f"{prefix}storage_")) and (value := getattr(self, name)):
                text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                found[name.removeprefix(prefix).replace("_", "-")] = text
        return found

    @property
    def site(self) -> Path:
        """The directory of the pages: dashboards, documentation, lineage."""
        return from_root(self.docs_dir) if self.docs_dir else self.state / "site"

    @property
    def left_out(self) -> tuple[str, ...]:
        """Return the optional services that DISABLED_SERVICES names."""
        return tuple(_words(self.disabled_services))

    def fingerprint(self) -> str:
        """Return a digest of all values, secrets too: the same in two processes that have the same settings."""
        values = self.model_dump(mode="json") | {
            name.lower(): getattr(self, name.lower()).get_secret_value() for name in self.secret_names()
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @classmethod
    def secret_names(cls) -> list[str]:
        """Return the names, as in `.env`, of the settings that are secrets."""
        return [name.upper() for name, field in cls.model_fields.items() if field.annotation is SecretStr]


def provision_schemes() -> list[str]:
    """Return the names of the provisioning schemes that the lender has, or nothing when they cannot be read."""
    try:
        with PROVISION_BANDS.open(encoding="utf-8-sig", newline="") as file:
            return sorted({row["scheme"].strip() for row in csv.DictReader(file)} - {""})
    except (OSError, ValueError, KeyError, AttributeError, csv.Error):
        return []


def new_secret() -> str:
    """Return a password that any rule of complexity accepts: small and capital letters and a digit are in it."""
    while True:
        secret = secrets.token_urlsafe(24)
        if all(any(test(letter) for letter in secret) for test in (str.islower, str.isupper, str.isdigit)):
            return secret


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine by its loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_home(path: Path) -> Path:
    """Return a path with the home that a ~ at its beginning means: not every shell replaces it behind NAME=."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path} names the home of an account that does not exist: write the full path.") from error


def from_root(path: Path) -> Path:
    """Return a path of the settings as an absolute one; a relative one is relative to the checkout."""
    return Path(os.path.normpath(ROOT / with_home(path)))


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def size_in_kb(text: str) -> int | None:
    """Return a size such as 256MB in kilobytes, or None when the text is none."""
    found = re.fullmatch(r"([0-9]{1,12})(kB|MB|GB)", text)
    return int(found.group(1)) * SIZE_UNITS[found.group(2)] if found else None


def env_file() -> Path:
    """Return the file of this process's settings: EDS_ENV_FILE (the tests have their own), else `.env`."""
    return Path(os.environ.get("EDS_ENV_FILE") or ENV_FILE)


def _read(path: Path) -> str:
    try:
        # Keep line ends as they are, so that writing the file back changes nothing else.
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not a text file in UTF-8 (byte {error.start}). Correct it, or move it away: `make up` makes a "
            "new one, and the data that is there stays."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Correct that, or move it away.") from error


def ensure_env_file(path: Path | None = None) -> bool:
    """Make `.env` from `.env.example` with fresh secrets, or add secrets that a newer version asks for.

    path: the file (default: the one this process reads). Existing values are never changed.
    Returns whether the file was written. The file's mode is 600.
    """
    path = path or env_file()
    present = path.exists()
    text = _read(path if present else ENV_EXAMPLE)
    new_text = text
    for name in Settings.secret_names():
        # As python-dotenv reads a line: "export" and blanks are allowed, and empty quotes mean no value.
        setting = rf"(?m)^([ \t]*(?:export[ \t]+)?{name}[ \t]*=)"
        empty = r"[ \t]*(?:''|\"\")?[ \t]*(\r?)$"
        new_text, found = re.subn(setting + empty, rf"\g<1>{new_secret()}\g<2>", new_text)
        if not found and not re.search(setting, new_text):
            new_text = new_text.rstrip("\n") + f"\n{name}={new_secret()}\n"
    if present and new_text == text and stat.S_IMODE(path.stat().st_mode) == 0o600:
        return False
    _write_env_file(path, new_text)
    return not present or new_text != text


def _write_env_file(path: Path, text: str) -> None:
    """Write `.env` completely or not at all, readable by its owner only from the first byte on. Raises UserError."""
    owner = (path.stat().st_uid, path.stat().st_gid) if path.exists() and os.geteuid() == 0 else None
    try:
        write_atomically(path, text, mode=0o600, owner=owner)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}. It holds the generated passwords: let this account write it."
        ) from error


def _assign(text: str, name: str, value: str) -> str:
    """Return the text of `.env` with another value of a setting: in its place, in that of its comment, else at the end.

    Nothing else in the text changes.
    """
    line = re.compile(rf"(?m)^([ \t]*(?:export[ \t]+)?{name}[ \t]*=)[^\r\n]*")
    new_text, found = line.subn(lambda match: match[1] + value, text)
    if not found:
        comment = re.compile(rf"(?m)^#[ \t]*{name}=[^\r\n]*")
        new_text, found = comment.subn(lambda _: f"{name}={value}", text, count=1)
    return new_text if found else text.rstrip("\n") + f"\n{name}={value}\n"


def _quoted(value: str) -> str:
    """Return a value as python-dotenv reads it back."""
    if re.fullmatch(r"[A-Za-z0-9_./:@,+-]*", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def given_by_environment() -> dict[str, str]:
    """Return the settings that this process's environment has, with their values. Blank ones count as not given."""
    known = {name: name.upper() for name in Settings.model_fields} | FORMER_NAMES
    return {known[name.lower()]: value for name, value in os.environ.items() if value and name.lower() in known}


def differing_from_file() -> dict[str, str]:
    """Return the settings of the environment that `.env` does not hold with the same value."""
    held = dotenv_values(env_file(), interpolate=False)
    return {name: value for name, value in given_by_environment().items() if held.get(name) != value}


def not_given(names: Iterable[str]) -> list[str]:
    """Return which of these settings have a value neither in the environment nor in `.env`."""
    path = env_file()
    held = dotenv_values(path, interpolate=False) if path.exists() else {}
    return [name for name in names if not os.environ.get(name) and not held.get(name)]


def keep_in_env_file(values: Mapping[str, str]) -> None:
    """Write settings into `.env`, so that the next command, in another shell, finds the same platform.

    values: by their names as in `.env`. `load` reads the file again.
    """
    path = env_file()
    text = _read(path)
    for name, value in values.items():
        text = _assign(text, name, _quoted(value))
    _write_env_file(path, text)
    load.cache_clear()


def file_state_directory() -> Path:
    """Return the state directory that `.env` names by itself, whatever the environment says."""
    named = dotenv_values(env_file(), interpolate=False).get("STATE_DIR")
    return from_root(Path(named)) if named else ROOT / ".state"


def set_secret(name: str, value: str) -> None:
    """Give a secret of `.env` another value, and let `load` read it. Nothing else in the file changes.

    name: the setting as in `.env`. Raises UserError when the environment has it, which would win.
    """
    path = env_file()
    if any(name == variable.upper() for variable in os.environ):
        raise UserError(f"{name} is set in the environment, which takes precedence over {path.name}: change it there.")
    _write_env_file(path, _assign(_read(path), name, value))
    load.cache_clear()


@functools.cache
def load(path: Path | None = None) -> Settings:
    """Return the settings of this process. Raises UserError that names every wrong or missing one.

    path: the environment file (default: the one this process reads).
    """
    if secrets_dir := os.environ.get("EDS_SECRETS_DIR"):
        return Settings(_env_file=None, **_secrets_of_container(Path(secrets_dir)))  # type: ignore[arg-type, call-arg]
    path = path or env_file()
    if not path.exists():
        raise UserError(f"{path} does not exist yet: run `make up`, which makes it with generated passwords.")
    lines = _lines_without_effect(_read(path))
    settings = None
    # python-dotenv warns of the same lines, in other words.
    logging.getLogger("dotenv.main").setLevel(logging.ERROR)
    try:
        settings = Settings(_env_file=path)  # type: ignore[call-arg]
    except ValidationError as error:
        lines = [_sentence(problem) for problem in error.errors(include_url=False)] + lines
    if lines or settings is None:
        raise UserError(
            f"Wrong settings in {path.name} or the environment:\n" + "\n".join(f"  {line}" for line in lines) + "\n"
            "Correct them there; .env.example explains each one."
        )
    return settings


def _secrets_of_container(folder: Path) -> dict[str, str]:
    """Return the secrets that a container has as files: those that it needs; the others are blank, and refused."""
    files = {name.lower(): folder / name.lower() for name in Settings.secret_names()}
    return {name: _read(path) if path.exists() else "" for name, path in files.items()}


def _lines_without_effect(text: str) -> list[str]:
    """Return a sentence for each line of `.env` without effect: no setting at all, or nearly the name of one."""
    known = {name.upper() for name in Settings.model_fields}
    known |= set(re.findall(r"(?m)^#?([A-Z][A-Z0-9_]*)=", _read(ENV_EXAMPLE)))
    lines = []
    for binding in parse_stream(io.StringIO(text)):
        name = (binding.key or "").upper()
        if binding.error:
            lines.append(f"line {binding.original.line}: expected NAME=value, or # before a comment")
        elif name and name not in known and (close := difflib.get_close_matches(name, known, 1, TYPO_LIKENESS)):
            lines.append(f"{name}: there is no such setting; did you mean {close[0]}?")
    return lines


def _sentence(problem: Any) -> str:
    """Return what pydantic found wrong, for someone who edits `.env`: the name, what is expected, what is there."""
    name = ".".join(str(part) for part in problem["loc"]).upper()
    own_words = str(problem["msg"]).removeprefix("Value error, ")
    if not name:
        return own_words
    if problem["type"] == "missing":
        return f"{name}: missing; `make up` generates it"
    limits = problem.get("ctx", {})
    if problem["type"] == "value_error":
        message = own_words
    elif name.endswith("_PORT"):
        message = "expected a port, a whole number from 1 to 65535"
    elif name.endswith("_HOST"):
        message = "expected a host name or an address such as 127.0.0.1"
    elif name == "METABASE_ADMIN_EMAIL":
        message = "expected an e-mail address such as admin@enterprise.local"
    elif name == "CURRENCY":
        message = "expected the three letters of a currency, such as KES"
    elif name == "ALERT_WEBHOOK":
        message = "expected an address such as https://hooks.slack.com/services/…"
    elif name.endswith("_DB"):
        message = "expected a database's name: small letters, digits and _, no digit first, 63 at most"
    else:
        message = {
            "int_parsing": "expected a whole number",
            "int_from_float": "expected a whole number",
            "int_parsing_size": "expected a smaller number",
            "float_parsing": "expected a number such as 0.5",
            "bool_parsing": "expected true or false",
            "greater_than": f"expected more than {limits.get('gt')}",
            "greater_than_equal": f"expected {limits.get('ge')} or more",
            "less_than_equal": f"expected {limits.get('le')} at most",
            "literal_error": "expected " + str(limits.get("expected")).replace("'", ""),
        }.get(problem["type"], own_words)
    if name in Settings.secret_names() or name == "ALERT_WEBHOOK":
        return f"{name}: {message}"
    origin = " in the environment" if any(name == variable.upper() for variable in os.environ) else ""
    return f"{name}: {message} (found {problem['input']!r}{origin})"
