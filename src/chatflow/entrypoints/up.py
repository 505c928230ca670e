"""``chatflow up``: every role in one process, with the promises of the whole fleet."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog
from rich.console import Console

from chatflow.adapters.sql import migrate
from chatflow.entrypoints.api import ApiRole
from chatflow.entrypoints.containers import Container, build_container
from chatflow.entrypoints.gateway import GatewayRole
from chatflow.entrypoints.maintenance import catch_up_summaries
from chatflow.entrypoints.process import Lifetime, StartError, settle_memory, stop_on_signals
from chatflow.entrypoints.processor import ProcessorRole
from chatflow.entrypoints.settings import Common, UpSettings
from chatflow.entrypoints.support import check_supported

log = structlog.get_logger()


async def up(settings: UpSettings) -> None:
    """Run until SIGINT, SIGTERM or a failure, then drain.

    Raises:
        StartError: a port is taken, or the data directory cannot be written.
        SchemaMismatch: the database is newer than this program.
    """
    check_supported(settings.common)
    await asyncio.to_thread(prepare_data, settings.common)
    lifetime = Lifetime()
    stop_on_signals(lifetime)
    async with opened(build_container(settings)) as container:
        if settings.common.profile.summaries:
            await catch_up_summaries(await container.summary_tables.async_())
        roles = await container.gateway.async_(), await container.processor.async_(), await container.api.async_()
        try:
            await _run(lifetime, settings, *roles)
        finally:
            for role in roles:
                await role.close()
            await lifetime.close()


def prepare_data(common: Common) -> None:
    """Create the data directory and, in an embedded database, bring the schema up to date, saying so.

    Raises:
        StartError: the directory cannot be written.
    """
    if not common.database_url.startswith("sqlite"):
        return
    try:
        common.data_dir.mkdir(parents=True, exist_ok=True)
        probe = common.data_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise StartError(f"CHATFLOW_DATA_DIR {common.data_dir} cannot be written: {exc.strerror}") from exc
    for revision in migrate.upgrade(common.database_url):
        log.info("schema.upgraded", revision=revision)


@contextlib.asynccontextmanager
async def opened(container: Container) -> AsyncIterator[Container]:
    """The container with its resources open, closed at the end."""
    try:
        if (opening := container.init_resources()) is not None:
            await opening
        yield container
    finally:
        if (closing := container.shutdown_resources()) is not None:
            await closing


async def _run(
    lifetime: Lifetime, settings: UpSettings, gateway: GatewayRole, processor: ProcessorRole, api: ApiRole
) -> None:
    for role in (processor, api, gateway):
        await role.start(lifetime)
    settle_memory()
    _greet(settings, gateway, api)
    await lifetime.stopped()
    try:
        async with asyncio.timeout(settings.common.drain_s):
            await gateway.drain()
            await processor.drain()
    except TimeoutError:
        log.warning("process.drain_timed_out", after_s=settings.common.drain_s)


def _greet(settings: UpSettings, gateway: GatewayRole, api: ApiRole) -> None:
    host = settings.common.host
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104  # compared, not bound
    shown = f"[{shown}]" if ":" in shown else shown
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]chatflow is up[/] (profile {settings.common.profile}, data in {settings.common.data_dir})")
    console.print(f"  open       [bold cyan]http://{shown}:{api.port}/[/]")
    console.print(f"  websocket  ws://{shown}:{gateway.port}/ws")
    console.print(f"  rest api   http://{shown}:{api.port}/docs")
    console.print("  stop       Ctrl-C")
    console.file.flush()
