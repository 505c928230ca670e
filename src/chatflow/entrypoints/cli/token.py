"""``chatflow token``: issue tokens, for trying things out and for services without an identity provider."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chatflow.domain.permissions import grants_of
from chatflow.entrypoints.cli.shared import seconds_of, settings_for
from chatflow.entrypoints.clocks import new_id
from chatflow.entrypoints.roles.process import refuse
from chatflow.entrypoints.settings import IdentitySettings
from chatflow.ports.identity import Grant

if TYPE_CHECKING:
    from chatflow.adapters.jwt.keys import Key

commands = typer.Typer(help="Issue tokens for CHATFLOW_AUTH=jwt.", no_args_is_help=True)


@commands.callback()
def _group() -> None:
    """Issue tokens for CHATFLOW_AUTH=jwt."""


@commands.command()
def issue(
    *,
    user: Annotated[int, typer.Option(min=1, max=2**53 - 1, help="User id.")],
    name: Annotated[str, typer.Option(help="Display name; usernames are its ASCII letters and digits.")] = "",
    room: Annotated[
        list[str] | None,
        typer.Option(metavar="ROOM:MAY", help="A grant: a room, in which * stands for anything, and r, w or rw."),
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long it is valid: 90s, 15m, 1h, 7d.")] = "1h",
    admin: Annotated[bool, typer.Option("--admin", help="May do everything, in every room.")] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="May read metrics.")] = False,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private key in PEM: RSA, P-256 or Ed25519. Else CHATFLOW_JWT_SECRET signs."),
    ] = None,
) -> None:
    """Print a token, signed with CHATFLOW_JWT_SECRET or with a private key."""
    identity = settings_for("tool").identity
    grants = _grants(room or [])
    seconds = seconds_of("--ttl", ttl)
    signing = _signing_key(identity, key)
    from chatflow.adapters.jwt.issuing import issue as sign

    now = int(time.time())
    claims: dict[str, object] = {
        "sub": str(user),
        "aud": identity.jwt_audience,
        "iat": now,
        "exp": now + seconds,
        "jti": new_id(),
        identity.jwt_grants_claim: [{"room": grant.room, "may": _mode(grant)} for grant in grants],
    }
    optional = {
        "iss": identity.jwt_issuer,
        identity.jwt_user_claim: user,
        identity.jwt_name_claim: name,
        identity.jwt_admin_claim: admin,
        identity.jwt_metrics_claim: metrics,
    }
    claims |= {claim: value for claim, value in optional.items() if claim and value}
    typer.echo(sign(claims, signing))


def _grants(rooms: list[str]) -> tuple[Grant, ...]:
    try:
        grants = grants_of(",".join(rooms))
    except ValueError as exc:
        refuse(f"--room: {exc}, such as team-*:rw")
    if any(grant.room.startswith("room") and "*" in grant.room for grant in grants):
        typer.echo("chatflow: a pattern does not cover room5: rooms of that kind are called 5", err=True)
    return grants


def _mode(grant: Grant) -> str:
    return ("r" if grant.may_read else "") + ("w" if grant.may_write else "")


def _signing_key(identity: IdentitySettings, file: Path | None) -> "Key":
    from chatflow.adapters.jwt.keys import private_key, secret_key
    from chatflow.entrypoints.settings.token_keys import read_pem

    try:
        if file is not None:
            return private_key(read_pem(str(file)))
    except ValueError as exc:
        refuse(f"--key {file} {exc}")
    if not identity.jwt_secret:
        refuse("set CHATFLOW_JWT_SECRET (32 bytes or more, `openssl rand -hex 32`), or name a private key with --key")
    return secret_key(identity.jwt_secret)
