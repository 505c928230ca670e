"""Commands that run roles. A command imports its role when it runs, so that all others start fast."""

from typing import Literal

import typer

from chatflow.entrypoints.cli.shared import settings_for
from chatflow.entrypoints.roles.process import run_process

commands = typer.Typer()


@commands.command()
def up() -> None:
    """Run a gateway, a processor and the API in one process. Embedded by default: needs no servers."""
    settings = settings_for("up")
    from chatflow.entrypoints.up import up as run

    run_process(run(settings))


@commands.command()
def gateway() -> None:
    """Run a gateway: accept messages over WebSocket and deliver live ones."""
    _run("gateway")


@commands.command()
def processor() -> None:
    """Run a processor: consume, store, invalidate caches, publish live."""
    _run("processor")


@commands.command()
def api() -> None:
    """Run the API: the REST read side and the web pages."""
    _run("api")


def _run(role: Literal["gateway", "processor", "api"]) -> None:
    settings = settings_for(role)
    from chatflow.entrypoints.serving import serve_apart

    run_process(serve_apart(settings, role))
