"""Keep one gateway's rooms level with the store: follow the live channel, and compare with the store when it fails.

The live channel may lose envelopes or break. After a loss, after a reconnect, and every ``resync_s`` seconds, each
listener compares what it has seen with the store, so a lost envelope delays a message by ``resync_s`` at most.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import attrs

from chatflow.ports.broker import LiveChannel, LiveEnvelope
from chatflow.ports.errors import BrokerUnavailable, StoreError

RESUBSCRIBE_PAUSE_S = 0.5


class LiveListener(Protocol):
    """Needs to see every committed message."""

    is_idle: bool
    """It waits for nothing, so an envelope may be kept from it."""

    def on_live(self, envelope: LiveEnvelope) -> None:
        """Take what was just committed; never waits."""

    async def resync(self) -> None:
        """Read from the store whatever the live channel did not bring.

        Raises:
            StoreError: nothing was compared; it is called again.
        """


@attrs.define(eq=False)
class LiveDelivery:
    """Subscribes, resubscribes and resyncs until cancelled.

    Args:
        limit: envelopes that the subscription holds; beyond it the channel drops, which is a loss.
        resync_s: seconds between two comparisons while nothing fails.
        resync_failed: called with the error of a comparison that failed; the next one makes up for it.
    """

    live: LiveChannel
    listeners: Sequence[LiveListener]
    limit: int = attrs.field(kw_only=True)
    resync_s: float = attrs.field(kw_only=True)
    resync_failed: Callable[[StoreError], object] = attrs.field(kw_only=True)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True, default=asyncio.sleep)

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="live-follow")
            tasks.create_task(self._resync_regularly(), name="live-resync")

    async def _follow(self) -> None:
        while True:
            try:
                subscription = await self.live.subscribe(limit=self.limit)
                while True:
                    envelope = await subscription.receive()
                    if envelope is None:
                        await self._resync()
                        continue
                    for listener in self.listeners:
                        if not listener.is_idle:
                            listener.on_live(envelope)
            except BrokerUnavailable:
                await self.sleep(RESUBSCRIBE_PAUSE_S)
                await self._resync()

    async def _resync_regularly(self) -> None:
        while True:
            await self.sleep(self.resync_s)
            await self._resync()

    async def _resync(self) -> None:
        try:
            for listener in self.listeners:
                await listener.resync()
        except StoreError as exc:
            self.resync_failed(exc)
