"""The ``chatflow`` command: one module per group of commands.

A wrong setting or a wrong option is one line on stderr and exit code 2.
"""

import sys

import typer

from chatflow.entrypoints.cli import dlq, info, run, sessions, store, token
from chatflow.entrypoints.roles.process import refuse

app = typer.Typer(
    name="chatflow",
    help="Durable, room-ordered chat: an acknowledged message is never lost, doubled or reordered.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (run, store, info):
    app.add_typer(group.commands)
app.add_typer(dlq.commands, name="dlq")
app.add_typer(sessions.commands, name="sessions")
app.add_typer(token.commands, name="token")


def main() -> None:
    """The ``chatflow`` script."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as exc:
        if not (reason := exc.format_message()):  # help has been printed
            sys.exit(exc.exit_code)
        refuse(f"{reason.rstrip('.')} (see --help)")
    sys.exit(code)
