"""``chatflow sessions``: shut somebody out whose token is still valid."""

from typing import Annotated

import typer

from chatflow.entrypoints.cli.shared import seconds_of, settings_for
from chatflow.entrypoints.roles.process import refuse, run_process
from chatflow.entrypoints.terminal import visible

TOKEN_ID_CHARS = 255
LONGEST_S = 10 * 365 * 86_400

commands = typer.Typer(help="Shut out a user or a token, where CHATFLOW_AUTH=jwt.", no_args_is_help=True)


@commands.callback()
def _group() -> None:
    """Shut out a user or a token, where CHATFLOW_AUTH=jwt."""


@commands.command()
def disconnect(
    user: Annotated[int | None, typer.Argument(metavar="[USER]", min=1, max=2**53 - 1, help="User id.")] = None,
    token_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Only the token with this jti; of that user, if one is given.")
    ] = None,
    keep: Annotated[
        str, typer.Option(help="For how long it holds: longer than any token lives; 12h, 30d, 365d.")
    ] = "30d",
) -> None:
    """Close a user's sessions everywhere, and refuse every token that was issued to the user up to now.

    Gateways and REST follow within 5 seconds, whether they run now or start later. Tokens issued from now on are good:
    have your identity provider issue none, or the user comes back.

    Exit codes: 0 it is kept and holds, 2 it could not be written.
    """
    if user is None and token_id is None:
        refuse("name a user id, or a token by --token-id")
    if token_id is not None and not 0 < len(token_id) <= TOKEN_ID_CHARS:
        refuse(f"--token-id must have 1 to {TOKEN_ID_CHARS} characters")
    keep_s = seconds_of("--keep", keep)
    if keep_s > LONGEST_S:
        refuse("--keep must be 3650d or less")
    settings = settings_for("tool")
    if settings.common.auth != "jwt":
        refuse("nobody can be shut out in open mode: set CHATFLOW_AUTH=jwt, here and where chatflow runs")
    from chatflow.entrypoints.cli.revoking import revoke

    run_process(revoke(settings.identity, user, token_id, keep_s))
    if token_id is None:
        what = f"every token of user {user} issued up to now is"
    elif user is None:
        what = f"token {token_id} is"
    else:
        what = f"token {token_id} of user {user} is"
    typer.echo(visible(f"{what} refused for {keep}; open sessions end within 5 s"))
