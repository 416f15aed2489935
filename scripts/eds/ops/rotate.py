"""`make rotate-password` and `make rotate-certificates`: new passwords and certificates, wherever they are used."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from eds.base.console import out, step
from eds.base.errors import UserError
from eds.base.services import exclusive
from eds.base.settings import Settings, load, set_secret
from eds.cluster import provision
from eds.cluster.connections import Cluster
from eds.runtime.choice import select_runtime

app = typer.Typer()

# The superusers of the two servers are both called postgres.
SUPERUSERS = {"postgres": "POSTGRES_PASSWORD", "warehouse_postgres": "WAREHOUSE_POSTGRES_PASSWORD"}
WAREHOUSE = (*provision.WAREHOUSE_ROLES, "warehouse_postgres")
ROLES = (*provision.OLTP_ROLES, *provision.WAREHOUSE_ROLES, *SUPERUSERS)


def rotate(settings: Settings, role: str) -> Settings:
    """Give a role a new password. Returns the settings with it. Raises UserError.

    When it is interrupted between the two, `make up` gives the server what `.env` says.
    """
    if role not in ROLES:
        raise UserError(f"ROLE is {role!r}: expected one of {', '.join(ROLES)}.")
    cluster = Cluster(settings)
    server = cluster.warehouse if role in WAREHOUSE else cluster.primary
    name = "postgres" if role in SUPERUSERS else role
    password = secrets.token_urlsafe(24)
    with server.connect("postgres") as connection:
        provision.set_password(connection, name, password)
        # Commit afterwards: when the file cannot be written, the old password stays in force.
        set_secret(SUPERUSERS.get(role, f"{role.upper()}_PASSWORD"), password)
    return load()


@app.command(name="rotate-password")
def rotate_command(
    role: Annotated[str, typer.Option("--role", metavar="app_user", help="Whose password.")] = "",
) -> None:
    """Give a role a new password, wherever it is used. Example: make rotate-password ROLE=app_user"""
    settings = load()
    if not role:
        raise UserError(f"Whose password? Example: make rotate-password ROLE=app_user. Roles: {', '.join(ROLES)}.")
    with exclusive(settings, "rotate-password"):
        with step(f"new password for {role}, on the server and in .env"):
            fresh = rotate(settings, role)
        with step("adopted by what uses it"):
            select_runtime(fresh)[0].refresh_secrets()
    out.print(f"{role} has a new password, in .env. Sessions that are open stay open until they end.")
    if role == "warehouse_reader":
        out.print("Metabase logs in with it: make metabase gives it the new one.")


@app.command(name="rotate-certificates")
def rotate_certificates_command(
    ca: Annotated[
        bool, typer.Option("--ca", help="Make another CA, too; the former stays trusted until the next.")
    ] = False,
) -> None:
    """Give every server another certificate and key, without a restart. Example: make rotate-certificates"""
    settings = load()
    if not settings.uses_tls:
        raise UserError("Sessions are not encrypted: TLS=on in .env, then make up, makes certificates.")
    with exclusive(settings, "rotate-certificates"), step("new certificates, read by what runs"):
        names = select_runtime(settings)[0].renew_certificates(ca=ca)
    out.print(f"{', '.join(names)} have new certificates. Sessions that are open stay open.")
    if ca:
        out.print(f"Clients elsewhere need the new {settings.ca_file}.")
