"""The Docker engine of this machine: whether it can run the platform, and questions to it."""

from __future__ import annotations

import re
import shutil

from eds.base import programs

# The first engine with `start_interval`, and the oldest Compose that was tested.
OLDEST_ENGINE = (25, 0)
OLDEST_COMPOSE = (2, 24)
ASK_SECONDS = 20


def ask(*arguments: str) -> tuple[int, str]:
    """Ask the engine something short. Returns the exit code and the answer."""
    found = programs.run(["docker", *arguments], check=False, merge=True, timeout=ASK_SECONDS)
    return found.code, (found.output or found.errors).strip()


def docker(*arguments: str) -> str:
    """Run a command of Docker that may take long. Returns its output; raises UserError when it fails."""
    return programs.run(["docker", *arguments], what=f"`docker {arguments[0]}`").output


def is_running(container: str) -> bool:
    """Return whether a container runs."""
    return ask("inspect", "--format", "{{.State.Running}}", container) == (0, "true")


def exists(kind: str, name: str) -> bool:
    """Return whether there is a container, a volume or an image of this name."""
    return ask(kind, "inspect", "--format", "{{.Name}}" if kind != "image" else "{{.Id}}", name)[0] == 0


def why_not_docker() -> str | None:
    """Return why this machine cannot run the platform in containers, as the end of a sentence, or None."""
    if shutil.which("docker") is None:
        return "there is no docker command on the PATH"
    code, answer = ask("version", "--format", "{{.Server.Version}}")
    if code != 0:
        return f"no Docker engine answers ({answer.splitlines()[-1] if answer else 'no reason given'})"
    if _version(answer) < OLDEST_ENGINE:
        return f"Docker Engine {_text(OLDEST_ENGINE)} or later is needed, and {answer} is there"
    code, answer = ask("compose", "version", "--short")
    if code != 0:
        return "Docker Compose v2 (the command `docker compose`) is not there"
    if _version(answer) < OLDEST_COMPOSE:
        return f"Docker Compose {_text(OLDEST_COMPOSE)} or later is needed, and {answer} is there"
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
