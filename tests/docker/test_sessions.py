"""TLS=on: who connects encrypts and compares the server's name; certificates change while everything runs."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from eds.cluster import tls
from support import certificates

from .conftest import DATABASES, Stack, docker, until

# Who uses which server from elsewhere, beside this machine's commands.
USERS = {
    "primary": {"replicator", "app_user", "etl_reader"},
    "warehouse": {"etl_writer"},
}


def addresses(stack: Stack) -> dict[str, tuple[str, int]]:
    """Return where each server that has a certificate listens."""
    found = {name: (server.host, server.port) for name, server in stack.servers.items()}
    return found | {"pgbouncer": ("127.0.0.1", stack.settings.pgbouncer_port)}


def shown(stack: Stack) -> dict[str, int]:
    """Return the serial number of each server's certificate. Fails when one is not to be believed."""
    ca = stack.settings.ca_file
    return {name: certificates.shown(*place, ca)[0] for name, place in addresses(stack).items()}


def sessions(stack: Stack, server: str) -> dict[str, set[bool]]:
    """Return who is connected to a server, and whether all of that is encrypted."""
    found: dict[str, set[bool]] = {}
    for user, encrypted in stack.query(
        server,
        "select usename, ssl from pg_stat_ssl inner join pg_stat_activity using (pid) where client_addr is not null",
    ):
        found.setdefault(user, set()).add(encrypted)
    return found


def test_who_connects_encrypts(stack: Stack) -> None:
    cluster = stack.runtime.cluster
    with (
        psycopg.connect(cluster.pooled_conninfo(), prepare_threshold=None) as pooled,
        psycopg.connect(cluster.writer_conninfo()) as writer,
    ):
        # The pool, and the warehouse's foreign tables; the others are there anyhow.
        pooled.execute("select 1")
        writer.execute("select count(*) from operational_fdw.server_figures")
        for name in DATABASES:
            found = sessions(stack, name)
            assert set(found) >= USERS.get(name, set()), (name, found)
            assert {user for user, encrypted in found.items() if encrypted != {True}} == set(), name
    # Metabase and pgAdmin may have none at this moment; how they connect is their definition.
    environment = {
        name: stack.runtime.compose.config["services"][name]["environment"] for name in ("metabase", "pgadmin")
    }
    uri = environment["metabase"]["MB_DB_CONNECTION_URI"]
    assert uri.endswith("/metabase_db?sslmode=verify-full&sslrootcert=/run/tls/ca.crt")
    assert environment["pgadmin"]["PGSSLROOTCERT"] == "/run/tls/ca.crt"
    servers = (stack.runtime.files.folder / "pgadmin" / "servers.json").read_text(encoding="utf-8")
    assert servers.count('"SSLMode": "verify-full"') == 8


@pytest.mark.parametrize("name", [*DATABASES, "pgbouncer"])
def test_who_does_not_encrypt_is_refused(stack: Stack, name: str) -> None:
    pooled = stack.runtime.cluster.pooled_conninfo()
    conninfo = pooled if name == "pgbouncer" else stack.servers[name].superuser_conninfo("postgres")
    with pytest.raises(psycopg.OperationalError, match=r"no encryption|SSL required"):
        psycopg.connect(make_conninfo(conninfo, sslmode="disable"))


@pytest.mark.parametrize("client", ["replica1", "warehouse", "pgbouncer"])
def test_a_server_that_shows_anothers_certificate_is_not_believed(stack: Stack, client: str) -> None:
    """Under a name that leads to the primary, and that its certificate does not have."""
    address = stack.exec(client, "getent", "hosts", "primary").split()[0]
    for host, trusted in (("primary", True), ("replica2", False)):
        answer = stack.exec(
            client, "pg_isready", "--timeout=3", "--dbname", f"host={host} hostaddr={address} port=5432", check=False
        )
        assert ("accepting connections" in answer) is trusted, (host, answer)


def test_a_key_is_its_servers_alone(stack: Stack) -> None:
    for name in DATABASES:
        assert stack.exec(name, "stat", "--format", "%a %U", f"/tmp/tls/{name}.key") == "400 postgres"
        assert set(stack.exec(name, "ls", "/run/tls").split()) == {"ca.crt", f"{name}.crt", f"{name}.key"}
    for name in ("scheduler", "pgadmin"):
        assert stack.exec(name, "ls", "/run/tls") == "ca.crt"
    # On this machine, nobody else gets to them, nor to the key of the CA.
    assert (stack.runtime.files.folder / "tls").stat().st_mode & 0o777 == 0o700
    assert (stack.settings.ca_file.parent / "ca.key").stat().st_mode & 0o777 == 0o600
    names = certificates.shown(*addresses(stack)["warehouse"], stack.settings.ca_file)[1]
    assert {"warehouse", "warehouse-db", "127.0.0.1"} <= names


def test_certificates_are_renewed_while_sessions_stay(stack: Stack) -> None:
    """Those of the servers, then the CA as well: an open session notices nothing, a new one believes either CA."""
    runtime = stack.runtime

    def containers() -> dict[str, tuple[str, str]]:
        found = {name: stack.inspect(name) for name in runtime.services}
        return {name: (one["Id"], one["State"]["StartedAt"]) for name, one in found.items()}

    unchanged = containers()
    authority = tls.first_of(stack.settings.ca_file.read_text(encoding="utf-8"))
    with psycopg.connect(runtime.cluster.pooled_conninfo(), prepare_threshold=None, autocommit=True) as session:
        for arguments in ((), ("--ca",)):
            before = shown(stack)
            assert "primary, replica1, replica2, warehouse, pgbouncer have new certificates" in stack.eds(
                "rotate-certificates", *arguments
            )
            until(
                lambda before=before: not set(before.values()) & set(shown(stack).values()),
                20,
                "each shows another one",
            )
            assert session.execute("select 1").fetchone() == (1,)
    assert tls.first_of(stack.settings.ca_file.read_text(encoding="utf-8")) != authority
    # Who connects again believes the new CA's: the replicas, the pool, the extraction, health checks, Metabase.
    others = "client_addr is not null and pid <> pg_backend_pid()"
    for name in DATABASES:
        stack.query(name, f"select pg_terminate_backend(pid) from pg_stat_activity where {others}")
    streaming = "select count(*) from pg_stat_replication where state = 'streaming'"
    until(lambda: stack.value("primary", streaming) == 2, 30, "both replicas stream again")
    stack.assert_warehouse_equals_book()
    # A start, by whomever, finds them, and the next `make up` has nothing to do.
    docker("restart", stack.container("replica2"))
    stack.wait_healthy()
    present = shown(stack)
    stack.up()
    assert shown(stack) == present
    assert {name: one[0] for name, one in containers().items()} == {name: one[0] for name, one in unchanged.items()}
