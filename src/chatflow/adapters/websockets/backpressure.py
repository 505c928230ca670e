"""Waiting for what `chatflow.domain.session.inflight` counts."""

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from chatflow.adapters.websockets.turns import pay
from chatflow.domain.session.inflight import Inflight


@attrs.define(eq=False)
class Backpressure:
    """The waits of one connection: its reader until it may read on, an echo until the reader has caught up."""

    inflight: Inflight
    _changed: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.inflight.notify = self._changed.set

    async def resumed(self, drained: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Wait until reading may go on; meanwhile the connection's reading time stands still.

        Args:
            drained: waits until the peer has read most of what was sent, before more that is not a send is answered.
        """
        inflight = self.inflight
        inflight.stop_reading()
        try:
            if drained is not None and inflight.has_answered:
                inflight.has_answered = False
                await drained()
            while inflight.is_stalled:
                await (pay(inflight.debt) if inflight.debt.is_due else self._moved())
        finally:
            inflight.resume_reading()

    async def caught_up(self) -> None:
        """Wait until what arrived before this call has been handled."""
        inflight = self.inflight
        goal = inflight.arrived
        while inflight.handled < goal:
            inflight.is_awaited = True
            await self._change()
        while inflight.is_full or inflight.context.publisher.is_congested(inflight.share):
            await self._moved()
            await asyncio.sleep(0)  # the reader, woken in the same moment, goes on first

    async def _moved(self) -> None:
        if self.inflight.is_full:
            await self._change()
            while self.inflight.is_backed_up and not self.inflight.debt.is_due:
                await self._change()
        else:
            await self.inflight.context.publisher.uncongested(self.inflight.share)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
