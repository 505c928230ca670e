"""Coalesce concurrent reads of one key in this process.

* Cancelling a caller does not disturb the others: the read goes on while anyone waits, and stops with the last.
* Callers that joined a read which fails try once more, and share one new read.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import attrs

V = TypeVar("V")


@attrs.define(eq=False)
class _Flight(Generic[V]):
    task: asyncio.Task[V]
    riders: int = 0


@attrs.define(eq=False)
class SingleFlight(Generic[V]):
    """Bounded by its callers: a key is held only while somebody waits for it."""

    _flights: dict[Hashable, _Flight[V]] = attrs.field(init=False, factory=dict)

    async def run(self, key: Hashable, work: Callable[[], Awaitable[V]]) -> V:
        """The result of ``work``, run by this caller or by one that came before.

        Raises:
            Exception: what ``work`` raised when this caller led it, or on the second try.
        """
        follows = key in self._flights
        try:
            return await self._ride(key, work)
        except Exception:
            if not follows:
                raise
        return await self._ride(key, work)

    def __len__(self) -> int:
        return len(self._flights)

    async def _ride(self, key: Hashable, work: Callable[[], Awaitable[V]]) -> V:
        flight = self._flights.get(key) or self._start(key, work)
        flight.riders += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.riders -= 1
            if not flight.riders and not flight.task.done():
                self._forget(key, flight)
                flight.task.cancel()

    def _start(self, key: Hashable, work: Callable[[], Awaitable[V]]) -> _Flight[V]:
        async def fly() -> V:
            return await work()

        flight = _Flight(asyncio.ensure_future(fly()))
        self._flights[key] = flight
        # Added before any rider waits, so the key is free again by the time the first rider wakes.
        flight.task.add_done_callback(lambda _: self._forget(key, flight))
        return flight

    def _forget(self, key: Hashable, flight: _Flight[V]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
