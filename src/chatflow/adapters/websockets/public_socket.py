"""The `Socket` port on documented parts of ``websockets`` alone: a queue of frames and one task that sends them."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from chatflow.adapters.websockets import sockets
from chatflow.domain.session.errors import OVERLOADED
from chatflow.domain.session.memory_budget import SMALL_BYTES
from chatflow.ports.socket import Socket

LOW_BYTES = 32 * 2**10
"""With less waiting, the peer counts as having read."""

Pong = asyncio.Future[float]


class PublicSocket:
    """Sends in order; a peer that leaves more than ``limit_bytes`` in the queue is closed with 1013."""

    def __init__(self, connection: ServerConnection, note: Callable[[], None]) -> None:
        self.limit_bytes = 2**20
        self.overflowed = False
        self.is_noted = False
        self.queued_bytes = 0
        self.heard_at = asyncio.get_running_loop().time()
        self.is_listening = True
        self._connection = connection
        self._note = note
        self._queue: deque[bytes | asyncio.Future[Pong | None]] = deque()
        self._close_with: tuple[int, str] | None = None
        self._has_work = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._pinging: asyncio.Task[bool] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._writer = asyncio.create_task(self._write())
        self._ending: asyncio.Task[None] | None = None

    def send(self, frames: Sequence[bytes]) -> None:
        """See `Socket.send`."""
        if not frames or not self.is_open():
            return
        self._queue.extend(frames)
        self._count(sum(map(len, frames)))
        self._has_work.set()
        if self.queued_bytes > self.limit_bytes:
            self.overflowed = True
            self.close(OVERLOADED, "too slow a reader")

    def close(self, code: int, reason: str, grace_s: float | None = None) -> None:
        """See `Socket.close`."""
        if self.is_open():
            self._close_with = code, reason
            self._has_work.set()
            self._writable.set()
            self.abort_after(sockets.CLOSE_GRACE_S if grace_s is None else grace_s)

    async def drained(self) -> bool:
        """See `Socket.drained`."""
        await self._writable.wait()
        return self.is_open()

    async def echoed(self) -> bool:
        """See `Socket.echoed`."""
        if not self.is_open():
            return False
        sent: asyncio.Future[Pong | None] = asyncio.get_running_loop().create_future()
        self._queue.append(sent)
        self._has_work.set()
        pong = await sent
        if pong is None:
            return False
        try:
            await asyncio.shield(pong)
        except ConnectionClosed:
            return False
        self.heard_at = asyncio.get_running_loop().time()
        return self.is_open()

    def is_open(self) -> bool:
        """See `Socket.is_open`."""
        return self._close_with is None and self._connection.state is State.OPEN

    def heartbeat(self, now: float, interval_s: float) -> bool:
        """Ping when it is time to; ``False`` when the peer was silent for two intervals and was dropped."""
        if not self.is_open():
            return True
        if not self.is_listening and self._writable.is_set():
            self.heard_at = now  # we do not listen, so its silence says nothing
        if now - self.heard_at >= 2 * interval_s:
            self.close(1011, "silent for too long", 0.0)
            return False
        if now - self.heard_at >= interval_s and (self._pinging is None or self._pinging.done()):
            self._pinging = asyncio.create_task(self.echoed())
        return True

    def abort_after(self, grace_s: float) -> None:
        """Wait so long for the end of the connection."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(grace_s, self._abort)

    async def aclose(self) -> None:
        """The connection has gone: nothing waits for it any more."""
        self._writable.set()
        if self._deadline is not None:
            self._deadline.cancel()
        tasks = [task for task in (self._writer, self._pinging, self._ending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._give_up()

    async def _write(self) -> None:
        try:
            while True:
                while self._queue:
                    await self._send_next()
                if self._close_with is not None:
                    await self._connection.close(*self._close_with)
                    return
                self._has_work.clear()
                await self._has_work.wait()
        except ConnectionClosed:
            self._give_up()

    async def _send_next(self) -> None:
        item = self._queue[0]
        if isinstance(item, bytes):
            await self._connection.send(item, text=True)
            self._count(-len(item))
        elif not item.done():
            pong: Pong = await self._connection.ping()  # type: ignore[assignment]
            if not item.done():
                item.set_result(pong)
        self._queue.popleft()

    def _count(self, size: int) -> None:
        self.queued_bytes += size
        if self.queued_bytes <= LOW_BYTES:
            self._writable.set()
        elif self.is_open():
            self._writable.clear()
        if self.queued_bytes >= SMALL_BYTES or self.is_noted:
            self._note()

    def _give_up(self) -> None:
        for item in self._queue:
            if not isinstance(item, bytes) and not item.done():
                item.set_result(None)
        self._queue.clear()
        self._count(-self.queued_bytes)
        self._writable.set()

    def _abort(self) -> None:
        self._writer.cancel()
        self._ending = asyncio.create_task(self._end())

    async def _end(self) -> None:
        """A first close may wait behind a peer that does not read; a second one ends the connection at its deadline."""
        self._give_up()
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(0.05):
                await self._connection.close(*(self._close_with or (1011, "")))
        await self._connection.close()


if TYPE_CHECKING:

    def _check(socket: PublicSocket) -> Socket:
        return socket
