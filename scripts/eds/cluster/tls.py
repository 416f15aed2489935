"""TLS between the platform's servers and their clients: a small CA of its own, and a certificate for each server.

The CA's key stays with the account that runs the platform (state directory, `tls`). A server's key belongs to the
servers' account, or is mounted for its container alone. Clients trust this CA alone and compare the host's name
(verify-full); servers accept no session without TLS.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from eds.base import programs
from eds.base.errors import UserError
from eds.base.files import write_atomically
from eds.base.settings import Settings

CA_DAYS = 3650
SERVER_DAYS = 397
# A start renews a certificate that expires within this time.
RENEW_DAYS = 30
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def client_environment(settings: Settings) -> dict[str, str]:
    """Return what lets libpq, in whatever program, speak to the servers: empty without TLS."""
    if not settings.uses_tls:
        return {}
    return {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(settings.ca_file)}


def _openssl(*arguments: str | Path) -> str:
    if shutil.which("openssl") is None:
        raise UserError(
            "TLS is on, and there is no openssl to make certificates with: install it (Debian: apt-get install "
            "openssl), or set TLS=off in .env."
        )
    return programs.run(["openssl", *arguments], what="openssl").output


@contextmanager
def _work() -> Iterator[Path]:
    """Yield a directory for this account alone, to make keys in."""
    with tempfile.TemporaryDirectory(prefix="tls-") as place:
        yield Path(place)


def _folder(settings: Settings) -> Path:
    return settings.state / "tls"


def ensure_ca(settings: Settings, *, renew: bool = False) -> bool:
    """Make the CA unless it is there. Returns whether it was made.

    renew: make another one; the former is trusted beside it.
    """
    if settings.tls_ca_file:
        raise UserError("TLS_CA_FILE is for clients on other machines. Where the servers run, remove it from .env.")
    folder = _folder(settings)
    key, certificate = folder / "ca.key", settings.ca_file
    if key.exists() and certificate.exists() and not renew and not _ends_soon(certificate):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    with _work() as work:
        _openssl(
            *("req", "-x509", *_KEY, "-keyout", work / "key", "-out", work / "crt", "-days", str(CA_DAYS)),
            *("-subj", f"/CN=enterprise data platform CA {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"),
            *("-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
        former = first_of(certificate.read_text(encoding="utf-8")) if certificate.exists() else ""
        # Certificates of the former CA are valid until each server has one of the new.
        write_atomically(certificate, (work / "crt").read_text(encoding="utf-8") + former, mode=0o644)
        write_atomically(key, (work / "key").read_text(encoding="utf-8"), mode=0o600)
    return True


def first_of(text: str) -> str:
    """Return the first certificate of a file that has several."""
    end = "-----END CERTIFICATE-----\n"
    return text.partition(end)[0] + end if end in text else ""


def _ends_soon(certificate: Path) -> bool:
    answer = _openssl("x509", "-in", certificate, "-noout", "-enddate").strip().removeprefix("notAfter=")
    return ssl.cert_time_to_seconds(answer) < time.time() + RENEW_DAYS * 86400


def names_of(*hosts: str) -> list[str]:
    """Return under which names a server on this machine is reached, with their kinds: its own, and the loopback's."""
    own = []
    for host in hosts:
        try:
            own.append(f"IP:{ipaddress.ip_address(host)}")
        except ValueError:
            own.append(f"DNS:{host}")
    return list(dict.fromkeys([*own, "DNS:localhost", "IP:127.0.0.1", "IP:::1"]))


def ensure_certificate(
    settings: Settings, certificate: Path, *hosts: str, write: Callable[[Path, str, int], object], renew: bool = False
) -> None:
    """Give a server that these hosts lead to its certificate, with key and CA beside it, unless it has a current one.

    write: puts a text into a file of the server's account, with these permissions.
    """
    ensure_ca(settings)
    write(certificate.with_name("ca.crt"), settings.ca_file.read_text(encoding="utf-8"), 0o640)
    key = certificate.with_suffix(".key")
    if renew or not key.exists() or not certificate_is_current(settings, certificate, *hosts):
        text, secret = issue(settings, *hosts)
        write(key, secret, 0o600)
        write(certificate, text, 0o640)


def certificate_is_current(settings: Settings, certificate: Path, *hosts: str) -> bool:
    """Return whether a server's certificate is there, of the present CA, for these hosts, and valid for a while."""
    if not certificate.exists():
        return False
    with _work() as work:
        (work / "ca").write_text(first_of(settings.ca_file.read_text(encoding="utf-8")), encoding="utf-8")
        signed = programs.run(["openssl", "verify", "-CAfile", work / "ca", certificate], check=False).ok
    if not signed or _ends_soon(certificate):
        return False
    found = _openssl("x509", "-in", certificate, "-noout", "-ext", "subjectAltName").splitlines()[-1]
    return _normal(found.split(", ")) == _normal(names_of(*hosts))


def _normal(names: Iterable[str]) -> set[str]:
    """Return names as they can be compared: openssl writes `IP Address:127.0.0.1`, and ::1 at length."""
    result = set()
    for name in (name.replace("IP Address:", "IP:") for name in names):
        kind, _, value = name.strip().partition(":")
        result.add(f"{kind}:{ipaddress.ip_address(value) if kind == 'IP' else value}")
    return result


def issue(settings: Settings, *hosts: str) -> tuple[str, str]:
    """Return a new certificate for a server that these hosts lead to, and its key."""
    folder = _folder(settings)
    with _work() as work:
        (work / "ca").write_text(first_of(settings.ca_file.read_text(encoding="utf-8")), encoding="utf-8")
        # One line for each name: a name may have a comma.
        names = [
            f"{kind}.{number}={name}\n"
            for number, (kind, _, name) in enumerate(each.partition(":") for each in names_of(*hosts))
        ]
        (work / "extensions").write_text(
            "subjectAltName=@names\nbasicConstraints=critical,CA:FALSE\n"
            f"keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n[names]\n{''.join(names)}",
            encoding="utf-8",
        )
        _openssl("req", "-new", *_KEY, "-keyout", work / "key", "-out", work / "csr", "-subj", f"/CN={hosts[0]}")
        _openssl(
            *("x509", "-req", "-in", work / "csr", "-CA", work / "ca", "-CAkey", folder / "ca.key"),
            *("-set_serial", f"0x{os.urandom(16).hex()}", "-days", str(SERVER_DAYS)),
            *("-extfile", work / "extensions", "-out", work / "crt"),
        )
        return (work / "crt").read_text(encoding="utf-8"), (work / "key").read_text(encoding="utf-8")
