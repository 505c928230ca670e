"""Start and stop an application on a port."""

import asyncio

import attrs
import structlog
from aiohttp import web

from chatflow.adapters.aiohttp import compat
from chatflow.adapters.aiohttp.door import Connected, MakeHandler, PortDoor, PortLimits
from chatflow.adapters.aiohttp.guard import ADMISSION, PEER_OF
from chatflow.domain.admission.rules import Standing
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
        door: its connections.
    """

    host: str
    port: int
    door: PortDoor
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
    limits: PortLimits | None = None,
    tls: TlsListener | None = None,
    shutdown_timeout_s: float = 2.0,
    reuse_port: bool = False,
    fallback: bool = False,
) -> HttpServer:
    """Serve an application that has its `guard` on this address.

    Args:
        app: not yet started.
        host: address to listen on.
        port: 0 for any free one.
        limits: of the connections.
        tls: encrypts every connection.
        shutdown_timeout_s: seconds that open requests get at the end.
        reuse_port: share the port with other processes.
        fallback: by documented parts of aiohttp only, as after a failed self-check.

    Raises:
        OSError: the port is taken or the address is not ours.
    """
    if failed := compat.unexpected(forced=fallback):
        _log.warning("http.driver_fallback", failed=failed)
    limits = limits or PortLimits()
    app[compat.DIRECT] = not failed
    keepalive_s = limits.keepalive_s
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=shutdown_timeout_s,
        keepalive_timeout=keepalive_s,
    )
    door = PortDoor(app[ADMISSION], limits, _makes_public(runner) if failed else _makes_direct(runner, limits))
    app[PEER_OF] = door.peer_of
    await runner.setup()
    try:
        made = door.connected if tls is None else (lambda: Encrypting(door.connected(), tls))
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
    return HttpServer(host, listening.sockets[0].getsockname()[1], door, runner, listening)


def _makes_direct(runner: web.AppRunner, limits: PortLimits) -> MakeHandler:
    make = compat.handlers(runner, head_timeout_s=limits.head_timeout_s, keepalive_s=limits.keepalive_s)

    def made(standing: Standing) -> Connected:
        handler = make(standing)
        return Connected(handler, handler.is_idle)

    return made


def _makes_public(runner: web.AppRunner) -> MakeHandler:
    def made(_: Standing) -> Connected:
        if runner.server is None:
            raise ConnectionAbortedError("the application is closed")
        return Connected(runner.server(), lambda: False)

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
