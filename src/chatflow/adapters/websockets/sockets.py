"""The `Socket` port on a `websockets` connection, and the connection class that notes when its peer was last heard."""

import asyncio
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from chatflow.ports.socket import Socket

TOO_SLOW = 1013
CLOSE_GRACE_S = 5.0


class GatewayConnection(ServerConnection):
    """Adds the time of the last byte from the peer, which is what liveness means here."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard_at = self.loop.time()
        self.pinged_at = self.heard_at
        self.socket = WebSocketSocket(self)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self.heard_at = self.loop.time()
        super().data_received(data)
        # The library answers pings by itself, even while closing and whether or not the pongs are read.
        self.socket.limit_outbound()
        if self.socket.overflowed and self.paused and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Called by the event loop."""
        super().resume_writing()
        self.socket.writable.set()
        if self.socket.overflowed and not self.recv_messages.paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """Called by the event loop."""
        super().pause_writing()
        self.socket.writable.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        super().connection_lost(exc)
        self.socket.gone()


class WebSocketSocket:
    """Writes without waiting; a peer whose outbound buffer passes the limit is closed with 1013.

    The library's own `send` and `close` wait behind a stuck writer, so frames go out through `broadcast`, which
    never waits, and a close has a deadline after which the transport is aborted.
    """

    __slots__ = ("_abort", "_connection", "limit_bytes", "overflowed", "writable")

    def __init__(self, connection: GatewayConnection) -> None:
        self._connection = connection
        self._abort: asyncio.TimerHandle | None = None
        self.limit_bytes = 2**20
        self.overflowed = False
        self.writable = asyncio.Event()
        self.writable.set()

    def send(self, frames: Sequence[bytes]) -> None:
        """See `Socket.send`."""
        connection = self._connection
        if not self.is_open():
            return
        if len(frames) == 1:
            broadcast((connection,), frames[0], text=True)
        else:
            for frame in frames:
                connection.protocol.send_text(frame)
            # One write for all of them: a system call each costs more than everything else about a small frame.
            connection.transport.write(b"".join(connection.protocol.data_to_send()))
        self.limit_outbound()

    def limit_outbound(self) -> None:
        """Close when the peer reads too slowly."""
        if self._connection.transport.get_write_buffer_size() > self.limit_bytes and self.is_open():
            self.overflowed = True
            self.close(TOO_SLOW, "too slow a reader")

    def close(self, code: int, reason: str) -> None:
        """See `Socket.close`."""
        connection = self._connection
        if not self.is_open():
            return
        connection.protocol.send_close(code, reason)
        connection.send_data()
        self.writable.set()
        self._abort = connection.loop.call_later(CLOSE_GRACE_S, connection.transport.abort)

    def gone(self) -> None:
        """The connection is lost: nothing waits for it any more, and no timer keeps it in memory."""
        self.writable.set()
        if self._abort is not None:
            self._abort.cancel()

    async def drained(self) -> bool:
        """See `Socket.drained`."""
        await self.writable.wait()
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
        return self._connection.protocol.state is State.OPEN

    def heartbeat(self, now: float, interval_s: float) -> bool:
        """Ping when it is time to; ``False`` when the peer was silent for two intervals and was dropped."""
        connection = self._connection
        if not self.is_open():
            return True
        if connection.recv_messages.paused:
            connection.heard_at = now  # we do not listen, so its silence says nothing
        if now - connection.heard_at >= 2 * interval_s:
            connection.transport.abort()
            return False
        if now - connection.pinged_at >= interval_s:
            connection.pinged_at = now
            connection.protocol.send_ping(struct.pack("!d", now))
            connection.send_data()
        return True


if TYPE_CHECKING:

    def _check(connection: GatewayConnection) -> Socket:
        return WebSocketSocket(connection)
