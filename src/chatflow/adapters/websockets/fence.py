"""Keep one sender's order over a refusal.

When message 1 of a room is refused for now and message 2 was already on its way, accepting 2 would store it before
the repeated 1. So after a refusal everything for that room on that connection is refused too, until the peer has
certainly received the refusals: a ping sent behind them has come back, and nothing was refused in between.

A peer that never pauses would stay fenced for ever; after ``limit_s`` it has made its choice and is let through.
"""

import asyncio

import attrs

from chatflow.ports.clock import Clock
from chatflow.ports.socket import Socket

LIMIT_S = 1.0


@attrs.define(eq=False)
class Fence:
    """The rooms of one connection that are refused for now."""

    socket: Socket
    clock: Clock
    limit_s: float = LIMIT_S
    _refusals: dict[str, int] = attrs.field(factory=dict, init=False)
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)

    def __contains__(self, room_id: str) -> bool:
        return room_id in self._refusals

    def refused(self, room_id: str) -> None:
        """A message to this room was refused as retryable; raise the fence, or keep it up."""
        count = self._refusals.get(room_id)
        self._refusals[room_id] = (count or 0) + 1
        if count is None:
            task = asyncio.get_running_loop().create_task(self._lower(room_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """The connection has gone."""
        for task in self._tasks:
            task.cancel()

    async def _lower(self, room_id: str) -> None:
        deadline = self.clock() + self.limit_s
        try:
            seen = -1
            while seen != self._refusals[room_id] and self.clock() < deadline:
                seen = self._refusals[room_id]
                await asyncio.sleep(0)  # the refusals of this tick go out first
                if not await self.socket.echoed():
                    return
        finally:
            del self._refusals[room_id]
