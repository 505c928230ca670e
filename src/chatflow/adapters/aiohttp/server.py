"""Start and stop an application on a port."""

import asyncio

import attrs
from aiohttp import web

from chatflow.adapters.aiohttp.repeating import RepeatingHandler, Repeats

BACKLOG = 128


@attrs.frozen(eq=False)
class HttpServer:
    """An application that listens.

    Attributes:
        port: the real one, also when 0 was asked for.
    """

    host: str
    port: int
    _listening: asyncio.Server = attrs.field(alias="listening")
    _runner: web.AppRunner = attrs.field(alias="runner")

    async def close(self) -> None:
        """Stop listening, give open requests a moment, close the application."""
        self._listening.close()
        await self._runner.cleanup()


async def serve(
    app: web.Application, *, host: str, port: int, shutdown_timeout_s: float = 2.0, reuse_port: bool = False
) -> HttpServer:
    """Listen on this address.

    Raises:
        OSError: the port is taken or the address is not ours.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=shutdown_timeout_s)
    await runner.setup()
    loop, repeats = asyncio.get_running_loop(), Repeats()

    def connected() -> RepeatingHandler:
        if runner.server is None:
            raise ConnectionAbortedError("the application is closed")
        return RepeatingHandler(runner.server, repeats, loop=loop, access_log=None)

    try:
        listening = await loop.create_server(connected, host, port, backlog=BACKLOG, reuse_port=reuse_port)
    except BaseException:
        await runner.cleanup()
        raise
    return HttpServer(host, listening.sockets[0].getsockname()[1], listening, runner)
