"""A client that reads when a test tells it to."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from chatflow.domain.session.errors import OVERLOADED
from chatflow.ports.socket import Socket


@attrs.define(eq=False)
class MemorySocket:
    """Keeps frames until `read`; closes with 1013 when more than ``limit_bytes`` wait."""

    limit_bytes: int = 2**20
    closed_with: tuple[int, str] | None = attrs.field(default=None, init=False)
    _sent: list[bytes] = attrs.field(factory=list, init=False)
    _frames_read: int = attrs.field(default=0, init=False)
    _changed: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def send(self, frames: Sequence[bytes]) -> None:
        """See `Socket.send`."""
        if not self.is_open():
            return
        self._sent += frames
        if sum(map(len, self._sent)) > self.limit_bytes:
            self.close(OVERLOADED, "too slow a reader")

    def close(self, code: int, reason: str) -> None:
        """See `Socket.close`."""
        if self.closed_with is None:
            self.closed_with = (code, reason)
            self._changed.set()

    async def drained(self) -> bool:
        """See `Socket.drained`."""
        while self.is_open() and sum(map(len, self._sent)) * 2 > self.limit_bytes:
            await self._change()
        return self.is_open()

    async def echoed(self) -> bool:
        """See `Socket.echoed`: waits until the client has read all frames sent before this call."""
        goal = self._frames_read + len(self._sent)
        while self.is_open() and self._frames_read < goal:
            await self._change()
        return self.is_open()

    def is_open(self) -> bool:
        """See `Socket.is_open`."""
        return self.closed_with is None

    def read(self) -> list[bytes]:
        """Read, as the client, all frames that wait."""
        frames, self._sent = self._sent, []
        self._frames_read += len(frames)
        self._changed.set()
        return frames

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


if TYPE_CHECKING:
    _socket: Socket = MemorySocket()
