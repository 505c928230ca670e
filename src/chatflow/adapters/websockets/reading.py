"""Serve open connections: each gets its session by the path of its handshake, and is read in slices to its end.

A turn of the loop does little for any one connection: a long message is worked off in slices, a run of short ones is
interrupted, and a connection that owes waits in line before its next slice. Of those that send much while others send
little, one goes on in each turn. Nothing is left out or overtaken.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, unquote

import attrs
from websockets.asyncio.server import ServerConnection

from chatflow.adapters.websockets.arriving import ArrivingConnection
from chatflow.adapters.websockets.backpressure import Backpressure
from chatflow.adapters.websockets.connection import GatewayConnection
from chatflow.adapters.websockets.driver import SessionDriver, drive_chat, drive_silent, drive_ws
from chatflow.adapters.websockets.feed import since_of
from chatflow.adapters.websockets.inbox import Inbox
from chatflow.adapters.websockets.public_connection import PublicPeer
from chatflow.adapters.websockets.tokens import token_of
from chatflow.adapters.websockets.turns import OnePerTurn
from chatflow.domain.messages.errors import InvalidInput, Malformed
from chatflow.domain.messages.rooms import normalise_room
from chatflow.domain.session.chat import ChatSession
from chatflow.domain.session.context import GatewayContext
from chatflow.domain.session.core import Session
from chatflow.domain.session.errors import POLICY
from chatflow.domain.session.feed import FeedSession, SilentSession
from chatflow.domain.session.inflight import Inflight
from chatflow.domain.session.ws import WsSession

SLICE_ITEMS = 64
LOOK_EVERY = 16
TURN_S = 0.002
"""A reader lets the others go on after that time. The clock is looked at once in `LOOK_EVERY` messages."""


class FrameSource(Protocol):
    """A connection, as its reader sees it."""

    inbox: Inbox
    loop: asyncio.AbstractEventLoop
    turns: OnePerTurn | None

    def attach(self, session: Session, backpressure: Backpressure) -> None:
        """From now on messages are handled."""

    def detach(self) -> None:
        """Nobody handles them any more."""

    async def take_in(self) -> bool:
        """Take in what was read and did not fit, after the others; whether a message waits."""

    async def resumed(self) -> None:
        """Wait until more may be handled."""

    def is_ending(self) -> bool:
        """Whether it is closing, or has gone."""

    def turn_deaf(self) -> None:
        """Read nothing more."""


Served = GatewayConnection | PublicPeer


@attrs.define(eq=False)
class OpenConnections:
    """Gives each connection its session by the path of its handshake, and reads it to the end."""

    context: GatewayContext
    new_session_id: Callable[[], str]
    connections: set[Served] = attrs.field(factory=set, init=False)
    _turns: OnePerTurn = attrs.field(factory=OnePerTurn, init=False)

    async def handle(self, connection: ServerConnection) -> None:
        """Serve a `GatewayConnection` until it has gone."""
        assert isinstance(connection, GatewayConnection)  # noqa: S101  # create_connection made it
        await self._serve_counted(connection)

    async def handle_public(self, connection: ServerConnection) -> None:
        """Serve the library's own connection until it has gone."""
        assert isinstance(connection, ArrivingConnection)  # noqa: S101  # create_connection made it
        wrapped = PublicPeer(connection)
        try:
            await self._serve_counted(wrapped)
        finally:
            await wrapped.aclose()

    async def _serve_counted(self, connection: Served) -> None:
        metrics = self.context.metrics
        connection.socket.limit_bytes = self.context.outbound_limit_bytes
        connection.memory, connection.turns = self.context.memory, self._turns
        address = client_address(connection)
        self.context.quotas.connected(address)
        self.connections.add(connection)
        metrics.connections_opened += 1
        metrics.connections_open += 1
        try:
            await self._serve(connection)
        except InvalidInput as exc:
            await self._turn_away(connection, POLICY, str(exc))
        finally:
            self.connections.discard(connection)
            self.context.quotas.disconnected(address)
            metrics.connections_open -= 1
            metrics.slow_readers_dropped += connection.socket.overflowed

    async def _turn_away(self, connection: Served, code: int, reason: str) -> None:
        connection.socket.close(code, reason)
        session = SilentSession(self.context, client_address(connection))
        await _drive(connection, drive_silent(session, connection.socket))

    async def _serve(self, connection: Served) -> None:
        assert connection.request is not None  # noqa: S101  # the handshake is done
        path, _, query = connection.request.path.partition("?")  # no URL parser takes all that clients write
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
        session = WsSession(
            self.context, client_address(connection), self.new_session_id(), token=self._token(connection)
        )
        await _drive(connection, drive_ws(session, connection.socket))

    async def _serve_chat(self, connection: Served, room_id: str) -> None:
        session = ChatSession(self.context, client_address(connection), room_id, token=self._token(connection))
        await _drive(connection, drive_chat(session, connection.socket))

    async def _serve_feed(self, connection: Served, room_id: str, since: int | None) -> None:
        session = FeedSession(self.context, client_address(connection), room_id, since, token=self._token(connection))
        await _drive(connection, drive_silent(session, connection.socket))

    def _token(self, connection: Served) -> str | None:
        """What came with the handshake, where anybody asks for it."""
        assert connection.request is not None  # noqa: S101  # the handshake is done
        return None if self.context.authenticator is None else token_of(connection.request.headers)


