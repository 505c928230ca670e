"""The `Socket` port on a `websockets` connection."""

import asyncio
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed

from chatflow.adapters.websockets.compat import DirectPeer
from chatflow.domain.session.errors import OVERLOADED
from chatflow.domain.session.memory_budget import SMALL_BYTES
from chatflow.ports.socket import Socket

CLOSE_GRACE_S = 5.0
RAW_LOW_BYTES = 32 * 2**10
RAW_POLL_S = 0.02


class SocketOwner(DirectPeer):
    """A connection, as its socket sees it.

    Attributes:
        heard_at: when the last byte came from the peer, which is what liveness means here.
        is_stopped: it is not read from.
    """

    heard_at: float
    pinged_at: float
    is_stopped: bool

    def note(self) -> None:
        """What it holds has changed."""

    def owes(self) -> bool:
        """Whether it is not read from for what it has asked for."""
        return False


class WebSocketSocket:
    """Writes without waiting; a peer whose outbound buffer passes the limit is closed with 1013.

    The library's own `send` and `close` wait behind a stuck writer. Here neither waits, and a close has a deadline
    after which the connection is aborted.
    """

    __slots__ = ("_abort", "_connection", "is_noted", "limit_bytes", "overflowed", "writable")

    def __init__(self, connection: SocketOwner) -> None:
        self._connection = connection
        self._abort: asyncio.TimerHandle | None = None
        self.limit_bytes = 2**20
        self.overflowed = False
        self.is_noted = False
        self.writable = asyncio.Event()
        self.writable.set()

    def send(self, frames: Sequence[bytes]) -> None:
        """See `Socket.send`."""
        connection = self._connection
        if not connection.is_open():
            return
        connection.write_frames(frames)
        self.limit_outbound()

    def limit_outbound(self) -> None:
        """Close when the peer reads too slowly."""
        size = self._connection.unsent_bytes()
        if size > self.limit_bytes and self.is_open():
            self.overflowed = True
            self.close(OVERLOADED, "too slow a reader")
        elif size >= SMALL_BYTES or self.is_noted:
            self._connection.note()

    def close(self, code: int, reason: str, grace_s: float | None = None) -> None:
        """See `Socket.close`."""
        connection = self._connection
        if not self.is_open():
            return
        connection.write_close(code, reason)
        self.writable.set()
        self.abort_after(CLOSE_GRACE_S if grace_s is None else grace_s)

    def gone(self) -> None:
        """The connection is lost: wake whoever waits for it, and stop the timer that keeps it in memory."""
        self.writable.set()
        if self._abort is not None:
            self._abort.cancel()
            self._abort = None

    async def drained(self) -> bool:
        """See `Socket.drained`."""
        await self.writable.wait()
        if (raw := self._connection.raw_transport) is not None:
            while raw.get_write_buffer_size() > RAW_LOW_BYTES and self.is_open():  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(RAW_POLL_S)
        return self.is_open()

    async def echoed(self) -> bool:
        """See `Socket.echoed`."""
        if not self.is_open():
            return False  # the library would wait for the end of the closing handshake
        try:
            await (await self._connection.ping())
        except ConnectionClosed:
            return False
        return self.is_open()

    def is_open(self) -> bool:
        """See `Socket.is_open`."""
        return self._connection.is_open()

    def heartbeat(self, now: float, interval_s: float) -> bool:
        """Ping when it is time to; ``False`` when the peer was silent for two intervals and was dropped."""
        connection = self._connection
        if not self.is_open():
            if self._abort is None and connection.is_closing():
                self.abort_after(CLOSE_GRACE_S)  # the library closes by itself what breaks the protocol
            return True
        if connection.owes() and connection.has_hung_up():
            connection.abort()
            return True
        if connection.is_stopped and not connection.is_writing_paused():
            connection.heard_at = now  # we do not listen, so its silence says nothing
        if now - connection.heard_at >= 2 * interval_s:
            connection.abort()
            return False
        if now - connection.pinged_at >= interval_s:
            connection.pinged_at = now
            connection.write_ping(struct.pack("!d", now))
        return True

    def abort_after(self, grace_s: float) -> None:
        """Abort the connection unless it ends within ``grace_s`` seconds."""
        connection = self._connection
        if self._abort is not None:
            self._abort.cancel()
        self._abort = connection.loop.call_later(grace_s, connection.abort)


if TYPE_CHECKING:

    def _check(connection: SocketOwner) -> Socket:
        return WebSocketSocket(connection)
