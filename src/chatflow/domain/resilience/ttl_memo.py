"""Remember a result for a moment, and share one computation among concurrent callers."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs

from chatflow.domain.resilience.single_flight import SingleFlight
from chatflow.ports.clock import Clock

V = TypeVar("V")


@attrs.define(eq=False)
class TtlMemo(Generic[V]):
    """The result of ``work``, at most ``fresh_s`` seconds old; with 0, only concurrent callers share it.

    An error is raised to the callers that waited for it, and not remembered.
    """

    work: Callable[[], Awaitable[V]]
    clock: Clock
    fresh_s: float
    _kept: tuple[float, V] | None = attrs.field(default=None, init=False)
    _flight: SingleFlight[V] = attrs.field(init=False, factory=SingleFlight)

    async def get(self) -> V:
        """See the class."""
        value = self.peek()
        return value if value is not None else await self._flight.run("", self._work)

    def peek(self) -> V | None:
        """The result, if it is still fresh."""
        if self._kept is not None and self.clock() - self._kept[0] < self.fresh_s:
            return self._kept[1]
        return None

    async def _work(self) -> V:
        started = self.clock()
        value = await self.work()
        self._kept = (started, value)
        return value
