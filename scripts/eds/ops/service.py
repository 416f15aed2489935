"""`make service`: the platform starts when the machine does, and `make service REMOVE=1` takes that back.

A systemd unit of this account where systemd manages its services; a line of its crontab where not.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from eds.base import programs
from eds.base.console import out
from eds.base.errors import UserError
from eds.base.settings import ROOT, Settings, env_file, load

app = typer.Typer()

# The longest that systemd gives `make up` and `make down`.
UNIT_START_SECONDS = 1800
UNIT_STOP_SECONDS = 180


def unit_name() -> str:
    """Return the unit's name: each checkout has one of its own."""
    return f"loan-platform-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}.service"


def unit_path() -> Path:
    """Return where systemd looks for units of this account."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "systemd/user" / unit_name()


def _environment() -> dict[str, str]:
    """Return what a shell has and a service has not: where programs are, and which file the settings are in."""
    named = {"EDS_ENV_FILE": str(env_file())} if os.environ.get("EDS_ENV_FILE") else {}
    return {"PATH": os.environ.get("PATH", os.defpath)} | named


def unit() -> str:
    """Return the unit. It starts and stops the platform; the servers run on by themselves."""

    def quoted(text: str) -> str:
        # For systemd: % begins a specifier, $ a variable.
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") + '"'

    command = f"{quoted(str(ROOT / '.venv/bin/python'))} -m eds"
    environment = "\n".join(f"Environment={quoted(f'{name}={value}')}" for name, value in _environment().items())
    return (
        "# Written by `make service`; `make service REMOVE=1` removes it.\n"
        "[Unit]\n"
        f"Description=Loan platform in {str(ROOT).replace('%', '%%')}\n"
        "\n"
        "[Service]\n"
        "Type=oneshot\n"
        "RemainAfterExit=yes\n"
        f"WorkingDirectory={str(ROOT).replace('%', '%%')}\n"
        f"{environment}\n"
        f"ExecStart={command} up\n"
        f"ExecStop={command} down\n"
        f"TimeoutStartSec={UNIT_START_SECONDS}\n"
        f"TimeoutStopSec={UNIT_STOP_SECONDS}\n"
        "\n"
        "[Install]\n"
        "WantedBy=default.target\n"
    )


def cron_line(settings: Settings) -> str:
    """Return the line of a crontab that starts the platform at boot."""
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in _environment().items())
    command = f"cd {shlex.quote(str(ROOT))} && {words} .venv/bin/python -m eds up"
    log = shlex.quote(str(settings.state / "boot.log"))
    # A % would end the command there.
    return f"@reboot {command} >>{log} 2>&1".replace("%", r"\%") + f" # {unit_name()}"


def _systemctl(*arguments: str) -> programs.Finished:
    return programs.run(["systemctl", "--user", *arguments], check=False)


def _systemd_answers() -> bool:
    return bool(shutil.which("systemctl")) and _systemctl("show-environment").ok


def _lingers(account: str) -> bool:
    """Let the account's services start at boot, without a log-in. Returns whether they do."""
    shown = programs.run(["loginctl", "show-user", account, "--property=Linger", "--value"], check=False)
    if shown.ok and shown.output.strip() == "yes":
        return True
    return programs.run(["loginctl", "enable-linger", account], check=False).ok


def _crontab() -> list[str]:
    shown = programs.run(["crontab", "-l"], check=False)
    # No crontab yet is no error.
    return shown.output.splitlines() if shown.ok else []


def _set_crontab(lines: Sequence[str]) -> None:
    programs.run(["crontab", "-"], what="crontab", stdin="".join(f"{line}\n" for line in lines))


def install(settings: Settings) -> str:
    """Let the platform start at boot. Safe to repeat. Returns what was done, for a person."""
    if _systemd_answers():
        path = unit_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit(), encoding="utf-8")
        # systemd stops only what it has started: without the last one, the next shutdown would not be a clean one.
        for command in (("daemon-reload",), ("enable", unit_name()), ("start", "--no-block", unit_name())):
            done = _systemctl(*command)
            if not done.ok:
                path.unlink()
                raise programs.failure(f"systemctl --user {' '.join(command)}", done.code, done.tail)
        report = f"installed {path}: the platform starts with this account's services, and now where it is stopped"
        account = getpass.getuser()
        if not _lingers(account):
            report += f"\nTo start them at boot, and not only at log-in: sudo loginctl enable-linger {account}"
        return report
    if shutil.which("crontab"):
        _set_crontab([*(line for line in _crontab() if unit_name() not in line), cron_line(settings)])
        return (
            "there is no systemd for this account: its crontab starts the platform at boot "
            f"(log: {settings.state / 'boot.log'})"
        )
    raise UserError(
        "Neither systemd nor cron serves this account: `systemctl --user` does not answer, and there is no crontab. "
        f"Let whatever starts services on this machine run `make up` in {ROOT}."
    )


def remove() -> list[str]:
    """Take back what `install` did, by either way. The platform keeps running. Returns what was removed."""
    removed = []
    path = unit_path()
    if path.exists():
        if _systemd_answers():
            _systemctl("disable", unit_name())
        path.unlink()
        if _systemd_answers():
            _systemctl("daemon-reload")
        removed.append(str(path))
    if shutil.which("crontab"):
        lines = _crontab()
        kept = [line for line in lines if unit_name() not in line]
        if kept != lines:
            _set_crontab(kept)
            removed.append("the line of the crontab")
    return removed


@app.command(name="service")
def service_command(
    take_back: Annotated[bool, typer.Option("--remove", help="Do not start it at boot any more.")] = False,
) -> None:
    """Let the platform start when the machine does: a systemd user unit, or cron where there is none."""
    settings = load()
    if not take_back:
        out.print(install(settings), markup=False, soft_wrap=True)
        return
    removed = remove()
    out.print(f"removed: {', '.join(removed)}" if removed else "nothing to remove", markup=False, soft_wrap=True)
