"""Ports of this machine: which are free, who has one, and whether a server could listen at an address."""

from __future__ import annotations

import contextlib
import errno
import pwd
import random
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import psutil
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from eds.base.errors import UserError

SHOWN_COMMAND = 80
DYING_PORT_SECONDS = 1.0


def check_addresses(places: Mapping[str, tuple[str, int]], ours: Collection[int | None]) -> None:
    """Raise UserError that names every address where nothing can listen, and the setting that moves it.

    places: host and port of each service. ours: the ports that the platform's own running services have.
    """
    found = []
    for name, (host, port) in places.items():
        # Of a port that the platform already uses, only the host is checked.
        if why := bind_error(host, 0 if port in ours else port):
            found.append(f"  {name.upper()}_PORT={port} ({name}): {why}")
    if found:
        raise UserError(
            "These addresses cannot be used:\n" + "\n".join(found) + "\n"
            "Stop what is there, or set others in .env or the environment, and try again. Nothing was started."
        )


def describe(process: psutil.Process) -> str:
    """'COMMAND (pid N)', shortened."""
    try:
        # A program that is given on a command line has several lines.
        command = " ".join(" ".join(process.cmdline()).split()) or process.name()
    except psutil.Error:
        command = "a process"
    if len(command) > SHOWN_COMMAND:
        command = command[: SHOWN_COMMAND - 1] + "…"
    return f"{command} (pid {process.pid})"


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing listens on now, for a throw-away cluster.

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


def bind_error(host: str, port: int) -> str | None:
    """Return why no server can listen at this address now, as the end of a sentence; None when one can.

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
                    return f"taken by {_listener(port) or 'another process'}{_hint_of_outgoing(port)}"
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
    """Return the process that has a port, as far as this machine tells; None when none is found."""
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


def _hint_of_outgoing(port: int) -> str:
    """Return what to do about a port that an outgoing connection was given for a while; "" when it is none of those."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not given.exists() or _owner_of_listener(port):
        return ""
    lowest, highest = map(int, given.read_text(encoding="ascii").split())
    if not lowest <= port <= highest:
        return ""
    these = f"the system gives ports {lowest} to {highest} to outgoing connections"
    return f", for a connection: {these}; try again, or choose a port below {lowest}"


def _owner_of_listener(port: int) -> str | None:
    """Return the account whose process listens on a port; Linux shows it also of other accounts' processes."""
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