async def _drive(connection: Served, driver: SessionDriver) -> None:
    try:
        await read(connection, driver)
    finally:
        driver.close()


def client_address(connection: Served | ArrivingConnection) -> str:
    """Where it comes from, ``""`` if that is not known: behind a proxy that does not say."""
    client = connection.client
    return client.address if client.is_known else ""


async def read(connection: FrameSource, driver: SessionDriver) -> None:
    """Hand everything over until the connection has gone and nothing is left.

    What would have to wait in line while the connection ends is dropped: nobody is there any more to be answered.
    """
    connection.attach(driver.session, driver.backpressure)
    try:
        await _read(connection, driver)
    finally:
        connection.detach()


async def _read(connection: FrameSource, driver: SessionDriver) -> None:
    session, inbox = driver.session, connection.inbox
    inflight = session.inflight
    while True:
        if inbox.messages:
            await _hand_over(connection, driver)
        elif await connection.take_in():
            continue
        elif inbox.is_over:
            return
        elif not inflight.is_stalled:
            await inbox.woken()
        if session.is_ended:
            connection.turn_deaf()
            return
        if inflight.is_stalled:
            if inflight.debt.is_due and connection.is_ending():
                connection.turn_deaf()
                return
            await connection.resumed()


async def _hand_over(connection: FrameSource, driver: SessionDriver) -> None:
    """Hand over what waits, unless there is a reason to stop."""
    session, messages, decode = driver.session, connection.inbox.messages, driver.decode
    inflight, receive, effects = session.inflight, session.receive, session.effects
    clock = connection.loop.time
    if inflight.is_greedy:
        await _pass_turn(connection, inflight)
    count, began = 0, clock()
    while messages and not inflight.is_stalled:
        frame = messages.popleft()
        try:
            value = decode(frame)
        except Malformed:
            session.receive_malformed(len(frame))
        else:
            if receive(value, len(frame), SLICE_ITEMS):
                await _work_off(connection, driver)
        if effects:
            driver.perform()
            if session.is_ended:
                return
        inflight.handled += 1
        if inflight.is_awaited:
            inflight.moved()
        count += 1
        if not count % LOOK_EVERY and (inflight.is_greedy or clock() - began > TURN_S):
            await _pass_turn(connection, inflight)
            began = clock()


async def _pass_turn(connection: FrameSource, inflight: Inflight) -> None:
    """Let the others go on; one greedy connection in each turn of the loop."""
    await (connection.turns.pass_through() if inflight.is_greedy and connection.turns is not None else asyncio.sleep(0))


async def _work_off(connection: FrameSource, driver: SessionDriver) -> None:
    """Handle the rest of a long message, slice by slice."""
    session = driver.session
    inflight = session.inflight
    while True:
        driver.perform()
        if not inflight.is_stalled:
            await asyncio.sleep(0)
        elif inflight.debt.is_due and connection.is_ending():
            return
        else:
            await connection.resumed()
        if not session.go_on(SLICE_ITEMS):
            return


if TYPE_CHECKING:

    def _check(direct: GatewayConnection, public: PublicPeer) -> list[FrameSource]:
        return [direct, public]
