"""Use case: make a batch of messages permanent, then tell everybody.

The order is fixed: commit, invalidate, publish live, and only then may the caller ack the broker. A crash in between
repeats the rest on redelivery, and repeating it changes nothing: stored rows are found by id, invalidating twice is
harmless, and readers drop a sequence number that they have seen.
"""

from collections.abc import Callable, Sequence

import attrs

from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.ports.broker import LiveChannel, LiveEnvelope
from chatflow.ports.cache import Cache, Invalidation
from chatflow.ports.clock import Clock, WallClock
from chatflow.ports.errors import BrokerUnavailable, CacheUnavailable, RowRejected
from chatflow.ports.messages import Message, StoredMessage
from chatflow.ports.store import Appended, MessageStore


@attrs.define(eq=False)
class Persister:
    """Stores batches; isolates what cannot be stored by bisection, keeping the order of the rest.

    Args:
        cache: invalidated after each commit; ``None`` where nothing is cached.
        invalidation_of: what the commit of these messages invalidates and tells.
    """

    store: MessageStore
    live: LiveChannel
    metrics: PersistenceMetrics
    clock: Clock
    now_us: WallClock
    cache: Cache | None = None
    invalidation_of: Callable[[Sequence[StoredMessage]], Invalidation] = attrs.field(
        kw_only=True, default=lambda _: Invalidation(())
    )

    async def persist(self, partition: int, messages: Sequence[Message]) -> None:
        """Return when each message is stored, or kept as a dead letter.

        Raises:
            StoreUnavailable: some may be stored; call again with the same messages.
            SequenceCollision: the store's head lock was bypassed; nothing of this part was stored.
        """
        started = self.clock()
        try:
            appended = await self.store.append_batch(messages)
        except RowRejected as exc:
            await self._isolate(partition, messages, exc)
            return
        self._count(appended, len(messages), self.clock() - started)
        await self._invalidate(appended.stored)
        await self._announce(partition, appended.stored)

    async def void_cache(self) -> None:
        """End whatever is cached: who stored a partition before may have died owing an invalidation of its commits."""
        await self._invalidate(None)

    async def _isolate(self, partition: int, messages: Sequence[Message], exc: RowRejected) -> None:
        if len(messages) == 1:
            await self.store.add_dead_letter(messages[0], str(exc))
            self.metrics.dead_lettered += 1
            return
        middle = len(messages) // 2
        await self.persist(partition, messages[:middle])
        await self.persist(partition, messages[middle:])

    async def _invalidate(self, stored: Sequence[StoredMessage] | None) -> None:
        if self.cache is None:
            return
        try:
            if stored is None:
                await self.cache.invalidate(None)
            else:
                invalidation = self.invalidation_of(stored)
                await self.cache.invalidate(invalidation.tags, invalidation.stored)
        except CacheUnavailable:
            self.metrics.invalidation_failures += 1

    async def _announce(self, partition: int, stored: tuple[StoredMessage, ...]) -> None:
        try:
            await self.live.publish_live(LiveEnvelope(partition, stored))
        except BrokerUnavailable:
            self.metrics.live_failures += 1  # gateways compare heads from time to time and repair

    def _count(self, appended: Appended, taken: int, took_s: float) -> None:
        metrics, stored = self.metrics, appended.stored
        metrics.batches += 1
        metrics.stored += taken - appended.duplicates
        metrics.duplicates += appended.duplicates
        metrics.batch_messages.observe(len(stored))
        metrics.batch_s.observe(took_s)
        metrics.slowest_batch_s = max(metrics.slowest_batch_s, took_s)
        if stored:
            metrics.accepted_to_stored_s.observe((self.now_us() - stored[0].message.accepted_at_us) / 1e6)
