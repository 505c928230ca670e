"""Start and stop an application on a port."""

import attrs
from aiohttp import web


@attrs.frozen(eq=False)
class HttpServer:
    """An application that listens.

    Attributes:
        port: the real one, also when 0 was asked for.
    """

    host: str
    port: int
    _runner: web.AppRunner = attrs.field(alias="runner")

    async def close(self) -> None:
        """Stop listening, give open requests a moment, close the application."""
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
    try:
        await web.TCPSite(runner, host, port, reuse_port=reuse_port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return HttpServer(host, runner.addresses[0][1], runner)
