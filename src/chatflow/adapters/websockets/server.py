"""The gateway's listener: paths, limits on connections, heartbeats, and a drain that spreads the reconnects."""

import asyncio
import http
import logging
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote

import attrs
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from chatflow.adapters.websockets.compat import uses_private_parts
from chatflow.adapters.websockets.connection import GatewayConnection
from chatflow.adapters.websockets.driver import SessionDriver, drive_chat, drive_feed, drive_ws
from chatflow.adapters.websockets.feed import FeedSubscriber, since_of
from chatflow.adapters.websockets.public_connection import PublicConnection
from chatflow.adapters.websockets.reading import read
from chatflow.adapters.websockets.sockets import CLOSE_GRACE_S
from chatflow.adapters.websockets.turns import OnePerTurn, Replays
from chatflow.domain.messages.errors import InvalidInput
from chatflow.domain.messages.rooms import normalise_room
from chatflow.domain.session.chat import ChatSession
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.errors import OVERLOADED, POLICY, RESTARTING
from chatflow.domain.session.feed import FeedSession
from chatflow.domain.session.pacing import HANDSHAKE_S, Pacer
from chatflow.domain.session.ws import WsSession
from chatflow.ports.errors import StoreError

SWEEP_S = 1.0
DOOR_WAIT_S = 1.0
"""At most, however many come."""

BACKLOG = 4096

Served = GatewayConnection | PublicConnection

logger = logging.getLogger("chatflow.gateway")


