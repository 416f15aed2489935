"""The platform's settings: read once, from the environment and from `.env`; the environment wins."""

from __future__ import annotations

import functools
import os
import re
import secrets
import stat
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from cronsim import CronSim, CronSimError
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from eds.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ENV_FILE = ROOT / ".env"
ENV_EXAMPLE = ROOT / ".env.example"


def _blank_is_none(value: object) -> object:
    return None if value == "" else value


Port = Annotated[int, Field(ge=1, le=65535)]
OptionalPath = Annotated[Path | None, BeforeValidator(_blank_is_none)]
OptionalText = Annotated[str | None, BeforeValidator(_blank_is_none)]


class Settings(BaseSettings):
    """Every setting, with its default. `.env.example` explains them; names here are the variables in lower case."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=False)

    runtime: Annotated[Literal["docker", "local"] | None, BeforeValidator(_blank_is_none)] = None

    # Where each service listens.
    primary_host: str = "127.0.0.1"
    primary_port: Port = 5432
    replica1_host: str = "127.0.0.1"
    replica1_port: Port = 5433
    replica2_host: str = "127.0.0.1"
    replica2_port: Port = 5434
    warehouse_host: str = "127.0.0.1"
    warehouse_port: Port = 5435
    pgbouncer_host: str = "127.0.0.1"
    pgbouncer_port: Port = 6432
    metabase_port: Port = 3000
    pgadmin_port: Port = 5050
    docs_port: Port = 8080

    oltp_db: str = "loans_db"
    warehouse_db: str = "warehouse_db"

    # The embedded runtime.
    state_dir: OptionalPath = None
    pg_bindir: OptionalPath = None
    pg_os_user: OptionalText = None
    pg_durable: bool = True

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

    max_slot_wal_keep_size: str = "2GB"
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

    @field_validator("etl_schedule", "etl_reconcile_schedule")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        import datetime

        try:
            CronSim(value, datetime.datetime.now(datetime.UTC))
        except CronSimError as error:
            raise ValueError(f"expected five cron fields such as '*/15 * * * *' ({error})") from error
        return value

    @field_validator("max_slot_wal_keep_size", "oltp_memory", "warehouse_memory")
    @classmethod
    def _is_size(cls, value: str) -> str:
        if not re.fullmatch(r"\d+(kB|MB|GB)", value):
            raise ValueError("expected a size such as 256MB or 2GB")
        return value

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        seen: dict[tuple[str, int], str] = {}
        for name in (
            "primary",
            "replica1",
            "replica2",
            "warehouse",
            "pgbouncer",
        ):
            place = (getattr(self, f"{name}_host"), getattr(self, f"{name}_port"))
            if place in seen:
                raise ValueError(f"{name.upper()}_PORT and {seen[place].upper()}_PORT are both {place[1]}")
            seen[place] = name
        return self

    @property
    def state(self) -> Path:
        """The directory of everything this checkout keeps outside of git: data, logs, process ids."""
        return (self.state_dir or ROOT / ".state").absolute()

    @classmethod
    def secret_names(cls) -> list[str]:
        """The names, as in `.env`, of the settings that are secrets."""
        return [name.upper() for name, field in cls.model_fields.items() if field.annotation is SecretStr]


def ensure_env_file(path: Path = ENV_FILE, example: Path = ENV_EXAMPLE) -> bool:
    """Make `.env` from `.env.example` with fresh secrets, or add secrets that a newer version asks for.

    Existing values are never changed. Returns whether the file was written. The file's mode is 600.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else example.read_text(encoding="utf-8")
    new_text = text
    for name in Settings.secret_names():
        value = secrets.token_urlsafe(24)
        new_text, found = re.subn(rf"(?m)^{name}=[ \t]*$", f"{name}={value}", new_text)
        if not found and not re.search(rf"(?m)^{name}=", new_text):
            new_text = new_text.rstrip("\n") + f"\n{name}={value}\n"
    if path.exists() and new_text == text:
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            path.chmod(0o600)
        return False
    # Written whole or not at all; mkstemp makes it readable by its owner only, from the first byte.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".env.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(new_text)
    Path(temporary).replace(path)
    return True


@functools.cache
def load() -> Settings:
    """The settings of this process. Raises UserError that names every wrong or missing one."""
    env_file = Path(os.environ.get("EDS_ENV_FILE") or ENV_FILE)
    if not env_file.exists():
        raise UserError(f"{env_file} does not exist yet: run `make up`, which makes it with generated passwords.")
    try:
        return Settings(_env_file=env_file)  # type: ignore[call-arg]
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            name = ".".join(str(part) for part in problem["loc"]).upper()
            found = "" if name in Settings.secret_names() or not name else f" (found {problem['input']!r})"
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"  {name + ': ' if name else ''}{message}{found}")
        raise UserError(
            f"Wrong settings in {env_file.name} or the environment:\n" + "\n".join(lines) + "\n"
            "Correct them there; .env.example explains each one."
        ) from error
