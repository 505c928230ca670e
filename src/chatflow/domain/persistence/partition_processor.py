"""The loop of one partition: take deliveries into the write-behind buffer, store batches, ack what is stored.

Taking and storing run side by side, so the next batch collects while one is committed; one transaction is in flight
per partition. While the breaker is open nothing is stored, the buffer fills, taking stops, and the broker keeps the
rest.

A `SequenceCollision` means that something else numbers this partition's rooms. No retry can cure that, so the partition
stops: nothing is acked, the broker keeps the messages, and `stopped_by` says why until the process is restarted.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import attrs

from chatflow.domain.persistence.batch_policy import BatchPolicy
from chatflow.domain.persistence.metrics import PersistenceMetrics
from chatflow.domain.persistence.persister import Persister
from chatflow.domain.persistence.write_behind import Batch, WriteBehindBuffer
from chatflow.domain.resilience.backoff import Backoff
from chatflow.domain.resilience.circuit_breaker import CircuitBreaker
from chatflow.domain.resilience.tasks import end
from chatflow.ports.broker import Broker, Consumer, Delivery
from chatflow.ports.errors import BrokerUnavailable, CircuitOpen, SequenceCollision, StoreError, StoreUnavailable

RETRY = Backoff(first_s=0.05, last_s=2.0)
PREFETCH = 64
"""The default, of the setting too."""
OPEN_RETRY_S = 0.5
"""While the circuit is open: asking it costs nothing."""


@attrs.define(eq=False)
class PartitionProcessor:
    """Persists one partition for as long as `run` runs.

    Args:
        new_buffer: a fresh buffer for each consumer; what an old one held comes again from the broker.
        breaker: this partition's own, so that the successes of others do not hide its failures.
        on_trip: called with the failure that opened the breaker.
        on_collision: called when a collision has stopped this partition.
    """

    partition: int
    broker: Broker
    persister: Persister
    breaker: CircuitBreaker
    policy: BatchPolicy
    metrics: PersistenceMetrics
    new_buffer: Callable[[], WriteBehindBuffer] = attrs.field(kw_only=True)
    prefetch: int = attrs.field(kw_only=True, default=PREFETCH)
    on_trip: Callable[[StoreError], None] = attrs.field(kw_only=True, default=lambda _: None)
    on_collision: Callable[[SequenceCollision], None] = attrs.field(kw_only=True, default=lambda _: None)
    sleep: Callable[[float], Awaitable[None]] = attrs.field(kw_only=True, default=asyncio.sleep)
    jitter: Callable[[], float] = attrs.field(kw_only=True, default=random.random)
    stopped_by: SequenceCollision | None = attrs.field(default=None, init=False)
    _stopping: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def stop(self) -> None:
        """Stop taking deliveries; `run` returns once those taken are stored and acked."""
        self._stopping.set()

    async def run(self) -> None:
        """Consume until stopped, or until a collision; open a new consumer whenever one breaks."""
        failures = 0
        while not self._stopping.is_set():
            try:
                consumer = await self.broker.consume(self.partition, prefetch=self.prefetch)
                failures = 0
                await self._run_consumer(consumer)
            except BrokerUnavailable:
                failures += 1
                self.metrics.consume_errors += 1
                await self.sleep(RETRY.jittered_s(failures, self.jitter()))
            except SequenceCollision as exc:
                self.stopped_by = exc
                self.metrics.sequence_collisions += 1
                self.on_collision(exc)
                return

    async def _run_consumer(self, consumer: Consumer) -> None:
        stream = _Stream(consumer, self.new_buffer())
        take = asyncio.create_task(self._take(stream), name=f"take-{self.partition}")
        stop = asyncio.create_task(self._stop_taking(take), name=f"stop-{self.partition}")
        try:
            await self._store(stream)
        finally:
            self.metrics.buffered -= len(stream.buffer)
            self.metrics.dropped += len(stream.buffer)
            await end((stop, take))
            await consumer.close()
        if take.done() and not take.cancelled() and (exc := take.exception()):
            raise exc

    async def _stop_taking(self, take: asyncio.Task[None]) -> None:
        await self._stopping.wait()
        await end([take])

    async def _take(self, stream: "_Stream") -> None:
        try:
            delivery = await self._first(stream.consumer)
            while True:
                stream.buffer.add(delivery)
                taken = len(delivery.envelope.messages)
                self.metrics.consumed += taken
                self.metrics.buffered += taken
                stream.has_work.set()
                while stream.buffer.is_full:
                    stream.has_room.clear()
                    await stream.has_room.wait()
                delivery = await stream.consumer.receive()
        finally:
            stream.ended = True
            stream.has_work.set()

    async def _first(self, consumer: Consumer) -> Delivery:
        """Only a delivery tells us that the partition is ours; another processor may have had it until then, and died.

        An idle partition never tells us it is ours, so the cache is voided before, too.
        """
        await self.persister.void_cache()
        delivery = await consumer.receive()
        await self.persister.void_cache()
        return delivery

    async def _store(self, stream: "_Stream") -> None:
        while True:
            await stream.has_work.wait()
            if self.policy.linger_s and not stream.ended:
                await self.sleep(self.policy.linger_s)
            buffer = stream.buffer
            batch = buffer.take(self.policy.size_for(len(buffer) + stream.consumer.waiting()))
            if batch is None:
                if stream.ended:
                    return
                stream.has_work.clear()
                continue
            await self._persist(batch)
            self.metrics.buffered -= len(batch.messages)
            ack = buffer.commit(batch)
            stream.has_room.set()
            if ack is not None:
                await stream.consumer.ack(ack)

    async def _persist(self, batch: Batch) -> None:
        """Try until it is stored.

        Raises:
            SequenceCollision: see the module.
        """
        failures = 0
        while True:
            try:
                self.breaker.allow()
                await self.persister.persist(self.partition, batch.messages)
            except CircuitOpen as exc:
                await self.sleep(min(exc.retry_in_s, OPEN_RETRY_S))  # a ping that is answered lets it probe sooner
            except StoreUnavailable as exc:
                failures += 1
                self.metrics.batch_failures += 1
                if self.breaker.failure():
                    self.on_trip(exc)
                await self.sleep(RETRY.jittered_s(failures, self.jitter()))
            except SequenceCollision:
                self.metrics.batch_failures += 1
                raise
            else:
                self.breaker.success()
                return


@attrs.define(eq=False)
class _Stream:
    """One consumer, its buffer, and the two events between taking and storing."""

    consumer: Consumer
    buffer: WriteBehindBuffer
    has_work: asyncio.Event = attrs.field(factory=asyncio.Event)
    has_room: asyncio.Event = attrs.field(factory=asyncio.Event)
    ended: bool = False


async def run_processors(processors: list[PartitionProcessor]) -> None:
    """Run one loop per partition until all are stopped; cancelling stops them at once. The broker keeps the rest."""
    async with asyncio.TaskGroup() as tasks:
        for processor in processors:
            tasks.create_task(processor.run(), name=f"partition-{processor.partition}")