@attrs.define(eq=False)
class GatewayServer:
    """Serves until `drain`.

    Args:
        new_session_id: names a ``/ws`` session.
        frame_max_bytes: a longer frame closes its connection with 1009.
        connections_max: beyond it a handshake is answered with 503.
        driver_fallback: serve on documented parts of the driver alone, as after a failed self-check.
    """

    context: GatewayContext
    new_session_id: Callable[[], str]
    frame_max_bytes: int = attrs.field(kw_only=True, default=16_384)
    connections_max: int = attrs.field(kw_only=True, default=20_000)
    driver_fallback: bool = attrs.field(kw_only=True, default=False)
    _server: Server | None = attrs.field(default=None, init=False)
    _connections: set[Served] = attrs.field(factory=set, init=False)
    _draining: bool = attrs.field(default=False, init=False)
    _door: Pacer = attrs.field(init=False)
    _turns: OnePerTurn = attrs.field(factory=OnePerTurn, init=False)

    def __attrs_post_init__(self) -> None:
        self._door = Pacer(self.context.clock)

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
        self._server = await serve(
            self._handle if is_direct else self._handle_public,
            host,
            port,
            create_connection=GatewayConnection if is_direct else ServerConnection,
            process_request=self._process_request,
            compression=None,
            open_timeout=self.context.hello_timeout_s,
            close_timeout=CLOSE_GRACE_S,
            max_size=self.frame_max_bytes,
            ping_interval=None,
            server_header=None,
            backlog=BACKLOG,
            logger=logging.getLogger("websockets.server"),
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def sweep(self) -> None:
        """Ping, and drop the silent, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = asyncio.get_running_loop().time()
            self.context.memory.review()
            for connection in tuple(self._connections):
                if not connection.socket.heartbeat(now, self.context.heartbeat_s):
                    self.context.metrics.silent_peers_dropped += 1

    def stop_accepting(self) -> None:
        """Refuse new connections; the open ones go on."""
        self._draining = True
        if self._server is not None:
            self._server.close(close_connections=False)

    async def close_connections(self, spread_s: float) -> None:
        """Close every connection with 1012, spread so that not all clients come back in the same moment."""
        connections = list(self._connections)
        random.shuffle(connections)
        for connection in connections:
            connection.socket.close(RESTARTING, "restarting")
            await asyncio.sleep(spread_s / len(connections))
        if self._server is not None:
            await self._server.wait_closed()

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse before the handshake what will not be served; what comes at once is let in one by one."""
        await asyncio.sleep(min(self._door.reserve(HANDSHAKE_S), DOOR_WAIT_S))
        path, _ = _split(request.path)
        if path != "/ws" and not path.startswith(("/chat/", "/feed/")):
            return connection.respond(
                http.HTTPStatus.NOT_FOUND, "chatflow gateway: WebSocket at /ws, /chat/{room} and /feed/{room}\n"
            )
        if self._draining or len(self._connections) >= self.connections_max:
            response = connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "overloaded or restarting\n")
            response.headers["Retry-After"] = "1"
            return response
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, GatewayConnection)  # noqa: S101  # create_connection made it
        await self._serve_counted(connection)

    async def _handle_public(self, connection: ServerConnection) -> None:
        wrapped = PublicConnection(connection)
        try:
            await self._serve_counted(wrapped)
        finally:
            await wrapped.aclose()

    async def _serve_counted(self, connection: Served) -> None:
        metrics = self.context.metrics
        connection.socket.limit_bytes = self.context.outbound_limit_bytes
        connection.memory, connection.turns = self.context.memory, self._turns
        self._connections.add(connection)
        metrics.connections_opened += 1
        metrics.connections_open += 1
        try:
            await self._serve(connection)
        except InvalidInput as exc:
            await self._turn_away(connection, POLICY, str(exc))
        except StoreError:
            await self._turn_away(connection, OVERLOADED, "history unavailable, please retry")
        finally:
            self._connections.discard(connection)
            metrics.connections_open -= 1
            metrics.slow_readers_dropped += connection.socket.overflowed

    async def _turn_away(self, connection: Served, code: int, reason: str) -> None:
        connection.socket.close(code, reason)
        await self._discard(connection)

    async def _serve(self, connection: Served) -> None:
        assert connection.request is not None  # noqa: S101  # the handshake is done
        path, query = _split(connection.request.path)
        kind, _, raw_room = path[1:].partition("/")
        if kind == "ws":
            await self._serve_ws(connection)
            return
        room_id = normalise_room(unquote(raw_room), self.context.limits.room_max)
        if kind == "chat":
            await self._serve_chat(connection, room_id)
        else:
            await self._serve_feed(connection, room_id, since_of(parse_qs(query).get("since", ())))

    async def _serve_ws(self, connection: Served) -> None:
        session = WsSession(self.context, _client_ip(connection), self.new_session_id())
        await _drive(connection, drive_ws(session, connection.socket))

    async def _serve_chat(self, connection: Served, room_id: str) -> None:
        session = ChatSession(self.context, _client_ip(connection), room_id)
        await _drive(connection, drive_chat(session, connection.socket))

    async def _serve_feed(self, connection: Served, room_id: str, since: int | None) -> None:
        subscriber = FeedSubscriber(connection.socket, Replays(self.context.pacer))
        hub = self.context.hub
        join = asyncio.create_task(hub.join(room_id, subscriber, since, unlimited=True))
        gone = asyncio.create_task(self._discard(connection))
        try:
            await asyncio.wait((join, gone), return_when=asyncio.FIRST_COMPLETED)
            if join.done():
                join.result()
            await gone
        finally:
            join.cancel()
            gone.cancel()
            hub.leave(room_id, subscriber)

    async def _discard(self, connection: Served) -> None:
        """Drop what a peer says that has nothing to say."""
        session = FeedSession(self.context, _client_ip(connection))
        await _drive(connection, drive_feed(session, connection.socket))


async def _drive(connection: Served, driver: SessionDriver) -> None:
    try:
        await read(connection, driver)
    finally:
        driver.close()


def _split(target: str) -> tuple[str, str]:
    """Path and query of a request target, which any client may write in a way that no URL parser takes."""
    path, _, query = target.partition("?")
    return path, query


def _client_ip(connection: Served) -> str:
    address: Any = connection.remote_address
    return str(address[0]) if address else ""
