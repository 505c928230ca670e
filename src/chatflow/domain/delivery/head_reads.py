"""Read the heads of rooms together: a client that rejoins its rooms needs hundreds at once."""

import asyncio
from collections.abc import Awaitable, Callable

import attrs

LANES = 2
ROOMS_PER_READ = 200

Heads = dict[str, int]
"""The last seq of each room that has any."""


@attrs.define(eq=False)
class HeadReads:
    """At most two reads at a time, each shared by everybody who asked before it began.

    A read begins in a later turn of the event loop than the calls it serves, so the joins of one turn share it. A
    cancelled caller cancels nobody else; a read that fails, fails for all who share it.
    """

    read: Callable[[list[str]], Awaitable[Heads]]
    _lanes: asyncio.Semaphore = attrs.field(factory=lambda: asyncio.Semaphore(LANES), init=False)
    _next: tuple[dict[str, None], "asyncio.Task[Heads]"] | None = attrs.field(default=None, init=False)

    async def of(self, room_id: str) -> int:
        """The room's last seq, 0 when it has none.

        Raises:
            StoreError: it cannot be read now.
        """
        if self._next is None or len(self._next[0]) >= ROOMS_PER_READ:
            rooms: dict[str, None] = {}
            task = asyncio.get_running_loop().create_task(self._run(rooms), name="heads")
            task.add_done_callback(_seen)
            self._next = rooms, task
        rooms, task = self._next
        rooms[room_id] = None
        return (await asyncio.shield(task)).get(room_id, 0)

    async def _run(self, rooms: dict[str, None]) -> Heads:
        async with self._lanes:
            if self._next is not None and self._next[0] is rooms:
                self._next = None
            return await self.read(list(rooms))


def _seen(task: "asyncio.Task[Heads]") -> None:
    """Retrieve the error, since every caller may have gone."""
    if not task.cancelled():
        task.exception()
