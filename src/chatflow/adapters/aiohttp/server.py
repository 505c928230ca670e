"""Start and stop an application on a port."""

import asyncio
from collections.abc import Callable

import attrs
import structlog
from aiohttp import web

from chatflow.adapters.aiohttp import compat
from chatflow.ports.tls import TlsListener

BACKLOG = 128
UNSENT_BYTES = 65_536
"""At which a client counts as not reading: as without TLS, where the event loop's own limit is this."""

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
    _listening: asyncio.Server = attrs.field(alias="listening")

    async def close(self) -> None:
        """Stop listening, give open requests a moment, close the application."""
        self._listening.close()
        await self._runner.cleanup()


async def serve(
    app: web.Application,
    *,
    host: str,
    port: int,
    tls: TlsListener | None = None,
    shutdown_timeout_s: float = 2.0,
    reuse_port: bool = False,
    fallback: bool = False,
) -> HttpServer:
    """Listen on this address; with ``fallback`` by documented parts of aiohttp only, as after a failed self-check.

    With ``tls`` every connection is encrypted.

    Raises:
        OSError: the port is taken or the address is not ours.
    """
    if failed := compat.unexpected(forced=fallback):
        _log.warning("http.driver_fallback", failed=failed)
    app[compat.DIRECT] = not failed
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=shutdown_timeout_s)
    await runner.setup()
    try:
        make = _public_handlers(runner) if failed else compat.handlers(runner)
        made = make if tls is None else (lambda: Encrypting(make(), tls))
        listening = await asyncio.get_running_loop().create_server(
            made,
            host,
            port,
            backlog=BACKLOG,
            reuse_port=reuse_port,
        )
    except BaseException:
        await runner.cleanup()
        raise
    return HttpServer(host, listening.sockets[0].getsockname()[1], runner, listening)


def _public_handlers(runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
    def made() -> asyncio.Protocol:
        if runner.server is None:
            raise ConnectionAbortedError("the application is closed")
        return runner.server()

    return made


class Encrypting(asyncio.Protocol):
    """A connection before its TLS handshake; then it is the handler's."""

    def __init__(self, handler: asyncio.Protocol, tls: TlsListener) -> None:
        self._handler = handler
        self._tls = tls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._tls.encrypt(transport, self._handler, self._secured)

    def _secured(self, transport: asyncio.Transport, _: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(UNSENT_BYTES)
        self._handler.connection_made(transport)
