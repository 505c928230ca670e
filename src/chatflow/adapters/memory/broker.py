"""A partitioned broker inside one process, with the promises of a durable one.

Durable means here: a publish is confirmed when the consumer has acked it, that is, when it is committed. Nothing is
acknowledged before that, so a process that dies loses nothing that was acknowledged.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from chatflow.ports.broker import (
    CONFIRM_TIMEOUT_S,
    QUEUE_LIMIT_BYTES,
    Broker,
    Consumer,
    Delivery,
    Envelope,
    LiveChannel,
    LiveEnvelope,
    LiveSubscription,
)
from chatflow.ports.errors import BrokerFull, BrokerUnavailable


@attrs.define(eq=False)
class _QueuedEnvelope:
    envelope: Envelope
    confirmed: asyncio.Future[None]
    deliveries: int = 0


@attrs.define(eq=False)
class _PartitionQueue:
    """Envelopes in publish order; redelivered ones go to the front."""

    waiting: deque[_QueuedEnvelope] = attrs.field(factory=deque)
    size_bytes: int = 0
    consumers: list["MemoryConsumer"] = attrs.field(factory=list)

    def wake(self) -> None:
        if self.consumers:
            self.consumers[0].wake()


@attrs.define(eq=False)
class MemoryBroker:
    """One queue per partition; the consumer that was opened first is active, the others wait their turn.

    Args:
        limit_bytes: of one partition's queue, including unacked deliveries; beyond it publishes are refused.
        confirm_timeout_s: how long a publish waits for the consumer's ack.
    """

    partitions: int = attrs.field(kw_only=True)
    limit_bytes: int = attrs.field(kw_only=True, default=QUEUE_LIMIT_BYTES)
    confirm_timeout_s: float = attrs.field(kw_only=True, default=CONFIRM_TIMEOUT_S)
    live: "MemoryLiveChannel" = attrs.field(factory=lambda: MemoryLiveChannel(), init=False)  # noqa: PLW0108 - below
    _queues: list[_PartitionQueue] = attrs.field(init=False)
    _open: bool = attrs.field(default=True, init=False)

    def __attrs_post_init__(self) -> None:
        self._queues = [_PartitionQueue() for _ in range(self.partitions)]

    async def publish(self, envelope: Envelope) -> None:
        """See `Broker.publish`; a publish that times out leaves its envelope in the queue, as a real one does."""
        queue = self._queue(envelope.partition)
        if queue.size_bytes + envelope.size_bytes > self.limit_bytes:
            raise BrokerFull(f"partition {envelope.partition} holds {queue.size_bytes} bytes")
        entry = _QueuedEnvelope(envelope, asyncio.get_running_loop().create_future())
        queue.waiting.append(entry)
        queue.size_bytes += envelope.size_bytes
        queue.wake()
        try:
            async with asyncio.timeout(self.confirm_timeout_s):
                await asyncio.shield(entry.confirmed)
        except TimeoutError as exc:
            raise BrokerUnavailable(f"no confirm within {self.confirm_timeout_s} s") from exc

    async def consume(self, partition: int, *, prefetch: int) -> "MemoryConsumer":
        """See `Broker.consume`."""
        consumer = MemoryConsumer(self._queue(partition), prefetch)
        consumer.queue.consumers.append(consumer)
        return consumer

    @property
    def open_channels(self) -> int:
        """Queues below their byte limit."""
        return sum(queue.size_bytes < self.limit_bytes for queue in self._queues) if self._open else 0

    async def open(self) -> None:
        """See `Lifecycle.open`; open from the start, and not again after `close`."""
        await self.ping()

    async def ping(self) -> None:
        """See `Lifecycle.ping`."""
        if not self._open:
            raise BrokerUnavailable("the broker was closed")

    async def close(self) -> None:
        """Fail all waiting publishes, and every call from now on."""
        self._open = False
        for queue in self._queues:
            for consumer in tuple(queue.consumers):
                await consumer.close()
            for entry in queue.waiting:
                if not entry.confirmed.done():
                    entry.confirmed.set_exception(BrokerUnavailable("the broker was closed"))
                    entry.confirmed.exception()  # a publish that timed out does not read it
            queue.waiting.clear()
            queue.size_bytes = 0

    def queued_bytes(self, partition: int) -> int:
        """Bytes in a partition's queue, for tests and metrics."""
        return self._queues[partition].size_bytes

    def _queue(self, partition: int) -> _PartitionQueue:
        if not self._open:
            raise BrokerUnavailable("the broker was closed")
        return self._queues[partition]


