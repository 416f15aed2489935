"""What certificate a server shows."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import cast


def shown(host: str, port: int, ca_file: Path) -> tuple[int, set[str]]:
    """Return the serial number of the certificate that a PostgreSQL server or PgBouncer shows, and the names in it.

    Fails when it is not of this CA, or not for this host.
    """
    context = ssl.create_default_context(cafile=str(ca_file))
    with socket.create_connection((host, port), 5) as plain:
        # PostgreSQL's request for TLS.
        plain.sendall(bytes.fromhex("0000000804d2162f"))
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname=host) as secured:
            found = secured.getpeercert()
    assert found is not None
    names = cast("tuple[tuple[str, str], ...]", found["subjectAltName"])
    return int(str(found["serialNumber"]), 16), {name for _, name in names}
