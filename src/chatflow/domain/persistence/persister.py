"""Use case: commit a batch of messages, then invalidate caches and publish it live.

The order is fixed: commit, invalidate, publish live, and only then may the caller ack the broker. A crash in between
repeats the rest on redelivery, and repeating it changes nothing: stored rows are found by id, invalidating twice is
harmless, and readers drop a sequence number that they have seen.
"""

from collections.abc import Awaitable, Callable, Sequence

import attrs

from chatflow.domain.messages.conflicts import conflicting
from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.ports.broker import LiveChannel, LiveEnvelope
from chatflow.ports.cache import Cache
from chatflow.ports.clock import Clock, WallClock
from chatflow.ports.commit_feed import Commit, CommitFeed
from chatflow.ports.errors import BrokerUnavailable, CacheUnavailable, RowRejected
from chatflow.ports.messages import Message, StoredMessage
from chatflow.ports.store import Appended, MessageStore


@attrs.define(eq=False)
class Persister:
    """Stores batches; bisects a rejected batch until the bad message is alone, and keeps the order of the rest.

    Args:
        cache: voided when a partition changes hands; ``None`` where nothing is cached.
        feed: each commit is published on it, which invalidates the cache; ``None`` where nothing is cached.
        commit_of: what the feed carries of the commit of these messages.
        on_conflict: called with each message that is not stored, since its sender's id stood for another one before.
    """

    store: MessageStore
    live: LiveChannel
    metrics: PersistenceMetrics
    clock: Clock
    now_us: WallClock
    cache: Cache | None = None
    feed: CommitFeed | None = None
    commit_of: Callable[[Sequence[StoredMessage]], Commit] = attrs.field(kw_only=True, default=lambda _: Commit(()))
    on_conflict: Callable[[Message], None] = attrs.field(kw_only=True, default=lambda _: None)

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
        if appended.duplicates:
            self._tell_of_conflicts(messages, appended.stored)
        if self.feed is not None:
            await self._invalidate(self.feed.publish(self.commit_of(appended.stored)))
        await self._announce(partition, appended.stored)
        took_s = self.clock() - started
        self.metrics.write_s += took_s
        self.metrics.slowest_write_s = max(self.metrics.slowest_write_s, took_s)

    async def void_cache(self) -> None:
        """Invalidate everything: a partition's previous owner may have died before it invalidated its last commits."""
        if self.cache is not None:
            await self._invalidate(self.cache.invalidate(None))

    async def _isolate(self, partition: int, messages: Sequence[Message], exc: RowRejected) -> None:
        if len(messages) == 1:
            await self.store.add_dead_letter(messages[0], str(exc))
            self.metrics.dead_lettered += 1
            return
        middle = len(messages) // 2
        await self.persist(partition, messages[:middle])
        await self.persist(partition, messages[middle:])

    async def _invalidate(self, invalidating: Awaitable[None]) -> None:
        try:
            await invalidating
        except CacheUnavailable:
            self.metrics.invalidation_failures += 1

    async def _announce(self, partition: int, stored: tuple[StoredMessage, ...]) -> None:
        try:
            await self.live.publish_live(LiveEnvelope(partition, stored))
        except BrokerUnavailable:
            self.metrics.live_failures += 1  # gateways compare heads from time to time and repair

    def _tell_of_conflicts(self, messages: Sequence[Message], stored: Sequence[StoredMessage]) -> None:
        for message in conflicting(messages, stored):
            self.metrics.conflicts += 1
            self.on_conflict(message)

    def _count(self, appended: Appended, taken: int, took_s: float) -> None:
        metrics, stored = self.metrics, appended.stored
        metrics.batches += 1
        metrics.stored += taken - appended.duplicates
        metrics.duplicates += appended.duplicates
        metrics.batch_messages.observe(len(stored))
        metrics.batch_s.observe(took_s)
        if stored:
            metrics.accepted_to_stored_s.observe((self.now_us() - stored[0].message.accepted_at_us) / 1e6)
