"""Which process is whose: process ids are reused, so a number in a file proves nothing by itself."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from eds.base.errors import UserError

SHOWN_COMMAND = 80
DYING_PORT_SECONDS = 1.0
POSTGRES_PROGRAMS = ("postgres", "initdb", "pg_basebackup", "pg_ctl")


def first_number(path: Path) -> int | None:
    """The number that a file (of a process id, of a version) begins with, or None."""
    try:
        return int(path.read_text(encoding="utf-8", errors="replace").split(maxsplit=1)[0])
    except (FileNotFoundError, NotADirectoryError, ValueError, IndexError):
        return None


def find(pid: int | None, is_ours: Callable[[psutil.Process], bool]) -> psutil.Process | None:
    """The live process of this id when `is_ours` says yes; what may not be looked at belongs to somebody else."""
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE and is_ours(process):
            return process
    except (psutil.Error, OSError):
        pass
    return None


def works_in(process: psutil.Process, directory: Path) -> bool:
    """Whether a process's working directory is this one (also when either was renamed since)."""
    return Path(process.cwd()).samefile(directory)


def is_postmaster(process: psutil.Process, data: Path) -> bool:
    """Whether a process is the PostgreSQL server of a data directory.

    A server works in its data directory, and keeps its own arguments; its children replace theirs by a title.
    """
    command = process.cmdline()
    return bool(command) and Path(command[0]).name == "postgres" and "-D" in command and works_in(process, data)


def busy_with(directory: Path) -> list[psutil.Process]:
    """PostgreSQL's processes that work in a directory or below, or name it in their arguments.

    Others (a shell that stands there, an editor) are none of our business.
    """
    place = str(directory)
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() in POSTGRES_PROGRAMS and (
                f"{process.cwd()}{os.sep}".startswith(place + os.sep)
                or any(part.rpartition("=")[2] == place for part in process.cmdline())
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def end_all_busy_with(directory: Path, patience: float = 0.0) -> None:
    """End what a killed command has left at work in a directory. patience: seconds to let it end by itself first."""
    deadline = time.monotonic() + patience
    while (left := busy_with(directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(20):
        if not left:
            return
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        for process in left:
            wait_gone(process, 1)
        # A parent may have started another one meanwhile.
        left = busy_with(directory)
    raise UserError(
        f"These processes are still at work in {directory} and cannot be ended: "
        f"{', '.join(describe(process) for process in left)}. End them, then try again."
    )


def wait_gone(process: psutil.Process, seconds: float) -> bool:
    """Wait until a process has ended (its parent may take its time to notice). Returns whether it has."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def describe(process: psutil.Process) -> str:
    """'COMMAND (pid N)', shortened."""
    try:
        command = " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        command = "a process"
    if len(command) > SHOWN_COMMAND:
        command = command[: SHOWN_COMMAND - 1] + "…"
    return f"{command} (pid {process.pid})"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on now, for a throw-away cluster.

    Below the range that the system gives to outgoing connections: one of those could have a port when its server is
    started again. Raises UserError when there are not so many.
    """
    ports: list[int] = []
    for port in random.sample(range(20000, 32000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise UserError(f"There are no {count} free ports between 20000 and 32000 on this machine.")


def why_not_listen(host: str, port: int) -> str | None:
    """Why no server can listen at this address now, as the end of a sentence; None when one can.

    port: 0 asks for the host alone.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{host} is no address of this machine ({error.strerror or error})"
    for family, kind, protocol, _, address in addresses:
        with socket.socket(family, kind, protocol) as probe:
            # A port whose last connections are still winding down is free for a server.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                _bind(probe, address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return f"taken by {_listener(port) or 'another process'}"
                if error.errno == errno.EADDRNOTAVAIL:
                    return f"{host} is no address of this machine"
                return f"this account may not listen there ({error.strerror})"
    lowest = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if port and lowest.exists() and port < int(lowest.read_text(encoding="ascii")):
        return "only root may listen there, and servers do not run as root"
    return None


def _bind(probe: socket.socket, address: Any) -> None:
    """Bind a socket; a port that is taken is tried again for a moment.

    A server that was killed just now still listens for some milliseconds after its process is gone. Who has the port
    does not tell the two apart: the answer changes while it is looked up.
    """
    for attempt in Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, OSError) and error.errno == errno.EADDRINUSE),
        stop=stop_after_delay(DYING_PORT_SECONDS),
        wait=wait_fixed(0.05),
        reraise=True,
    ):
        with attempt:
            probe.bind(address)


def _listener(port: int) -> str | None:
    """The process that has a port, as far as this machine tells; None when none is found."""
    try:
        holders = [at for at in psutil.net_connections("tcp") if at.laddr and at.laddr.port == port and at.pid]
        for holder in sorted(holders, key=lambda at: at.status != psutil.CONN_LISTEN):
            connection = "" if holder.status == psutil.CONN_LISTEN else "a connection of "
            return connection + describe(psutil.Process(holder.pid))
    except (psutil.Error, OSError):
        pass
    if owner := _owner_of_listener(port):
        return f"a process of user {owner}"
    return None


def _owner_of_listener(port: int) -> str | None:
    """The account whose process listens on a port: Linux tells it also of other accounts' processes."""
    listening = "0A"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rsplit(":", 1)[1], 16) == port and fields[3] == listening:
                try:
                    return pwd.getpwuid(int(fields[7])).pw_name
                except KeyError:
                    return fields[7]
    return None
