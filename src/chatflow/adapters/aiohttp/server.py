"""Start and stop an application on a port."""

import asyncio

import attrs
import structlog
from aiohttp import web

from chatflow.adapters.aiohttp import compat

BACKLOG = 128

_log = structlog.get_logger()


@attrs.frozen(eq=False)
class HttpServer:
    """An application that listens.

    Attributes:
        port: the one it listens on, also when 0 was given.
    """

    host: str
    port: int
    _runner: web.AppRunner = attrs.field(alias="runner")
    _listening: asyncio.Server | None = attrs.field(alias="listening", default=None)

    async def close(self) -> None:
        """Stop listening, give open requests a moment, close the application."""
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()


async def serve(
    app: web.Application,
    *,
    host: str,
    port: int,
    shutdown_timeout_s: float = 2.0,
    reuse_port: bool = False,
    fallback: bool = False,
) -> HttpServer:
    """Listen on this address; with ``fallback`` by documented parts of aiohttp only, as after a failed self-check.

    Raises:
        OSError: the port is taken or the address is not ours.
    """
    if failed := compat.unexpected(forced=fallback):
        _log.warning("http.driver_fallback", failed=failed)
    app[compat.DIRECT] = not failed
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=shutdown_timeout_s)
    await runner.setup()
    try:
        if failed:
            await web.TCPSite(runner, host, port, backlog=BACKLOG, reuse_port=reuse_port).start()
            return HttpServer(host, runner.addresses[0][1], runner)
        listening = await compat.listen(runner, host, port, backlog=BACKLOG, reuse_port=reuse_port)
    except BaseException:
        await runner.cleanup()
        raise
    return HttpServer(host, listening.sockets[0].getsockname()[1], runner, listening)
