"""Commands that show settings and the version."""

import typer
from rich.table import Table

from chatflow import __version__
from chatflow.entrypoints.cli.shared import add_row, print_table, settings_for
from chatflow.entrypoints.settings import describe

commands = typer.Typer()


@commands.command()
def config() -> None:
    """Show the effective settings, with passwords masked."""
    table = Table("variable", "value", "from")
    for variable, value, origin in describe(settings_for("up")):
        add_row(table, variable, value, origin)
    print_table(table)


@commands.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"chatflow {__version__}")
