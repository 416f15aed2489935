"""TLS=on: every session is encrypted and knows whom it speaks to; certificates change without a restart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from eds.cluster import tls
from eds.cluster.queries import fetch_all, wait_for
from eds.ops import backup, restore, verify
from eds.runtime.local.runtime import LocalRuntime
from support import certificates
from support.platform import Platform, separate_servers, separate_settings

pytestmark = pytest.mark.disaster


@pytest.fixture(scope="module")
def encrypted() -> Iterator[Platform]:
    """Yield a platform of its own, up with TLS=on."""
    with (
        separate_settings("tls-", runtime="local", tls="on", oltp_memory="48MB", warehouse_memory="128MB") as settings,
        separate_servers(settings) as runtime,
    ):
        yield Platform(runtime)


def serial(runtime: LocalRuntime, name: str) -> int:
    """Return the serial number of the certificate that a server shows."""
    server = runtime.cluster.servers[name]
    return certificates.shown(server.host, server.port, runtime.settings.ca_file)[0]


def test_every_session_is_encrypted_from_the_replicas_to_the_foreign_tables(encrypted):
    run = verify.verify(encrypted.runtime, lambda result: None)
    found = {result.name: result.status for result in run.results}
    assert found["every session is encrypted"] == "PASS"
    encrypted.build()
    # dbt, the warehouse's extraction, the replicas and the pool, as the servers see them.
    seen = set()
    for server in encrypted.cluster.servers.values():
        query = (
            "select usename, ssl, version from pg_stat_ssl inner join pg_stat_activity using (pid) "
            "where client_addr is not null"
        )
        for user, secured, version in fetch_all(server, query, database="postgres"):
            assert secured, (server.name, user)
            assert version in ("TLSv1.2", "TLSv1.3")
            seen.add(user)
    assert "replicator" in seen
    assert encrypted.warehouse("select count(*) > 0 from audit.etl_runs where status = 'success'") == [(True,)]


@pytest.mark.parametrize("mode", ["disable", "allow"])
def test_a_session_without_tls_is_refused(encrypted, mode):
    for server in encrypted.cluster.servers.values():
        conninfo = make_conninfo(server.superuser_conninfo("postgres"), sslmode=mode)
        if mode == "allow":
            with psycopg.connect(conninfo) as connection:
                assert connection.pgconn.ssl_in_use
        else:
            with pytest.raises(psycopg.OperationalError, match="no encryption"):
                psycopg.connect(conninfo)
    pooled = make_conninfo(encrypted.cluster.pooled_conninfo(), sslmode=mode)
    if mode == "disable":
        with pytest.raises(psycopg.OperationalError, match="SSL required"):
            psycopg.connect(pooled)


def test_a_server_with_anothers_certificate_is_not_believed(encrypted, tmp_path):
    """The certificate is of another CA, or of another host."""
    other = encrypted.settings.model_copy(update={"state_dir": tmp_path})
    tls.ensure_ca(other)
    server = encrypted.cluster.primary
    for options in ({"sslrootcert": str(other.ca_file)}, {"host": "elsewhere.example", "hostaddr": "127.0.0.1"}):
        with pytest.raises(psycopg.OperationalError, match="certificate"):
            psycopg.connect(make_conninfo(server.superuser_conninfo("postgres"), **options))


def test_dump_restore_and_psql_go_by_tls(encrypted):
    made = backup.dump(encrypted.cluster, "operational", "sql")
    restore.load_dump(encrypted.settings, made, encrypted.cluster.primary, "loans_db_restore_tls")
    fetch_all(encrypted.cluster.primary, "drop database loans_db_restore_tls", database="postgres")
    server = encrypted.cluster.primary
    command, environment = encrypted.runtime.psql(
        server,
        ["-U", "postgres", "-d", "postgres", "-XAtc", "select ssl from pg_stat_ssl where pid = pg_backend_pid()"],
        server.superuser_password,
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "t"


@pytest.mark.parametrize("ca", [False, True])
def test_certificates_are_renewed_while_sessions_stay(encrypted, ca):
    runtime = encrypted.runtime
    before = {name: serial(runtime, name) for name in runtime.cluster.servers}
    authority = tls.first_of(encrypted.settings.ca_file.read_text(encoding="utf-8"))
    with psycopg.connect(encrypted.cluster.pooled_conninfo(), prepare_threshold=None, autocommit=True) as session:
        pids = {name: runtime.postmaster.pid(name) for name in runtime.cluster.servers}
        runtime.renew_certificates(ca=ca)
        wait_for(
            lambda: all(serial(runtime, name) != before[name] for name in before), 20, "every server shows another one"
        )
        assert session.execute("select 1").fetchone() == (1,)
        assert {name: runtime.postmaster.pid(name) for name in runtime.cluster.servers} == pids
    assert (tls.first_of(encrypted.settings.ca_file.read_text(encoding="utf-8")) != authority) is ca
    with psycopg.connect(encrypted.cluster.pooled_conninfo(), prepare_threshold=None) as session:
        assert session.execute("select 1").fetchone() == (1,)
    # A replica that connects again believes the primary's new certificate.
    fetch_all(
        encrypted.cluster.primary, "select pg_terminate_backend(pid) from pg_stat_replication", database="postgres"
    )
    encrypted.wait_for_replicas()
    wait_for(
        lambda: fetch_all(encrypted.cluster.primary, "select count(*) from pg_stat_replication") == [(2,)],
        30,
        "both replicas stream again",
    )
    # The next start finds everything as it should be.
    assert runtime.postmaster.start("primary") is False


def test_keys_are_for_their_owner_alone(encrypted):
    state, home = encrypted.settings.state, encrypted.runtime.home
    assert (state / "tls" / "ca.key").stat().st_mode & 0o077 == 0
    keys = sorted(home.path.glob("tls/*.key"))
    assert len(keys) >= 4
    for key in keys:
        assert key.stat().st_mode & 0o077 == 0
        assert home.account is None or key.stat().st_uid == home.account.uid
