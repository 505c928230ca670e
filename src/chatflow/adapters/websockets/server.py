"""The gateway's listener: paths, limits on connections, heartbeats, and a drain that spreads the reconnects."""

import asyncio
import http
import logging
import random
from collections.abc import Callable
from functools import partial
from typing import cast

import attrs
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from chatflow.adapters.websockets.arriving import ArrivingConnection
from chatflow.adapters.websockets.compat import encrypted, uses_private_parts
from chatflow.adapters.websockets.connection import GatewayConnection
from chatflow.adapters.websockets.doorway import Doorway
from chatflow.adapters.websockets.reading import OpenConnections, client_address
from chatflow.adapters.websockets.sockets import CLOSE_GRACE_S
from chatflow.adapters.websockets.tokens import select_subprotocol, stands_in_url
from chatflow.domain.admission.rules import HeaderValues
from chatflow.domain.session.context import CONNECTIONS_MAX, FRAME_MAX_BYTES, GatewayContext
from chatflow.domain.session.errors import RESTARTING
from chatflow.domain.session.pacing import HANDSHAKE_S, Pacer
from chatflow.ports.tls import TlsListener

SWEEP_S = 1.0
DOOR_WAIT_S = 1.0
"""At most, however many come."""

ANSWER_S = 5.0
"""That a handshake's answer may take, besides."""

BACKLOG = 4096

logger = logging.getLogger("chatflow.gateway")


@attrs.define(eq=False)
class GatewayServer:
    """Serves until `drain`.

    Args:
        new_session_id: names a ``/ws`` session.
        frame_max_bytes: a longer frame closes its connection with 1009.
        connections_max: beyond it a handshake is answered with 503.
        tls: encrypts every connection.
        doorway: who may come in, and how many at a time.
        driver_fallback: serve on documented parts of the driver alone, as after a failed self-check.
    """

    context: GatewayContext
    new_session_id: Callable[[], str]
    frame_max_bytes: int = attrs.field(kw_only=True, default=FRAME_MAX_BYTES)
    connections_max: int = attrs.field(kw_only=True, default=CONNECTIONS_MAX)
    tls: TlsListener | None = attrs.field(kw_only=True, default=None)
    doorway: Doorway = attrs.field(kw_only=True, factory=Doorway)
    driver_fallback: bool = attrs.field(kw_only=True, default=False)
    _server: Server | None = attrs.field(default=None, init=False)
    _open: OpenConnections = attrs.field(init=False)
    _draining: bool = attrs.field(default=False, init=False)
    _door: Pacer = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._door = Pacer(self.context.clock)
        self._open = OpenConnections(self.context, self.new_session_id)

    @property
    def is_draining(self) -> bool:
        """Whether new connections are refused."""
        return self._draining

    async def start(self, host: str, port: int) -> int:
        """Listen; the port that was bound.

        Raises:
            OSError: the address cannot be bound.
        """
        is_direct = uses_private_parts(forced_fallback=self.driver_fallback)
        connection = GatewayConnection if is_direct else ArrivingConnection
        made: Callable[..., ServerConnection] = connection if self.tls is None else encrypted(connection, self.tls)
        self._server = await serve(
            self._open.handle if is_direct else self._open.handle_public,
            host,
            port,
            create_connection=cast("type[ServerConnection]", partial(made, doorway=self.doorway)),
            process_request=self._process_request,
            select_subprotocol=select_subprotocol,
            process_response=self._process_response,
            compression=None,
            open_timeout=self.doorway.head_timeout_s + DOOR_WAIT_S + ANSWER_S,
            close_timeout=CLOSE_GRACE_S,
            max_size=self.frame_max_bytes,
            ping_interval=None,
            server_header=None,
            backlog=BACKLOG,
            logger=logging.getLogger("websockets.server"),
        )
        bound = int(self._server.sockets[0].getsockname()[1])
        self.doorway.admission.ports.add(bound)
        return bound

    async def sweep(self) -> None:
        """Ping, and drop the silent, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = asyncio.get_running_loop().time()
            self.context.memory.review()
            for connection in tuple(self._open.connections):
                if not connection.socket.heartbeat(now, self.context.heartbeat_s):
                    self.context.metrics.silent_peers_dropped += 1

    def stop_accepting(self) -> None:
        """Refuse new connections; the open ones go on."""
        self._draining = True
        if self._server is not None:
            self._server.close(close_connections=False)

    async def close_connections(self, spread_s: float) -> None:
        """Close every connection with 1012, spread so that not all clients come back in the same moment."""
        connections = list(self._open.connections)
        random.shuffle(connections)
        for connection in connections:
            connection.socket.close(RESTARTING, "restarting")
            await asyncio.sleep(spread_s / len(connections))
        if self._server is not None:
            await self._server.wait_closed()

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse before the handshake what will not be served; what comes at once is let in one by one."""
        assert isinstance(connection, ArrivingConnection)  # noqa: S101  # create_connection made it
        await asyncio.sleep(min(self._door.reserve(HANDSHAKE_S), DOOR_WAIT_S))
        path, _, query = request.path.partition("?")
        rejection = await self.doorway.admission.rejection(
            path, request.headers.get_all, connection.identify(request), self._brings_token
        )
        if rejection is not None:
            return connection.respond(rejection.status, f"{rejection.reason}\n")
        if query and stands_in_url(query):
            return connection.respond(
                http.HTTPStatus.BAD_REQUEST,
                "a token must not stand in a URL: say it in hello, Authorization or a subprotocol\n",
            )
        if path != "/ws" and not path.startswith(("/chat/", "/feed/")):
            return connection.respond(
                http.HTTPStatus.NOT_FOUND, "chatflow gateway: WebSocket at /ws, /chat/{room} and /feed/{room}\n"
            )
        if not self.context.quotas.admits(client_address(connection)):
            response = connection.respond(http.HTTPStatus.TOO_MANY_REQUESTS, "too many connections from your address\n")
            response.headers["Retry-After"] = "10"
            return response
        if self._draining or len(self._open.connections) >= self.connections_max:
            response = connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "overloaded or restarting\n")
            response.headers["Retry-After"] = "1"
            return response
        return None

    async def _brings_token(self, _path: str, _values: HeaderValues) -> bool:
        """A session has to show a valid token, with its handshake or in its hello, before it gets anything."""
        return self.context.authenticator is not None

    def _process_response(self, connection: ServerConnection, _request: Request, response: Response) -> None:
        """Nobody keeps a refusal; whoever is in makes room in the doorway."""
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            response.headers["Cache-Control"] = "no-store"
            response.headers["X-Content-Type-Options"] = "nosniff"
        elif isinstance(connection, ArrivingConnection):
            connection.welcomed()
