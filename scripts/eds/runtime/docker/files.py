"""What the containers read: configuration that is open, and secrets behind a directory that is not."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eds.base.files import write_atomically
from eds.base.services import SIDE, compose_folder, state_directory
from eds.base.settings import Settings
from eds.cluster import server_conf, tls
from eds.cluster.connections import MEMBERS, Cluster, replicas_of
from eds.cluster.server_conf import INFRA, Address, Places, conf

# Where the containers find their configuration, their secrets, their data and the WAL archives.
MOUNTED = Path("/etc/platform")
SECRETS = Path("/run/secrets")
WAL_ARCHIVE = Path("/var/lib/postgresql/wal_archive")
SECOND_REPOSITORY = Path("/var/lib/postgresql/repository2")
REPOSITORY_CONF = SECRETS / "pgbackrest_conf"
VOLUME = Path("/var/lib/postgresql/data")
PGDATA = VOLUME / "pgdata"
CONF_FILE = MOUNTED / "postgresql.conf"
# Files of libpq must be readable by their owner only, which a mounted secret is not: the entrypoint copies it here.
PASSFILE = Path("/tmp/pgpass")
# A server's key must be, too: adopt_certificates.sh copies it here. All else reads certificates where they are mounted.
CERTIFICATES = Path("/run/tls")
OWN_CERTIFICATES = Path("/tmp/tls")
CA = CERTIFICATES / "ca.crt"
# PgBouncer 1.18 looks in a replica's certificate for the whole list that it chose it from.
REPLICA_LISTS = [",".join(replicas_of(primary)) for primary in MEMBERS]
# The services with a certificate, and the names in it: those by which infra/compose.yaml lets others find the service.
CERTIFIED = {
    **{name: (name, *(pool for pool in REPLICA_LISTS if name in pool.split(","))) for name in MEMBERS},
    "warehouse": ("warehouse", "warehouse-db"),
    "pgbouncer": ("pgbouncer",),
}
# The folder of a service that has no certificate, and trusts the CA.
CLIENTS = "clients"
SERVER_PORT = 5432
# Files that a failover changes while the containers run. In a member's folder: the name of the primary, the
# configuration that follows from it, and the message with which a fenced member refuses to start. In PgBouncer's: the
# addresses.
NOTE = "current-primary"
PART_CONF = "95-part.conf"
FENCE = "fenced"
POOL_CONF = "pgbouncer.ini"
LIVE_FILES = (NOTE, PART_CONF, FENCE, POOL_CONF)
ADOPT_CERTIFICATES = "adopt_certificates.sh"
SIDE_CONF = "99-recovery.conf"


def sslmode(settings: Settings) -> str:
    """Return how libpq in a container connects: PGSSLMODE."""
    return "verify-full" if settings.uses_tls else "prefer"


@dataclass
class Files:
    """Writes the files of the containers of one checkout."""

    cluster: Cluster

    @property
    def settings(self) -> Settings:
        return self.cluster.settings

    @cached_property
    def folder(self) -> Path:
        """The directory of what the containers read."""
        return compose_folder(self.settings)

    def render(self) -> None:
        """Write what the containers read: configuration that is open, secrets behind a directory that is not.

        A container's account is not the account that owns these files, so the files themselves are readable by all;
        nobody else on this machine gets to the secrets, because their directory is closed.
        """
        settings = self.settings
        state_directory(settings)
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o755)
        secrets = self.folder / "secrets"
        secrets.mkdir(mode=0o700, exist_ok=True)
        secrets.chmod(0o700)
        for name in Settings.secret_names():
            write_atomically(secrets / name.lower(), getattr(settings, name.lower()).get_secret_value(), mode=0o444)
        superuser = ("postgres", settings.postgres_password.get_secret_value())
        replicator = ("replicator", settings.replicator_password.get_secret_value())
        # Independent of which member is the primary.
        places = [Address(name, SERVER_PORT) for name in MEMBERS]
        entries = [(place, *role) for place in places for role in (replicator, superuser)]
        entries.append((Address("127.0.0.1", SERVER_PORT), *superuser))
        write_atomically(secrets / "member_pgpass", server_conf.pgpass(entries), mode=0o444)
        # One configuration for all members: each has its data and its port in the same place.
        repository = server_conf.RepositoryPlaces(
            repository=WAL_ARCHIVE / "repository",
            second=SECOND_REPOSITORY,
            work=Path("/tmp/pgbackrest"),
            data=PGDATA,
            port=SERVER_PORT,
        )
        write_atomically(secrets / REPOSITORY_CONF.name, server_conf.repository_conf(settings, repository), mode=0o444)
        write_atomically(secrets / "pgbouncer_userlist", server_conf.pgbouncer_userlist(settings), mode=0o444)
        reading = {name: "warehouse_user" if name == "warehouse" else "readonly_user" for name in self.cluster.servers}
        of_all = [
            (Address(name, SERVER_PORT), role, password)
            for name, place in self.cluster.servers.items()
            for role, password in (
                ("postgres", place.superuser_password),
                (reading[name], getattr(settings, f"{reading[name]}_password").get_secret_value()),
            )
        ]
        write_atomically(secrets / "pgadmin_pgpass", server_conf.pgpass(of_all), mode=0o444)

        self.render_certificates()
        for name in self.cluster.servers:
            self._render_server(name)
        self.render_cluster()
        self.render_pgbouncer()
        template = string.Template((INFRA / "pgadmin" / "servers.json").read_text(encoding="utf-8"))
        text = template.substitute(
            oltp_db=settings.oltp_db, warehouse_db=settings.warehouse_db, sslmode=sslmode(settings)
        )
        write_atomically(self.subfolder("pgadmin") / "servers.json", text)
        for file in ("nginx.conf", "not-yet.html"):
            write_atomically(self.subfolder("docs") / file, (INFRA / "docs" / file).read_text(encoding="utf-8"))

    def certificates(self, name: str) -> Path:
        """Return the folder that is mounted for one container alone, behind a directory that only its owner enters."""
        folder = self.folder / "tls" / name
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.parent.chmod(0o700)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        return folder

    def render_certificates(self, *, renew: bool = False) -> list[str]:
        """Write each server's certificate and key, and the CA's for who connects to it, where sessions are encrypted.

        renew: other ones. Returns the names of the servers.
        """
        settings, folders = self.settings, {name: self.certificates(name) for name in (*CERTIFIED, SIDE, CLIENTS)}
        if not settings.uses_tls:
            return []

        def write(path: Path, text: str, mode: int) -> None:
            # Read by a container's account, which is not the owner of these files.
            write_atomically(path, text, mode=0o444)

        for name, hosts in CERTIFIED.items():
            tls.ensure_certificate(settings, folders[name] / f"{name}.crt", *hosts, write=write, renew=renew)
        write_atomically(folders[CLIENTS] / CA.name, settings.ca_file.read_text(encoding="utf-8"))
        return list(CERTIFIED)

    def render_pgbouncer(self) -> None:
        """Write PgBouncer's configuration: who the primary is, and who its replicas."""
        ini = server_conf.pgbouncer_ini(
            self.settings,
            tls=CERTIFICATES if self.settings.uses_tls else None,
            primary_host=self.cluster.primary_name,
            primary_port=SERVER_PORT,
            replica_host=",".join(self.cluster.replica_names),
            replica_port=SERVER_PORT,
            listen_addr="*",
            listen_port=6432,
            pidfile="",
            logfile="",
            auth_file=SECRETS / "pgbouncer_userlist",
        )
        write_atomically(self.subfolder("pgbouncer") / POOL_CONF, ini)

    @property
    def places(self) -> Places:
        """Where each server finds what its configuration names."""
        return Places(
            scripts=MOUNTED,
            repository_conf=REPOSITORY_CONF,
            passfile=PASSFILE,
            tls=OWN_CERTIFICATES if self.settings.uses_tls else None,
        )

    def _render_server(self, name: str) -> None:
        folder = self.subfolder(name)
        static = server_conf.static_files(name, tls=self.settings.uses_tls)
        lines = [
            "# Written by `make up`; settings belong in .env and infra/postgres.",
            "listen_addresses = '*'",
            f"port = {SERVER_PORT}",
            "unix_socket_directories = ''",
            f"hba_file = {conf(MOUNTED / 'pg_hba.conf')}",
            *server_conf.settings_lines(self.settings, name, self.places),
        ]
        files = static | {"90-runtime.conf": "\n".join(lines) + "\n"}
        includes = [file for file in files if file != "pg_hba.conf"] + ([PART_CONF] if name in MEMBERS else [])
        # What initdb found out about the machine comes first.
        paths = [PGDATA / "postgresql.conf", *(MOUNTED / file for file in sorted(includes))]
        lines = [f"include {conf(path)}" for path in paths]
        # Written by entrypoint.sh before the server starts.
        lines.insert(1, f"include_if_exists {conf(Path('/tmp') / server_conf.BUILD_CONF)}")
        files["postgresql.conf"] = "\n".join(lines) + "\n"
        files[server_conf.BUILD_SETTINGS.name] = server_conf.BUILD_SETTINGS.read_text(encoding="utf-8")
        for file, text in files.items():
            write_atomically(folder / file, text)
        scripts = ("restore_wal.sh", server_conf.CHOOSE_SETTINGS.name, "entrypoint.sh", "health.sh", ADOPT_CERTIFICATES)
        for script in scripts:
            write_atomically(folder / script, (INFRA / "postgres" / script).read_text(encoding="utf-8"), mode=0o755)

    def render_cluster(self) -> None:
        """Write for each member, and the provisioning, who the primary is. A running member adopts it by a reload."""
        cluster, primary = self.cluster, self.cluster.primary_name
        # The member that takes the writes learns of it last.
        for name in (*cluster.replica_names, primary):
            follows = Address(primary, SERVER_PORT) if name != primary else None
            lines = server_conf.part_lines(name, self.places, follows)
            write_atomically(self.subfolder(name) / PART_CONF, "\n".join(lines) + "\n")
            write_atomically(self.subfolder(name) / NOTE, f"{primary}\n")
        write_atomically(self.subfolder("provision") / NOTE, f"{primary}\n")

    def render_recovered(self, lines: Sequence[str]) -> None:
        """Write what the recovered cluster reads: what the primary does, and these further lines."""
        folder = self.subfolder(SIDE)
        for path in self.subfolder(self.cluster.primary_name).iterdir():
            write_atomically(
                folder / path.name, path.read_text(encoding="utf-8"), mode=0o755 if path.suffix == ".sh" else 0o644
            )
        write_atomically(folder / SIDE_CONF, "\n".join(lines) + "\n")
        for path in self.certificates(self.cluster.primary_name).iterdir():
            write_atomically(self.certificates(SIDE) / path.name, path.read_text(encoding="utf-8"), mode=0o444)
        main = (folder / CONF_FILE.name).read_text(encoding="utf-8")
        write_atomically(folder / CONF_FILE.name, f"{main}include {conf(MOUNTED / SIDE_CONF)}\n")

    # --- whether there was a loan book --------------------------------------------------------------------------------

    @property
    def _data_note(self) -> Path:
        return self.folder / "had-data"

    @property
    def had_data(self) -> bool:
        """Whether this checkout's servers have run: their volumes should be there."""
        return self._data_note.exists()

    def note_data(self) -> None:
        """Note that this checkout has a loan book."""
        write_atomically(self._data_note, f"{self.cluster.settings.compose_project_name}\n")

    def forget_data(self) -> None:
        """Remove the note."""
        self._data_note.unlink(missing_ok=True)

    # --- a fenced member ----------------------------------------------------------------------------------------------

    def fence(self, name: str) -> None:
        """Let a member's container refuse to start, whoever starts it."""
        sentence = (
            f"{name} is fenced, because make failover made another member the primary or was about to: it does not "
            f"start. make failover-diff NAME={name} shows what only it has, make rejoin brings it back as a replica; "
            "make up resumes a failover that was interrupted."
        )
        write_atomically(self.subfolder(name) / FENCE, sentence + "\n")

    def is_fenced(self, name: str) -> bool:
        """Return whether a member's container refuses to start."""
        return (self.folder / name / FENCE).exists()

    def unfence(self, *names: str) -> None:
        """Let the containers of members start."""
        for name in names:
            (self.subfolder(name) / FENCE).unlink(missing_ok=True)

    def subfolder(self, name: str) -> Path:
        """Return the folder of what one container reads, made on first use."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        return folder
