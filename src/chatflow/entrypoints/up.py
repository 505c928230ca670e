"""``chatflow up``: every role in one process, with the promises of the whole fleet."""

import asyncio
from collections.abc import Mapping
from typing import cast

import structlog
from rich.console import Console

from chatflow.adapters.sql import migrate
from chatflow.entrypoints.data_directory import has_data, in_use, make_directory
from chatflow.entrypoints.roles.api import ApiRole
from chatflow.entrypoints.roles.gateway import GatewayRole
from chatflow.entrypoints.serving import Role, serve_roles
from chatflow.entrypoints.settings import Common, Settings

log = structlog.get_logger()


async def up(settings: Settings) -> None:
    """Run until SIGINT, SIGTERM or a failure, then drain.

    Raises:
        StartError: a port is taken, or the data directory is in use or cannot be written.
        SchemaMismatch: the database is newer than this program.
    """
    common = settings.common
    if has_data(common):
        make_directory(common.data_dir)
    embedded = ("replay_socket",) if common.is_embedded else ()
    names = ("processor", *embedded, "api", "gateway")  # replays are taken before anybody sees it ready
    with in_use(common, alone=common.is_embedded):
        await asyncio.to_thread(_upgrade, common)
        await serve_roles(settings, names, greet=lambda roles: _greet(common, roles))


def _upgrade(common: Common) -> None:
    """The schema of an embedded database; that of a server is for `chatflow migrate`."""
    if common.database_url.startswith("sqlite"):
        for revision in migrate.upgrade(common.database_url):
            log.info("schema.upgraded", revision=revision)


def _greet(common: Common, roles: Mapping[str, Role]) -> None:
    gateway, api = cast("GatewayRole", roles["gateway"]), cast("ApiRole", roles["api"])
    shown = "127.0.0.1" if common.host in {"0.0.0.0", "::"} else common.host  # noqa: S104  # compared, not bound
    shown = f"[{shown}]" if ":" in shown else shown
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]chatflow is up[/] (profile {common.profile}, data in {common.data_dir})")
    http, ws = ("https", "wss") if common.tls.is_on else ("http", "ws")
    console.print(f"  open       [bold cyan]{http}://{shown}:{api.port}/[/]")
    console.print(f"  websocket  {ws}://{shown}:{gateway.port}/ws")
    console.print(f"  rest api   {http}://{shown}:{api.port}/docs")
    if common.auth == "open":
        console.print("  open mode  user ids are claimed, not proven (CHATFLOW_AUTH)")
    else:
        console.print("  tokens     chatflow token issue --user 7 --name ada --room 'lobby:rw' --ttl 1h")
    console.print("  stop       Ctrl-C")
    console.file.flush()
