"""One connection through the fault proxy: two sockets, and a pump for each direction.

Runs on the proxy's loop only. A pump holds at most its limit; then it stops reading, and TCP slows the sender down.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from typing import Literal

import attrs

CHUNK_BYTES = 64 * 1024
# A throttled direction moves in steps of this length.
THROTTLE_STEP_S = 0.02
FIN_PATIENCE_S = 2.0

Ending = Literal["rst", "fin"]


@attrs.define(eq=False)
class Conditions:
    """The faults of one direction, for every connection. Changed only between two steps of the proxy's loop."""

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    stalled: bool = False
    swallowing: bool = False
    forwarded_bytes: int = 0


@attrs.define(eq=False)
class Pump:
    """Copies ``source`` to ``sink`` under ``conditions``, the end of the stream included."""

    source: socket.socket
    sink: socket.socket | None
    conditions: Conditions
    limit_bytes: int
    lost: bool = attrs.field(default=False, init=False)
    _held: deque[tuple[float, bytes]] = attrs.field(factory=deque, init=False)
    _held_bytes: int = attrs.field(default=0, init=False)
    _room: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _work: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    async def run(self) -> None:
        """Return when the end of the stream has been forwarded.

        Raises:
            ExceptionGroup: of OSError, when one of the two ends is gone.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take())
            group.create_task(self._give())

    def conditions_changed(self) -> None:
        self._room.set()
        self._work.set()

    async def _take(self) -> None:
        while True:
            while self._held_bytes >= self.limit_bytes or self.conditions.stalled:
                await _woken(self._room)
            data = await self._receive()
            if self.conditions.swallowing:
                self.lost = True
                if not data:
                    return  # `_give` waits on: the other side must not hear of the end
                continue
            self._held.append((time.monotonic(), data))  # the loop's own clock is coarser
            self._held_bytes += len(data)
            self._work.set()
            if not data:
                return

    async def _receive(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self.source, CHUNK_BYTES)
        except OSError:
            if self.conditions.swallowing:
                return b""
            raise

    async def _give(self) -> None:
        while data := await self._next_due():
            await self._send(data)
            self._held_bytes -= len(data)
            self._room.set()
        if self.sink is not None:
            self.sink.shutdown(socket.SHUT_WR)

    async def _next_due(self) -> bytes:
        while True:
            if self.conditions.swallowing and self._held:
                self._drop_held()
            wait_s = None
            if self._held and not self.conditions.stalled:
                wait_s = self._held[0][0] + self.conditions.delay_s - time.monotonic()
                if wait_s <= 0:
                    return self._held.popleft()[1]
            await _woken(self._work, wait_s)

    def _drop_held(self) -> None:
        self.lost = True
        self._held.clear()
        self._held_bytes = 0
        self._room.set()

    async def _send(self, data: bytes) -> None:
        assert self.sink is not None, "a link without an upstream swallows"
        loop = asyncio.get_running_loop()
        rest = memoryview(data)
        while rest:
            rate = self.conditions.bytes_per_s
            step = len(rest) if rate is None else min(len(rest), max(1, int(rate * THROTTLE_STEP_S)))
            await loop.sock_sendall(self.sink, rest[:step])
            self.conditions.forwarded_bytes += step
            rest = rest[step:]
            if rate is not None:
                await _woken(self._work, step / rate)


@attrs.define(eq=False)
class Link:
    """A client's connection and, unless it was accepted into silence, the one to the server."""

    client: socket.socket
    server: socket.socket | None
    up: Pump
    down: Pump | None
    ending: Ending = attrs.field(default="fin", init=False)

    @property
    def has_lost(self) -> bool:
        """Whether bytes were dropped, so that the connection can only be reset."""
        return any(pump.lost for pump in self._pumps) or self.server is None

    @property
    def _pumps(self) -> list[Pump]:
        return [pump for pump in (self.up, self.down) if pump is not None]

    @property
    def _sockets(self) -> list[socket.socket]:
        return [each for each in (self.client, self.server) if each is not None]

    def conditions_changed(self) -> None:
        for pump in self._pumps:
            pump.conditions_changed()

    async def run(self) -> None:
        """Run until both directions have ended, one side failed, or the task is cancelled; then close by `ending`."""
        for each in self._sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.TaskGroup() as group:
                for pump in self._pumps:
                    group.create_task(pump.run())
        except* OSError:
            self.ending = "rst"
        except* asyncio.CancelledError:
            pass
        finally:
            await self._close()

    async def _close(self) -> None:
        try:
            if self.ending == "fin":
                await self._finish()
        finally:
            for each in self._sockets:
                if self.ending == "rst":
                    reset(each)
                each.close()

    async def _finish(self) -> None:
        """Send FIN to both sides and read to the end: closing with unread bytes would send RST."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(FIN_PATIENCE_S):
                for each in self._sockets:
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_WR)
                await asyncio.gather(*(_drained(each) for each in self._sockets))


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def _drained(connection: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(connection, CHUNK_BYTES):
        pass


async def _woken(event: asyncio.Event, timeout_s: float | None = None) -> None:
    event.clear()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
