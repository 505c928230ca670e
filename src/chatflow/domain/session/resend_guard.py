"""Keep one sender's order over a refusal, whether or not it can repeat by id.

Who sends ids of its own repeats what was refused: `SenderOrder` takes nothing else into the room before. Who does not
can only be told: everything for the room is refused until the peer has certainly received the refusals, that is until
a ping sent behind them has come back and nothing was refused in between. A peer that never pauses would stay fenced
for ever; after ``limit_s`` it has made its choice and is let through.

The time to repeat by id begins with such an echo too: before, the peer may not know that it has something to repeat.
The library answers to a pong while frames that came before it wait behind a reader that is stalled, so an echo counts
once the reader has caught up. On a connection that is ending what was refused stays refused: frames may still come.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import attrs

from chatflow.domain.ingest.sender_order import SenderOrder
from chatflow.ports.clock import Clock
from chatflow.ports.socket import Socket

LIMIT_S = 1.0


async def _at_once() -> None:
    """Nothing is ever behind."""


@attrs.define(eq=False)
class ResendGuard:
    """The rooms of one connection in which not everything is taken.

    Args:
        caught_up: waits until what arrived before has been handled.
    """

    socket: Socket
    clock: Clock
    limit_s: float = LIMIT_S
    caught_up: Callable[[], Awaitable[None]] = attrs.field(kw_only=True, default=_at_once)
    _order: SenderOrder = attrs.field(init=False)
    _refusals: dict[str, int] = attrs.field(factory=dict, init=False)
    _untold: list[tuple[str, str]] = attrs.field(factory=list, init=False)
    _is_telling: bool = attrs.field(default=False, init=False)
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._order = SenderOrder(self.clock)

    def admits(self, room_id: str, message_id: str | None) -> bool:
        """Whether a message may be taken now; ``None`` for one without an id of its sender's."""
        return room_id not in self._refusals and self._order.admits(room_id, message_id)

    def refused(self, room_id: str, message_id: str | None, arrival: int, *, out_of_turn: bool) -> None:
        """A message was refused as retryable, ``out_of_turn`` when only for what was refused before it."""
        if message_id is not None:
            self._order.refused(room_id, message_id, arrival, out_of_turn=out_of_turn)
            self._order.hold(room_id, message_id)
            return
        count = self._refusals.get(room_id)
        self._refusals[room_id] = (count or 0) + 1
        if count is None:
            self._run(self._lower(room_id))

    def sent(self, room_id: str, message_id: str) -> None:
        """The refusal of a message with an id of its sender's goes out in this tick."""
        self._untold.append((room_id, message_id))
        if not self._is_telling:
            self._is_telling = True
            self._run(self._tell())

    def accepted(self, room_id: str, message_id: str) -> None:
        """A message with an id of its sender's is safe."""
        self._order.accepted(room_id, message_id)

    def close(self) -> None:
        """The connection has gone."""
        for task in self._tasks:
            task.cancel()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lower(self, room_id: str) -> None:
        deadline = self.clock() + self.limit_s
        try:
            async with asyncio.timeout(self.limit_s):
                seen = -1
                while seen != self._refusals[room_id] and self.clock() < deadline:
                    seen = self._refusals[room_id]
                    if not await self._echoed():
                        return
        except TimeoutError:
            pass  # a peer that does not answer pings is as one that never pauses
        if self.socket.is_open():
            del self._refusals[room_id]

    async def _tell(self) -> None:
        while self._untold:
            await asyncio.sleep(0)  # one echo for all of this tick
            untold, self._untold = self._untold, []
            if not await self._echoed():
                return
            for room_id, message_id in untold:
                self._order.told(room_id, message_id)
        self._is_telling = False

    async def _echoed(self) -> bool:
        """What was refused has reached the peer, and what it had sent before was handled; ``False``: it is closing."""
        await asyncio.sleep(0)  # the refusals of this tick go out first
        if not await self.socket.echoed():
            return False
        await self.caught_up()
        return self.socket.is_open()
