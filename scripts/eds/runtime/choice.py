"""Which runtime a checkout has: containers by Docker Compose, or embedded servers. All else asks a `Runtime`."""

from __future__ import annotations

from eds.base.services import compose_note, embedded_note, runs_in_docker
from eds.base.settings import Settings
from eds.runtime.docker.engine import why_not_docker
from eds.runtime.docker.runtime import ComposeRuntime
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.member import Runtime


def select_runtime(settings: Settings) -> tuple[Runtime, str]:
    """Return the runtime of this checkout, and why it is this one.

    RUNTIME decides. Without it, a checkout stays with the runtime that has its data; a new one takes Docker when an
    engine answers, else the embedded servers.
    """
    if settings.runtime == "docker":
        return ComposeRuntime(settings), "RUNTIME says so"
    if settings.runtime == "local":
        return LocalRuntime(settings), "RUNTIME says so"
    if runs_in_docker(settings):
        return ComposeRuntime(settings), "this checkout's data is there"
    if embedded_note(settings).exists():
        return LocalRuntime(settings), "this checkout's data is there"
    if why := why_not_docker():
        return LocalRuntime(settings), why
    return ComposeRuntime(settings), "a Docker engine answers"


def has_data(settings: Settings) -> bool:
    """Return whether either runtime has data of this checkout, which needs the passwords of `.env`."""
    return embedded_note(settings).exists() or compose_note(settings).exists()