@attrs.define(eq=False)
class MemoryConsumer:
    """Reads one queue while it is the active consumer."""

    queue: _PartitionQueue
    prefetch: int
    _unacked: deque[tuple[Delivery, _QueuedEnvelope]] = attrs.field(factory=deque, init=False)
    _tag: int = attrs.field(default=0, init=False)
    _ready: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    async def receive(self) -> Delivery:
        """See `Consumer.receive`."""
        while True:
            if self._closed:
                raise BrokerUnavailable("the consumer was closed")
            if self._may_take():
                return self._take()
            self._ready.clear()
            await self._ready.wait()

    def waiting(self) -> int:
        """Messages in the queue that are not delivered."""
        return sum(len(entry.envelope.messages) for entry in self.queue.waiting)

    async def ack(self, up_to: Delivery) -> None:
        """See `Consumer.ack`; confirms the acked envelopes to their publishers."""
        if self._closed:
            raise BrokerUnavailable("the consumer was closed")
        while self._unacked and self._unacked[0][0].tag <= up_to.tag:
            _, entry = self._unacked.popleft()
            self.queue.size_bytes -= entry.envelope.size_bytes
            if not entry.confirmed.done():
                entry.confirmed.set_result(None)
        self.wake()

    async def close(self) -> None:
        """See `Consumer.close`; the death of a consumer has the same effect."""
        if self._closed:
            return
        self._closed = True
        self.queue.waiting.extendleft(entry for _, entry in reversed(self._unacked))
        self._unacked.clear()
        self.queue.consumers.remove(self)
        self.wake()
        self.queue.wake()

    def wake(self) -> None:
        """There may be an envelope, or it may be this consumer's turn."""
        self._ready.set()

    def _may_take(self) -> bool:
        return bool(self.queue.waiting) and self.queue.consumers[0] is self and len(self._unacked) < self.prefetch

    def _take(self) -> Delivery:
        entry = self.queue.waiting.popleft()
        self._tag += 1
        delivery = Delivery(entry.envelope, self._tag, redelivered=entry.deliveries > 0)
        entry.deliveries += 1
        self._unacked.append((delivery, entry))
        return delivery


@attrs.define(eq=False)
class MemoryLiveChannel:
    """Fan-out to every open subscription."""

    _subscriptions: list["MemoryLiveSubscription"] = attrs.field(factory=list, init=False)

    async def publish_live(self, envelope: LiveEnvelope) -> None:
        """See `LiveChannel.publish_live`; never fails."""
        for subscription in self._subscriptions:
            subscription.put(envelope)

    async def subscribe(self, *, limit: int) -> "MemoryLiveSubscription":
        """See `LiveChannel.subscribe`."""
        subscription = MemoryLiveSubscription(limit, self._subscriptions.remove)
        self._subscriptions.append(subscription)
        return subscription


@attrs.define(eq=False)
class MemoryLiveSubscription:
    """Holds at most ``limit`` envelopes; one more empties it, and the reader gets ``None``."""

    limit: int
    _leave: Callable[["MemoryLiveSubscription"], None]
    _envelopes: deque[LiveEnvelope | None] = attrs.field(factory=deque, init=False)
    _ready: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def put(self, envelope: LiveEnvelope) -> None:
        """Append an envelope, or drop all that wait and note the loss."""
        if len(self._envelopes) >= self.limit:
            self._envelopes.clear()
            self._envelopes.append(None)
        else:
            self._envelopes.append(envelope)
        self._ready.set()

    async def receive(self) -> LiveEnvelope | None:
        """See `LiveSubscription.receive`."""
        while not self._envelopes:
            if self._closed:
                raise BrokerUnavailable("the subscription was closed")
            self._ready.clear()
            await self._ready.wait()
        return self._envelopes.popleft()

    async def close(self) -> None:
        """See `LiveSubscription.close`."""
        if not self._closed:
            self._closed = True
            self._leave(self)
            self._ready.set()


if TYPE_CHECKING:
    _broker: Broker = MemoryBroker(partitions=8)
    _consumer: Consumer = MemoryConsumer(_PartitionQueue(), 1)
    _live: LiveChannel = MemoryLiveChannel()
    _subscription: LiveSubscription = MemoryLiveSubscription(1, lambda _: None)
