"""A connection on documented parts of ``websockets`` alone, for when `compat.uses_private_parts` says no.

A task takes one message at a time while the connection may be read from. The library holds 16 more and then stops
reading, so a sender is slowed by TCP here too.
"""

import asyncio

import structlog
from websockets.exceptions import ConnectionClosed

from chatflow.adapters.websockets.arriving import ArrivingConnection
from chatflow.adapters.websockets.backpressure import Backpressure
from chatflow.adapters.websockets.connection import END_GRACE_S
from chatflow.adapters.websockets.inbox import Inbox
from chatflow.adapters.websockets.public_socket import PublicSocket
from chatflow.adapters.websockets.turns import OnePerTurn
from chatflow.domain.session.core import Session
from chatflow.domain.session.errors import OVERLOADED
from chatflow.domain.session.memory_budget import SMALL_BYTES, MemoryBudget

log = structlog.get_logger()


class PublicPeer:
    """What `GatewayConnection` is to the gateway, around a plain `ArrivingConnection`."""

    def __init__(self, connection: ArrivingConnection) -> None:
        self.loop = asyncio.get_running_loop()
        self.inbox = Inbox()
        self.memory: MemoryBudget | None = None
        self.turns: OnePerTurn | None = None
        self.socket = PublicSocket(connection, self.note)
        self.request = connection.request
        self.client = connection.client
        self._connection = connection
        self._session: Session | None = None
        self._backpressure: Backpressure | None = None
        self._may_read = asyncio.Event()
        self._reader = asyncio.create_task(self._read())
        self._watch = asyncio.create_task(self._wait_for_the_end())

    def attach(self, session: Session, backpressure: Backpressure) -> None:
        """From now on messages are handled."""
        self._session, self._backpressure = session, backpressure
        session.inflight.arrived = len(self.inbox.messages)
        self._may_read.set()

    def detach(self) -> None:
        """Nobody handles them any more."""
        self._session = None

    async def take_in(self) -> bool:
        """The inbox is empty: read on."""
        self.inbox.taken_bytes = 0
        self._may_read.set()
        return bool(self.inbox.messages)

    async def resumed(self) -> None:
        """Wait until more may be handled."""
        assert self._backpressure is not None  # noqa: S101  # only its reader waits
        self.note()
        await self._backpressure.resumed(self.socket.drained)
        self.note()
        self._may_read.set()

    def is_ending(self) -> bool:
        """Whether nothing that is sent now reaches the peer."""
        return self.inbox.is_over or not self.socket.is_open()

    def turn_deaf(self) -> None:
        """Handle nothing more; the connection ends with the grace for it."""
        self.inbox.messages.clear()
        if not self.inbox.is_over:
            self.inbox.end()
            self.socket.abort_after(END_GRACE_S)

    def note(self) -> None:
        """Tell the memory budget what this connection holds."""
        if self.memory is None:
            return
        if not self.socket.is_open():
            self.memory.forget(self)
            return
        held = 0 if self._session is None else self._session.held_bytes()
        size = self.socket.queued_bytes + self.inbox.taken_bytes + held
        self.socket.is_noted = size >= SMALL_BYTES
        self.memory.note(self, size)

    def hold(self) -> None:
        """See `Holder.hold`."""
        self._set_held(is_held=True)

    def release(self) -> None:
        """See `Holder.release`."""
        self._set_held(is_held=False)

    def overrun(self, held_bytes: int) -> None:
        """See `Holder.overrun`."""
        log.warning("gateway.memory_holder_dropped", connection=str(self._connection.id), held_bytes=held_bytes)
        self.socket.close(OVERLOADED, "the gateway holds too much for its connections", END_GRACE_S)

    async def aclose(self) -> None:
        """The gateway is done with it: wait for its end."""
        self.turn_deaf()
        await self._connection.wait_closed()
        self._reader.cancel()
        await asyncio.gather(self._reader, self._watch, return_exceptions=True)
        await self.socket.aclose()

    async def _read(self) -> None:
        try:
            while True:
                while not self._has_room():
                    self.socket.is_listening = False
                    self._may_read.clear()
                    await self._may_read.wait()
                self.socket.is_listening = True
                message = await self._connection.recv()
                self.socket.heard_at = self.loop.time()
                if not self.inbox.is_over:
                    self.inbox.add(message)
                    if self._session is not None:
                        self._session.inflight.arrived += 1
        except ConnectionClosed:
            self.inbox.end()

    def _has_room(self) -> bool:
        if self._session is None:
            return False
        inflight = self._session.inflight
        return not (self.inbox.is_full or inflight.debt.is_due or inflight.is_held)

    async def _wait_for_the_end(self) -> None:
        await self._connection.wait_closed()
        self.inbox.end()
        self._set_held(is_held=False)
        if self.memory is not None:
            self.memory.forget(self)

    def _set_held(self, *, is_held: bool) -> None:
        if self._session is not None and self._session.inflight.is_held != is_held:
            self._session.inflight.is_held = is_held
            self._session.inflight.moved()
            self._may_read.set()
            self.inbox.wake()
